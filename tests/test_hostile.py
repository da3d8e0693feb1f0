"""Bad input, by mistake or on purpose: a diagnostic with a place or a named limit, soon, and never a traceback."""

from __future__ import annotations

import ast
import builtins
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 5.0

HEAD = "state S[V, K]\ninput q[K], k[K], v[V], a, b\n"
TAIL = "output o = S q\n"


def _chain(step: str, length: int, last: str) -> str:
    """x1 = k, then `step` with {0} for the previous name, `length` times; `last` uses the final name."""
    lines = ["let x1 = k", *(f"let x{i + 1} = {step.format(f'x{i}')}" for i in range(1, length))]
    return HEAD + "\n".join(lines) + "\n" + last.format(f"x{length}") + "\n" + TAIL


def _nested_loops(depth: int, bound: int) -> str:
    lines = [f"{'    ' * i}for j{i} in 1..{bound}:" for i in range(depth)]
    return HEAD + "\n".join(lines) + f"\n{'    ' * depth}S = S + v k^T\n" + TAIL


def _nested_sums(depth: int, bound: int) -> str:
    inner = "a"
    for i in range(depth):
        inner = f"sum({inner} for j{i} in 1..{bound})"
    return f"{HEAD}S = {inner}*S + v k^T\n{TAIL}"


# Mistakes: the text, and a part of it that the diagnostic's line must show.
MISTAKES = {
    "shapes that do not fit": (HEAD + "S = S + k v^T\n" + TAIL, "S = S + k v^T"),
    "an inner product of different sizes": (HEAD + "S = dot(k, v)*S + v k^T\n" + TAIL, "dot(k, v)"),
    "a vector read with the wrong size": (HEAD + "S = S + v k^T\noutput o = S v\n", "output o = S v"),
    "an unknown name": (HEAD + "S = S + v kk^T\n" + TAIL, "kk^T"),
    "a scalar added to a matrix": ("S = S + x\n", "S = S + x"),
    "a missing operand": (HEAD + "S = S + * k\n" + TAIL, "S = S + * k"),
    "nothing to the right": (HEAD + "S =\n" + TAIL, "S ="),
    "an unclosed bracket": (HEAD + "S = (S + v k^T\n" + TAIL, "(S + v k^T"),
    "a bracket too many": (HEAD + "S = S + v k^T)\n" + TAIL, "k^T)"),
    "a scalar beside a matrix": (HEAD + "S = a S + v k^T\n" + TAIL, "a S"),
    "a number beside a matrix": (HEAD + "S = 2 S + v k^T\n" + TAIL, "2 S"),
    "an assigned input": (HEAD + "k = k + q\nS = S + v k^T\n" + TAIL, "k = k + q"),
    "a wrong number of arguments": (HEAD + "S = exp(a, b)*S + v k^T\n" + TAIL, "exp(a, b)"),
    "a memory that grows": (HEAD + "let z = sum(dot(q, prev(k, j)) for j in 0..t)\nS = z*S + v k^T\n" + TAIL, "0..t"),
    "Python in a rule": (HEAD + "S = S + __import__('os').system('true') k^T\n" + TAIL, "__import__"),
    "backticks": (HEAD + "S = S + `id` k^T\n" + TAIL, "`id`"),
    "a division by nothing": ("state S[V, K/0]\ninput q[K], v[V]\nS = S + v q^T\n", "K/0"),
}

