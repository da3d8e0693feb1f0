"""Maps  h <- l h r + b  of a state that is mixed by matrices, read off a program: composing two costs two products of matrices.

    l [rows, rows], r [columns, columns] or a number, b as the state; none of them depends on the state

A state that is read by a vector is l h r as well, with fewer rows or columns. A sum of two such terms is one if they share a
side: h p - (h k) k^T is h (p - k k^T). Else composing would cost a product over all entries of the state: no map. Nor is there
one where vectors alone read the state: token by token that costs less.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ruledsl.chunk.arithmetic import factors
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.order import bottom_up


class _No(Exception):
    """The value is no such map."""


def _contracts(tile: Tile) -> bool:
    return tile.op == "sum" and (tile.args[0].op, tile.args[0].attr) == ("map", "mul")


@dataclass(frozen=True, slots=True)
class _Value:
    """scale * (left h right) + free, or its transpose; a side that is None is the identity."""

    scale: Tile
    left: Tile | None
    right: Tile | None
    free: Tile
    turned: bool = False

    @property
    def T(self) -> _Value:
        return replace(self, free=self.free.T, turned=not self.turned)


def matrix_map(b: Builder, enter: Tile, leave: Tile) -> tuple[Tile, Tile, Tile] | None:
    """(l, r, b), or None where there are none."""
    reader = _Reader(b, enter)
    try:
        found = reader.of(leave)
    except _No:
        return None
    if found is None or found.turned or leave.shape != enter.shape or not reader.dense:
        return None
    left, right = found.left, found.right
    if right is not None:
        right = right * found.scale
    else:
        left = found.scale if left is None else left * found.scale
    one = b.const(1.0)
    return one if left is None else left, one if right is None else right, b.expand(found.free, enter.shape)


class _Reader:
    def __init__(self, b: Builder, enter: Tile) -> None:
        self.b, self.enter = b, enter
        self.made: dict[Tile, _Value | None] = {}  # None: does not depend on the state
        self.dense = False  # is the state multiplied by a matrix?

    def of(self, tile: Tile) -> _Value | None:
        for own in bottom_up(tile, self._needs, self.made):
            self.made[own] = self._read(own)
        return self.made[tile]

    def _needs(self, tile: Tile) -> tuple[Tile, ...]:
        """What a value is read from: a sum of products from the factors."""
        if tile == self.enter:
            return ()
        return tile.args[0].args if _contracts(tile) else tile.args

    def _read(self, tile: Tile) -> _Value | None:
        b = self.b
        if tile == self.enter:
            return _Value(b.const(1.0), None, None, b.const(0.0))
        values = [self.made[a] for a in self._needs(tile)]
        if all(v is None for v in values):
            return None
        if _contracts(tile):
            return self._contracted(tile, *values)
        match tile.op, tile.attr, values:
            case "transpose", _, [_Value() as x]:
                return x.T
            case "map", "stopgrad", [_Value() as x]:
                return x
            case "expand", _, [_Value() as x]:
                return self._spread(x, tile.args[0], tile)
            case "map", "neg", [_Value() as x]:
                return self._scaled(x, b.const(-1.0))
            case "map", "add" | "sub" as fn, [x, y]:
                sign = b.const(1.0 if fn == "add" else -1.0)
                first, second = (self._lifted(v, a, tile) for v, a in zip((x, y), tile.args, strict=True))
                return self._sum(first, self._scaled(second, sign))
            case "map", "mul", [_Value() as x, None]:
                return self._scaled(x, tile.args[1])
            case "map", "mul", [None, _Value() as x]:
                return self._scaled(x, tile.args[0])
            case "map", "div", [_Value() as x, None]:
                return self._scaled(x, 1.0 / tile.args[1])
            case "sum", int(axis), [_Value() as x]:
                return self._summed(x, tile.args[0], axis)
            case "dot", (ta, tb), [x, y]:
                return self._product(tile, x, y, bool(ta), bool(tb))
            case "select", _, [None, None, x, y]:
                return self._select(tile, x, y)
        raise _No

    # ------------------------------------------------------------------------------------------------ sides

    def _left(self, x: _Value) -> Tile:
        return self.b.eye(self.enter.shape[0]) if x.left is None else x.left

    def _right(self, x: _Value) -> Tile:
        return self.b.eye(self.enter.shape[1]) if x.right is None else x.right

    def _lifted(self, x: _Value | None, tile: Tile, like: Tile) -> _Value:
        """A value of the shape of `like`; one without the state has a scale of 0."""
        if x is None:
            return _Value(self.b.const(0.0), None, None, self.b.expand(tile, like.shape))
        return self._spread(x, tile, like)

    def _spread(self, x: _Value, tile: Tile, like: Tile) -> _Value:
        """A row or a column, repeated."""
        for axis in (0, 1):
            if tile.shape[axis] == 1 and like.shape[axis] != 1:
                shape = (like.shape[0], 1) if axis == 0 else (1, like.shape[1])
                x = self._scaled(x, self.b.full(1.0, shape))
        return x

    def _scaled(self, x: _Value, by: Tile) -> _Value:
        """Times numbers, columns and rows."""
        if x.turned:
            return self._scaled(x.T, by.T).T
        number, parts = factors(by)
        x = replace(x, scale=x.scale * number, free=x.free * by)
        for part in parts:
            if part.shape == (1, 1):
                x = replace(x, scale=x.scale * part)
            elif part.shape[0] == 1:
                x = replace(x, right=self._right(x) * part)
            elif part.shape[1] == 1:
                x = replace(x, left=self._left(x) * part)
            else:
                raise _No
        return x

    def _contracted(self, tile: Tile, x: _Value | None, y: _Value | None) -> _Value:
        """A sum of products: of a row with the rows of a matrix, or of columns."""
        axis, (first, second) = int(tile.attr), tile.args[0].args  # type: ignore[arg-type]
        value, own, by = (x, first, second) if x is not None else (y, second, first)
        if value is None or None not in (x, y):
            raise _No
        if own.shape[1 - axis] == 1 and by.shape[1 - axis] != 1:
            if axis == 1:
                return self._times(value, own, by.T, False).T
            return self._times(value.T, own, by, True)
        both = tile.args[0]
        return self._summed(self._scaled(self._spread(value, own, both), by), both, axis)

    def _summed(self, x: _Value, tile: Tile, axis: int) -> _Value:
        if x.turned:
            return self._summed(x.T, tile.T, 1 - axis).T
        b = self.b
        free = b.sum(b.expand(x.free, tile.shape), axis)
        if axis == 1:
            return replace(x, right=b.sum(self._right(x), 1), free=free)
        return replace(x, left=b.sum(self._left(x), 0), free=free)

    def _product(self, tile: Tile, x: _Value | None, y: _Value | None, ta: bool, tb: bool) -> _Value:
        if x is not None and y is not None:
            raise _No
        if x is None:
            assert y is not None
            return self._times(y if tb else y.T, tile.args[1], tile.args[0] if ta else tile.args[0].T, not tb).T
        return self._times(x.T if ta else x, tile.args[0], tile.args[1].T if tb else tile.args[1], ta)

    def _times(self, x: _Value, tile: Tile, by: Tile, turned: bool) -> _Value:
        """x by, `tile` being x or, `turned`, its transpose."""
        b = self.b
        self.dense |= 1 not in by.shape
        shape = tile.shape[::-1] if turned else tile.shape
        free = b.zeros((shape[0], by.shape[1])) if x.free.value == 0.0 else b.dot(b.expand(x.free, shape), by)
        if x.turned:  # (l h r)^T by = (by^T l h r)^T
            return replace(x, left=by.T if x.left is None else b.dot(by.T, x.left), free=free)
        return replace(x, right=by if x.right is None else b.dot(x.right, by), free=free)

    # ------------------------------------------------------------------------------------------------ sums

    def _sum(self, x: _Value, y: _Value) -> _Value:
        """x + y, if they share a side."""
        free = x.free + y.free
        if 0.0 in (x.scale.value, y.scale.value):
            return replace(y if x.scale.value == 0.0 else x, free=free)
        if x.turned != y.turned:
            raise _No
        select = next((s for v in (x, y) for s in factors(v.scale)[1] if s.op == "select"), None)
        if select is not None:  # a masked token
            yes, no = (self._sum(*(_given(v, select, holds) for v in (x, y))) for holds in (True, False))
            return replace(self._chosen(select, yes, no), free=free)
        if x.left == y.left:
            right = self._right(x) * x.scale + self._right(y) * y.scale
            return _Value(self.b.const(1.0), x.left, right, free, x.turned)
        if x.right == y.right:
            left = self._left(x) * x.scale + self._left(y) * y.scale
            return _Value(self.b.const(1.0), left, x.right, free, x.turned)
        raise _No

    def _select(self, tile: Tile, x: _Value | None, y: _Value | None) -> _Value:
        """p op q ? x : y."""
        one, two = (self._lifted(v, a, tile) for v, a in zip((x, y), tile.args[2:], strict=True))
        if any(a.shape != (1, 1) for a in tile.args[:2]) or (one.turned != two.turned and None not in (x, y)):
            raise _No
        return replace(self._chosen(tile, one, two), turned=one.turned if x is not None else two.turned)

    def _chosen(self, select: Tile, x: _Value, y: _Value) -> _Value:
        """What `select` selects between two other values."""
        p, q, *_ = select.args

        def chosen(a: Tile, c: Tile) -> Tile:
            return a if a == c else self.b.select(str(select.attr), p, q, a, c)

        left = None if x.left is y.left is None else chosen(self._left(x), self._left(y))
        right = None if x.right is y.right is None else chosen(self._right(x), self._right(y))
        return _Value(chosen(x.scale, y.scale), left, right, chosen(x.free, y.free), x.turned)


def _given(x: _Value, select: Tile, holds: bool) -> _Value:
    """The value where the condition of `select` holds, or does not."""

    def known(tile: Tile) -> Tile:
        if tile.op == "select" and (tile.attr, tile.args[:2]) == (select.attr, select.args[:2]):
            return known(tile.args[2 if holds else 3])
        if tile.op == "map" and tile.attr == "mul":
            return known(tile.args[0]) * known(tile.args[1])
        return -known(tile.args[0]) if tile.op == "map" and tile.attr == "neg" else tile

    left, right = (None if side is None or (own := known(side)).op == "eye" else own for side in (x.left, x.right))
    return replace(x, scale=known(x.scale), left=left, right=right)
