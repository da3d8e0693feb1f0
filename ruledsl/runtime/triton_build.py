"""Generated Triton text as modules: files in a per-user cache, since `triton.jit` reads its source from a file.
`tuned` keeps its choices there as well.

The folder is `$RULEDSL_CACHE` or `~/.cache/ruledsl` (mode 0700); one that another user owns is refused. A file is named by the hash of its text, written to
a temporary name and renamed, and compared with the text before it is used: a damaged entry is written again, and
processes that race write the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

OURS = ("rule_", "tuned_")  # how the names of files begin that ruledsl writes


def cache_dir() -> Path:
    """The folder, absolute, made if need be. PermissionError: it cannot be made, or others could put files into it.

    A folder that holds generated files only is closed to others; one that holds more is somebody's for another purpose,
    and stays as it is."""
    base = _named()
    try:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        if hasattr(os, "getuid"):
            if {base.lstat().st_uid, base.stat().st_uid} != {os.getuid()}:
                raise _refused(base, "belongs to another user")
            mode = base.stat().st_mode
            if mode & 0o077 and all(path.name.startswith(OURS) for path in base.iterdir()):
                os.chmod(base, 0o700)
            elif mode & 0o022:
                raise _refused(base, "is open to others and holds more than generated files")
    except PermissionError as error:
        raise error if error.errno is None else _refused(base, f"cannot be used ({error.strerror})") from None
    except OSError as error:
        raise _refused(base, f"cannot be used ({error.strerror})") from None
    return base


def _named() -> Path:
    if named := os.environ.get("RULEDSL_CACHE"):
        return Path(named).absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "ruledsl"
    except RuntimeError:  # no HOME, and no entry in the users' table
        raise _refused(Path("~/.cache/ruledsl"), "has no home") from None


def _refused(path: Path, why: str) -> PermissionError:
    return PermissionError(f"{path} {why}: set RULEDSL_CACHE to a folder of your own")


def entries() -> list[Path]:
    """The generated files in the cache."""
    return files("rule_*.py")


def clear() -> int:
    """Remove every generated file; how many there were."""
    return remove(entries())


def files(pattern: str) -> list[Path]:
    """What is in the cache under such names; nothing but ordinary files."""
    return [path for path in sorted(cache_dir().glob(pattern)) if path.is_file() and not path.is_symlink()]


def remove(found: list[Path]) -> int:
    """Remove files of the cache; how many there were."""
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


@cache
def build(text: str) -> ModuleType:
    """The module of a generated text. One text is built once per process."""
    name = f"rule_{hashlib.sha256(text.encode()).hexdigest()[:20]}"
    path = cache_dir() / f"{name}.py"
    if not _holds(path, text):
        write(path, text)
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    exec(compile(text, str(path), "exec"), module.__dict__)  # not through the loader: its bytecode files may be damaged too
    return module


def _holds(path: Path, text: str) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and path.read_bytes() == text.encode()
    except OSError:
        return False


def write(path: Path, text: str) -> None:
    """Never through a link, and all of it or nothing."""
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix="rule_", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            os.unlink(temporary)
        raise _refused(path, f"cannot be written ({error.strerror})") from None
