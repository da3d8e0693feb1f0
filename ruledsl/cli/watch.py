"""`check --watch`: checks again whenever one of the files changes, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

INTERVAL = 0.3  # seconds between two looks

Stamp = tuple[int, int] | None  # modification time and size; None: there is no file


def watch(paths: Iterable[Path], check: Callable[[], object], wait: Callable[[float], None] = time.sleep) -> None:
    """Calls `check` at once and after every change. Returns at KeyboardInterrupt, also at one that a check did not let
    through: what runs in the middle of it may catch everything."""
    files = list(paths)
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    own = signal.signal(signal.SIGINT, interrupt)
    try:
        while True:
            before = [_stamp(path) for path in files]
            check()
            if interrupted:
                raise KeyboardInterrupt
            names = ", ".join(map(str, files))
            print(f"\nwatching {names} (Ctrl-C ends)", flush=True)
            while (now := [_stamp(path) for path in files]) == before:
                wait(INTERVAL)
            if None in now:  # an editor may be replacing the file
                wait(INTERVAL)
            changed = [str(path) for path, a, b in zip(files, before, now, strict=True) if a != b]
            print(f"\n{', '.join(changed)} changed\n", flush=True)
    except KeyboardInterrupt:
        print()
    finally:
        signal.signal(signal.SIGINT, own)


def _stamp(path: Path) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
