"""Who may import whom: a floor imports only lower ones, and third-party packages stay where they belong."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ruledsl"

FLOORS = {"lang": 1, "algebra": 2, "chunk": 3, "schedule": 4, "emit": 5, "runtime": 6, "nn": 7, "lab": 8}
ABOVE = 9  # the command line and the package itself may see every floor
BESIDE = {"resources": "lang", "pipeline": "emit"}  # reads the text; walks from text to source, and knows no runtime
DOORS = {("runtime/rule.py", "nn")}  # `rule.layer(...)` imports the layer when it is called
FACE = "runtime"  # `import ruledsl` is `load`

# Which third-party packages a floor may import; a file of its own narrows it further.
ALLOWED: dict[str, set[str]] = {
    "lang": set(),
    "algebra": set(),
    "chunk": set(),
    "schedule": set(),
    "emit": set(),
    "runtime": {"torch", "triton", "safetensors"},
    "nn": {"torch", "safetensors"},
    "lab": {"torch", "matplotlib", "rich"},
    "cli": {"typer", "rich", "pygments"},
}
ONLY_IN = {"lark": "lang/parse.py", "rich": "lang/render.py"}  # of the language floor


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _inside(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _floor(parts: tuple[str, ...]) -> int:
    """The floor of a module, given its name below `ruledsl`."""
    if not parts:
        return FLOORS[FACE]
    return FLOORS.get(BESIDE.get(parts[0], parts[0]), ABOVE)


def _imports(path: Path) -> Iterator[tuple[tuple[str, ...], int]]:
    """Dotted names that a file imports, at the top or inside functions, with their lines."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(_tree(path)):
        match node:
            case ast.Import(names=names):
                yield from ((tuple(n.name.split(".")), node.lineno) for n in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package[: len(package) - level + 1] if level else ()
                whole = (*base, *(module.split(".") if module else ()))
                yield from (((*whole, n.name), node.lineno) for n in names)


def _is_module(parts: tuple[str, ...]) -> bool:
    path = PACKAGE.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("path", _modules(), ids=_inside)
def test_a_floor_imports_only_lower_ones(path: Path) -> None:
    here = path.relative_to(PACKAGE).with_suffix("").parts
    own = _floor(here)
    wrong = []
    for name, line in _imports(path):
        if name[0] != "ruledsl":
            continue
        target = name[1:]
        while target and not _is_module(target):
            target = target[:-1]  # a name inside a module, not a module
        if _floor(target) > own and (_inside(path), target[0]) not in DOORS:
            wrong.append(f"{_inside(path)}:{line} imports {'.'.join(name)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", _modules(), ids=_inside)
def test_third_party_packages_stay_in_their_place(path: Path) -> None:
    inside = _inside(path)
    floor = inside.split("/")[0].removesuffix(".py")
    allowed = ALLOWED.get(floor, set()) | {name for name, only in ONLY_IN.items() if only == inside}
    foreign = {
        (name[0], line)
        for name, line in _imports(path)
        if name[0] != "ruledsl" and name[0] not in sys.stdlib_module_names
    }
    wrong = [f"{inside}:{line} imports {name}" for name, line in sorted(foreign) if name not in allowed]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", _modules(), ids=_inside)
def test_text_is_never_run_as_python(path: Path) -> None:
    """A rule is untrusted text. Only the runtime turns text into code: emitted modules and rows of the function table."""
    calls = {
        (node.func.id, node.lineno)
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"eval", "exec", "compile", "__import__", "sympify"}
    }
    if _inside(path).startswith("runtime/"):
        calls = {c for c in calls if c[0] not in {"eval", "exec", "compile"}}
    assert not calls, f"{_inside(path)}: {sorted(calls)}"


def _rule_names() -> list[str]:
    return sorted(p.stem for p in (ROOT / "rules").glob("*.rule"))


# words of the field that happen to name a rule of the collection as well
ORDINARY = {"linear", "delta", "mission", "retention", "comba", "mesa", "based", "abc"}


def test_no_rule_is_known_by_name() -> None:
    """A verdict, a schedule or a kernel never depends on which rule it is: no identifier or text names one."""
    names = [n for n in _rule_names() if n not in ORDINARY]
    assert len(names) > 20
    word = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b", re.IGNORECASE)
    wrong = []
    for path in _modules():
        inside = _inside(path)
        if inside.split("/")[0] in {"lab", "cli"}:  # compare named rules, by their files
            continue
        tree = _tree(path)
        holders = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
        documentation = {id(n.body[0].value) for n in holders if n.body and isinstance(n.body[0], ast.Expr)}
        for node in ast.walk(tree):
            match node:
                case ast.Constant(value=str(text)) if id(node) not in documentation:
                    found = word.search(text)
                case (
                    ast.Name(id=text)
                    | ast.Attribute(attr=text)
                    | ast.FunctionDef(name=text)
                    | ast.ClassDef(name=text)
                    | ast.arg(arg=text)
                ):
                    found = word.search(text)
                case _:
                    found = None
            if found:
                wrong.append(f"{inside}:{node.lineno} {found[0]}")  # type: ignore[attr-defined]
    assert not wrong, "\n".join(wrong)


def test_check_does_not_load_torch() -> None:
    import subprocess

    code = "import sys; from ruledsl.cli.app import app; app(['check', 'delta'], standalone_mode=False); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
