"""Sums and products in a canonical form, and constants folded.

A sum is flattened into terms with coefficients, a product into factors and one number; both come back as nodes of two
arguments, small tiles first, so that equal values are equal nodes. Products of sums are not multiplied out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ruledsl.chunk.program import Rows
from ruledsl.chunk.shapes import join
from ruledsl.lang.functions import TABLE

if TYPE_CHECKING:
    from ruledsl.chunk.build import Builder, Tile
    from ruledsl.chunk.program import Shape

LIMIT = 12  # terms or factors; longer ones keep their parts as they are


def apply(b: Builder, fn: str, args: tuple[Tile, ...]) -> Tile:
    """The row `fn` of `functions.TABLE` on tiles."""
    shape = join(*(a.shape for a in args))
    values = [a.value for a in args]
    if all(v is not None for v in values):
        folded = _fold(fn, values)  # type: ignore[arg-type]
        if folded is not None:
            return b.full(folded, shape)
    match fn:
        case "add":
            return _sum(b, [(1.0, args[0]), (1.0, args[1])], shape)
        case "sub":
            return _sum(b, [(1.0, args[0]), (-1.0, args[1])], shape)
        case "neg":
            return _product(b, [args[0], b.const(-1.0)], shape)
        case "mul":
            return _product(b, list(args), shape)
        case "div" if values[1]:
            return _product(b, [args[0], b.const(1 / values[1])], shape)
        case "div" if values[0] == 0:
            return b.zeros(shape)
        case "pow" if values[1] in (0.0, 0.5, 1.0, 2.0, -1.0):
            base = args[0]
            powers = {
                0.0: lambda: b.const(1.0),
                0.5: lambda: b.apply("sqrt", base),
                1.0: lambda: base,
                2.0: lambda: base * base,
                -1.0: lambda: 1.0 / base,
            }
            return b.expand(powers[values[1]](), shape)
    stripped = [_strip(a) for a in args]
    if join(*(a.shape for a in stripped)) == shape:
        return b.raw("map", stripped, fn)
    return b.expand(b.raw("map", stripped, fn), shape)


def factors(tile: Tile) -> tuple[float, list[Tile]]:
    """A product as a number and its other factors; the tile itself if it is no product, or one of too many factors."""
    number, found, stack = 1.0, list["Tile"](), [tile]
    while stack:
        t = stack.pop()
        if t.op == "map" and t.attr == "neg":
            number = -number
            stack.append(t.args[0])
        elif t.op == "map" and t.attr == "mul":
            stack += t.args[::-1]
        elif t.op == "const" and t.value is not None:
            number *= t.value
        else:
            found.append(t)
        if len(found) + len(stack) > LIMIT:
            return 1.0, [tile]
    return number, found


def product(b: Builder, number: float, parts: Sequence[Tile]) -> Tile:
    """number * parts[0] * parts[1] ... in canonical form."""
    tiles = [*parts, b.const(number)]
    return _product(b, tiles, join(*(t.shape for t in tiles)))


def terms(tile: Tile) -> list[tuple[float, Tile]]:
    """A sum as coefficients and terms; the tile itself if it is no sum, or one of too many terms."""
    found: list[tuple[float, Tile]] = []
    stack = [(1.0, tile)]
    while stack:
        c, t = stack.pop()
        if t.op == "map" and t.attr in ("add", "sub"):
            stack += [(c if t.attr == "add" else -c, t.args[1]), (c, t.args[0])]
        elif t.op == "map" and t.attr == "neg":
            stack.append((-c, t.args[0]))
        elif t.op == "map" and t.attr == "mul" and t.args[1].op == "const":
            found.append((c * float(t.args[1].attr), t.args[0]))  # type: ignore[arg-type]
        else:
            found.append((c, t))
        if len(found) + len(stack) > LIMIT:
            return [(1.0, tile)]
    return found


def _fold(fn: str, values: Sequence[float]) -> float | None:
    row = TABLE[fn]
    if row.python is None:
        return None
    try:
        result = float(row.python(*values))
    except (ArithmeticError, ValueError, TypeError):
        return None
    return None if math.isnan(result) else result


def _strip(tile: Tile) -> Tile:
    """The tile before it was spread."""
    while tile.op == "expand":
        tile = tile.args[0]
    return tile


def _rank(tile: Tile) -> tuple[int, bool, int]:
    """Small tiles come first, then those that are the same each time a system's matrix is applied."""
    return sum(size != 1 for size in tile.shape), tile.index in tile.builder.inside, tile.index


