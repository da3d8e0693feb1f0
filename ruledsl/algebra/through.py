"""Which lets and earlier tokens carry a state into an expression: for a blame whose text does not show the state."""

from __future__ import annotations

from collections.abc import Iterator

from ruledsl.algebra.analysis import Analysis
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.source import NOWHERE, Span
from ruledsl.lang.typed import Expr, Role

MOST = 2  # names that are told


def through(analysis: Analysis, states: tuple[State, ...], span: Span) -> str:
    """ " (`k` reads `prev(o)`)", or "" where nothing is hidden."""
    node = next((n for s in analysis.written.body for n in _nodes(s) if n.span == span), None)
    if node is None or span == NOWHERE:
        return ""
    told = [f"`{_shown(r)}` reads `{_read(analysis.scope, r, states)}`" for r in _refs(analysis.scope, node, states)]
    return f" ({', '.join(list(dict.fromkeys(told))[:MOST])})" if told else ""


def _nodes(statement: typed.Statement) -> Iterator[Expr]:
    if not isinstance(statement, typed.For):
        stack = [statement.value]
        while stack:
            node = stack.pop()
            yield node
            stack += typed.children(node)


def _refs(scope: Scope, expr: Expr, states: tuple[State, ...]) -> Iterator[typed.Ref]:
    """Lets and outputs in an expression that hold one of the states."""
    if isinstance(expr, typed.Ref) and expr.role in (Role.LET, Role.OUTPUT) and scope.seen(expr).every & set(states):
        yield expr
    for child in typed.children(expr):
        yield from _refs(scope, child, states)


def _read(scope: Scope, ref: typed.Ref, states: tuple[State, ...]) -> str:
    """What its value reads: a state, or the next let on the way to one."""
    value = scope.lets[ref.name]
    stack, names = [value], {name for name, _ in states}
    while stack:
        node = stack.pop()
        if isinstance(node, typed.StateRef | typed.Frozen) and node.name in names:
            return node.name
        stack += typed.children(node)
    inner = next(_refs(scope, value, states), None)
    return _shown(inner) if inner is not None else states[0][0]


def _shown(ref: typed.Ref) -> str:
    if ref.lag is None:
        return ref.name
    lag = int(ref.lag.value) if isinstance(ref.lag, typed.Number) else 1
    return f"prev({ref.name})" if lag == 1 else f"prev({ref.name}, {lag})"
