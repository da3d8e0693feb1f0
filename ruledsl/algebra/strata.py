"""Which states depend on each other: the strongly connected components, in order of dependence.

A state depends on whatever its assignments read, through lets, `frozen` and values of earlier tokens.
"""

from __future__ import annotations

from ruledsl.algebra.scope import Scope, State


def strata(scope: Scope) -> list[tuple[State, ...]]:
    states = scope.states
    edges = {s: _reads(scope, s) for s in states}
    index: dict[State, int] = {}
    low: dict[State, int] = {}
    stack: list[State] = []
    out: list[tuple[State, ...]] = []

    def visit(s: State) -> None:  # Tarjan; a component is finished after those it depends on
        index[s] = low[s] = len(index)
        stack.append(s)
        for other in edges[s]:
            if other not in index:
                visit(other)
                low[s] = min(low[s], low[other])
            elif other in stack:
                low[s] = min(low[s], index[other])
        if low[s] == index[s]:
            part = stack[stack.index(s) :]
            del stack[stack.index(s) :]
            out.append(tuple(t for t in states if t in part))

    for s in states:
        if s not in index:
            visit(s)
    return out


def _reads(scope: Scope, state: State) -> list[State]:
    found: set[State] = set()
    for assign in scope.assigns.get(state, []):
        found |= scope.seen(assign.value).every
    return [s for s in scope.states if s in found]
