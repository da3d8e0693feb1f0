"""Maps of tokens composed and applied, all tokens of a run at once: [B, H, C, rows, columns], tokens on axis 2.

A map is a list of parts as in `chunk.maps`, None for 0. Tokens are joined in pairs, the pairs in pairs, and so on: a run
takes log2(C) turns and as many compositions and applications as it has tokens. Where a CPU has enough to do with the states of
one token, they are taken one after the other, which composes nothing (measured: see benchmarks/NOTES.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ruledsl.chunk.maps import Monoid

Part = Tensor | None
Maps = list[list[Part]]  # the parts of each state's map
States = list[Tensor]
_SERIAL = 8  # tokens that are taken one by one
_WIDE = 2_048  # entries of a token's state from which on a CPU takes all tokens one by one


def entering(monoid: Monoid, maps: Maps, start: States, length: int) -> tuple[States, States]:
    """What enters each token [B, H, C, ...] and what leaves the last [B, H, ...]."""
    first = [s.unsqueeze(2) for s in start]
    parts = [p for row in maps for p in row if p is not None]
    shape = torch.broadcast_shapes(first[0].shape, *((*p.shape[:2], 1, *p.shape[3:]) for p in parts))
    first = [s.expand(shape) for s in first]
    spread: Maps = [[None if p is None else p.expand(*p.shape[:2], length, *p.shape[3:]) for p in row] for row in maps]
    after = _after(monoid, spread, first, length)
    return (
        [torch.cat([s, a[:, :, :-1]], 2) for s, a in zip(first, after, strict=True)],
        [a[:, :, -1] for a in after],
    )


def _after(monoid: Monoid, maps: Maps, start: States, length: int) -> States:
    """What leaves each token."""
    compose, apply = _TABLE[monoid]
    if length <= _SERIAL or (start[0].device.type == "cpu" and start[0].numel() >= _WIDE):
        rows = []
        for t in range(length):
            start = apply(_every(maps, slice(t, t + 1)), start)
            rows.append(start)
        return [torch.cat(xs, 2) for xs in zip(*rows, strict=True)]
    even, odd = _every(maps, slice(0, None, 2)), _every(maps, slice(1, None, 2))
    pairs = compose(odd, _every(even, slice(0, length // 2)))
    second = _after(monoid, pairs, start, length // 2)
    before = [torch.cat([s, x[:, :, : (length - 1) // 2]], 2) for s, x in zip(start, second, strict=True)]
    found = []
    for x, y in zip(apply(even, before), second, strict=True):
        out = x.new_empty(*y.shape[:2], length, *y.shape[3:])
        out[:, :, 0::2], out[:, :, 1::2] = x, y
        found.append(out)
    return found


def _every(maps: Maps, tokens: slice) -> Maps:
    return [[None if p is None else p[:, :, tokens] for p in row] for row in maps]


# ------------------------------------------------------------------------------------------------ monoids


def _times(x: Part, y: Part) -> Part:
    return None if x is None or y is None else x * y


def _plus(x: Part, y: Part) -> Part:
    return y if x is None else x if y is None else x + y


def _affine_after(second: Maps, first: Maps) -> Maps:
    n = len(first)
    found: Maps = []
    for row in second:
        parts: list[Part] = [*(None for _ in first), row[n]]
        for j in range(n + 1):
            for k in range(n):
                parts[j] = _plus(parts[j], _times(row[k], first[k][j]))
        found.append(parts)
    return found


def _affine(maps: Maps, states: States) -> States:
    found = []
    for row in maps:
        total = row[-1]
        for a, h in zip(row, states, strict=False):
            if a is not None:
                total = a * h if total is None else torch.addcmul(total, a, h)
        found.append(torch.zeros_like(states[0]) if total is None else total.expand_as(states[0]))
    return found


def _zero(x: Part, like: Tensor) -> Tensor:
    return like.new_zeros((1,) * like.dim()) if x is None else x


def _clip_after(second: Maps, first: Maps) -> Maps:
    (a, b, low, high), (p, q, down, up) = second[0], first[0]
    assert low is not None and high is not None
    shift = _zero(b, low)
    if a is None:
        constant: list[Part] = [None, shift.maximum(low).minimum(high), low, high]
        return [constant]
    ends = [_scaled_bound(a, _zero(x, low), _zero(y, low)) + shift for x, y in ((down, up), (up, down))]
    return [[_times(a, p), _plus(_times(a, q), b), *(e.maximum(low).minimum(high) for e in ends)]]


def _scaled_bound(a: Tensor, if_up: Tensor, if_down: Tensor) -> Tensor:
    """a times the bound that its sign makes this one; 0 for a = 0, where both are."""
    return torch.where(a > 0, if_up * a, torch.where(a < 0, if_down * a, 0.0))


def _clip(maps: Maps, states: States) -> States:
    ((a, b, low, high),), (h,) = maps, states
    x = _plus(_times(a, h), b)
    return [_zero(x, h).maximum(_zero(low, h)).minimum(_zero(high, h)).expand_as(h)]


def _log_sum_after(second: Maps, first: Maps) -> Maps:
    (a, b), (p, q) = second[0], first[0]
    assert b is not None and q is not None
    return [[_plus(a, p), torch.logaddexp(_zero(_plus(q, a), q), b)]]


def _log_sum(maps: Maps, states: States) -> States:
    ((a, b),), (h,) = maps, states
    return [torch.logaddexp(h if a is None else h + a, _zero(b, h)).expand_as(h)]


def _moebius_after(second: Maps, first: Maps) -> Maps:
    (a, b, c, d), (p, q, r, s) = second[0], first[0]
    parts = [
        _plus(_times(a, p), _times(b, r)),
        _plus(_times(a, q), _times(b, s)),
        _plus(_times(c, p), _times(d, r)),
        _plus(_times(c, q), _times(d, s)),
    ]
    found = [x for x in parts if x is not None]
    largest = found[0].abs()
    for x in found[1:]:
        largest = largest.maximum(x.abs())
    largest = torch.where(largest > 0, largest, 1.0)  # a common factor means nothing: kept near 1
    return [[None if x is None else x / largest for x in parts]]


def _moebius(maps: Maps, states: States) -> States:
    ((p, q, r, s),), (h,) = maps, states
    above, below = _plus(_times(p, h), q), _plus(_times(r, h), s)
    return [(_zero(above, h) / _zero(below, h)).expand_as(h)]


_TABLE: dict[Monoid, tuple[Callable[[Maps, Maps], Maps], Callable[[Maps, States], States]]] = {
    Monoid.AFFINE: (_affine_after, _affine),
    Monoid.CLIP: (_clip_after, _clip),
    Monoid.LOG_SUM: (_log_sum_after, _log_sum),
    Monoid.MOEBIUS: (_moebius_after, _moebius),
}
