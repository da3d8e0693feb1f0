"""The gradients of one decay from several places, as one `log_gate` or `decay_gate` that is added last.

A decay that is an exponential or a sigmoid, or has a positive least value, takes its gradient by its logarithm, with what
comes behind all other products: no level products of gradients, no kernel of its own. It is divided by the decay, unless the
function's own derivative follows, which has the decay as a factor; below LEAST both are noise. Any other decay (zero,
negative, or just positive) has a `decay_gate`: no division.

That comes out of a kernel of its own (`schedule.cut`): one of them is cheaper than several, and what is added to it is one
tile when the sum has the form rest + gate. The pass comes last: making the nodes again would regroup the sum.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from ruledsl.chunk.arithmetic import factors, product, terms
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Program
from ruledsl.schedule.by_logarithms import Bounds, divisible, running, source

_DECAY = {"chain_gate": 2, "before_gate": 0, "after_gate": 0}  # which argument is the decay


LEAST = 1e-30  # what a decay is taken for where it is less, when its gradient is divided by it


def gather_gates(program: Program, bounds: Bounds) -> Program:
    """No gates but `log_gate` and `decay_gate`; those of one decay in one sum are gathered. `bounds`: least values of inputs."""
    b = Builder()

    def logged(decay: Tile) -> Tile | None:
        return running(b, decay, bounds) if divisible(b, decay, bounds) else None

    def gate(found: list[tuple[float, Tile]]) -> Tile:
        decay = found[0][1].args[_DECAY[found[0][1].op]]
        by_log = logged(decay)
        return _gate(b, decay, found) if by_log is None else _divided(b, _log_gate(b, by_log, found), decay)

    made = b.copy(program)
    tiles = list(dict.fromkeys(made.values()))
    inner = {a for t in tiles if _is_sum(t) for a in t.args}
    instead: dict[Tile, Tile] = {t: gate([(1.0, t)]) for t in tiles if t.op in _DECAY}
    sums: dict[Tile, _Sum] = {}
    for tile in tiles:
        if not _is_sum(tile) or tile in inner:
            continue
        gates: defaultdict[Tile, list[tuple[float, Tile]]] = defaultdict(list)
        others = []
        for number, term in terms(tile):
            if term.op in _DECAY:
                gates[term.args[_DECAY[term.op]]].append((number, term))
            else:
                others.append((number, term))
        if not gates:
            continue
        if len(gates) == 1 and (by_log := logged(*gates)) is not None:
            (decay,) = gates
            others, wholes = _wholes(b, by_log, others)
            total = _log_gate(b, by_log, gates[decay])
            for whole in wholes:
                total = b.raw("map", (total, whole), "add")
            sums[tile] = _Sum(decay, _total(b, others), total)
            instead[tile] = _added(b, sums[tile].rest, _divided(b, total, decay))
            continue
        rest = _total(b, others)
        for found in gates.values():
            rest = _added(b, rest, gate(found))
        assert rest is not None
        instead[tile] = rest
    inner = {a for t in tiles if _is_product(t) for a in t.args}
    for tile in tiles:
        if _is_product(tile) and tile not in inner and (undivided := _undivided(b, tile, sums)) is not None:
            instead[tile] = undivided
    results = b.substitute([made[r.node] for r in program.results], instead)
    return b.program(list(zip(program.results, results, strict=True)), program.types, program.chunk)


@dataclass(frozen=True, slots=True)
class _Sum:
    """What a gradient of a decay is made of."""

    decay: Tile
    rest: Tile | None  # of the gradient
    total: Tile  # of the gradient by the logarithm


def _total(b: Builder, found: list[tuple[float, Tile]]) -> Tile | None:
    total = None
    for number, term in found:
        total = term * number if total is None else total + term * number
    return total


def _added(b: Builder, rest: Tile | None, gate: Tile) -> Tile:
    return gate if rest is None else b.raw("map", (rest, gate), "add")


def _wholes(b: Builder, by_log: Tile, found: list[tuple[float, Tile]]) -> tuple[list[tuple[float, Tile]], list[Tile]]:
    """Terms without gradients of `whole`, which are products with `before` and `after`; and those, times the decay."""
    ends = [b.make("before", (by_log,)), b.make("after", (by_log,))]
    others, wholes = [], []
    for number, term in found:
        own, parts = factors(term)
        if all(end in parts for end in ends):
            for end in ends:
                parts.remove(end)
            wholes.append(product(b, number * own, [*parts, b.make("whole", (by_log,))]))
        else:
            others.append((number, term))
    return others, wholes


def _divided(b: Builder, total: Tile, decay: Tile) -> Tile:
    """The gradient by a decay from the one by its logarithm."""
    return b.raw("map", (total, b.apply("max", decay, LEAST)), "div")


def _undivided(b: Builder, tile: Tile, sums: Mapping[Tile, _Sum]) -> Tile | None:
    """A product of the decay's function and of the gradient by the decay, which would be divided by the same decay."""
    number, parts = factors(tile)
    for part in parts:
        padded = part.op == "select" and part.args[2].value == 0
        found = sums.get(part.args[3] if padded else part)
        if found is None or (decay := source(found.decay)) not in parts:
            continue
        parts.remove(part)
        parts.remove(decay)
        whole = _added(b, None if found.rest is None else found.decay * found.rest, found.total)
        if padded:
            whole = b.make("select", (*part.args[:3], whole), part.attr)
        return product(b, number, [*parts, whole])
    return None


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


def _log_gate(b: Builder, by_log: Tile, found: list[tuple[float, Tile]]) -> Tile:
    """The gradient by the logarithm."""
    count, parts, cotangents = _parts(found)
    difference = left = None
    if "before_gate" in cotangents:
        difference = b.make("before", (by_log,)) * cotangents["before_gate"]
    if "after_gate" in cotangents:
        left = b.make("after", (by_log,)) * cotangents["after_gate"]
        difference = difference - left if difference is not None else -left
    edges = []
    if difference is not None:
        edges = [b.expand(e, by_log.shape) for e in (difference, left if left is not None else b.zeros(by_log.shape))]
    total = b.raw("log_gate", (by_log, *parts, *edges), (count, int(bool(edges))))
    return total if left is None else b.raw("map", (total, b.sum(left, 0)), "add")


def _gate(b: Builder, decay: Tile, found: list[tuple[float, Tile]]) -> Tile:
    """One node for gates of one decay, with their coefficients."""
    count, parts, edges = _parts(found)
    cotangents = [edges[op] for op in ("before_gate", "after_gate") if op in edges]
    attr = (count, int("before_gate" in edges), int("after_gate" in edges))
    return b.raw("decay_gate", (decay, *parts, *cotangents), attr)


def _is_product(tile: Tile) -> bool:
    return tile.op == "map" and tile.attr in ("mul", "neg")


def _is_sum(tile: Tile) -> bool:
    return tile.op == "map" and tile.attr in ("add", "sub", "neg")
