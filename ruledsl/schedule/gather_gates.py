"""The gradients of one decay from several places, as one `decay_gate` that is added last.

It comes out of a kernel of its own (`schedule.cut`): one of them is cheaper than several, and what is added to it is one
tile when the sum has the form rest + gate. The pass comes last: making the nodes again would regroup the sum.
"""

from __future__ import annotations

from collections import defaultdict

from ruledsl.chunk.arithmetic import terms
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Program

_DECAY = {"chain_gate": 2, "before_gate": 0, "after_gate": 0}  # which argument is the decay


def gather_gates(program: Program) -> Program:
    """No gates but `decay_gate`; those of one decay in one sum are gathered."""
    b = Builder()
    made = b.copy(program)
    tiles = list(dict.fromkeys(made.values()))
    inner = {a for t in tiles if _is_sum(t) for a in t.args}
    instead: dict[Tile, Tile] = {t: _gate(b, [(1.0, t)]) for t in tiles if t.op in _DECAY}
    for tile in tiles:
        if not _is_sum(tile) or tile in inner:
            continue
        gates: defaultdict[Tile, list[tuple[float, Tile]]] = defaultdict(list)
        rest = b.const(0.0)
        for number, term in terms(tile):
            if term.op in _DECAY:
                gates[term.args[_DECAY[term.op]]].append((number, term))
            else:
                rest = rest + term * number
        if not gates:
            continue
        total = None if rest.value == 0 else rest
        for found in gates.values():
            gate = _gate(b, found)
            total = gate if total is None else b.raw("map", (total, gate), "add")
        assert total is not None
        instead[tile] = total
    results = b.substitute([made[r.node] for r in program.results], instead)
    return b.program(list(zip(program.results, results, strict=True)), program.types, program.chunk)


def _gate(b: Builder, found: list[tuple[float, Tile]]) -> Tile:
    """One node for gates of one decay, with their coefficients."""
    first = found[0][1]
    decay = first.args[_DECAY[first.op]]
    parts: list[Tile] = []
    edges: dict[str, Tile] = {}
    count = 0
    for number, gate in found:
        if gate.op == "chain_gate":
            x, y, _, weight = gate.args
            parts += [x, y, weight * number]
            count += 1
        else:
            ct = gate.args[1] * number
            edges[gate.op] = edges[gate.op] + ct if gate.op in edges else ct
    cotangents = [edges[op] for op in ("before_gate", "after_gate") if op in edges]
    attr = (count, int("before_gate" in edges), int("after_gate" in edges))
    return b.raw("decay_gate", (decay, *parts, *cotangents), attr)


def _is_sum(tile: Tile) -> bool:
    return tile.op == "map" and tile.attr in ("add", "sub", "neg")
