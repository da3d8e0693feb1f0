"""Where a layer starts a decay: the offset of the projection (or the first value of a param) for which it forgets slowly.

A decay such as `exp(-exp(A)*softplus(g + bias))` or plain `a` is evaluated on numbers as a function of one of its
inputs before the activation, all others at 0; the offset is read off a grid. Long memories need decays near 1: with
a fresh sigmoid, 0.5 a token, nothing older than ten tokens reaches the output and no gradient says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ruledsl.lang import typed
from ruledsl.lang.functions import TABLE
from ruledsl.lang.typed import Interval, Role

SLOWEST, FASTEST = 0.99, 0.95  # decays per token at the start, spread over heads or channels
_REACH, _POINTS = 10.0, 401


def targets(count: int) -> list[float]:
    """`count` decays from FASTEST to SLOWEST, 1 - decay in geometric progression."""
    slow, fast = math.log(1 - SLOWEST), math.log(1 - FASTEST)
    return [1 - math.exp(fast + (slow - fast) * (i + 0.5) / count) for i in range(count)]


def offsets(
    decay: typed.Expr, name: str, ranges: Mapping[str, Interval | None], wanted: list[float]
) -> list[float] | None:
    """For each wanted decay the value of `name` before its activation that comes closest; None when the decay is
    not a function of numbers or does not come within 0.1 of what is wanted."""
    grid = [_REACH * (2 * i / (_POINTS - 1) - 1) for i in range(_POINTS)]
    curve = [_evaluate(decay, {name: x}, ranges) for x in grid]
    known = [(x, y) for x, y in zip(grid, curve, strict=True) if y is not None and math.isfinite(y)]
    if not known:
        return None
    best = [min(known, key=lambda point: (round(abs(point[1] - want), 6), abs(point[0]))) for want in wanted]
    if any(abs(y - want) > 0.1 for (_, y), want in zip(best, wanted, strict=True)):
        return None
    return [x for x, _ in best]


def start(
    decay: typed.Expr, name: str, ranges: Mapping[str, Interval | None], heads: int, dims: Sequence[int]
) -> Tensor | None:
    """First values [heads, *dims] of `name` before its activation: decays spread over the last axis, or over the
    heads where there is none. None as for `offsets`."""
    values = offsets(decay, name, ranges, targets(dims[-1] if dims else heads))
    return (
        None
        if values is None
        else torch.tensor(values)
        if not dims
        else torch.tensor(values).expand(heads, *dims).contiguous()
    )


def _evaluate(expr: typed.Expr, given: Mapping[str, float], ranges: Mapping[str, Interval | None]) -> float | None:
    """The expression on numbers; None where it is more than element-wise or not defined."""
    match expr:
        case typed.Number(value):
            return value
        case typed.Ref(name, Role.INPUT | Role.PARAM):
            return _activate(given.get(name, 0.0), ranges.get(name))
        case typed.Member(base):
            return _evaluate(base, given, ranges)
        case typed.Apply(fn, args):
            values = [_evaluate(a, given, ranges) for a in args]
            function = TABLE[fn].python
            if function is None or any(v is None for v in values):
                return None
            try:
                return float(function(*values))
            except (ArithmeticError, ValueError, TypeError):  # TypeError: a complex power
                return None
        case _:
            return None


def _activate(x: float, interval: Interval | None) -> float:
    """`activation.activate` on one number."""
    if interval is None or (math.isinf(interval.low) and math.isinf(interval.high)):
        return x
    softplus = max(x, 0.0) + math.log1p(math.exp(-abs(x)))
    if math.isinf(interval.high):
        return interval.low + softplus
    if math.isinf(interval.low):
        return interval.high - softplus
    if (interval.low, interval.high) == (-1, 1):
        return math.tanh(x)
    return interval.low + (interval.high - interval.low) / (1 + math.exp(-x))
