"""The kernels of a launcher compiled side by side, before its first run: Triton compiles one after the other as they are launched.

The launcher runs once with stand-ins for its kernels, which hand their arguments to `warmup`. It allocates what it always
does and launches nothing. An error of the compiler is left for the launch to meet.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import torch


def compile_ahead(module: ModuleType, launcher: str, arguments: tuple[Any, ...]) -> None:
    """Compile what `module.launcher(*arguments)` launches. Nothing in Triton's interpreter, or while a graph is captured."""
    import triton
    from triton.runtime.jit import JITFunction

    interpreted = not any(isinstance(x, JITFunction) for x in vars(module).values())
    if interpreted or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
        _dry(module, JITFunction)[launcher](*arguments)


def _dry(module: ModuleType, kind: type) -> dict[str, Any]:
    """The module's names, its functions reading these names too."""
    names = {n: _Stand(x) if isinstance(x, kind) else x for n, x in vars(module).items()}
    functions = {n: x for n, x in names.items() if isinstance(x, FunctionType) and x.__globals__ is vars(module)}
    for n, x in functions.items():
        names[n] = FunctionType(x.__code__, names, n, x.__defaults__, x.__closure__)
    return names


@dataclass(frozen=True, slots=True)
class _Stand:
    """In place of a kernel."""

    kernel: Any

    def __getitem__(self, grid: object) -> Callable[..., object]:
        return lambda *arguments, **options: self.kernel.warmup(*arguments, grid=grid, **options)
