"""Which line of a rule's text a kernel's loads, updates and stores come from."""

from __future__ import annotations

from collections.abc import Iterable

from ruledsl.lang import typed
from ruledsl.lang.source import Source, Span
from ruledsl.lang.typed import Role


def rule_lines(rule: typed.Rule, source: Source) -> dict[str, int]:
    """Line, from 1, by name: of an input or param its declaration (its first statement, where it has none), of an output its
    statement, of a state its last assignment."""
    found: dict[str, int] = {}
    for symbol in rule.symbols:
        if symbol.role is not Role.STATE and symbol.span.end > symbol.span.start:
            found[symbol.name] = source.position(symbol.span.start)[0]
    for name, span in _statements(rule.body):
        found[name] = source.position(span.start)[0]
    return found


def _statements(body: Iterable[typed.Statement]) -> Iterable[tuple[str, Span]]:
    for statement in body:
        match statement:
            case typed.Assign(state):
                yield state, statement.span
            case typed.Output(name):
                yield name, statement.span
            case typed.For():
                yield from _statements(statement.body)
            case typed.Let():
                pass
