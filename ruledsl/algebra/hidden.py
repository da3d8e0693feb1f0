"""Lets that read their own past are states in all but name:

    let h = tanh(x + prev(h))      is      state h;  h = tanh(x + h)  and `h` below

A rule is judged with such lets as states. Only a let that is read one token back, and is no output, becomes one; any
other circle through the past is named.
"""

from __future__ import annotations

from dataclasses import replace

from ruledsl.algebra import build
from ruledsl.algebra.calculus import NoDerivative
from ruledsl.lang import typed
from ruledsl.lang.source import Span
from ruledsl.lang.typed import Assign, Expr, Let, Output, Ref, Role, StateRef, Symbol


class Circle(NoDerivative):
    """A name that goes round through the past in a way that is not followed: undecided, with a place, like an
    expression without a derivative."""

    def __str__(self) -> str:
        return f"`{self.what}` is made from its own past: declare what it carries as a state"


def hidden(rule: typed.Rule) -> dict[str, Span]:
    """Names of an unrolled rule that depend on their own value at earlier tokens, not through a state, with the place
    of such a read."""
    values = {s.name: s.value for s in rule.body if isinstance(s, Let | Output)}
    reads = {name: _refs(value) for name, value in values.items()}
    found = {}
    for name, refs in reads.items():
        for ref in refs:
            if ref.lag is not None and name in _reached(ref.name, reads):
                found[ref.name] = ref.span
    return found


def as_states(rule: typed.Rule) -> typed.Rule:
    """The unrolled rule with these names as states. Raises Circle."""
    names = hidden(rule)
    if not names:
        return rule
    lets = {s.name: s for s in rule.body if isinstance(s, Let)}
    for s in rule.body:
        assert not isinstance(s, typed.For)
        for ref in _refs(s.value):
            if ref.name in names and (ref.name not in lets or _lag(ref) not in (None, 1.0)):
                raise Circle(names[ref.name], ref.name)

    def change(expr: Expr) -> Expr:
        if isinstance(expr, Ref) and expr.role is Role.LET and expr.name in names:
            return StateRef(expr.name, expr.type, 1 if expr.lag is None else 0, span=expr.span)
        return build.rebuild(expr, change)

    body = tuple(
        Assign(s.name, None, change(s.value), span=s.span)
        if isinstance(s, Let) and s.name in names
        else replace(s, value=change(s.value))
        for s in rule.body
        if not isinstance(s, typed.For)
    )
    states = tuple(Symbol(n, Role.STATE, lets[n].value.type, span=lets[n].span) for n in names)
    return replace(rule, symbols=(*rule.symbols, *states), body=body)


def _lag(ref: Ref) -> float | None:
    return None if ref.lag is None else build.value_of(ref.lag) or 0.0


def _refs(expr: Expr) -> list[Ref]:
    out, stack = list[Ref](), [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, Ref) and node.role in (Role.LET, Role.OUTPUT):
            out.append(node)
        stack += typed.children(node)
    return out


def _reached(start: str, reads: dict[str, list[Ref]]) -> set[str]:
    found, stack = {start}, [start]
    while stack:
        for ref in reads.get(stack.pop(), []):
            if ref.name not in found:
                found.add(ref.name)
                stack.append(ref.name)
    return found
