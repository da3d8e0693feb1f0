"""sum_s M[t,s] (x y^T)[t,s] becomes sum_d x[t,d] (M y)[t,d] where the product M y is there already.

A decay's gradient is the difference of the row and the column sums of one tile, and the two must see the same rounded
operands; so a term is swapped in all sums of its tile or in none.
"""

from __future__ import annotations

from ruledsl.chunk.arithmetic import factors, product, terms
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Program, Rows


def swap_contractions(program: Program) -> Program:
    """Sums over C x C tiles as sums over C x K tiles where that costs no new product."""
    b = Builder()
    made = b.copy(program)
    known = set(made.values())
    sums: dict[Tile, list[Tile]] = {}
    for tile in dict.fromkeys(made.values()):
        if (
            tile.op == "sum"
            and tile.args[0].shape[0] == tile.args[0].shape[1]
            and isinstance(tile.args[0].shape[0], Rows)
        ):
            sums.setdefault(tile.args[0], []).append(tile)
    instead: dict[Tile, Tile] = {}
    for tile, users in sums.items():
        axes = sorted({int(user.attr) for user in users})  # type: ignore[arg-type]
        parts = [(number, term, _swapped(b, term, axes, known)) for number, term in terms(tile)]
        if all(swapped is None for _, _, swapped in parts):
            continue
        for k, axis in enumerate(axes):
            total = b.const(0.0)
            for number, term, swapped in parts:
                total = total + number * (b.sum(term, axis) if swapped is None else swapped[k])
            instead |= {user: total for user in users if user.attr == axis}
    results = b.substitute([made[r.node] for r in program.results], instead)
    return b.program(list(zip(program.results, results, strict=True)), program.types, program.chunk)


def _swapped(b: Builder, term: Tile, axes: list[int], known: set[Tile]) -> list[Tile] | None:
    """The sums of a term over the axes, with one product contracted first; None if that needs a product of its own."""
    number, parts = factors(term)
    for factor in parts:
        inner, kind = (factor.args[0], str(factor.attr)) if factor.op == "mask" else (factor, None)
        if inner.op != "dot":
            continue
        rest = list(parts)
        rest.remove(factor)
        scale = product(b, number, [p for p in rest if p.shape == (1, 1)])
        rest = [p for p in rest if p.shape != (1, 1)]
        if not rest or any(p.op == "eye" for p in rest):  # a diagonal is there without another sum
            continue
        weight = product(b, 1.0, rest)
        if weight.shape != term.shape:
            continue
        if kind is not None:
            weight = b.mask(weight, kind)
        found = [contracted(b, weight, inner, axis, known) for axis in axes]
        if all(f is not None for f in found):
            return [f * scale for f in found if f is not None]
    return None


def contracted(b: Builder, weight: Tile, dot: Tile, axis: int, known: set[Tile]) -> Tile | None:
    """The sum over `axis` of weight * (x y^T), if weight y (or weight^T x), or its transpose, is known."""
    left, right = dot.args
    ta, tb = _flags(dot)
    other = b.dot(weight, right, False, not tb) if axis == 1 else b.dot(weight, left, True, ta)
    own = (left.T if ta else left) if axis == 1 else (right if tb else right.T)
    negative = other.op == "map" and other.attr == "neg"
    bare = other.args[0] if negative else other
    if bare in known:
        total = b.sum(own * other, 1)
    elif bare.op == "dot" and (turned := _turned(b, bare)) in known:
        total = b.sum(own.T * turned, 0).T * (-1.0 if negative else 1.0)
    else:
        return None
    return total if axis == 1 else total.T


def _turned(b: Builder, dot: Tile) -> Tile:
    """The product whose transpose this one is."""
    ta, tb = _flags(dot)
    return b.dot(dot.args[1], dot.args[0], not tb, not ta)


def _flags(dot: Tile) -> tuple[bool, bool]:
    assert isinstance(dot.attr, tuple)
    ta, tb = map(bool, dot.attr)
    return ta, tb
