"""Backward passes that keep no state: where every gradient depends on the entering states or on the gradients of the leaving
ones, not on both, it is made by the serial kernel that carries them, rows or columns of the state being split over programs.

So it is for rules without reads and decays. A chunk's products are made again in every such kernel; their tiles come from the
caller, and loads go ahead of the products: half of the time of the other cut, a sixth of its memory. With decays, made inside
as well, such kernels are slower than the other cut (benchmarks/NOTES.md), so `plain` refuses them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.chunk.program import PortKind, Result, ResultKind, Rows
from ruledsl.schedule.graph import ELEMENTWISE, HEAVY, Graph

MOST_PRODUCTS = 3  # between tokens, made again in every kernel
_DECAYS = frozenset({"mexp", "cumsum", "cumprod", "running"})
_CHEAP_MAPS = frozenset({"mul", "add", "sub", "neg"})

Serial = tuple[PortKind, int]  # what is carried, and the axis class that is split


@dataclass(frozen=True, slots=True)
class Fused:
    serial: dict[Serial, tuple[Result, ...]]
    rest: list[Result]  # gradients that depend on no state


def plain(graph: Graph) -> bool:
    """Nothing but products and element-wise functions, without decays, of chunks with one row for each token."""
    nodes = graph.program.nodes
    slots = all(axis.slots == 1 for n in nodes for axis in n.shape if isinstance(axis, Rows))
    products = [i for i, n in enumerate(nodes) if n.op == "dot" and graph.axes.of[i] == (None, None) and graph.large(i)]
    return slots and len(products) <= MOST_PRODUCTS and not any(n.op in _DECAYS | HEAVY - {"dot"} for n in nodes)


def fused(graph: Graph) -> Fused | None:
    """How the gradient program is cut; None where some gradient needs both."""
    if not plain(graph):
        return None
    leave = {
        PortKind.STATE: dict(graph.results(ResultKind.STATE)),
        PortKind.COTANGENT: dict(graph.results(ResultKind.GRADIENT, PortKind.STATE)),
    }
    enter = {kind: graph.ports(kind, nodes) for kind, nodes in leave.items()}
    depends = {kind: graph.dependents(ports.values()) for kind, ports in enter.items()}
    if not all(enter.values()) or depends[PortKind.STATE] & set(leave[PortKind.COTANGENT].values()):
        return None
    serial: dict[Serial, tuple[Result, ...]] = {}
    rest = []
    for r in graph.program.results:
        if r.kind is not ResultKind.GRADIENT or (r.port is not None and r.port.kind is PortKind.STATE):
            continue
        kinds = [kind for kind, nodes in depends.items() if r.node in nodes]
        if not kinds:
            rest.append(r)
            continue
        wanted = [*leave[kinds[0]].values(), r.node]
        along = _axis(graph, wanted, set(enter[kinds[0]].values()))
        if len(kinds) > 1 or along is None:
            return None
        serial[kinds[0], along] = (*serial.get((kinds[0], along), ()), r)
    reversed_too = any(kind is PortKind.COTANGENT for kind, _ in serial)
    return Fused(serial, rest) if reversed_too else None


def _axis(graph: Graph, wanted: list[int], carried: set[int]) -> int | None:
    """An axis class that the carried states and the last of the wanted nodes have and that making all of them does not mix."""
    for place in (0, 1):
        (axis, *others) = {graph.axes.of[i][place] for i in carried}
        if axis is None or others or axis not in graph.axes.of[wanted[-1]]:
            continue
        if not graph.mixes(axis, wanted, carried):
            return axis
    return None


def is_cheap(graph: Graph, index: int) -> bool:
    """Made inside a serial kernel, if it is no vector: vectors are read."""
    if not graph.large(index):
        return False
    node = graph.program.nodes[index]
    return node.op == "dot" or (node.op == "map" and node.attr in _CHEAP_MAPS) or node.op in ELEMENTWISE - {"map"}
