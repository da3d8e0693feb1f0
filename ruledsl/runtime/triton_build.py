"""Generated Triton text as modules: files in a per-user cache, since `triton.jit` reads its source from a file.

The folder is `$RULEDSL_CACHE` or `~/.cache/ruledsl` (mode 0700). A file is named by the hash of its text, written to
a temporary name and renamed, and compared with the text before it is used: a damaged entry is written again, and
processes that race write the same bytes.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
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
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
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


@cache
def device_functions() -> dict[str, str]:
    """Source of the functions of `triton_ops` by name, in file order."""
    source = Path(__file__).with_name("triton_ops.py").read_text(encoding="utf-8")
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = "\n".join(lines[start - 1 : node.end_lineno])
    return found
