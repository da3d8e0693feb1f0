"""Rebuilding and measuring typed expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cache
from typing import Any

from ruledsl.lang import typed


@cache
def _slots(kind: Any) -> tuple[tuple[str, bool], ...]:
    """Fields of a node class that may hold sub-expressions; whether a tuple of them."""
    names = [f for f in fields(kind) if f.name not in ("span", "type")]
    return tuple((f.name, "tuple" in str(f.type)) for f in names if "Expr" in str(f.type))


def map_children(expr: typed.Expr, fn: Callable[[typed.Expr], typed.Expr]) -> typed.Expr:
    """The node with `fn` applied to each direct sub-expression; itself if nothing changed."""
    changed: dict[str, Any] = {}
    for name, several in _slots(type(expr)):  # type: ignore[arg-type]
        old = getattr(expr, name)
        if several:
            parts = tuple(fn(e) for e in old)
            if any(a is not b for a, b in zip(old, parts, strict=True)):
                changed[name] = parts
        elif old is not None and (new := fn(old)) is not old:
            changed[name] = new
    return replace(expr, **changed) if changed else expr


def subexpressions(expr: typed.Expr) -> Iterator[typed.Expr]:
    """Every distinct node (by identity), parents first."""
    seen: set[int] = set()
    stack = [expr]
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            stack.extend(reversed(list(typed.children(node))))


def tree_size(expr: typed.Expr) -> int:
    """Nodes of the expression read as a tree: shared nodes count every time. Linear in the distinct nodes."""
    known: dict[int, int] = {}

    def size(node: typed.Expr) -> int:
        if id(node) not in known:
            known[id(node)] = 1 + sum(size(child) for child in typed.children(node))
        return known[id(node)]

    return size(expr)


def mentions(expr: typed.Expr, kind: type) -> bool:
    """Whether a node of that class occurs in the expression."""
    return any(isinstance(node, kind) for node in subexpressions(expr))


def expressions(statement: typed.Statement) -> tuple[typed.Expr, ...]:
    """The expressions of one statement, those of a loop's body included."""
    match statement:
        case typed.Let(_, value) | typed.Output(_, value) | typed.Assign(_, None, value):
            return (value,)
        case typed.Assign(_, member, value):
            assert member is not None
            return (member, value)
        case typed.For(_, low, high, body):
            return (low, high, *(e for s in body for e in expressions(s)))
