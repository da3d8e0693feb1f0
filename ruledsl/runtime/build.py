"""Generated Python text to a module, visible to tracebacks and debuggers."""

from __future__ import annotations

import hashlib
import linecache
from functools import cache
from types import ModuleType


@cache
def build(text: str) -> ModuleType:
    """Execute text that this package emitted. One text is built once."""
    name = f"ruledsl_generated_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    file = f"<{name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    module = ModuleType(name)
    exec(compile(text, file, "exec"), module.__dict__)
    return module
