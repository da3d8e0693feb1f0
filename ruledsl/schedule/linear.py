"""Values that are affine in the carried ones, as sums of  rows * (left @ carried @ right) * cols.

    Affine = Affine(free, terms)
    Term   = Term(atom, flipped, left, right, rows, cols)      every factor but `atom` is free of the carried values

`left` and `right` are matrices, `rows` (n x 1) and `cols` (1 x n) scales; None is the identity; `flipped` takes the
atom's transpose. An atom is a carried value, or one that is not affine in them and stands for itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Shape


@dataclass(frozen=True, slots=True)
class Term:
    atom: Tile
    flipped: bool = False
    left: Tile | None = None
    right: Tile | None = None
    rows: Tile | None = None
    cols: Tile | None = None

    @property
    def T(self) -> Term:
        return Term(
            self.atom, not self.flipped, _turn(self.right), _turn(self.left), _turn(self.cols), _turn(self.rows)
        )


@dataclass(frozen=True, slots=True)
class Affine:
    free: Tile | None
    terms: tuple[Term, ...] = ()

    @property
    def T(self) -> Affine:
        return Affine(_turn(self.free), tuple(t.T for t in self.terms))


def _turn(x: Tile | None) -> Tile | None:
    return None if x is None else x.T


def _times(x: Tile | None, y: Tile) -> Tile:
    return y if x is None else x * y


def _plus(x: Tile | None, y: Tile | None) -> Tile | None:
    return y if x is None else x if y is None else x + y


def add(x: Affine, y: Affine) -> Affine:
    return Affine(_plus(x.free, y.free), x.terms + y.terms)


def scale(x: Affine, s: Tile) -> Affine:
    """x * s for s a number, a column or a row."""
    if s.shape[1] == 1:
        terms = tuple(replace(t, rows=_times(t.rows, s)) for t in x.terms)
    else:
        terms = tuple(replace(t, cols=_times(t.cols, s)) for t in x.terms)
    return Affine(None if x.free is None else x.free * s, terms)


def times(b: Builder, x: Affine, y: Tile) -> Affine:
    """x @ y."""

    def one(t: Term) -> Term:
        scaled = y if t.cols is None else t.cols.T * y
        return replace(t, right=scaled if t.right is None else b.dot(t.right, scaled), cols=None)

    return Affine(None if x.free is None else b.dot(x.free, y), tuple(one(t) for t in x.terms))


def spell(b: Builder, x: Affine, shape: Shape) -> Tile:
    """The value with as few products of a carried value as possible: matrices on the same side are added first."""
    total = x.free
    for atom, flipped in dict.fromkeys((t.atom, t.flipped) for t in x.terms):
        total = _plus(
            total,
            _of_one(b, atom.T if flipped else atom, [t for t in x.terms if (t.atom, t.flipped) == (atom, flipped)]),
        )
    return b.zeros(shape) if total is None else b.expand(total, shape)


def _of_one(b: Builder, x: Tile, terms: list[Term]) -> Tile | None:
    """The sum of the terms in one carried value."""
    rights: dict[Tile | None, Tile] = {}  # the scale of the rows -> what stands on the right
    lefts: dict[Tile | None, Tile] = {}  # the scale of the columns -> what stands on the left
    total: Tile | None = None
    for t in map(_scalars_inside, terms):
        if t.left is not None and t.right is not None:
            total = _plus(total, _scaled(b.dot(t.left, b.dot(x, t.right)), t.rows, t.cols))
        elif t.right is not None:
            rights[t.rows] = _sum(rights.get(t.rows), _scaled(t.right, None, t.cols))
        elif t.left is not None:
            lefts[t.cols] = _sum(lefts.get(t.cols), _scaled(t.left, t.rows, None))
    for t in terms:
        if t.left is not None or t.right is not None:
            continue
        if t.rows in rights:
            rights[t.rows] = rights[t.rows] + _scaled(b.eye(x.shape[1]), None, t.cols)
        elif (t.rows is None or t.rows.shape == (1, 1)) and None in rights:
            rights[None] = rights[None] + _scaled(b.eye(x.shape[1]), t.rows, t.cols)
        elif t.cols in lefts:
            lefts[t.cols] = lefts[t.cols] + _scaled(b.eye(x.shape[0]), t.rows, None)
        else:
            total = _plus(total, _scaled(x, t.rows, t.cols))
    for rows, right in rights.items():
        total = _plus(total, _scaled(b.dot(x, right), rows, None))
    for cols, left in lefts.items():
        total = _plus(total, _scaled(b.dot(left, x), None, cols))
    return total


def _scalars_inside(t: Term) -> Term:
    """Scales of one number go into a matrix of the term, so that they do not keep matrices apart."""
    if t.right is not None and t.rows is not None and t.rows.shape == (1, 1):
        return replace(t, rows=None, right=t.right * t.rows)
    if t.left is not None and t.cols is not None and t.cols.shape == (1, 1):
        return replace(t, cols=None, left=t.left * t.cols)
    return t


def _sum(x: Tile | None, y: Tile) -> Tile:
    return y if x is None else x + y


def _scaled(x: Tile, rows: Tile | None, cols: Tile | None) -> Tile:
    x = x if rows is None else x * rows
    return x if cols is None else x * cols
