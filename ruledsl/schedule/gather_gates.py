"""The gradients of one decay from several Gram matrices, as one node that is added last.

A `chain_gate` comes out of a kernel of its own (`schedule.cut`): one of them is cheaper than several, and what is added
to it is one tile when the sum has the form rest + gate. The pass comes last: making the nodes again would regroup the sum.
"""

from __future__ import annotations

from ruledsl.chunk.arithmetic import terms
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Program


def gather_gates(program: Program) -> Program:
    """Sums with the gates of each decay gathered: `chain_gate(x, y, a, ct, x2, y2, ct2, ...)`."""
    b = Builder()
    made = b.copy(program)
    inner = {a for t in made.values() if _is_sum(t) for a in t.args}
    instead: dict[Tile, Tile] = {}
    for tile in dict.fromkeys(made.values()):
        if not _is_sum(tile) or tile in inner:
            continue
        gates: dict[Tile, list[Tile]] = {}
        rest = b.const(0.0)
        for number, term in terms(tile):
            if term.op == "chain_gate":
                x, y, decay, weight = term.args
                gates.setdefault(decay, []).extend([x, y, weight * number])
            else:
                rest = rest + term * number
        if not gates or rest.shape != tile.shape:
            continue
        for decay, (x, y, weight, *more) in gates.items():
            rest = b.raw("map", (rest, b.raw("chain_gate", (x, y, decay, weight, *more))), "add")
        instead[tile] = rest
    results = b.substitute([made[r.node] for r in program.results], instead)
    return b.program(list(zip(program.results, results, strict=True)), program.types, program.chunk)


def _is_sum(tile: Tile) -> bool:
    return tile.op == "map" and tile.attr in ("add", "sub", "neg")
