"""The functions that generated torch text calls, as source text cut out of files of the runtime.

The files are read, never imported: this floor does not load torch.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_RUNTIME = Path(__file__).resolve().parent.parent / "runtime"
FILES = (_RUNTIME / "tile_ops.py", _RUNTIME / "scan_ops.py", _RUNTIME / "generated_ops.py")


@cache
def _sources() -> dict[str, tuple[str, frozenset[str]]]:
    """Name -> its text and the names it uses, for every function, class and constant of the files, in order."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            used = frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name))
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
                    assert name not in found, f"{name} is defined twice"
                    found[name] = (ast.get_source_segment(text, node) or "", used)
    return found


def defined() -> frozenset[str]:
    """The names that the files define."""
    return frozenset(_sources())


def cut(names: Iterable[str]) -> list[str]:
    """The texts of the named functions and of what they call, in the files' order. KeyError: there is no such function."""
    sources = _sources()
    wanted: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += [used for used in sources[name][1] if used in sources]
    return [text for name, (text, _) in sources.items() if name in wanted]
