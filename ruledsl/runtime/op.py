"""Which backend runs a call, and what it needs before any tensor is seen.

A backend is a row of `BACKENDS`; the first that claims a rule on a device is the default there. Preparation depends on
numbers and dtypes only. Tracing (torch.compile, torch.export) takes its result as a constant and does not look inside.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ruledsl.runtime import torch_backend, triton_backend, triton_scan
from ruledsl.runtime.bind import Call
from ruledsl.runtime.errors import BackendError, did_you_mean
from ruledsl.runtime.recurrent import recurrent
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.state import Part, state_parts
from ruledsl.runtime.token import Carry, Token

if TYPE_CHECKING:
    from ruledsl.runtime.rule import Rule

Sizes = tuple[tuple[str, int], ...]
Sized = Mapping[str, int] | None
Results = tuple[
    dict[str, Tensor], Carry
]  # outputs [B, T, H, (family...), rows, cols], and what the last token hands on


@dataclass(frozen=True, slots=True)
class Backend:
    name: str
    is_default: Callable[[Rule, str, Sized], bool]  # for a rule on a kind of device, at its sizes (None: small ones)
    prepare: Callable[[Rule, Setting], Any]  # BackendError: it cannot run the rule in this setting
    run: Callable[[Any, Token, Call, Carry, Tensor | None], Results]  # what prepare made, ..., cu_seqlens


@dataclass(frozen=True, slots=True)
class Prepared:
    token: Token
    parts: tuple[Part, ...]
    backend: Backend | None = None
    plan: Any = None


BACKENDS: dict[str, Backend] = {
    "triton": Backend(
        "triton",
        is_default=triton_backend.is_default,
        prepare=triton_backend.prepare,
        run=lambda plan, token, call, carry, cu_seqlens: triton_backend.run(plan, call, carry, cu_seqlens),
    ),
    "triton-scan": Backend(
        "triton-scan",
        is_default=lambda rule, device, sizes: False,
        prepare=triton_scan.prepare,
        run=lambda plan, token, call, carry, cu_seqlens: triton_backend.run(plan, call, carry, cu_seqlens),
    ),
    "torch": Backend(
        "torch",
        is_default=torch_backend.is_default,
        prepare=torch_backend.prepare,
        run=lambda plan, token, call, carry, cu_seqlens: torch_backend.run(plan, call, carry, cu_seqlens),
    ),
    "recurrent": Backend(
        "recurrent",
        is_default=lambda rule, device, sizes: True,
        prepare=lambda rule, setting: None,
        run=lambda plan, token, call, carry, cu_seqlens: recurrent(token, call, carry, cu_seqlens),
    ),
}


def default_backend(rule: Rule, device: str, sizes: Sized = None) -> str:
    return next(_claiming(rule, device, sizes)).name


def _claiming(rule: Rule, device: str, sizes: Sized) -> Iterator[Backend]:
    """The default, then those that would be without it."""
    return (b for b in BACKENDS.values() if b.is_default(rule, device, sizes))


def backend_named(name: str) -> Backend:
    if name not in BACKENDS:
        raise BackendError(f"no backend {name!r}{did_you_mean(name, BACKENDS)}; there are {', '.join(BACKENDS)}")
    return BACKENDS[name]


# ------------------------------------------------------------------------------------------------ preparation


class _Store:
    """Prepared calls as attributes: a tracer guards the one attribute that it reads."""


_STORE = _Store()
_NAMES: dict[tuple[Any, ...], str] = {}
_RULES: WeakValueDictionary[int, Rule] = WeakValueDictionary()
_NUMBERS = count()


def remember(rule: Rule) -> int:
    """A number by which preparation finds the rule."""
    number = next(_NUMBERS)
    _RULES[number] = rule
    return number


def prepared(name: str) -> Prepared:
    return getattr(_STORE, name)  # type: ignore[no-any-return]


@torch.compiler.assume_constant_result  # type: ignore[misc]
def prepare_step(rule: int, sizes: Sizes, heads: int, dtype: torch.dtype, device: torch.device) -> str:
    """For one token; the plan is that of a kernel, None for plain torch. Returns the name for `prepared`."""
    setting = Setting(sizes, heads, dtype, dtype, device)

    def make(found: Rule) -> Prepared:
        return replace(_step(found, setting), plan=triton_backend.prepare_step(found, setting))

    return _named((rule, setting), make)


@torch.compiler.assume_constant_result  # type: ignore[misc]
def prepare_sequence(
    rule: int, sizes: Sizes, heads: int, dtypes: tuple[torch.dtype, torch.dtype], device: torch.device,
    backend: str | None, chunk_size: int | None, packed: bool,
) -> str:  # fmt: skip
    """For a sequence on the backend of that name, None: the default, or with a warning the next one that claims the rule if
    that has no form for it here. `dtypes`: of arithmetic and of outputs. BackendError if the backend has no form."""
    setting = Setting(sizes, heads, *dtypes, device, chunk_size, packed)

    def make(found: Rule) -> Prepared:
        refused: list[BackendError] = []
        for chosen in [backend_named(backend)] if backend is not None else _claiming(found, device.type, dict(sizes)):
            if refused:
                warnings.warn(str(refused[-1]), stacklevel=2)
            try:
                return replace(_step(found, setting), backend=chosen, plan=chosen.prepare(found, setting))
            except BackendError as why:
                refused.append(why)
        raise refused[-1]

    return _named((rule, setting, backend), make)


def _step(rule: Rule, setting: Setting) -> Prepared:
    token = rule.token(setting.sizes, setting.heads, setting.dtype, setting.device)
    return Prepared(token, state_parts(token.rule, token.carried))


def _named(key: tuple[Any, ...], make: Callable[[Rule], Prepared]) -> str:
    if key not in _NAMES:
        ready = make(_RULES[key[0]])
        name = f"call_{len(_NAMES)}"
        setattr(_STORE, name, ready)
        _NAMES[key] = name
    return _NAMES[key]
