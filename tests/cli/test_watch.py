"""`check --watch`: again after each change, and out at Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ruledsl.cli.watch import watch

from .running import BROKEN, GOOD, NO, ROOT, run


def test_it_looks_until_it_is_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Changed, removed, put back: each is seen, and nothing is done while nothing changes."""
    path = tmp_path / "a.rule"
    path.write_text("one")
    seen: list[str] = []
    waits = 0

    def wait(seconds: float) -> None:
        nonlocal waits
        waits += 1
        match waits:
            case 3:
                path.write_text("second")
            case 5:
                path.unlink()
            case 8:
                path.write_text("third one")
            case 10:
                raise KeyboardInterrupt

    watch([path], lambda: seen.append(path.read_text() if path.exists() else "-"), wait)
    assert seen == ["one", "second", "-", "third one"]
    said = capsys.readouterr().out
    assert said.count("Ctrl-C ends") == 4 and said.count("changed") == 3


def test_an_interrupt_that_a_check_swallows_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.rule"
    path.write_text("one")
    before = signal.getsignal(signal.SIGINT)

    def check() -> None:
        with suppress(BaseException):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

    watch([path], check, lambda seconds: pytest.fail("it went on"))
    assert signal.getsignal(signal.SIGINT) is before


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "a.rule"
    path.write_text(GOOD)
    process = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "cli.py"), "check", str(path), "--watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"COLUMNS": "100"},
    )
    try:
        assert process.stdout is not None
        seen = ""
        for text, words in ((BROKEN, "error[RD201]"), (NO, "sequential (6)")):
            while "Ctrl-C ends" not in seen:
                seen += process.stdout.readline()
            time.sleep(0.01)
            path.write_text(text)
            seen = ""
            while words not in seen:
                seen += process.stdout.readline()
        while "Ctrl-C ends" not in seen:  # it waits again
            seen += process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
        assert process.returncode == 0 and "Traceback" not in rest
    finally:
        process.kill()


@pytest.mark.parametrize("words", [["-", "--watch"], ["-e", GOOD, "--watch"]])
def test_what_does_not_change_is_not_watched(words: list[str]) -> None:
    done = run("check", *words, stdin=GOOD)
    assert done.status == 2 and "--watch needs files" in done.err
