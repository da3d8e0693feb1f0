"""The functions that generated Triton text calls, as source text cut out of files of the runtime.

The files are read, never imported: this floor loads neither torch nor triton.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

_RUNTIME = Path(__file__).resolve().parent.parent / "runtime"


@cache
def device_functions() -> dict[str, str]:
    """Source of the functions of `triton_ops` and `decay_ops` by name, in file order."""
    return _definitions(_RUNTIME / "triton_ops.py") | _definitions(_RUNTIME / "decay_ops.py")


@cache
def host_functions() -> dict[str, str]:
    """Source of what a module of its own needs around its kernels (`standalone_ops`), in file order."""
    return _definitions(_RUNTIME / "standalone_ops.py")


def _definitions(path: Path) -> dict[str, str]:
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = "\n".join(lines[start - 1 : node.end_lineno])
    return found
