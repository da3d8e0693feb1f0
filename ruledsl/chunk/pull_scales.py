"""A scale of a product's rows or columns is taken out of its operands: (r x) y = r (x y).

Equal products then meet, and an operand that comes rounded from memory is used as it is. The other way round, a scale
along the contracted axis stays where it is.
"""

from __future__ import annotations

from ruledsl.chunk.arithmetic import factors, product
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Node, Program


def pull_scales(program: Program) -> Program:
    """The program with every scale outside the products, as far as it can be."""
    b = Builder()

    def replace(node: Node, args: tuple[Tile, ...]) -> Tile | None:
        if node.op != "dot" or 1 in node.shape:
            return None
        assert isinstance(node.attr, tuple)
        ta, tb = map(bool, node.attr)
        left, row = _split(b, args[0], 1 if ta else 0)
        right, column = _split(b, args[1], 0 if tb else 1)
        if row is None and column is None:
            return None
        found = b.dot(left, right, ta, tb)
        if row is not None:
            found = (row.T if ta else row) * found
        return found if column is None else (column.T if tb else column) * found

    made = b.copy(program, replace=replace)
    return b.program([(r, made[r.node]) for r in program.results], program.types, program.chunk)


def _split(b: Builder, tile: Tile, kept: int) -> tuple[Tile, Tile | None]:
    """The operand without the factors that vary along the kept axis alone, and their product."""
    number, parts = factors(tile)
    outside = [p for p in parts if p.shape[1 - kept] == 1]
    inside = [p for p in parts if p.shape[1 - kept] != 1]
    rest = product(b, 1.0, inside) if inside else None
    if rest is None or rest.shape != tile.shape or (number == 1.0 and not outside):
        return tile, None
    return rest, product(b, number, outside)
