"""What a launcher did, to be done again without its Python: tensors made, kernels launched, tensors given back.

All of that follows from the shapes, strides, dtypes and alignments of what a launcher is given (`signature`), and only addresses
differ from call to call. So the first call of a signature is recorded while it runs, by stand-ins for the kernels and for
torch among the names that the launcher sees; later ones are played. A played launch goes to the compiled kernel itself, past
the lookup by arguments that `kernel[grid]` does each time. In Triton's interpreter nothing is compiled: there it goes to
`kernel[grid]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

Signature = tuple[object, ...]
Tables = tuple[dict[str, Tensor], ...]  # what a launcher returns


def signature(tensors: list[Tensor]) -> Signature:
    """What a recording depends on; 16 bytes is the alignment that Triton's kernels are compiled for. One tensor in two places is
    not the same as two."""
    ids = [id(x) for x in tensors]
    twice = () if len(set(ids)) == len(ids) else tuple(map(ids.index, ids))
    return *((x.shape, x.stride(), x.dtype, x.data_ptr() % 16) for x in tensors), twice


@dataclass(frozen=True, slots=True)
class _Made:
    """A tensor that the launcher makes: `at` counts the given ones, then these."""

    at: int
    make: Callable[..., Tensor]
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class _Launch:
    makes: tuple[_Made, ...]  # before it
    call: Callable[..., Any]
    fixed: tuple[Any, ...]  # arguments, with None in the places of tensors
    options: Mapping[str, Any]
    tensors: tuple[tuple[int, int], ...]  # places and which tensor
    done: tuple[int, ...] = ()  # whose last use it is


@dataclass(frozen=True, slots=True)
class Tape:
    """A recording."""

    device: torch.device
    launches: tuple[_Launch, ...]
    results: tuple[tuple[tuple[str, int], ...], ...]

    def play(self, given: Iterable[Tensor]) -> Tables:
        """Do it again with other tensors of the same signature."""
        values: dict[int, Tensor] = dict(enumerate(given))
        for launch in self.launches:
            for made in launch.makes:
                values[made.at] = made.make(made.shape, dtype=made.dtype, device=self.device)
            arguments = list(launch.fixed)
            for place, at in launch.tensors:
                arguments[place] = values[at]
            launch.call(*arguments, **launch.options)
            for at in launch.done:
                del values[at]
        return tuple({name: values[at] for name, at in table} for table in self.results)


def record(module: ModuleType, launcher: str, arguments: tuple[Any, ...], given: list[Tensor]) -> tuple[Tables, Tape]:
    """Run `module.launcher(*arguments)`: what it returns, and the recording.

    `given`: the tensors among the arguments, in the order in which `play` gets them."""
    from triton.runtime.jit import KernelInterface

    recorder = _Recorder(given)

    def stand(x: Any) -> Any:
        return _Torch(recorder) if x is torch else _Stand(recorder, x) if isinstance(x, KernelInterface) else x

    found = with_stands(module, stand)[launcher](*arguments)
    return found, recorder.tape(found, given[0].device)


def with_stands(module: ModuleType, stand: Callable[[Any], Any]) -> dict[str, Any]:
    """The module's names with stand-ins for kernels and for torch (`stand` gives back what it leaves alone); the module's
    functions see these names too."""
    names = {n: stand(x) for n, x in vars(module).items()}
    for n, x in vars(module).items():
        if isinstance(x, FunctionType) and x.__globals__ is vars(module) and names[n] is x:
            names[n] = FunctionType(x.__code__, names, n, x.__defaults__, x.__closure__)
    return names


class _Recorder:
    """What stand-ins tell; `at`: which tensor an object is, as long as it lives."""

    def __init__(self, given: list[Tensor]) -> None:
        self.at = {id(x): i for i, x in enumerate(given)}
        self.given = len(given)
        self.count = len(given)
        self.makes: list[_Made] = []
        self.launches: list[_Launch] = []

    def made(self, x: Tensor, make: Callable[..., Tensor]) -> Tensor:
        self.makes.append(_Made(self.count, make, tuple(x.shape), x.dtype))
        self.at[id(x)] = self.count
        self.count += 1
        return x

    def launched(self, call: Callable[..., Any], arguments: list[Any], options: Mapping[str, Any]) -> None:
        fixed = tuple(None if isinstance(x, Tensor) else x for x in arguments)
        tensors = tuple((place, self.at[id(x)]) for place, x in enumerate(arguments) if isinstance(x, Tensor))
        self.launches.append(_Launch(tuple(self.makes), call, fixed, options, tensors))
        self.makes = []

    def tape(self, found: Tables, device: torch.device) -> Tape:
        results = tuple(tuple((name, self.at[id(x)]) for name, x in table.items()) for table in found)
        kept = {at for table in results for _, at in table}
        last = {at: i for i, launch in enumerate(self.launches) for at in [m.at for m in launch.makes] + [at for _, at in launch.tensors]}
        launches = tuple(
            replace(launch, done=tuple(at for at, end in last.items() if end == i and at >= self.given and at not in kept))
            for i, launch in enumerate(self.launches)
        )
        return Tape(device, launches, results)


@dataclass(frozen=True, slots=True)
class _Torch:
    """In place of torch: what launchers use of it."""

    recorder: _Recorder

    def empty(self, shape: tuple[int, ...], **options: Any) -> Tensor:
        return self.recorder.made(torch.empty(shape, **options), torch.empty)

    def zeros(self, shape: tuple[int, ...], **options: Any) -> Tensor:
        return self.recorder.made(torch.zeros(shape, **options), torch.zeros)

    def empty_like(self, x: Tensor) -> Tensor:
        return self.recorder.made(torch.empty_like(x), torch.empty)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@dataclass(frozen=True, slots=True)
class _Stand:
    """In place of a kernel."""

    recorder: _Recorder
    kernel: Any

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return partial(self._run, grid)

    def _run(self, grid: tuple[int, ...], *given: Any, **options: Any) -> None:
        compiled = self.kernel[grid](*given, **options)
        if compiled is None:  # interpreted
            self.recorder.launched(self.kernel[grid], list(given), options)
            return
        named = dict(zip(self.kernel.arg_names, given, strict=False)) | options
        call = compiled[(*grid, 1, 1)[:3]]
        self.recorder.launched(call, [named[n] for n in self.kernel.arg_names], {})
