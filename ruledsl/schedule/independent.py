"""States that have nothing to do with each other, each with what depends on it: their kernels are cut apart.

Two states belong together where a result of the forward or of the gradient program depends on both: a read-out of their sum, the
gradient of a key that both are written with. Else one serial kernel would hold both in its registers, and only the rows of one
could be split over programs.
"""

from __future__ import annotations

from dataclasses import replace

from ruledsl.chunk.program import PortKind, Program
from ruledsl.schedule.graph import Graph


def independent(forward: Program, gradient: Program) -> list[tuple[str, Program, Program]]:
    """A suffix for names, and both programs with the results that depend on states of one group; on no state: in the first."""
    order = list(dict.fromkeys(p.name for p in forward.ports if p.kind is PortKind.STATE))
    if len(order) < 2:
        return [("", forward, gradient)]
    reached = [_states(p) for p in (forward, gradient)]
    first = {s: s for s in order}  # of its group
    for names in (n for side in reached for n in side):
        same = {first[s] for s in names}
        joined = min(same, key=order.index, default="")
        first = {s: joined if own in same else own for s, own in first.items()}

    def only(program: Program, names: list[list[str]], group: str) -> Program:
        own = [r for r, n in zip(program.results, names, strict=True) if (first[n[0]] if n else order[0]) == group]
        return replace(program, results=tuple(own))

    groups = dict.fromkeys(first.values())
    if len(groups) < 2:
        return [("", forward, gradient)]
    return [
        ("" if s == order[0] else f"_of_{s}", only(forward, reached[0], s), only(gradient, reached[1], s)) for s in groups
    ]


def _states(program: Program) -> list[list[str]]:
    """For each result: the states that it depends on, or on whose cotangent."""
    graph = Graph(program)
    entering = graph.ports(PortKind.STATE)
    back = graph.ports(PortKind.COTANGENT, entering)
    found = []
    for r in program.results:
        among = graph.ancestors([r.node])
        found.append([s for s, n in entering.items() if n in among or back.get(s) in among])
    return found
