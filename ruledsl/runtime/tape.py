"""What a call on a device did, to be done again without its Python: tensors made, kernels launched, tensors given back.

All of that follows from the shapes, strides, dtypes and alignments of what the call is given (`signature`), and only addresses
differ from call to call. So one call of a signature is recorded while it runs, and later ones are played. A played launch goes
to the compiled kernel itself, past the lookup by arguments that `kernel[grid]` does each time. In Triton's interpreter nothing
is compiled: there it goes to `kernel[grid]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType, ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

MOST = 256  # of one owner
Key = TypeVar("Key")
Value = TypeVar("Value")

Signature = tuple[object, ...]
Tables = tuple[dict[str, Tensor], ...]  # what a call makes, by name


def signature(tensors: list[Tensor]) -> Signature:
    """What a recording depends on; 16 bytes is the alignment that Triton's kernels are compiled for. One tensor in two places is
    not the same as two."""
    ids = [id(x) for x in tensors]
    twice = () if len(set(ids)) == len(ids) else tuple(map(ids.index, ids))
    found: list[object] = [twice, tensors[0].device]
    for x in tensors:
        found += x.shape, x.stride(), x.dtype, x.data_ptr() % 16
    return tuple(found)


def keep(known: dict[Key, Value], key: Key, value: Value) -> None:
    """Put it in, after all others are forgotten where there are too many."""
    if len(known) >= MOST:
        known.clear()
    known[key] = value


@dataclass(frozen=True, slots=True)
class _Made:
    """A tensor that is made: `at` counts the given ones, then these."""

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
    makes: tuple[_Made, ...]  # after the last launch
    results: tuple[tuple[tuple[str, int], ...], ...]

    def play(self, given: Iterable[Tensor]) -> Tables:
        """Do it again with other tensors of the same signature."""
        values: dict[int, Tensor] = dict(enumerate(given))
        for launch in self.launches:
            self._make(launch.makes, values)
            arguments = list(launch.fixed)
            for place, at in launch.tensors:
                arguments[place] = values[at]
            launch.call(*arguments, **launch.options)
            del arguments  # what is given back below goes before anything is made
            for at in launch.done:
                del values[at]
        self._make(self.makes, values)
        return tuple({name: values[at] for name, at in table} for table in self.results)

    def _make(self, makes: tuple[_Made, ...], values: dict[int, Tensor]) -> None:
        for made in makes:
            values[made.at] = made.make(made.shape, dtype=made.dtype, device=self.device)


Body = Callable[["Recorder"], Tables]


class Recordings:
    """Tapes by signature."""

    def __init__(self) -> None:
        self._known: dict[Signature, Tape | None] = {}

    def known(self, key: Signature) -> Tape | None:
        """The recording of that signature."""
        return self._known.get(key)

    def run(self, key: Signature, given: list[Tensor], prepare: Callable[[], tuple[list[Tensor], Body]]) -> Tables:
        """What the call makes. `key`: the signature of all that decides about it; `given`: tensors that it works on.

        `prepare()` is asked where nothing can be played: for the given tensors as views that the body works on, and the body. If
        it had to copy one, there is nothing to play: the copy is no part of a recording."""
        known = self._known.get(key)
        if known is not None:
            return known.play(given)
        seen, body = prepare()
        recorder = Recorder(seen)
        found = body(recorder)
        copied = any(x.data_ptr() != y.data_ptr() for x, y in zip(given, seen, strict=True))
        keep(self._known, key, None if copied else recorder.tape(found))
        return found


def with_stands(module: ModuleType, stand: Callable[[Any], Any]) -> dict[str, Any]:
    """The module's names with stand-ins for kernels and for torch (`stand` gives back what it leaves alone); the module's
    functions see these names too."""
    names = {n: stand(x) for n, x in vars(module).items()}
    for n, x in vars(module).items():
        if isinstance(x, FunctionType) and x.__globals__ is vars(module) and names[n] is x:
            names[n] = FunctionType(x.__code__, names, n, x.__defaults__, x.__closure__)
    return names


class Recorder:
    """What a body makes and launches goes through here."""

    def __init__(self, given: list[Tensor]) -> None:
        self._device = given[0].device
        self._at = {id(x): i for i, x in enumerate(given)}  # which tensor an object is, as long as it lives
        self._given = self._count = len(given)
        self._makes: list[_Made] = []
        self._launches: list[_Launch] = []

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self._made(torch.empty, shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self._made(torch.zeros, shape, dtype)

    def summed(self, x: Tensor) -> Tensor:
        """The sum over axis 0."""
        found = self.empty(tuple(x.shape[1:]), x.dtype)
        _sum(x, found)
        self.launched(_sum, [x, found], {})
        return found

    def clone(self, x: Tensor) -> Tensor:
        found = self.empty(tuple(x.shape), x.dtype)
        _copy(x, found)
        self.launched(_copy, [x, found], {})
        return found

    def launch(self, module: ModuleType, launcher: str, *arguments: Any) -> Any:
        """What a function of a generated module returns: it runs with stand-ins for its kernels and for torch."""
        from triton.runtime.jit import KernelInterface

        def stand(x: Any) -> Any:
            return _Torch(self) if x is torch else _Stand(self, x) if isinstance(x, KernelInterface) else x

        return with_stands(module, stand)[launcher](*arguments)

    def launched(self, call: Callable[..., Any], arguments: list[Any], options: Mapping[str, Any]) -> None:
        fixed = tuple(None if isinstance(x, Tensor) else x for x in arguments)
        tensors = tuple((place, self._at[id(x)]) for place, x in enumerate(arguments) if isinstance(x, Tensor))
        self._launches.append(_Launch(tuple(self._makes), call, fixed, options, tensors))
        self._makes = []

    def _made(self, make: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        x = make(shape, dtype=dtype, device=self._device)
        self._at[id(x)] = self._count
        self._makes.append(_Made(self._count, make, shape, dtype))
        self._count += 1
        return x

    def tape(self, found: Tables) -> Tape:
        """The recording of what returned these tables."""
        results = tuple(tuple((name, self._at[id(x)]) for name, x in table.items()) for table in found)
        kept = {at for table in results for _, at in table}.union(range(self._given))
        last: dict[int, int] = {}
        for i, launch in enumerate(self._launches):
            last |= dict.fromkeys([m.at for m in launch.makes] + [at for _, at in launch.tensors], i)
        done: dict[int, list[int]] = {}
        for at, i in last.items():
            if at not in kept:
                done.setdefault(i, []).append(at)
        launches = tuple(replace(launch, done=tuple(done.get(i, ()))) for i, launch in enumerate(self._launches))
        return Tape(self._device, launches, tuple(self._makes), results)


def _sum(x: Tensor, out: Tensor) -> None:
    torch.sum(x, 0, out=out)


def _copy(x: Tensor, out: Tensor) -> None:
    out.copy_(x)


@dataclass(frozen=True, slots=True)
class _Torch:
    """In place of torch: what launchers use of it."""

    recorder: Recorder

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        return self.recorder.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        return self.recorder.zeros(shape, dtype)

    def empty_like(self, x: Tensor) -> Tensor:
        return self.recorder.empty(tuple(x.shape), x.dtype)

    def clone(self, x: Tensor) -> Tensor:
        return self.recorder.clone(x)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@dataclass(frozen=True, slots=True)
class _Stand:
    """In place of a kernel."""

    recorder: Recorder
    kernel: Any

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return partial(self._run, grid)

    def _run(self, grid: tuple[int, ...], *given: Any, **options: Any) -> None:
        compiled = self.kernel[grid](*given, **options)
        if compiled is None:  # interpreted
            self.recorder.launched(self.kernel[grid], list(given), options)
            return
        named = dict(zip(self.kernel.arg_names, given, strict=False)) | options
        self.recorder.launched(compiled[(*grid, 1, 1)[:3]], [named[n] for n in self.kernel.arg_names], {})
