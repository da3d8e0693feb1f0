"""Running products of diagonal decays as operations of their own: `before`, `after` and `whole`.

These three come out of what Gram matrices need of the decay, its running sums (`schedule.by_logarithms`) or its level
products, and their gradients go into one `log_gate` or `decay_gate`.
"""

from __future__ import annotations

from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Node, Program


def row_products(program: Program) -> Program:
    """The program without running products of tiles of several columns."""
    b = Builder()

    def product(node: Node) -> bool:
        return node.op == "cumprod" and node.shape[1] != 1

    def replace(node: Node, args: tuple[Tile, ...]) -> Tile | None:
        source = program.nodes[node.args[0]] if node.args else node
        if product(node):
            return b.make("after" if node.attr else "before", args) * args[0]
        if not product(source):
            return None
        decay = made[source.args[0]]
        if node.op == "shift" and node.attr == (1.0, -1 if source.attr else 1):
            return b.make("after" if source.attr else "before", (decay,))
        if node.op == "last" and not source.attr:
            return b.make("whole", (decay,))
        return None

    made: dict[int, Tile] = {}
    b.copy(program, replace=replace, made=made)
    return b.program([(r, made[r.node]) for r in program.results], program.types, program.chunk)
