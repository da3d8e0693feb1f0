"""Bad input, by mistake or on purpose: a diagnostic with a place or a named limit, soon, and never a traceback."""

from __future__ import annotations

import ast
import builtins
import os
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
    "a size that doubles": _chain("1 - kron({0}, {0})", 80, "S = sum({0})*S + v k^T"),
    "a size of many terms": "input "
    + ", ".join(f"x{i}[K{i}]" for i in range(30))
    + "".join(
        f"\nlet {n} = {''.join(f'kron(cat(x{2 * i + a}, x{2 * i + b}), ' for i in range(14))}x29{')' * 14}"
        for n, a, b in (("c", 0, 1), ("d", 1, 0))
    )
    + "\nlet e = c + d\nS = sum(e)*S + x0 x1^T\noutput o = S x1\n",
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


# What can be judged and is too large to compile: the text, and what the refusal must say.
TOO_MUCH_TO_COMPILE = {
    "many sub-steps": (HEAD + "S = S + (S q) k^T\n" * 100 + TAIL, "more than 64 sub-steps"),
    "many operations": (_chain("rmsnorm({0}/norm({0}))", 90, "S = S + v {0}^T"), "more than 600 operations"),
    "no inputs": ("state z\nz = z + t\noutput o = z\n", "the rule has no inputs"),
}


@pytest.mark.parametrize("name", TOO_MUCH_TO_COMPILE)
def test_what_is_too_large_to_compile_is_told(name: str, tmp_path: Path) -> None:
    text, limit = TOO_MUCH_TO_COMPILE[name]
    (tmp_path / "large.rule").write_text(text, encoding="utf-8")
    status, said = _compile(tmp_path, "large.rule", "--backend", "triton", "-o", "out.py")
    assert status == 1 and limit in said
    assert not (tmp_path / "out.py").exists()


# ------------------------------------------------------------------------------------------ what is written, and where

RULE = HEAD + "S = S + v k^T\n" + TAIL


def _compile(folder: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "compile", *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
    )
    _no_python(done.stdout + done.stderr)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.rule").write_text(RULE, encoding="utf-8")
    return tmp_path


def test_a_link_is_replaced_and_never_written_through(folder: Path) -> None:
    precious = folder / "precious"
    precious.write_text("mine", encoding="utf-8")
    for number, target in enumerate((precious, folder / "nowhere")):
        link = folder / f"out{number}.py"
        link.symlink_to(target)
        assert _compile(folder, "good.rule", "-o", link.name)[0] == 0
        assert not link.is_symlink() and "def chunked" in link.read_text(encoding="utf-8")
    assert precious.read_text(encoding="utf-8") == "mine" and not (folder / "nowhere").exists()


def test_the_rule_is_not_overwritten_by_what_it_compiles_to(folder: Path) -> None:
    (folder / "same.py").symlink_to("good.rule")
    for name in ("good.rule", "./good.rule", "same.py"):
        status, said = _compile(folder, "good.rule", "-o", name)
        assert status == 2 and "it is the rule" in said
    assert (folder / "good.rule").read_text(encoding="utf-8") == RULE


def test_a_device_or_a_pipe_stays_what_it_is(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "null").symlink_to(os.devnull)
    for name in ("pipe", "null", os.devnull):
        status, said = _compile(folder, "good.rule", "-o", name)
        assert status == 2 and "it is no ordinary file" in said
    assert not (folder / "pipe").is_file() and (folder / "null").is_symlink() and not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    "name", [".", "..", "sub/../..", "", "missing/out.py", "good.rule/out.py", "x" * 300, "a/" * 3000]
)
def test_an_output_that_cannot_be_is_told(name: str, folder: Path) -> None:
    (folder / "sub").mkdir()
    before = sorted(folder.iterdir())
    status, said = _compile(folder, "good.rule", "-o", name)
    assert status == 2 and "cannot write" in said
    assert sorted(folder.iterdir()) == before, "nothing is left behind"


def test_an_output_has_the_users_usual_mode(folder: Path) -> None:
    assert _compile(folder, "good.rule", "-o", "out.py")[0] == 0
    (folder / "plain").touch()
    assert (folder / "out.py").stat().st_mode == (folder / "plain").stat().st_mode
    assert sorted(p.name for p in folder.iterdir()) == ["good.rule", "out.py", "plain"]


@pytest.mark.parametrize("name", ["../../up", "/etc/passwd", "a\nb", "\x1b[2J", "' + x + '", '"""', "\u2028x"])
def test_the_name_of_a_rule_file_does_not_reach_its_module(name: str, folder: Path) -> None:
    odd = folder / name.replace("/", "%")
    odd.write_text(RULE, encoding="utf-8")
    assert _compile(folder, odd.name, "-o", "out.py")[0] == 0
    assert _compile(folder, "good.rule", "-o", "plain.py")[0] == 0
    assert (folder / "out.py").read_bytes() == (folder / "plain.py").read_bytes()


