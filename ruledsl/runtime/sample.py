"""Random arguments inside a rule's declared ranges, for tests, tuning and measurements.

Undeclared scalars lie in (0, 1), vectors have norm at most 1, matrices spectral norm about 1 at most: outside such
ranges many rules grow without bound, and a comparison of two huge numbers tests nothing. Square states that a system's
matrix is made of are symmetric with eigenvalues of 0 or more: of others the system may have no solution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ruledsl.lang import typed
from ruledsl.lang.systems import in_systems
from ruledsl.lang.typed import Role


def sample(
    rule: typed.Rule,
    batch: int,
    length: int,
    heads: int,
    sizes: Mapping[str, int],
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Every input [B, T, H, ...], param and given const [H, ...] of a rule."""
    given = {}
    for s in rule.symbols:
        if s.role is Role.INPUT:
            given[s.name] = _tensor(s, (batch, length, heads), sizes, generator, dtype)
        elif s.role is Role.PARAM or (s.role is Role.CONST and s.init is None):
            given[s.name] = _tensor(s, (heads,), sizes, generator, dtype)
    return given


def sample_states(
    rule: typed.Rule,
    batch: int,
    heads: int,
    sizes: Mapping[str, int],
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    only_learned: bool = True,
) -> dict[str, Tensor]:
    """First values [B, H, ...] of the learned states, or of all."""
    found = {
        s.name: _tensor(s, (batch, heads), sizes, generator, dtype)
        for s in rule.of(Role.STATE)
        if s.learned or not only_learned
    }
    return {n: x @ x.mT if n in in_systems(rule) else x for n, x in found.items()}


def _tensor(
    symbol: typed.Symbol,
    lead: tuple[int, ...],
    sizes: Mapping[str, int],
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Tensor:
    own = tuple(typed.dim_value(d, sizes) for d in symbol.type.dims)
    shape = (*lead, *own)

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    def uniform() -> Tensor:  # never 0 or 1
        return torch.rand(shape, generator=generator, dtype=dtype).clamp(1e-3, 1 - 1e-3)

    if symbol.perm:
        return torch.eye(own[-1], dtype=dtype)[torch.rand(shape[:-1], generator=generator).argsort(-1)]
    if symbol.interval is not None:
        return _within(symbol.interval, uniform(), normal())
    if symbol.type.is_scalar:
        return uniform()
    if symbol.type.is_matrix:
        return normal() / (math.sqrt(own[-1]) + math.sqrt(own[-2]))
    x = normal()
    x = x / x.norm(dim=-1, keepdim=True).clamp(min=1e-3)
    return x if symbol.unit else x * torch.rand((*shape[:-1], 1), generator=generator, dtype=dtype)


def _within(interval: typed.Interval, uniform: Tensor, normal: Tensor) -> Tensor:
    low, high = interval.low, interval.high
    match math.isfinite(low), math.isfinite(high):
        case True, True:
            return low + (high - low) * uniform
        case True, False:
            return low + normal.abs().clamp(min=1e-3)
        case False, True:
            return high - normal.abs().clamp(min=1e-3)
        case _:
            return normal