def _sum(b: Builder, parts: list[tuple[float, Tile]], shape: Shape) -> Tile:
    flat = [(c * d, t) for c, part in parts for d, t in terms(_strip(part))]
    if len(flat) > LIMIT:
        flat = [(c, _strip(t)) for c, t in parts]
    number = 0.0
    weights: dict[Tile, float] = {}
    for c, t in flat:
        t = _strip(t)
        if t.value is not None:
            number += c * t.value
        else:
            weights[t] = weights.get(t, 0.0) + c
    weights = _merge(b, {t: c for t, c in weights.items() if c != 0})
    flip = isinstance(shape[0], Rows) and shape[0] == shape[1] and not number and _first_is_negative(weights)
    if flip:  # x - y and y - x are one tile and its negative
        weights = {t: -c for t, c in weights.items()}
    plus = [_scaled(b, c, t) for t, c in sorted(weights.items(), key=lambda item: _rank(item[0])) if c != -1]
    minus = [t for t in sorted(weights, key=_rank) if weights[t] == -1]
    if number or not weights:
        plus.append(b.const(number))
    negate = not plus
    total, *rest = plus or minus[:1]
    for t in rest:
        total = b.raw("map", (total, t), "add")
    for t in minus[1:] if negate else minus:
        total = b.raw("map", (total, t), "add" if negate else "sub")
    return b.expand(b.raw("map", (total,), "neg") if negate != flip else total, shape)


def _first_is_negative(weights: dict[Tile, float]) -> bool:
    return len(weights) > 1 and weights[min(weights, key=_rank)] < 0


_MERGED = ("interleave", "unpairs", "blocks")


def _merge(b: Builder, weights: dict[Tile, float]) -> dict[Tile, float]:
    """interleave(x, 0) + interleave(0, y) = interleave(x, y), and the like."""
    for op in _MERGED:
        same = [t for t in weights if t.op == op]
        groups: dict[Shape, list[Tile]] = {}
        for t in same:
            groups.setdefault(t.shape, []).append(t)
        for group in groups.values():
            if len(group) < 2:
                continue
            columns = zip(*(t.args for t in group), strict=True)
            merged = [
                _sum(b, [(weights[t], part) for t, part in zip(group, column, strict=True)], column[0].shape)
                for column in columns
            ]
            result = b.make(op, merged, group[0].attr)
            weights = {t: c for t, c in weights.items() if t not in group}
            weights[result] = weights.get(result, 0.0) + 1.0
    return weights


def _scaled(b: Builder, number: float, tile: Tile) -> Tile:
    return (
        tile
        if number == 1
        else b.raw("map", (tile,), "neg")
        if number == -1
        else b.raw("map", (tile, b.const(number)), "mul")
    )


def _product(b: Builder, parts: list[Tile], shape: Shape) -> Tile:
    split = [factors(_strip(p)) for p in parts]
    if sum(len(fs) for _, fs in split) > LIMIT:
        split = [(p.value, []) if p.op == "const" and p.value is not None else (1.0, [p]) for p in parts]
    number = 1.0
    flat: list[Tile] = []
    for n, fs in split:
        number *= n
        for f in map(_strip, fs):
            if f.value is not None:
                number *= f.value
            else:
                flat.append(f)
    if number == 0:
        return b.zeros(shape)
    if not flat:
        return b.full(number, shape)
    flat = _unmask(flat)
    flat.sort(key=_rank)
    total = flat[0]
    for f in flat[1:]:
        total = b.raw("map", (total, f), "mul")
    if number != 1 and total.op == "map" and total.attr in ("add", "sub") and number == -1:
        return b.expand(_sum(b, [(-1.0, total)], total.shape), shape)
    return b.expand(_scaled(b, number, total), shape)


def _unmask(flat: list[Tile]) -> list[Tile]:
    """mask(x) * mexp = x * mexp when the mask holds wherever the exponential is not 0."""
    kinds = {f.attr for f in flat if f.op == "mexp"} | {"strict" for f in flat if f.op == "spans"}
    return [f.args[0] if f.op == "mask" and (f.attr in kinds or "strict" in kinds) else f for f in flat]
