"""A rule's token as a plain function of one long vector, evaluated for many points at once.

    Unit    = Unit(name, member, slot, rows, cols, start)    -- a state, a member of a family of states, or one slot of
                                                                what `prev` keeps of a let or output
    Context = Context(x, given, rings, frozen, t)            -- rows: independent draws of everything a token reads

Only the float64 token evaluator of the runtime is used: what the text says, not what the algebra makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ruledsl.lang import typed
from ruledsl.lang.typed import Role, dim_value
from ruledsl.runtime.scope import Carry
from ruledsl.runtime.token import Token


@dataclass(frozen=True, slots=True)
class Unit:
    name: str
    member: int | None  # of a family of states, from 1
    slot: int | None  # of a lagged let, oldest 0; None: a state
    rows: int
    cols: int
    start: int  # where it lies in the long vector

    @property
    def size(self) -> int:
        return self.rows * self.cols

    @property
    def span(self) -> slice:
        return slice(self.start, self.start + self.size)

    def __str__(self) -> str:
        at = "" if self.member is None else f"[{self.member}]"
        return f"{self.name}{at}" if self.slot is None else f"prev({self.name})"


@dataclass(frozen=True, slots=True)
class Context:
    """All tensors have the same number of rows R."""

    x: Tensor  # [R, N]: states and lagged lets
    given: tuple[Mapping[str, Tensor], ...]  # tokens to come; inputs and params [R, 1, ...], given consts [1, 1, ...]
    rings: Mapping[str, Tensor]  # what `prev` keeps of inputs
    frozen: Mapping[tuple[str, int], Tensor]
    t: Tensor  # [R]

    @property
    def rows(self) -> int:
        return self.x.shape[0]

    def spread(self, count: int) -> Context:
        """Each row `count` times, one after the other."""

        def many(x: Tensor) -> Tensor:
            return x if x.shape[0] == 1 and self.rows > 1 else x.repeat_interleave(count, 0)

        given = tuple({n: many(x) if x.shape[0] == self.rows else x for n, x in g.items()} for g in self.given)
        rings = {n: many(x) for n, x in self.rings.items()}
        return Context(many(self.x), given, rings, {k: many(x) for k, x in self.frozen.items()}, many(self.t))

    def at(self, x: Tensor) -> Context:
        return replace(self, x=x)


class Machine:
    """One rule at given sizes, one head."""

    def __init__(self, rule: typed.Rule, sizes: Mapping[str, int]) -> None:
        self.rule, self.sizes = rule, dict(sizes)
        self.token = Token(rule, sizes, 1, torch.float64, torch.device("cpu"))
        units: list[Unit] = []
        start = 0

        def add(name: str, type_: typed.Type, member: int | None, slot: int | None) -> None:
            nonlocal start
            inner = type_.member if member is not None else type_
            rows = math.prod(self.size(d) for d in (*inner.family, inner.rows))
            units.append(Unit(name, member, slot, rows, self.size(inner.cols), start))
            start += units[-1].size

        for s in rule.of(Role.STATE):
            for member in [None] if not s.type.family else range(1, self.size(s.type.family[0]) + 1):
                add(s.name, s.type, member, None)
        given = {s.name for s in rule.symbols}
        self.lagged = tuple(n for n in self.token.carried.lags if n not in given)
        for name in self.lagged:
            for slot in range(self.token.carried.lags[name]):
                add(name, rule.let(name).value.type, None, slot)
        self.units = tuple(units)
        self.width = start

    def size(self, dim: typed.Dim) -> int:
        return dim_value(dim, self.sizes)

    def pack(self, carry: Carry, rows: int) -> Tensor:
        """The long vectors [R, N] of a carry."""
        parts = [carry.states[s.name].reshape(rows, -1) for s in self.rule.of(Role.STATE)]
        parts += [carry.prev[name].reshape(rows, -1) for name in self.lagged]
        return torch.cat(parts, 1) if parts else torch.zeros(rows, 0, dtype=torch.float64)

    def _carry(self, c: Context) -> Carry:
        states, prev = {}, dict(c.rings)
        start = 0
        for s in self.rule.of(Role.STATE):
            shape = tuple(self.size(d) for d in (*s.type.family, s.type.rows, s.type.cols))
            count = torch.Size(shape).numel()
            states[s.name] = c.x[:, start : start + count].reshape(c.rows, 1, *shape)
            start += count
        for name in self.lagged:
            type_, lag = self.rule.let(name).value.type, self.token.carried.lags[name]
            shape = (lag, *(self.size(d) for d in (*type_.family, type_.rows, type_.cols)))
            count = torch.Size(shape).numel()
            prev[name] = c.x[:, start : start + count].reshape(c.rows, 1, *shape)
            start += count
        return Carry(states, prev, c.frozen, c.t if self.token.carried.position else None)

    def step(self, c: Context) -> Context:
        """One token on: the first of `given` is used up."""
        return self.outputs(c)[1]

    def outputs(self, c: Context) -> tuple[dict[str, Tensor], Context]:
        out, after = self.token.step(c.given[0], self._carry(c))
        rings = {n: x for n, x in after.prev.items() if n not in self.lagged}
        return out, Context(self.pack(after, c.rows), c.given[1:], rings, after.frozen, c.t + 1)

    def run(self, c: Context, steps: int) -> Tensor:
        """The long vectors after `steps` tokens."""
        for _ in range(steps):
            c = self.step(c)
        return c.x

    def move(self, c: Context, own: Tensor, points: Tensor, steps: int = 1) -> Tensor:
        """The map of the coordinates `own` alone, everything else as in the context: points [R, P, n] -> [R, P, n]."""
        rows, count, _ = points.shape
        wide = c.spread(count)
        x = wide.x.clone()
        x[:, own] = points.reshape(rows * count, -1)
        return self.run(wide.at(x), steps)[:, own].reshape(rows, count, -1)
