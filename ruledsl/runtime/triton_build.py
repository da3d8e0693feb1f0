"""Generated Triton text as modules: files in a per-user cache, since `triton.jit` reads its source from a file.

The folder is `$RULEDSL_CACHE` or `~/.cache/ruledsl` (mode 0700). A file is named by the hash of its text, written to
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


def cache_dir() -> Path:
    """The folder, made if need be. PermissionError if it belongs to somebody else."""
    named = os.environ.get("RULEDSL_CACHE")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ruledsl"
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    if hasattr(os, "getuid") and base.stat().st_uid != os.getuid():
        raise PermissionError(f"{base} belongs to another user: set RULEDSL_CACHE to a folder of your own")
    os.chmod(base, 0o700)
    return base


def entries() -> list[Path]:
    """The generated files in the cache."""
    return sorted(cache_dir().glob("rule_*.py"))


def clear() -> int:
    """Remove every generated file; how many there were."""
    found = entries()
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


@cache
def build(text: str) -> ModuleType:
    """The module of a generated text. One text is built once per process."""
    name = f"rule_{hashlib.sha256(text.encode()).hexdigest()[:20]}"
    path = cache_dir() / f"{name}.py"
    if not _holds(path, text):
        _write(path, text)
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    exec(compile(text, str(path), "exec"), module.__dict__)  # not through the loader: its bytecode files may be damaged too
    return module


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def _write(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        file.write(text.encode())
    os.replace(temporary, path)
