"""The gradients of one decay from several places, as one `log_gate` or `decay_gate` that is added last.

A decay that is an exponential or a sigmoid, or has a positive least value, takes its gradient by its logarithm, with what
comes behind all other products: no level products of gradients, no kernel of its own. The division by the decay is undone by
the function's own derivative; below LEAST both are noise. Any other decay (zero, negative, or just positive) has a
`decay_gate`: no division.

That comes out of a kernel of its own (`schedule.cut`): one of them is cheaper than several, and what is added to it is one
tile when the sum has the form rest + gate. The pass comes last: making the nodes again would regroup the sum.
"""

from __future__ import annotations

from collections import defaultdict

from ruledsl.chunk.arithmetic import terms
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Program
from ruledsl.schedule.by_logarithms import Bounds, divisible, running

_DECAY = {"chain_gate": 2, "before_gate": 0, "after_gate": 0}  # which argument is the decay


LEAST = 1e-30  # what a decay is taken for where it is less, when its gradient is divided by it


def gather_gates(program: Program, bounds: Bounds) -> Program:
    """No gates but `log_gate` and `decay_gate`; those of one decay in one sum are gathered. `bounds`: least values of inputs."""
    b = Builder()

    def gate(found: list[tuple[float, Tile]]) -> Tile:
        decay = found[0][1].args[_DECAY[found[0][1].op]]
        by_log = running(b, decay, bounds) if divisible(b, decay, bounds) else None
        return _gate(b, decay, found) if by_log is None else _log_gate(b, decay, by_log, found)

    made = b.copy(program)
    tiles = list(dict.fromkeys(made.values()))
    inner = {a for t in tiles if _is_sum(t) for a in t.args}
    instead: dict[Tile, Tile] = {t: gate([(1.0, t)]) for t in tiles if t.op in _DECAY}
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
            one = gate(found)
            total = one if total is None else b.raw("map", (total, one), "add")
        assert total is not None
        instead[tile] = total
    results = b.substitute([made[r.node] for r in program.results], instead)
    return b.program(list(zip(program.results, results, strict=True)), program.types, program.chunk)


def _parts(found: list[tuple[float, Tile]]) -> tuple[int, list[Tile], dict[str, Tile]]:
    """How many chain_gates, their x, y and cotangent each; the cotangents of `before` and `after`."""
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
    return count, parts, edges


def _log_gate(b: Builder, decay: Tile, by_log: Tile, found: list[tuple[float, Tile]]) -> Tile:
    """The gradient by the logarithm, divided by the decay."""
    count, parts, cotangents = _parts(found)
    difference = left = None
    if "before_gate" in cotangents:
        difference = b.make("before", (by_log,)) * cotangents["before_gate"]
    if "after_gate" in cotangents:
        left = b.make("after", (by_log,)) * cotangents["after_gate"]
        difference = difference - left if difference is not None else -left
    edges = []
    if difference is not None:
        edges = [b.expand(e, decay.shape) for e in (difference, left if left is not None else b.zeros(decay.shape))]
    total = b.raw("log_gate", (by_log, *parts, *edges), (count, int(bool(edges))))
    if left is not None:
        total = b.raw("map", (total, b.sum(left, 0)), "add")
    return b.raw("map", (total, b.apply("max", decay, LEAST)), "div")


def _gate(b: Builder, decay: Tile, found: list[tuple[float, Tile]]) -> Tile:
    """One node for gates of one decay, with their coefficients."""
    count, parts, edges = _parts(found)
    cotangents = [edges[op] for op in ("before_gate", "after_gate") if op in edges]
    attr = (count, int("before_gate" in edges), int("after_gate" in edges))
    return b.raw("decay_gate", (decay, *parts, *cotangents), attr)


def _is_sum(tile: Tile) -> bool:
    return tile.op == "map" and tile.attr in ("add", "sub", "neg")
