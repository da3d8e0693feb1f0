"""Triangular solves with one matrix become products with its inverse, which they share."""

from __future__ import annotations

from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Node, Program


def lower_solves(program: Program) -> Program:
    """Run after differentiating: the derivative of a solve is one solve, that of an inverse two products."""
    b = Builder()

    def replace(node: Node, args: tuple[Tile, ...]) -> Tile | None:
        return b.dot(b.make("inverse", args[:1]), args[1], bool(node.attr)) if node.op == "solve" else None

    made = b.copy(program, replace=replace)
    return b.program([(r, made[r.node]) for r in program.results], program.types, program.chunk)
