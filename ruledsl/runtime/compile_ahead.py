"""The kernels of a launcher compiled side by side, before its first run: Triton compiles one after the other as they are launched.

The launcher runs once with stand-ins for its kernels, which hand their arguments to `warmup`; it allocates what it always
does and launches nothing. Then the C functions that pass a kernel's arguments to the driver are built, 0.4 s of gcc each, into
Triton's cache. What goes wrong here is left for the launch to meet.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

from ruledsl.runtime.tape import with_stands


def compile_ahead(module: ModuleType, launcher: str, arguments: tuple[Any, ...]) -> None:
    """Compile what `module.launcher(*arguments)` launches. Nothing in Triton's interpreter, or while a graph is captured."""
    import triton
    from triton.runtime.jit import JITFunction

    interpreted = not any(isinstance(x, JITFunction) for x in vars(module).values())
    if interpreted or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return
    names = with_stands(module, lambda x: _Stand(x) if isinstance(x, JITFunction) else x)
    stands = [x for x in names.values() if isinstance(x, _Stand)]
    with suppress(Exception), ThreadPoolExecutor(os.cpu_count()) as pool:
        with triton.AsyncCompileMode(pool, ignore_errors=True):
            names[launcher](*arguments)
        list(pool.map(_build_launcher, [kernel for stand in stands for kernel in stand.kernels]))


def _build_launcher(kernel: Any) -> None:
    """`kernel`: compiled, or what will be, if the compiler has no fault to find with it."""
    from triton.runtime import driver

    compiled = kernel.result(ignore_errors=True) if hasattr(kernel, "result") else kernel
    if compiled is not None:
        driver.active.launcher_cls(compiled.src, compiled.metadata)


@dataclass(frozen=True, slots=True)
class _Stand:
    """In place of a kernel; `kernels`: compiled ones, or what will be."""

    kernel: Any
    kernels: list[Any] = field(default_factory=list)

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *given, **options: self.kernels.append(self.kernel.warmup(*given, grid=grid, **options))