# Limits: far too much of something, said in few characters. A place or the name of the limit must be told.
LIMITS = {
    "brackets 10,000 deep": f"S = {'(' * 10_000}S{')' * 10_000} + v k^T\n",
    "calls 10,000 deep": HEAD + f"S = {'exp(' * 10_000}a{')' * 10_000}*S + v k^T\n" + TAIL,
    "10,000 minus signs": HEAD + f"S = {'-' * 10_000}S + v k^T\n" + TAIL,
    "10,000 transposes": HEAD + f"S = S + v k{'^T' * 10_000}\n" + TAIL,
    "10,000 terms": HEAD + f"S = S{' + v k^T' * 10_000}\n" + TAIL,
    "10,000 powers": HEAD + f"S = a{'^a' * 10_000}*S + v k^T\n" + TAIL,
    "products that double": _chain("{0} .* {0}", 80, "S = S + v {0}^T"),
    "sums that double": _chain("{0} + {0}", 80, "S = S + v {0}^T"),
    "quotients that double": _chain("{0} ./ (1 + {0} .* {0})", 80, "S = S + v {0}^T"),
    "reads that double": "state S[V, K]\ninput q[K], k[K], v[V]\nlet x1 = S k\n"
    + "".join(f"let x{i + 1} = x{i} .* (x{i} + x{i})\n" for i in range(1, 60))
    + "S = S + x60 k^T\n",
    "a square of sums": HEAD + f"S = S + {'(a + b)*' * 200}v k^T\n" + TAIL,
    "a vector that doubles": _chain("cat({0}, {0})", 80, "S = sum({0})*S + v k^T"),
    "a vector that squares": _chain("kron({0}, {0})", 80, "S = sum({0})*S + v k^T"),
    "a loop of a million": _nested_loops(1, 1_000_000),
    "loops in loops": _nested_loops(6, 1_000_000),
    "loops in loops of ten": _nested_loops(9, 10),
    "1,000 loops": _nested_loops(1_000, 2),
    "sums in sums": _nested_sums(6, 1_000_000),
    "sums in sums of ten": _nested_sums(9, 10),
    "a tower of powers": HEAD + "S = 9^9^9^9^9^9*S + v k^T\n" + TAIL,
    "a number out of range": HEAD + f"S = {'9' * 400}*S + v k^T\n" + TAIL,
    "a loop to infinity": HEAD + "for j in 1..inf: S = S + v k^T\n" + TAIL,
    "a lag of a billion": HEAD + "S = S + v prev(k, 1000000000)^T\n" + TAIL,
    "a frozen chunk of nothing": HEAD + "S = S - b*grad(norm2(frozen(S, 0) k - v), S)\n" + TAIL,
    "a million states": "state " + ", ".join(f"s{i}" for i in range(14_000)) + "\n",
    "the megabyte of comments": "# nothing\n" * 100_000,
    "the megabyte in one line": "S = S" + " + v k^T" * 125_000,
}

# Repetition that stays small once it is named: these may be judged, as long as it is soon.
RULES_ALL_THE_SAME = {
    "products that double",
    "sums that double",
    "quotients that double",
    "reads that double",
    "10,000 minus signs",
}

UNREADABLE = {
    "bytes of every kind": bytes(range(256)) * 16,
    "UTF-16": HEAD.encode("utf-16"),
    "Latin-1": b"S = S + v k^T  # caf\xe9\n",
}

NOTHING = {
    "an empty file": "",
    "blanks": " \n\t\n",
    "a comment": "# only this\n",
    "a byte order mark": "\ufeff",
    "declarations only": "state S[V, K]\n",
}


def _check(path: Path, *more: str) -> tuple[int, str, float]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "check", str(path), *more],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=path.parent,
    )
    return done.returncode, done.stdout + done.stderr, time.monotonic() - began


def _no_python(said: str) -> None:
    assert "Traceback" not in said
    assert "a fault of ruledsl" not in said
    assert 'File "' not in said


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_shown_where_it_stands(name: str, tmp_path: Path) -> None:
    text, shown = MISTAKES[name]
    path = tmp_path / "bad.rule"
    path.write_text(text, encoding="utf-8")
    status, said, seconds = _check(path)
    _no_python(said)
    assert status == 1
    line = text[: text.index(shown)].count("\n") + 1
    assert f"bad.rule:{line}:" in said, said
    assert shown in said and "^" in said.replace("^T", "")
    assert seconds < SECONDS