def test_an_odd_file_name_is_shown_without_what_a_terminal_obeys(folder: Path) -> None:
    odd = folder / "a\x1b[2J\u202e.rule"
    odd.write_text("S = S +\n", encoding="utf-8")
    status, said, _ = _check(odd)
    assert status == 1 and not {"\x1b", "\u202e"} & set(said)


def _cached(folder: Path | str, *, command: str = "cache", **more: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *command.split()],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "RULEDSL_CACHE": str(folder), **more},
    )
    _no_python(done.stdout + done.stderr)
    return done.returncode, done.stdout + done.stderr


def test_a_cache_that_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("file", "file/below", "loop", "dangling", "x" * 300, "/dev/null", "/proc/self/cache"):
        status, said = _cached(tmp_path / name)
        assert status == 2 and "set RULEDSL_CACHE to a folder of your own" in said, said
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine" and not (tmp_path / "nowhere").exists()


def test_a_folder_of_another_purpose_keeps_its_mode(tmp_path: Path) -> None:
    """RULEDSL_CACHE=$HOME or /tmp by mistake: nothing of it is closed to others, or removed."""
    (tmp_path / "letter.txt").write_text("mine", encoding="utf-8")
    os.chmod(tmp_path, 0o755)
    assert _cached(tmp_path)[0] == 0 and _cached(tmp_path, command="cache --clear")[0] == 0
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    os.chmod(tmp_path, 0o777)
    status, said = _cached(tmp_path)
    assert status == 2 and "open to others" in said
    assert tmp_path.stat().st_mode & 0o777 == 0o777 and (tmp_path / "letter.txt").exists()


def test_what_lies_in_the_cache_is_data(tmp_path: Path) -> None:
    """Links, pipes and folders among the entries are neither followed nor waited for; texts are shown, not obeyed."""
    outside = tmp_path / "outside"
    outside.write_text("# secret\n", encoding="utf-8")
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    (cache / "rule_link.py").symlink_to(outside)
    (cache / "rule_folder.py").mkdir()
    os.mkfifo(cache / "rule_pipe.py")
    (cache / "rule_odd.py").write_bytes(b"# \x1b[2J\xff\n")
    status, said = _cached(cache)
    assert status == 0 and "rule_odd.py" in said and "\x1b" not in said and "secret" not in said
    assert _cached(cache, command="cache --clear")[0] == 0
    assert outside.exists() and (cache / "rule_folder.py").is_dir() and not (cache / "rule_odd.py").exists()


def test_an_entry_that_is_a_link_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that shows the right text; and one that cannot be replaced is told by name."""
    from ruledsl.runtime import triton_build

    monkeypatch.setenv("RULEDSL_CACHE", str(tmp_path / "cache"))
    text = "VALUE = 7\n"
    name = Path(triton_build.build(text).__file__ or "").name
    outside = tmp_path / "outside.py"
    outside.write_text("VALUE = 8\n", encoding="utf-8")
    entry = tmp_path / "cache" / name
    entry.unlink()
    entry.symlink_to(outside)
    triton_build.build.cache_clear()
    assert triton_build.build(text).VALUE == 7
    assert not entry.is_symlink() and outside.read_text(encoding="utf-8") == "VALUE = 8\n"
    entry.unlink()
    outside.write_text(text, encoding="utf-8")
    entry.symlink_to(outside)
    triton_build.build.cache_clear()
    assert triton_build.build(text).VALUE == 7 and not entry.is_symlink()
    entry.unlink()
    entry.mkdir()
    triton_build.build.cache_clear()
    with pytest.raises(PermissionError, match="set RULEDSL_CACHE to a folder of your own"):
        triton_build.build(text)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [name]
    triton_build.build.cache_clear()


def test_a_cache_behind_another_users_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ruledsl.runtime import triton_build

    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setenv("RULEDSL_CACHE", str(tmp_path / "link"))
    assert triton_build.cache_dir() == tmp_path / "link"
    if os.getuid() != 0:
        pytest.skip("only root can give a link away")
    os.chown(tmp_path / "link", 12345, 12345, follow_symlinks=False)
    with pytest.raises(PermissionError, match="belongs to another user"):
        triton_build.cache_dir()


def test_a_state_file_of_anything_else_is_refused(tmp_path: Path) -> None:
    """Another rule's, a damaged one, no safetensors at all, a folder."""
    import torch

    import ruledsl
    from ruledsl.runtime.errors import StateError

    rule, other = ruledsl.load(RULE), ruledsl.load(RULE.replace("S + v", "0.5*S + v"))
    path = tmp_path / "state"
    rule.save_state(path, torch.zeros(1, 1, 3, 2))
    assert rule.load_state(path).shape == (1, 1, 3, 2)
    with pytest.raises(StateError, match="another rule"):
        other.load_state(path)
    data = path.read_bytes()
    for damaged in (b"", b"\0" * 64, data[:-1], data[: len(data) // 2], b"\xff" * 8 + data[8:], b"# no tensors\n"):
        path.write_bytes(damaged)
        with pytest.raises(StateError, match="state"):
            rule.load_state(path)
    with pytest.raises(OSError):
        rule.load_state(tmp_path)
