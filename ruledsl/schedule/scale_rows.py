"""(r k)^T z becomes k^T (r z), and (r k) S^T becomes r (k S^T), where k comes from the caller and z, S have an axis of state rows.

Scaled keys (by the write's scale, by a scalar decay) would be tiles of their own, made ahead of a serial kernel, written and
read again; its own tiles are scaled for nothing. Products without state rows keep their scaled operands: sums over them, for
the gradient of a decay, must all see the same rounded numbers.
"""

from __future__ import annotations

from ruledsl.chunk.arithmetic import factors, product
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Program, Rows
from ruledsl.schedule.attributes import flags
from ruledsl.schedule.graph import Graph


def scale_rows(program: Program) -> Program:
    """The program with scales of tokens on tiles with state rows."""
    graph = Graph(program)
    b = Builder()
    made = b.copy(program)
    instead: dict[Tile, Tile] = {}
    for index, node in enumerate(program.nodes):
        tile = made[index]
        if node.op != "dot" or tile.op != "dot":
            continue
        for side in (0, 1):
            if graph.owned(node.args[1 - side]) and (found := _moved(b, tile, side)) is not None:
                instead[tile] = found
    results = b.substitute([made[r.node] for r in program.results], instead)
    return b.program(list(zip(program.results, results, strict=True)), program.types, program.chunk)


def _moved(b: Builder, dot: Tile, side: int) -> Tile | None:
    """The product without the scale of an operand's tokens, which goes to the other operand or to the product."""
    ta, tb = flags(dot.node)
    args = list(dot.args)
    tokens, width = args[side].shape
    split = _split(b, args[side]) if isinstance(tokens, Rows) and width != 1 and not isinstance(width, Rows) else None
    if split is None or split[0] is None:
        return None
    scale, args[side] = split[0], split[1]
    contracted = (0 if ta else 1, 1 if tb else 0)
    if contracted[side] == 0:  # over the tokens
        other = 1 - side
        args[other] = (scale if contracted[other] == 0 else scale.T) * args[other]
        return b.dot(args[0], args[1], ta, tb)
    return (scale if side == 0 else scale.T) * b.dot(args[0], args[1], ta, tb)


def _split(b: Builder, tile: Tile) -> tuple[Tile | None, Tile] | None:
    """[tokens, 1], and the tile [tokens, n] from the caller that it scales."""
    if tile.op == "input":
        return None, tile
    if tile.op == "cast" and (inner := _split(b, tile.args[0])) is not None:
        return inner[0], b.cast(inner[1])
    if tile.op == "select" and tile.attr == "==" and tile.args[2].value == 0.0:  # padding tokens
        one, other = tile.args[:2]
        inner = _split(b, tile.args[3])
        if inner is None or not one.shape[1] == other.shape[1] == 1:
            return None
        return (None, tile) if inner[0] is None else (b.select("==", one, other, 0.0, inner[0]), inner[1])
    number, parts = factors(tile)
    scales = [p for p in parts if p.shape[1] == 1]
    wide = [p for p in parts if p.shape[1] != 1]
    if len(wide) != 1 or wide[0] == tile or (inner := _split(b, wide[0])) is None:
        return None
    return product(b, number, scales if inner[0] is None else [*scales, inner[0]]), inner[1]