@pytest.mark.parametrize("name", LIMITS)
def test_too_much_is_refused_soon(name: str, tmp_path: Path) -> None:
    path = tmp_path / "large.rule"
    path.write_text(LIMITS[name], encoding="utf-8")
    status, said, seconds = _check(path)
    _no_python(said)
    assert status in ((0, 1) if name in RULES_ALL_THE_SAME else (1, 2)), said[:2000]
    assert "large.rule" in said
    assert len(said) < 20_000
    assert seconds < SECONDS


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_not_text_is_not_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bytes.rule"
    path.write_bytes(UNREADABLE[name])
    status, said, seconds = _check(path)
    _no_python(said)
    assert status == 2 and "bytes.rule" in said
    assert seconds < SECONDS


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_is_not_a_rule(name: str, tmp_path: Path) -> None:
    path = tmp_path / "nothing.rule"
    path.write_text(NOTHING[name], encoding="utf-8")
    status, said, seconds = _check(path)
    _no_python(said)
    assert status == 1 and "nothing.rule" in said
    assert seconds < SECONDS


@pytest.mark.parametrize(
    ("before", "odd"),
    [
        ("\tS = ", "\u0430"),
        ("\t\tS = S + v ", "\u212a"),
        ("S = S ", "\u2212"),
        ("\tS = S + v ", "\u00d7"),
        ("S\t=\tS + ", "\uff56"),
        ("S = S + \u201cv", "\u201d"),
        ("S = S + v k", "\u1d40"),
    ],
    ids=["cyrillic a", "kelvin sign", "minus sign", "times", "full-width v", "quotes", "raised T"],
)
def test_the_caret_stands_under_a_look_alike(before: str, odd: str, tmp_path: Path) -> None:
    path = tmp_path / "alike.rule"
    path.write_text(f"{before}{odd}k^T\n", encoding="utf-8")
    status, said, _ = _check(path)
    _no_python(said)
    assert status == 1
    first = next(c for c in before + odd if not c.isascii())
    column = (before + odd).index(first) + 1
    assert f"alike.rule:1:{column}" in said, said
    lines = said.split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("1 |"))
    assert "\t" not in lines[at], "a tab moves what follows it"
    assert lines[at + 1].index("^") == lines[at].index(first), said


@pytest.mark.parametrize("name", ["missing.rule", ".", "missing/also.rule", "x" * 5000])
def test_a_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "check", name], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    _no_python(done.stdout + done.stderr)
    assert done.returncode == 2
    assert name[:20] in done.stderr


ODD_NAMES = [
    "torch",
    "os",
    "sys",
    "lambda",
    "class",
    "None",
    "self",
    "__class__",
    "__builtins__",
    "print",
    "exec",
    "triton",
    "tl",
    "F",
    "None_",
    "_",
    "state_",
    "import",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_of_python_is_a_name_like_any_other(name: str, tmp_path: Path) -> None:
    """A rule may use it or is told why not; in the compiled text it is never the thing that Python calls so."""
    path = tmp_path / "names.rule"
    path.write_text(
        f"state S[V, K]\ninput q[K], k[K], v[V], {name}[K]\nlet w = k .* {name}\nS = S + v w^T\noutput o = S q\n",
        encoding="utf-8",
    )
    target = tmp_path / "out.py"
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "compile", str(path), "-o", str(target)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    _no_python(done.stdout + done.stderr)
    assert done.returncode in (0, 1), done.stderr
    if done.returncode == 1:
        assert "names.rule:" in done.stderr
        return
    tree = ast.parse(target.read_text(encoding="utf-8"))
    imported = {
        (n.asname or n.name).split(".")[0] for i in ast.walk(tree) if isinstance(i, ast.Import) for n in i.names
    }
    assert imported == {"math", "torch", "F"}
    known = imported | {n.name for n in tree.body if isinstance(n, ast.FunctionDef)} | set(dir(builtins))
    passes = [
        n
        for f in tree.body
        if isinstance(f, ast.FunctionDef) and f.name in ("forward", "backward")
        for n in ast.walk(f)
    ]
    assert passes
    bound = {n.id for n in passes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    bound |= {n.arg for n in passes if isinstance(n, ast.arg)}
    assert not bound & known
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr.startswith("_")]
