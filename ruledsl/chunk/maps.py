"""What one token does to an entry of a state, where that composes: maps read off a program, with tiles as coefficients.

    AFFINE    h_i <- sum_j a_ij h_j + b_i            n states, parts (a_i1, ..., a_in, b_i)
    CLIP      h <- min(max(a h + b, low), high)      one state, parts (a, b, low, high); max-plus is a = 1, high = inf
    LOG_SUM   h <- logaddexp(h + a, b)               one state, parts (a, b)
    MOEBIUS   h <- (p h + q) / (r h + s)             one state, parts (p, q, r, s)
    MATRIX    h <- l h r + b                         one state, parts (l, r, b): see `matrix_maps`

Every entry goes its own way but in the last: the parts are tiles that do not depend on the states, shaped as these or with
axes of 1. Matrices are what is tried last: composing two costs their product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.matrix_maps import matrix_map
from ruledsl.chunk.order import bottom_up
from ruledsl.chunk.unsupported import UnsupportedForm

INF = float("inf")


class Monoid(StrEnum):
    AFFINE = "affine"
    CLIP = "clip"
    LOG_SUM = "log-sum-exp"
    MOEBIUS = "moebius"
    MATRIX = "matrix"


@dataclass(frozen=True, slots=True)
class Map:
    """`turned`: the parts are transposed, as the value that they make is."""

    monoid: Monoid
    parts: tuple[Tile, ...]
    turned: bool = False


def maps(b: Builder, enters: Sequence[Tile], leaves: Sequence[Tile]) -> list[Map]:
    """The maps from the entering tiles to the leaving ones, all of one monoid. Raises UnsupportedForm."""
    try:
        return _entry_maps(b, enters, leaves)
    except UnsupportedForm:
        if len(enters) > 1 or (found := matrix_map(b, enters[0], leaves[0])) is None:
            raise
    return [Map(Monoid.MATRIX, found)]


def _entry_maps(b: Builder, enters: Sequence[Tile], leaves: Sequence[Tile]) -> list[Map]:
    reader = _Reader(b, enters)
    found = [reader.lifted(leave) for leave in leaves]
    if any(m.turned for m in found):
        raise UnsupportedForm("a state meets its own transpose")
    if len({m.monoid for m in found}) > 1:
        raise UnsupportedForm("states of different monoids depend on each other")
    return found


class _Reader:
    def __init__(self, b: Builder, enters: Sequence[Tile]) -> None:
        self.b, self.enters = b, tuple(enters)
        self.shape = enters[0].shape
        if any(e.shape != self.shape for e in enters):
            raise UnsupportedForm("states of different shapes depend on each other")
        self.made: dict[Tile, Map | None] = {}  # None: does not depend on the states

    def lifted(self, tile: Tile) -> Map:
        return self._of(tile) or self._constant(tile)

    def _of(self, tile: Tile) -> Map | None:
        for own in bottom_up(tile, lambda t: () if t in self.enters else t.args, self.made):
            self.made[own] = self._read(own)
        return self.made[tile]

    def _read(self, tile: Tile) -> Map | None:
        if tile in self.enters:
            at = self.enters.index(tile)
            ones = [self.b.const(1.0 if i == at else 0.0) for i in range(len(self.enters))]
            return Map(Monoid.AFFINE, (*ones, self.b.const(0.0)))
        args = [(a, self.made[a]) for a in tile.args]
        if all(m is None for _, m in args):
            return None
        match tile.op, tile.attr:
            case "transpose", _:
                m = self._dependent(args[0])
                return Map(m.monoid, tuple(p.T for p in m.parts), not m.turned)
            case ("expand", _) | ("map", "stopgrad"):
                m = self._dependent(args[0])
                if tile.shape not in (self.shape, self.shape[::-1]):
                    raise UnsupportedForm("an entry of a state meets other entries")
                return m
            case "map", str(fn):
                return self._map(fn, args)
            case "select", str(op):
                (x, mx), (y, my), first, second = args
                if mx is not None or my is not None:
                    raise UnsupportedForm("a state decides what becomes of it")
                return self._select(op, x, y, first, second)
            case op, _:
                raise UnsupportedForm(f"`{op}` mixes the entries of a state")

    def _dependent(self, arg: tuple[Tile, Map | None]) -> Map:
        assert arg[1] is not None
        return arg[1]

    # ------------------------------------------------------------------------------------------------ operations

    def _map(self, fn: str, args: list[tuple[Tile, Map | None]]) -> Map:
        b = self.b
        if len(args) == 1:
            m = self._dependent(args[0])
            match fn:
                case "neg":
                    return self._scaled(m, b.const(-1.0))
                case "relu":
                    return self._bounded(m, "max", b.const(0.0))
            raise UnsupportedForm(f"{fn} of a state does not compose")
        (x, mx), (y, my) = args
        match fn:
            case "sub" if my is not None:
                return self._sum((x, mx), (y, self._scaled(my, b.const(-1.0))))
            case "sub":
                return self._sum((x, mx), (-y, None))
            case "add":
                return self._sum(*args)
            case "mul" if mx is not None and my is not None:
                return self._product(mx, my)
            case "mul":
                return self._scaled(mx, y) if mx is not None else self._scaled(self._dependent(args[1]), x)
            case "div" if my is None:
                return self._scaled(self._dependent(args[0]), 1.0 / y)
            case "div":
                return self._ratio((x, mx), self._dependent(args[1]))
            case "max" | "min" if mx is None or my is None:
                return self._bounded(mx, fn, y) if mx is not None else self._bounded(self._dependent(args[1]), fn, x)
            case "logaddexp" if mx is None or my is None:
                return self._log_sum(mx, y) if mx is not None else self._log_sum(self._dependent(args[1]), x)
        raise UnsupportedForm(f"{fn} of states does not compose")

    def _sum(self, first: tuple[Tile, Map | None], second: tuple[Tile, Map | None]) -> Map:
        (x, mx), (y, my) = first, second
        if mx is not None and my is not None:
            if mx.monoid is my.monoid is Monoid.AFFINE:
                self._same_side(mx, my)
                return replace(mx, parts=tuple(p + q for p, q in zip(mx.parts, my.parts, strict=True)))
            raise UnsupportedForm("a sum of a state's nonlinear functions does not compose")
        m, c = (mx, y) if mx is not None else (self._dependent(second), x)
        match m.monoid:
            case Monoid.AFFINE:
                return replace(m, parts=(*m.parts[:-1], m.parts[-1] + c))
            case Monoid.CLIP:
                return replace(m, parts=(m.parts[0], *(p + c for p in m.parts[1:])))
            case Monoid.LOG_SUM:
                return replace(m, parts=tuple(p + c for p in m.parts))
            case Monoid.MOEBIUS:
                p, q, r, s = m.parts
                return replace(m, parts=(p + c * r, q + c * s, r, s))
            case Monoid.MATRIX:
                raise AssertionError("not read entry by entry")

    def _scaled(self, m: Map, c: Tile) -> Map:
        match m.monoid:
            case Monoid.AFFINE:
                return replace(m, parts=tuple(p * c for p in m.parts))
            case Monoid.CLIP:
                a, b, low, high = m.parts
                return replace(m, parts=(a * c, b * c, self._bound(c, low, high, -INF), self._bound(c, high, low, INF)))
            case Monoid.MOEBIUS:
                p, q, r, s = m.parts
                return replace(m, parts=(p * c, q * c, r, s))
            case Monoid.LOG_SUM:
                raise UnsupportedForm("a multiple of logaddexp of a state does not compose")
            case Monoid.MATRIX:
                raise AssertionError("not read entry by entry")

    def _bound(self, c: Tile, if_up: Tile, if_down: Tile, none: float) -> Tile:
        """A bound times c: the other one if c is negative, none if c is 0."""
        down = self.b.select("<", c, 0.0, if_down * c, none)
        return self.b.select(">", c, 0.0, if_up * c, down)

    def _product(self, x: Map, y: Map) -> Map:
        for m, n in ((x, y), (y, x)):
            if m.monoid is Monoid.AFFINE and n.monoid is Monoid.MOEBIUS and n.parts[0].value == 0.0:
                self._same_side(m, n)
                a, b = m.parts
                _, q, r, s = n.parts
                return Map(Monoid.MOEBIUS, (a * q, b * q, r, s), m.turned)
        raise UnsupportedForm("a product of states does not compose")

    def _ratio(self, first: tuple[Tile, Map | None], below: Map) -> Map:
        x, m = first
        above = m or replace(self._constant(x), turned=below.turned)
        self._same_side(above, below)
        if m is None and below.monoid is Monoid.MOEBIUS:
            p, q, r, s = below.parts
            return replace(below, parts=(x * r, x * s, p, q))
        if len(self.enters) > 1 or not above.monoid is below.monoid is Monoid.AFFINE:
            raise UnsupportedForm("a ratio of states does not compose")
        return Map(Monoid.MOEBIUS, (*above.parts, *below.parts), below.turned)

    def _bounded(self, m: Map, fn: str, bound: Tile) -> Map:
        if m.monoid is Monoid.AFFINE and len(self.enters) == 1:
            m = replace(m, monoid=Monoid.CLIP, parts=(*m.parts, self.b.const(-INF), self.b.const(INF)))
        if m.monoid is not Monoid.CLIP:
            raise UnsupportedForm(f"{fn} of states that depend on each other does not compose")
        a, b, low, high = m.parts
        return replace(m, parts=(a, b, self.b.apply(fn, low, bound), self.b.apply(fn, high, bound)))

    def _log_sum(self, m: Map, other: Tile) -> Map:
        if m.monoid is Monoid.AFFINE and len(self.enters) == 1 and m.parts[0].value == 1.0:
            return replace(m, monoid=Monoid.LOG_SUM, parts=(m.parts[1], other))
        if m.monoid is not Monoid.LOG_SUM:
            raise UnsupportedForm("logaddexp of this function of a state does not compose")
        a, b = m.parts
        return replace(m, parts=(a, self.b.apply("logaddexp", b, other)))

    def _select(self, op: str, x: Tile, y: Tile, first: tuple[Tile, Map | None], second: tuple[Tile, Map | None]) -> Map:
        """x op y ? first : second."""
        dependent = next(m for _, m in (first, second) if m is not None)
        one, two = (m or replace(self._constant(v), turned=dependent.turned) for v, m in (first, second))
        self._same_side(one, two)
        kind = one.monoid if one.monoid is not Monoid.AFFINE else two.monoid
        one, two = self._as(one, kind), self._as(two, kind)
        return replace(one, parts=tuple(self.b.select(op, x, y, p, q) for p, q in zip(one.parts, two.parts, strict=True)))

    # ------------------------------------------------------------------------------------------------ lifting

    def _constant(self, value: Tile) -> Map:
        return Map(Monoid.AFFINE, (*(self.b.const(0.0) for _ in self.enters), value))

    def _as(self, m: Map, kind: Monoid) -> Map:
        """An affine map as one of another monoid."""
        if m.monoid is kind:
            return m
        if m.monoid is not Monoid.AFFINE:
            raise UnsupportedForm("maps of different monoids meet")
        a, b = m.parts
        none = self.b.const(0.0)
        match kind:
            case Monoid.CLIP:
                return replace(m, monoid=kind, parts=(a, b, self.b.const(-INF), self.b.const(INF)))
            case Monoid.MOEBIUS:
                return replace(m, monoid=kind, parts=(a, b, none, self.b.const(1.0)))
            case Monoid.LOG_SUM if a.value == 1.0:
                return replace(m, monoid=kind, parts=(b, self.b.const(-INF)))
            case Monoid.LOG_SUM if a.value == 0.0:
                return replace(m, monoid=kind, parts=(self.b.const(-INF), b))
        raise UnsupportedForm("maps of different monoids meet")

    def _same_side(self, x: Map, y: Map) -> None:
        if x.turned != y.turned and self.shape != (1, 1):
            raise UnsupportedForm("a state meets its own transpose")
