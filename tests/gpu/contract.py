"""Three rules, a sampled call of each, and comparisons, for the tests of what a call may do on a device.

Kernels of each kind: chunks with a decay for each head, chunks with a decay for each channel, tokens one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from device_cases import DEVICE, lowered, missed, rms, rule_named, run
from device_cases import judged as judged_by_bars
from torch import Tensor

import ruledsl
from ruledsl.lang.typed import Role
from ruledsl.runtime.sample import sample, sample_states

TANH = """
state S[V, K]
input q[K], k[K] unit, v[V], b in [0, 1]
S = S + b*tanh(v - S k) k^T
output o = S q / sqrt(K)
"""
NAMES = ("gated_delta", "kda", "tanh")
LENGTH, HEADS = 130, 4  # more than two chunks
SIZES = {"K": 64, "V": 48, "N": 64, "M": 64, "D": 64, "P": 48, "n": 2}


@cache
def rule(name: str) -> Any:
    return ruledsl.load(TANH) if name == "tanh" else rule_named(name)


def sizes(name: str) -> dict[str, int]:
    return {s: SIZES[s] for s in rule(name).typed.sizes}


def call(name: str, batch: int = 2, length: int = 0, dtype: str = "float32", seed: int = 0) -> dict[str, Tensor]:
    """Arguments on the device: vectors in `dtype`, gates in float32."""
    generator = torch.Generator().manual_seed(seed)
    x = sample(rule(name).typed, batch, length or LENGTH, HEADS, sizes(name), generator, torch.float32)
    return lowered(rule(name), {n: v.to(DEVICE) for n, v in x.items()}, dtype)


def states(name: str, count: int = 2, seed: int = 1) -> dict[str, Tensor]:
    """First states [count, H, ...], float32."""
    generator = torch.Generator().manual_seed(seed)
    found = sample_states(
        rule(name).typed, count, HEADS, sizes(name), generator, dtype=torch.float32, only_learned=False
    )
    return {n: v.to(DEVICE) for n, v in found.items()}


def inputs(name: str) -> list[str]:
    return [s.name for s in rule(name).typed.of(Role.INPUT)]


def tokens(name: str, x: dict[str, Tensor], start: int, end: int) -> dict[str, Tensor]:
    """The tokens start : end of every input."""
    return {n: v[:, start:end] if n in inputs(name) else v for n, v in x.items()}


def token(name: str, x: dict[str, Tensor], at: int) -> dict[str, Tensor]:
    return {n: v[:, at].contiguous() if n in inputs(name) else v for n, v in x.items()}


def double(x: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: v.double() for n, v in x.items()}


def compare(
    name: str, x: dict[str, Tensor], first: dict[str, Tensor], bounds: Tensor | None = None, dtype: str = "float32"
) -> dict[str, float]:
    """What of outputs, final states and gradients is above its bar, against the float64 recurrence."""
    found = run(rule(name), x, first, bounds, "triton")
    wanted = run(rule(name), double(x), double(first), bounds, "recurrent")
    return missed(judged_by_bars(rule(name), found, wanted, dtype))


def error(found: Tensor, wanted: Tensor) -> float:
    """RMS(found - wanted) / RMS(wanted); not a number if any entry is none."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return rms(found.detach().double() - wanted.detach().double()) / max(rms(wanted.detach()), 1e-30)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fresh memory holds NaN: what no kernel writes is seen."""

    def fill(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: Any, **options: Any) -> Tensor:
            x = make(*args, **options)
            return x.fill_(float("nan")) if x.is_floating_point() else x

        return made

    with ExitStack() as stack:
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            stack.enter_context(patch.object(owner, name, fill(getattr(owner, name))))
        yield
