"""Maps of entries (see `maps`) as tiles: composed, applied, and the one that changes nothing. Matrices have no kernels: refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import assert_never

from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.maps import INF, Monoid
from ruledsl.chunk.unsupported import UnsupportedForm

Parts = Sequence[Sequence[Tile]]  # the parts of each state's map


def identity(monoid: Monoid, states: int) -> list[tuple[float, ...]]:
    """The numbers that the parts of the map are that leaves the states as they are."""
    match monoid:
        case Monoid.AFFINE:
            return [(*(float(i == j) for j in range(states)), 0.0) for i in range(states)]
        case Monoid.CLIP:
            return [(1.0, 0.0, -INF, INF)]
        case Monoid.LOG_SUM:
            return [(0.0, -INF)]
        case Monoid.MOEBIUS:
            return [(1.0, 0.0, 0.0, 1.0)]
        case Monoid.MATRIX:
            raise UnsupportedForm("maps of matrices have no kernels")
        case _:
            assert_never(monoid)


def applied(b: Builder, monoid: Monoid, maps: Parts, states: Sequence[Tile]) -> list[Tile]:
    """What the states become."""
    match monoid:
        case Monoid.AFFINE:
            found = []
            for row in maps:
                total = row[-1]
                for a, h in zip(row, states, strict=False):
                    total = a * h + total
                found.append(total)
            return found
        case Monoid.CLIP:
            ((a, c, low, high),), (h,) = maps, states
            return [b.apply("min", b.apply("max", a * h + c, low), high)]
        case Monoid.LOG_SUM:
            ((a, c),), (h,) = maps, states
            return [_log_sum(b, h, a, c)]
        case Monoid.MOEBIUS:
            ((p, q, r, s),), (h,) = maps, states
            return [(p * h + q) / (r * h + s)]
        case Monoid.MATRIX:
            raise UnsupportedForm("maps of matrices have no kernels")
        case _:
            assert_never(monoid)


def composed(b: Builder, monoid: Monoid, second: Parts, first: Parts) -> list[tuple[Tile, ...]]:
    """The map of `first`, then `second`."""
    match monoid:
        case Monoid.AFFINE:
            n = len(first)
            return [
                (*(_total(row[k] * first[k][j] for k in range(n)) for j in range(n)), applied(b, monoid, [row], [f[n] for f in first])[0])
                for row in second
            ]  # fmt: skip
        case Monoid.CLIP:
            ((a, c, low, high),), ((p, q, down, up),) = second, first
            ends = (_end(b, a, down, up) + c, _end(b, a, up, down) + c)
            return [(a * p, a * q + c, *(b.apply("min", b.apply("max", e, low), high) for e in ends))]
        case Monoid.LOG_SUM:
            ((a, c),), ((p, q),) = second, first
            return [(a + p, _log_sum(b, q, a, c))]
        case Monoid.MOEBIUS:
            ((a, c, d, e),), ((p, q, r, s),) = second, first
            parts = (a * p + c * r, a * q + c * s, d * p + e * r, d * q + e * s)
            largest = b.apply("abs", parts[0])
            for x in parts[1:]:
                largest = b.apply("max", largest, b.apply("abs", x))
            inverse = 1.0 / b.select(">", largest, 0.0, largest, 1.0)  # a common factor means nothing: kept near 1
            return [tuple(x * inverse for x in parts)]
        case Monoid.MATRIX:
            raise UnsupportedForm("maps of matrices have no kernels")
        case _:
            assert_never(monoid)


def _total(terms: Iterable[Tile]) -> Tile:
    return reduce(lambda x, y: x + y, terms)


def _log_sum(b: Builder, h: Tile, a: Tile, c: Tile) -> Tile:
    """logaddexp(h + a, c), of the identity's -inf too."""
    return b.select("==", h, -INF, c, b.apply("logaddexp", h + a, c))


def _end(b: Builder, a: Tile, if_up: Tile, if_down: Tile) -> Tile:
    """a times the bound that its sign makes this one; 0 for a = 0, where both are."""
    return b.select(">", a, 0.0, if_up * a, b.select("<", a, 0.0, if_down * a, 0.0))
