"""Names in expressions as written."""

from __future__ import annotations

from typing import assert_never

from ruledsl.lang import syntax


def is_prev(node: syntax.Expr) -> bool:
    return isinstance(node, syntax.Call) and node.function == "prev"


def names_of(node: syntax.Expr) -> list[syntax.Name]:
    """Every name in an expression, in text order."""
    match node:
        case syntax.Number():
            return []
        case syntax.Name():
            return [node]
        case syntax.Paren(inner) | syntax.Neg(inner) | syntax.Transpose(inner):
            return names_of(inner)
        case syntax.Binary(_, a, b) | syntax.Compare(_, a, b) | syntax.Power(_, a, b) | syntax.Index(a, b):
            return names_of(a) + names_of(b)
        case syntax.Call(_, args):
            return [name for arg in args for name in names_of(arg)]
        case syntax.Total(body, variable, low, high):
            return [n for n in names_of(body) if n.id != variable] + names_of(low) + names_of(high)
        case _:
            assert_never(node)
