"""Values for the inputs, params and consts of a rule at small sizes, from a seeded source.

A value is a matrix (`evaluate.Matrix`), or a list of them for a family. What is declared is kept: ranges (an open end is
missed by a thousandth of the range), `unit`, `perm`. What is not declared is *tame* (scalars in [0, 1], vectors of
norm 1) or, with `wild`, any number of either sign.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from ruledsl.algebra.evaluate import Matrix, evaluate
from ruledsl.lang import typed
from ruledsl.lang.typed import Interval, Role, dim_value

NUDGE = 1e-3
TAME = (0.0, 0.5, 1.0)
WILD = (-3.0, -1.0, 0.5, 1.0, 3.0)
STEEP = (-12.0, -1.0, 0.0, 1.0, 12.0)  # entries of wild vectors: they saturate what a gate squashes


class Sampler:
    def __init__(self, rule: typed.Rule, sizes: Mapping[str, int], source: random.Random, wild: bool) -> None:
        self.sizes, self.random, self.wild = sizes, source, wild
        self.inputs = rule.of(Role.INPUT)
        self.learned = [s for role in (Role.PARAM, Role.CONST) for s in rule.of(role) if s.init is None]
        self.given = {
            s.name: evaluate(s.init, {("head", 0): 0}, {}, sizes) for s in rule.of(Role.CONST) if s.init is not None
        }

    def token(self) -> dict[str, Any]:
        return {s.name: self.family(s) for s in self.inputs}

    def params(self) -> dict[str, Any]:
        return self.given | {s.name: self.family(s) for s in self.learned}

    def family(self, s: typed.Symbol, dims: tuple[typed.Dim, ...] | None = None) -> Any:
        dims = s.type.family if dims is None else dims
        if dims:
            return [self.family(s, dims[1:]) for _ in range(dim_value(dims[0], self.sizes))]
        rows, cols = dim_value(s.type.rows, self.sizes), dim_value(s.type.cols, self.sizes)
        if s.perm:
            order = list(range(rows))
            self.random.shuffle(order)
            return [[float(order[i] == j) for j in range(cols)] for i in range(rows)]
        if s.unit or (s.interval is None and not s.type.is_scalar):
            return self._direction(rows, cols, 1.0 if s.unit else 4.0 if self.wild else 1.0)
        return [[self._entry(s.interval) for _ in range(cols)] for _ in range(rows)]

    def moved(self, s: typed.Symbol, value: Any) -> Any:
        """A value near another one: a member of a family, an entry, or the direction is changed."""
        if isinstance(value[0][0], list):
            i = self.random.randrange(len(value))
            return [self.moved(s, v) if i == j else v for j, v in enumerate(value)]
        free = s.interval is None and not s.type.is_scalar
        if s.perm or self.random.random() < 0.15:
            return self.family(s, ())
        if s.unit or (free and not self.wild):
            step = self.random.choice((0.03, 0.1, 0.3, 1.0))
            return _scaled([[v + self.random.gauss(0, step) for v in r] for r in value], 1.0)
        i, j = self.random.randrange(len(value)), self.random.randrange(len(value[0]))
        new = self.random.choice(STEEP) if free else self._entry(s.interval)
        if free and self.random.random() < 0.5:
            new = min(max(value[i][j] * self.random.choice((-1.0, 0.5, 0.9, 1.1, 2.0)), -STEEP[-1]), STEEP[-1])
        return [[new if (i, j) == (a, b) else v for b, v in enumerate(r)] for a, r in enumerate(value)]

    def _direction(self, rows: int, cols: int, size: float) -> Matrix:
        """Of norm `size`, sometimes along an axis."""
        values = [[self.random.gauss(0, 1) for _ in range(cols)] for _ in range(rows)]
        if size > 1 and (kind := self.random.random()) < 0.5:
            if kind < 0.2:
                return [[self.random.choice(STEEP)] * cols] * rows
            return [[self.random.choice(STEEP) for _ in range(cols)] for _ in range(rows)]
        if self.random.random() < 0.3:
            values = [[float(i == 0 and j == 0) for j in range(cols)] for i in range(rows)]
        return _scaled(values, size)

    def _entry(self, x: Interval | None) -> float:
        if x is None:
            return self.random.choice(WILD if self.wild else (*TAME, self.random.random()))
        low = x.low if math.isfinite(x.low) else min(-10.0, x.high - 10)
        high = x.high if math.isfinite(x.high) else max(10.0, x.low + 10)
        span = (high - low) * NUDGE
        low, high = low + span * x.low_open, high - span * x.high_open
        return self.random.choice((low, high, self.random.uniform(low, high)))


def _scaled(values: Matrix, size: float) -> Matrix:
    norm = math.sqrt(sum(v * v for r in values for v in r)) or 1.0
    return [[v * size / norm for v in r] for r in values]
