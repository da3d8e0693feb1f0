"""Random contexts inside the declared ranges: tokens, states that a run has reached, positions, frozen copies."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ruledsl.lab.probe.machine import Context, Machine
from ruledsl.lang import typed
from ruledsl.lang.typed import Role
from ruledsl.runtime.sample import sample, sample_states

WARM, LONGEST = 2, 16  # tokens run before anything is measured: as many as `prev` looks back, between these
SMALLEST, LARGEST = 1e-6, 1e4  # an entry of a state outside of these is drawn anew


def context(
    machine: Machine, rows: int, tokens: int, generator: torch.Generator, wide: bool, start: bool = False
) -> Context:
    """`rows` draws with `tokens` tokens each. `wide`: undeclared scalars of either sign. `start`: at the start of every
    frozen chunk; else inside, for as long as chunks of more than `tokens` allow."""
    warm = min(max(WARM, *machine.token.carried.lags.values(), 0), LONGEST)
    given = tokens_of(machine, rows, warm + tokens, generator, wide)
    learned = sample_states(machine.rule, rows, 1, machine.sizes, generator)
    types = {s.name: s.type for s in machine.rule.symbols}
    first = {n: _open(x, machine, types[n], rows) for n, x in learned.items()}
    carry = machine.token.first_carry(rows, first)
    lagged = {n: x for n, x in carry.prev.items() if n not in machine.lagged}
    t = torch.zeros(rows, dtype=torch.int64)
    c = Context(machine.pack(carry, rows), given, lagged, carry.frozen, t)
    for _ in range(warm):
        c = machine.step(c)
    fresh = torch.randn(c.x.shape, generator=generator, dtype=torch.float64)
    keep = c.x.isfinite() & (c.x.abs() < LARGEST) & (c.x.abs() > SMALLEST)
    x = torch.where(keep, c.x, fresh)
    return replace(c, x=x, frozen=_copies(c, generator), t=_positions(machine, rows, tokens, generator, start))


def tokens_of(
    machine: Machine, rows: int, count: int, generator: torch.Generator, wide: bool
) -> tuple[dict[str, Tensor], ...]:
    """Params are drawn anew for every token, as inputs are: a verdict holds for all their values, and may not rest on
    an accident of one draw."""
    symbols = tuple(replace(s, role=Role.INPUT) if s.role is Role.PARAM else s for s in machine.rule.symbols)
    drawn = sample(replace(machine.rule, symbols=symbols), rows, count, 1, machine.sizes, generator)
    types = {s.name: s for s in symbols}
    out: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, x in drawn.items():
        symbol = types[name]
        if wide and symbol.interval is None and symbol.type.is_scalar:
            x = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        for i in range(count):
            part = x[:, i] if symbol.role is Role.INPUT else x[None]
            out[i][name] = _open(part, machine, symbol.type, part.shape[0])
    return tuple(out)


def _open(x: Tensor, machine: Machine, type_: typed.Type, rows: int) -> Tensor:
    """[R, 1, dims...] as [R, 1, (family...), rows, cols]."""
    dims = (*type_.family, type_.rows, type_.cols)
    return x.reshape(rows, 1, *(machine.size(d) for d in dims))


def _copies(c: Context, generator: torch.Generator) -> dict[tuple[str, int], Tensor]:
    """Frozen copies that differ from the states they were taken of."""
    return {k: x + 0.5 * torch.randn(x.shape, generator=generator, dtype=x.dtype) for k, x in c.frozen.items()}


def _positions(machine: Machine, rows: int, tokens: int, generator: torch.Generator, start: bool) -> Tensor:
    chunks = [c for _, c in machine.token.carried.frozen]
    whole = math.lcm(*chunks) if chunks else 1
    if start:
        return whole * torch.randint(1, 9, (rows,), generator=generator)
    inside = [t for t in range(2 * whole) if all(0 < t % c and t % c + tokens <= c for c in chunks)] if chunks else []
    if inside:
        return torch.tensor(inside)[torch.randint(len(inside), (rows,), generator=generator)]
    return torch.arange(rows) + (1 if chunks else 0)
