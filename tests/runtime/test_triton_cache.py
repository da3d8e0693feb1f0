"""The cache of generated modules: whose it is, what is in it, and what happens when several processes use it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ruledsl.runtime import triton_build

TEXT = "VALUE = 42\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own."""
    place = tmp_path / "cache"
    monkeypatch.setenv("RULEDSL_CACHE", str(place))
    triton_build.build.cache_clear()
    yield place
    triton_build.build.cache_clear()


def test_the_folder_is_the_users_alone(folder: Path) -> None:
    assert triton_build.cache_dir() == folder
    assert folder.stat().st_mode & 0o777 == 0o700


def test_an_open_folder_is_closed(folder: Path) -> None:
    folder.mkdir(mode=0o777)
    os.chmod(folder, 0o777)
    triton_build.cache_dir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_without_a_setting_it_is_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RULEDSL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert triton_build.cache_dir() == tmp_path / "ruledsl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert triton_build.cache_dir() == tmp_path / ".cache" / "ruledsl"


def test_another_users_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="belongs to another user: set RULEDSL_CACHE"):
        triton_build.cache_dir()
    with pytest.raises(PermissionError):
        triton_build.build(TEXT)
    assert not list(folder.iterdir())


def test_a_text_is_built_once_and_written_as_it_is(folder: Path) -> None:
    module = triton_build.build(TEXT)
    assert module.VALUE == 42 and triton_build.build(TEXT) is module
    (entry,) = triton_build.entries()
    assert entry.read_text() == TEXT and module.__file__ == str(entry)


@pytest.mark.parametrize("damage", [b"", b"VALUE = 43\n", TEXT.encode() + b"x", b"\xff\x00"])
def test_a_damaged_entry_is_written_again(folder: Path, damage: bytes) -> None:
    triton_build.build(TEXT)
    (entry,) = triton_build.entries()
    entry.write_bytes(damage)
    triton_build.build.cache_clear()
    assert triton_build.build(TEXT).VALUE == 42
    assert entry.read_text() == TEXT


def test_stale_bytecode_is_not_run(folder: Path) -> None:
    """An entry replaced within the clock's resolution, by bytes of the same length."""
    triton_build.build(TEXT)
    (entry,) = triton_build.entries()
    times = entry.stat().st_atime, entry.stat().st_mtime
    entry.write_text("VALUE = 99\n")
    os.utime(entry, times)
    sys.modules.pop(entry.stem)
    triton_build.build.cache_clear()
    assert triton_build.build(TEXT).VALUE == 42


def test_clearing_removes_what_was_generated_only(folder: Path) -> None:
    triton_build.build(TEXT)
    triton_build.build("VALUE = 1\n")
    other = folder / "notes.txt"
    other.write_text("mine")
    assert triton_build.clear() == 2 and not triton_build.entries()
    assert other.read_text() == "mine" and triton_build.clear() == 0


def test_processes_that_race_all_get_the_module(folder: Path) -> None:
    text = "VALUE = sum(range(1000))\n" + "# filling\n" * 20_000
    program = (
        "import sys, time; from ruledsl.runtime.triton_build import build\n"
        "text = sys.stdin.read(); start = float(sys.argv[1])\n"
        "while time.time() < start: pass\n"
        "print(build(text).VALUE)"
    )
    import time

    start = str(time.time() + 6)
    root = Path(__file__).resolve().parents[2]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
        )
        for _ in range(3)
    ]
    said = [p.communicate(text, timeout=60)[0].strip() for p in running]
    assert said == ["499500"] * 3
    assert [e.read_text() for e in triton_build.entries()] == [text]
    assert not list(folder.glob("*.tmp"))
