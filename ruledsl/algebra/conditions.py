"""Products of conditions that cannot all hold: `where(l <= b, 1, 0)*where(b == 1, 1, 0)` for l above 1.

A condition compares linear forms of any values with numbers; those over the same form are intersected. Only what is
proven impossible is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ruledsl.algebra.scalars import Coef, Powers
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr

_NEGATED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!="}
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_Form = tuple[tuple[Expr, float], ...]


def mask(atom: Expr) -> tuple[Expr, bool] | None:
    """A condition and whether it holds, of `where(condition, 1, 0)` and `where(condition, 0, 1)`."""
    match atom:
        case typed.Apply("where", (condition, typed.Number(yes), typed.Number(no))) if {yes, no} == {0.0, 1.0}:
            return condition, yes == 1.0
    return None


def possible(coef: Coef) -> Coef:
    """The coefficient without terms whose conditions exclude each other."""
    return Coef(tuple((c, powers) for c, powers in coef.terms if _possible(powers)))


def _possible(powers: Powers) -> bool:
    found: dict[_Form, list[tuple[str, float]]] = {}
    for told in (mask(atom) for atom, power in powers if power > 0):
        match told:
            case (typed.Compare(op, left, right), holds):
                form, number = _difference(left, right)
                if not form:
                    continue
                scale = form[0][1]
                op = op if holds else _NEGATED[op]
                bound = op if scale > 0 else _TURNED[op]
                found.setdefault(tuple((e, c / scale) for e, c in form), []).append((bound, -number / scale))
    return all(_meet(bounds) for bounds in found.values())


def _meet(bounds: Iterable[tuple[str, float]]) -> bool:
    """Is there a number x with `x op bound` for all of them?"""
    low, high, low_open, high_open = -math.inf, math.inf, False, False
    without = set[float]()
    for op, at in bounds:
        if op == "!=":
            without.add(at)
        if op in (">", ">=", "=="):
            low, low_open = max((low, low_open), (at, op == ">"))
        if op in ("<", "<=", "=="):
            high, closed = min((high, not high_open), (at, op != "<"))
            high_open = not closed
    if low == high:
        return not (low_open or high_open or low in without)
    return low < high


def _difference(left: Expr, right: Expr) -> tuple[_Form, float]:
    """left - right as a linear form, its atoms in order of appearance, and a number."""
    form: dict[Expr, float] = {}
    number = 0.0
    stack = [(left, 1.0), (right, -1.0)]
    while stack:
        e, c = stack.pop()
        match e:
            case typed.Number(value):
                number += c * value
            case typed.Apply("add" | "sub" as fn, (x, y)):
                stack += [(x, c), (y, c if fn == "add" else -c)]
            case typed.Apply("neg", (x,)):
                stack.append((x, -c))
            case _:
                form[e] = form.get(e, 0.0) + c
    kept = sorted(((e, c) for e, c in form.items() if c), key=lambda part: repr(part[0]))
    return tuple(kept), number
