"""What in a generated module can have come from the rule and must not: told by the module's syntax tree.

A rule may give a module names of local variables and arguments (as `identifier` and `safe` spell them), keys (its names
as string literals), numbers, and comments. Imports, attributes, what is called and every other string are the
compiler's own: their words have to stand in the files that generated text is made of.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from ruledsl.emit.names import identifier

PACKAGE = Path(__file__).resolve().parent.parent.parent / "ruledsl"
COPIED = ("runtime/*_ops.py",)  # text of these stands in generated modules
SPELLED_IN = ("emit/*.py", "schedule/*.py", "lang/functions.py")  # what strings of these say does
IMPORTS = {
    "import math",
    "import torch",
    "import torch.nn.functional as F",
    "import triton",
    "import triton.language as tl",
    "from triton.runtime.errors import OutOfResources",
}
# fmt: off
CALLABLE = {
    *("SystemExit", "ValueError", "abs", "all", "any", "dict", "enumerate", "float", "int", "isinstance", "iter", "len"),
    *("list", "max", "min", "next", "print", "range", "reversed", "round", "set", "sorted", "str", "sum", "super"),
    *("staticmethod", "tuple", "zip"),
}
# fmt: on
HANDED_OVER = {"token", "run", "function"}  # arguments that are functions
UNUSED = (ast.Global, ast.Nonlocal, ast.Await, ast.NamedExpr, ast.AsyncFunctionDef, ast.Match)
LONGEST = 4_000_000  # characters of a module
_NUMBER = re.compile(r"_?\d+$")  # that tells names apart


def faults(text: str, names: Iterable[str]) -> Iterator[str]:
    """Sentences; none if the module is safe. `names`: those of the rule (symbols, sizes, lets, outputs)."""
    if len(text) > LONGEST:
        yield f"{len(text)} characters"
    if odd := sorted({c for c in text if c != "\n" and not (c.isascii() and c.isprintable())}):
        yield f"characters {odd[:9]}"
    data = text.encode()
    if any(re.match(rb"^[ \t\f]*#.*?coding[:=]", line) for line in data.split(b"\n")[:2]):
        yield "a comment that Python reads as the file's encoding"
        return
    try:
        ast.parse(data)
        blocks = [_block(block) for block in text.split("\n\n\n")]
    except (SyntaxError, ValueError) as error:
        yield f"no Python: {error}"
        return
    own = {spelling for name in names for spelling in (name, identifier(name))}
    module = {name for block in blocks for name in block.defines}
    for block in blocks:
        yield from block.faults
        if strange := [w for w in block.strange if not {w, _NUMBER.sub("", w)} & own]:
            yield f"words {strange[:5]} in a string"
        for name in sorted(block.reads - module - CALLABLE - {"__name__"}):
            yield f"`{name}` is read and never defined"
        for name in sorted(block.calls - HANDED_OVER):
            if name in module or hasattr(builtins, name):
                yield f"`{name}` is called and is a variable"


@dataclass(frozen=True, slots=True)
class _Block:
    """A function, class or run of assignments at the top level."""

    faults: tuple[str, ...]
    strange: tuple[str, ...]  # words in strings that are not the compiler's
    defines: frozenset[str]
    reads: frozenset[str]  # global names
    calls: frozenset[str]  # local variables that are called


@lru_cache(4096)
def _block(text: str) -> _Block:
    words, attributes = _spelled()
    found: list[str] = []
    strange: dict[str, None] = {}
    tree = ast.parse(text)
    for node in ast.walk(tree):
        match node:
            case ast.Import() | ast.ImportFrom():
                if ast.unparse(node) not in IMPORTS:
                    found.append(f"`{ast.unparse(node)}`")
            case ast.Attribute(attr=attr):
                if attr not in attributes or attr.startswith("_"):
                    found.append(f"attribute `{attr}`")
            case ast.Constant(value=str(value)):
                strange |= {w: None for w in re.findall(r"[^\W\d]\w*", value) if not _made_of(w, words)}
            case ast.Constant(value=bytes()):
                found.append("bytes")
            case ast.Name(id=name) if name.startswith("__") and name != "__name__":
                found.append(f"the name `{name}`")
            case _ if isinstance(node, UNUSED):
                found.append(f"a {type(node).__name__}")
    table = symtable.symtable(text, "generated", "exec")
    defines = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    found += [f"`{name}` is defined by the module" for name in sorted(defines) if not _made_of(name, words)]
    reads: set[str] = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
    called = {
        f.lineno: {n.func.id for n in ast.walk(f) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef)
    }
    calls: set[str] = set()
    todo = list(table.get_children())
    while todo:
        scope = todo.pop()
        todo += scope.get_children()
        symbols = scope.get_symbols()
        reads |= {s.get_name() for s in symbols if s.is_global()}
        if scope.get_type() == "function":
            calls |= {s.get_name() for s in symbols if s.is_local()} & called.get(scope.get_lineno(), set())
    return _Block(tuple(found), tuple(strange), frozenset(defines), frozenset(reads), frozenset(calls))


def _made_of(name: str, words: frozenset[str]) -> bool:
    """Whether all parts of a name are words of the compiler: `forward_prepare_kernel`."""
    return all(part.lower() in words for part in re.split(r"_|\d+", name) if part)


@cache
def _spelled() -> tuple[frozenset[str], frozenset[str]]:
    """Words in small letters, and words after a point, of the texts that generated text is made of."""
    text = "\n".join([*map(_strings, _files(SPELLED_IN)), *_files(COPIED)])
    words = {part.lower() for part in re.findall(r"[^\W\d_]+", text)}
    return frozenset(words), frozenset(re.findall(r"\.([^\W\d]\w*)", text)) | {"amax", "sum"}


def _files(patterns: Iterable[str]) -> list[str]:
    return [path.read_text(encoding="utf-8") for p in patterns for path in sorted(PACKAGE.glob(p))]


def _strings(text: str) -> str:
    """The strings of a Python text."""
    nodes = ast.walk(ast.parse(text))
    return "\n".join(n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))
