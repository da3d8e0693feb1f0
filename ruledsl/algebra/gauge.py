"""States that another state scales, and that state cancels: the running maximum of exponential gates.

    X = exp(e1 + prev(m) - m) X + exp(e2 - m) U       with  X' = X exp(m)       X' = exp(e1) X' + exp(e2) U

X' has a recurrence without m when each X's new value has the degree (0, -1) in exp(prev(m)) and exp(m), given the degree
(-1, 0) of its old one; an output of the degree (0, 0) does not depend on m (see `degrees`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ruledsl.algebra import build
from ruledsl.algebra.analysis import Analysis, Part
from ruledsl.algebra.degrees import BEGUN, ENDED, NONE, Degree, Degrees
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.text import plain
from ruledsl.algebra.verdict import Kind
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, StateRef
from ruledsl.lang.walk import subexpressions


@dataclass(frozen=True, slots=True)
class Gauge:
    by: State  # m
    states: tuple[State, ...]  # each X; X exp(m) follows an affine recurrence without m
    invariant: bool  # no output depends on m


def gauges(analysis: Analysis) -> tuple[Gauge, ...]:
    found = (_gauge(analysis, m) for m in _candidates(analysis.scope))
    return tuple(g for g in found if g is not None)


def _candidates(scope: Scope) -> list[State]:
    """States that stand in an exponent."""
    values = [*scope.lets.values(), *(a.value for assigns in scope.assigns.values() for a in assigns)]
    exponents = [e.args[0] for v in values for e in subexpressions(v) if isinstance(e, typed.Apply) and e.fn == "exp"]
    read = frozenset[State]().union(*(scope.seen(e).now for e in exponents))
    return [s for s in scope.states if s in read and s in scope.assigns]


def _gauge(analysis: Analysis, m: State) -> Gauge | None:
    scope, scaled = analysis.scope, list[State]()
    start: dict[State, Degree] = {}  # what is known of the states as the token begins
    moved = {m}  # states that may depend on m
    for part in analysis.parts:
        own = frozenset(part.states)
        reads = frozenset[State]().union(*(scope.seen(a.value).every for s in own for a in scope.assigns.get(s, [])))
        if m in own:
            moved |= own
        elif not reads & moved:
            start |= dict.fromkeys(own, NONE)
        else:
            moved |= own
            if _affine(part) and _keeps(scope, m, start | dict.fromkeys(own, BEGUN), moved, own, ENDED):
                start |= dict.fromkeys(own, BEGUN)
                scaled += part.states
            elif _keeps(scope, m, start | dict.fromkeys(own, NONE), moved, own, NONE):
                start |= dict.fromkeys(own, NONE)
    if not scaled:
        return None
    degrees = Degrees(scope, m, start, frozenset(moved))
    degrees.walk()
    outputs = [s.name for s in scope.rule.body if isinstance(s, typed.Output)]
    return Gauge(m, tuple(scaled), all(degrees.names[o] == NONE for o in outputs))


def _affine(part: Part) -> bool:
    return part.found is not None and part.found.kind is not Kind.UNDECIDED and not part.frozen


def _keeps(
    scope: Scope, m: State, start: dict[State, Degree], moved: set[State], states: frozenset[State], end: Degree
) -> bool:
    """Given the degrees of the states as the token begins, those of one part end with `end`."""
    degrees = Degrees(scope, m, start, frozenset(moved))
    degrees.walk()
    return all(degrees.versions[s, len(scope.assigns[s])] == end for s in states if s in scope.assigns)


# ------------------------------------------------------------------------------------------------ in words and formulas


def gauged(scope: Scope, found: tuple[Gauge, ...], part: Part, reason: str) -> str:
    """The reason of a stratum with what it has to do with a gauge."""
    for g in found:
        by = plain(_state(scope, g.by))
        if g.by in part.states:
            several = len(g.states) > 1
            follow = f"{'follow' if several else 'follows'} an affine recurrence without {by}"
            if g.invariant:
                reason += f"; {by} is a gauge (a stabiliser): {_made(scope, g, g.states)} {follow}, and no output depends on {by}"
            else:
                reason += f"; {_made(scope, g, g.states)} {follow}"
        elif own := [s for s in part.states if s in g.states]:
            reason += f"; {by} cancels: {_made(scope, g, own)} {'are' if len(own) > 1 else 'is'} affine without it"
    return reason


def _made(scope: Scope, gauge: Gauge, states: Iterable[State]) -> str:
    return ", ".join(f"{plain(primed(s))} = {plain(change(scope, gauge, s))}" for s in states)


def primed(state: State) -> Expr:
    return StateRef(f"{state[0]}'", typed.SCALAR, None, state[1])


def change(scope: Scope, gauge: Gauge, state: State) -> Expr:
    """X exp(m)."""
    return build.mul(_state(scope, state), build.apply("exp", _state(scope, gauge.by)))


def _state(scope: Scope, state: State) -> Expr:
    own = scope.symbols[state[0]].type
    return StateRef(state[0], typed.Type(own.rows, own.cols), None, state[1])
