"""A checked rule as text: what every name is, then the statements with the products made plain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from ruledsl.algebra.text import plain
from ruledsl.lang.typed import Assign, Expr, For, Interval, Let, Output, Product, Rule, Statement, Symbol, children


def typed_text(rule: Rule) -> str:
    """Symbols with types and promises, free sizes, assumptions, statements; ends in a newline."""
    lines = list(_symbols(rule))
    lines += [f"sizes {', '.join(rule.sizes)}"] if rule.sizes else []
    lines += [f"assumes {note}" for note in rule.notes]
    lines += ["", *(line for statement in rule.body for line in _statement(statement))]
    return "\n".join(lines) + "\n"


def _symbols(rule: Rule) -> Iterator[str]:
    for symbol in rule.symbols:
        yield " ".join([symbol.role, symbol.name, f": {symbol.type}", *_promises(symbol)])


def _promises(symbol: Symbol) -> Iterator[str]:
    if symbol.unit:
        yield "unit"
    if symbol.perm:
        yield "perm"
    if symbol.interval is not None:
        yield f"in {_interval(symbol.interval)}"
    if symbol.learned:
        yield "= learned"
    if symbol.init is not None:
        yield f"= {plain(symbol.init)}"
    if symbol.inferred:
        yield "(inferred)"


def _interval(interval: Interval) -> str:
    left, right = "(" if interval.low_open else "[", ")" if interval.high_open else "]"
    return f"{left}{interval.low:g}, {interval.high:g}{right}"


def _statement(statement: Statement) -> Iterator[str]:
    match statement:
        case Let(name, value):
            yield _line(f"let {name}", value)
        case Output(name, value):
            yield _line(f"output {name}", value)
        case Assign(state, None, value):
            yield _line(state, value)
        case Assign(state, member, value):
            assert member is not None
            yield _line(f"{state}[{plain(member)}]", value)
        case For(name, low, high, body):
            yield f"for {name} in {plain(low)}..{plain(high)}:"
            yield from (f"    {line}" for inner in body for line in _statement(inner))
        case _:
            assert_never(statement)


def _line(target: str, value: Expr) -> str:
    """The statement, its type, and which products it has."""
    kinds = ", ".join(dict.fromkeys(_products(value)))
    return f"{target} = {plain(value)}  : {value.type}{f'  ({kinds})' if kinds else ''}"


def _products(expr: Expr) -> Iterator[str]:
    for child in children(expr):
        yield from _products(child)
    if isinstance(expr, Product):
        yield expr.kind
