"""What the README shows is what happens."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = README.read_text(encoding="utf-8")
BLOCKS = [(m[1], m[2]) for m in BLOCK.finditer(TEXT)]
PYTHON = [body for kind, body in BLOCKS if kind == "python"]
RULES = [body for kind, body in BLOCKS if kind == "rule"]


def _replayed(body: str, folder: Path) -> str:
    """A console block with the output that its commands really have; a command is a line after `$ `."""
    parts = re.split(r"^\$ ", body, flags=re.MULTILINE)
    assert not parts[0].strip(), "output before the first command"
    return "".join(_run(part.split("\n", 1)[0], folder) for part in parts[1:])


def _run(command: str, folder: Path) -> str:
    words = shlex.split(command)
    assert words[0] == "ruledsl", command
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *words[1:]],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env=os.environ | {"COLUMNS": "100", "NO_COLOR": "1"},
    )
    said = done.stdout + done.stderr
    return f"$ {command}\n" + "".join(f"{line.rstrip()}\n" for line in said.strip("\n").split("\n"))


def test_commands_print_what_is_shown(tmp_path: Path, accept: bool) -> None:
    shutil.copytree(ROOT / "rules", tmp_path / "rules")
    shown = [body for kind, body in BLOCKS if kind == "console"]
    assert len(shown) >= 2
    now = BLOCK.sub(lambda m: f"```console\n{_replayed(m[2], tmp_path)}```" if m[1] == "console" else m[0], TEXT)
    if accept:
        README.write_text(now, encoding="utf-8")
    else:
        assert now == TEXT


def test_python_prints_what_its_comments_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks run in order, in one namespace; `print(...)  # text` must print that text."""
    monkeypatch.chdir(ROOT)
    assert PYTHON
    out = io.StringIO()
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(out):
        for body in PYTHON:
            exec(compile(body, "README.md", "exec"), names)
    promised = [
        line.split("  # ", 1)[1].strip() for body in PYTHON for line in body.split("\n") if line.startswith("print(")
    ]
    assert promised and out.getvalue().split("\n")[:-1] == promised


@pytest.mark.parametrize("body", RULES, ids=lambda b: b.split("\n")[0][:40])
def test_a_rule_that_is_shown_is_a_rule(body: str) -> None:
    import ruledsl

    assert ruledsl.check(body).kind.parallel


def test_files_that_are_named_exist() -> None:
    named = set(re.findall(r"`((?:ruledsl|rules|grammars|tests)/[\w./*-]*)`", TEXT))
    assert named
    missing = [n for n in sorted(named) if not any(ROOT.glob(n.rstrip("/")))]
    assert not missing, missing


def test_the_performance_table_is_made_from_the_results(root: Path) -> None:
    done = subprocess.run([sys.executable, root / "benchmarks/table.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
