"""Numbers that are known when the rule is compiled."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ruledsl.lang import typed
from ruledsl.lang.functions import TABLE
from ruledsl.lang.typed import dim_value

COMPARE = {
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
}


def fold(
    expr: typed.Expr,
    sizes: Mapping[str, int] | None = None,
    consts: Mapping[str, typed.Expr] | None = None,
    loops: Mapping[str, int] | None = None,
) -> float | None:
    """The value of a scalar expression over numbers, bound sizes, consts with values and loop variables; None if it
    has none of its own."""
    match expr:
        case typed.Number(value):
            return value
        case typed.SizeOf(dim):
            try:
                return float(dim_value(dim, sizes or {}))
            except (KeyError, ValueError):
                return None
        case typed.LoopVar(name):
            return float(loops[name]) if loops and name in loops else None
        case typed.Ref(name, typed.Role.CONST):
            return fold(consts[name], sizes, consts, loops) if consts and name in consts else None
        case typed.Apply("where", (typed.Compare() as test, then, otherwise)):
            truth = fold_compare(test, sizes, consts, loops)
            return None if truth is None else fold(then if truth else otherwise, sizes, consts, loops)
        case typed.Apply(fn, args) if expr.type.is_scalar:
            values = [fold(arg, sizes, consts, loops) for arg in args]
            known = [v for v in values if v is not None]
            return apply(fn, known) if len(known) == len(values) else None
        case _:
            return None


def fold_compare(
    test: typed.Compare,
    sizes: Mapping[str, int] | None = None,
    consts: Mapping[str, typed.Expr] | None = None,
    loops: Mapping[str, int] | None = None,
) -> bool | None:
    """Whether a comparison of such numbers holds."""
    left, right = fold(test.left, sizes, consts, loops), fold(test.right, sizes, consts, loops)
    return None if left is None or right is None else COMPARE[test.op](left, right)


def apply(fn: str, values: list[float]) -> float | None:
    """A row of the function table on numbers; None where it has no finite or infinite real value."""
    row = TABLE[fn]
    if row.python is None:
        return None
    try:
        result = row.python(*values)
    except (ArithmeticError, ValueError):
        return None
    if isinstance(result, complex) or math.isnan(result):
        return None
    return float(result)
