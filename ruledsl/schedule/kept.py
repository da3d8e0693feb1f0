"""What the backward pass takes over from the forward pass instead of making it again.

Tiles of C x C, Gram matrices and inverses: for each token as many bytes as C numbers, next to the K and V of its inputs, and
among the dearest to make; and solutions of systems, C x K, dearer still. States and other tiles of C x K are made again: they
would cost more memory than they save time.
"""

from __future__ import annotations

from collections.abc import Iterable

from ruledsl.chunk.program import Program, Rows
from ruledsl.schedule.graph import Graph
from ruledsl.schedule.kernels import Buffer, Kernel


def kept(forward: Graph, kernels: Iterable[Kernel], gradient: Graph) -> tuple[tuple[Buffer, Buffer], ...]:
    """Buffers that the forward kernels write, each with the same values as a buffer of the gradient program."""
    twin = {first: second for second, first in _twins(forward.program, gradient.program).items()}
    needed = gradient.ancestors(r.node for r in gradient.program.results)
    found = []
    for b in (b for k in kernels for b in k.writes if not b.levels):
        node = twin.get(b.node)
        if node not in needed:
            continue
        if gradient.op(node) != "conjugate" and not all(isinstance(axis, Rows) for axis in gradient.program.nodes[node].shape):
            continue
        # in float32 is what an inverse is made of, which overwrites it
        if b.operand and (gradient.op(node) in ("inverse", "conjugate") or gradient.is_operand(node, needed)):
            found.append((b, Buffer(f"kept_{gradient.word(node)}_{node}", node, b.operand)))
    return tuple(found)


def _twins(first: Program, second: Program) -> dict[int, int]:
    """Nodes of the second program that are nodes of the first, by structure."""
    known: dict[tuple[object, ...], int] = {}
    same: dict[int, int] = {}
    for index, node in enumerate(first.nodes):
        attr = first.port(node) if node.op == "input" else node.attr
        known[node.op, attr, node.shape, node.args] = index
    for index, node in enumerate(second.nodes):
        attr = second.port(node) if node.op == "input" else node.attr
        args = tuple(same.get(a, -1) for a in node.args)
        if (found := known.get((node.op, attr, node.shape, args))) is not None:
            same[index] = found
    return same
