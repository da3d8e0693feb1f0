"""The composition law of a change of variables: the numbers that a token is, and how two of them combine.

Keyed by the names that the recognisers in `reparam` give. Where the token's numbers can be read off the text they are
shown in the rule's names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ruledsl.algebra import build
from ruledsl.algebra.explain.explanation import Equation, Line, Sentence
from ruledsl.algebra.explain.writer import Writer, inlined
from ruledsl.algebra.scope import State
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr


@dataclass(frozen=True, slots=True)
class Monoid:
    """Formulas as (plain, LaTeX). X is the state, tokens are 1 and then 2: `numbers` of both is `two`."""

    token: tuple[str, str]
    numbers: str
    two: tuple[str, str]
    stores: str


MONOIDS = {
    "max-plus": Monoid(
        ("max(a + X, b)", r"\max(a + X, b)"),
        "(a, b)",
        ("(a_1 + a_2, max(a_2 + b_1, b_2))", r"(a_1 + a_2, \max(a_2 + b_1, b_2))"),
        "2 numbers per entry",
    ),
    "min-plus": Monoid(
        ("min(a + X, b)", r"\min(a + X, b)"),
        "(a, b)",
        ("(a_1 + a_2, min(a_2 + b_1, b_2))", r"(a_1 + a_2, \min(a_2 + b_1, b_2))"),
        "2 numbers per entry",
    ),
    "clip": Monoid(
        ("min(max(a X + b, l), u)", r"\min(\max(a X + b, l), u)"),
        "(a, b, l, u)",
        (
            "(a_2 a_1, a_2 b_1 + b_2, g_2(min(y, z)), g_2(max(y, z))), y = a_2 l_1 + b_2, z = a_2 u_1 + b_2",
            r"(a_2 a_1, a_2 b_1 + b_2, g_2(\min(y, z)), g_2(\max(y, z))), \quad y = a_2 l_1 + b_2, \quad z = a_2 u_1 + b_2",
        ),
        "4 numbers per entry. g_2 clips to the second token's ends; a negative factor turns the first token's ends round,"
        " hence min and max. An end that the rule does not have is infinite",
    ),
    "log-sum-exp": Monoid(
        ("log(exp(a + X) + exp(b))", r"\log(e^{a + X} + e^{b})"),
        "(a, b)",
        ("(a_1 + a_2, log(exp(a_2 + b_1) + exp(b_2)))", r"(a_1 + a_2, \log(e^{a_2 + b_1} + e^{b_2}))"),
        "2 numbers per entry: exp of the state is affine",
    ),
    "Moebius": Monoid(
        ("(a X + b)/(c X + d)", r"\frac{a X + b}{c X + d}"),
        "(a, b, c, d)",
        (
            "(a_2 a_1 + b_2 c_1, a_2 b_1 + b_2 d_1, c_2 a_1 + d_2 c_1, c_2 b_1 + d_2 d_1)",
            r"(a_2 a_1 + b_2 c_1, a_2 b_1 + b_2 d_1, c_2 a_1 + d_2 c_1, c_2 b_1 + d_2 d_1)",
        ),
        "4 numbers per entry up to a common factor: the product of 2 x 2 matrices",
    ),
    "deferred normalisation": Monoid(
        ("A(X)/n(A(X))", r"A(X) / n(A(X))"),
        "A",
        ("A_2 A_1", r"A_2 A_1"),
        "the linear map A alone; n is positive and grows in proportion to the state, so one division at the end does",
    ),
    "common denominator": Monoid(
        ("(A(X) + U)/(B(X) + D)", r"(A(X) + U) / (B(X) + D)"),
        "M",
        ("M_2 M_1", r"M_2 M_1"),
        "M, the linear map of the state with one more entry (A and U above B and D), up to a common factor; one division"
        " is left at the end",
    ),
    "log, normalisation deferred": Monoid(
        ("softmax(a log X + B)", r"\operatorname{softmax}(a \log X + B)"),
        "(a, B)",
        ("(a_2 a_1, a_2 B_1 + B_2)", r"(a_2 a_1, a_2 B_1 + B_2)"),
        "the affine map of the logarithm; softmax forgets a constant per row, so one softmax is left at the end",
    ),
    "inverse": Monoid(
        ("(c X^-1 + E)^-1", r"(c X^{-1} + E)^{-1}"),
        "(c, E)",
        ("(c_1 c_2, c_2 E_1 + E_2)", r"(c_1 c_2, c_2 E_1 + E_2)"),
        "a number and a matrix of the state's size; a token's E has rank one (Sherman and Morrison), so the inverse need"
        " not be taken: the rule as written updates it",
    ),
}


def monoid(w: Writer, state: State, change: str) -> Iterator[Line]:
    """`change`: the recogniser's name, the stratum's structure."""
    known = MONOIDS[change]
    pick = 1 if w.tex else 0
    own, numbers = w.own(state), _greek(known.numbers, w.tex)
    yield Sentence(f"change of variables: {change}")
    one = re.sub(r"(?<![\w\\])X", lambda _: own, _greek(known.token[pick], w.tex))
    yield Equation(own, one, "<-", "one token")
    found = _numbers(w, state, change)
    if found is not None:
        yield Equation(numbers, f"({w.write(found[0])}, {w.write(found[1])})", "=", "this rule's token")
    yield Equation(numbers, _greek(known.two[pick], w.tex), "=", "two tokens, 1 and then 2")
    yield Sentence(f"a run of tokens of any length stores {known.stores}")


def _greek(formula: str, tex: bool) -> str:
    """The token's numbers by names that rules seldom use."""
    named = {"a": "alpha", "b": "beta", "c": "gamma", "d": "delta", "l": "low", "u": "high"}
    spelled = {"l": r"\ell", "u": "h"} if tex else {}
    return re.sub(
        r"(?<![A-Za-z\\])[abcdlu](?![A-Za-z])",
        lambda m: spelled.get(m[0], ("\\" if tex else "") + named[m[0]]),
        formula,
    )


class _Other(Exception):
    """The assignment is not spelled in the plain way."""


def _numbers(w: Writer, state: State, change: str) -> tuple[Expr, Expr] | None:
    """a and b of a max-plus, min-plus or log-sum-exp token, where every assignment is spelled with additions and that
    one function."""
    joins = {"max-plus": "max", "min-plus": "min", "log-sum-exp": "logaddexp"}
    if change not in joins:
        return None
    assigns = w.scope.assigns.get(state, [])
    if len(assigns) != 1:
        return None
    try:
        a, b = _read(w, state, inlined(w.scope, assigns[0].value), joins[change])
    except _Other:
        return None
    return None if b is None else (a, b)


def _read(w: Writer, state: State, expr: Expr, join: str) -> tuple[Expr, Expr | None]:
    match expr:
        case typed.StateRef(name, _, 0, member) if (name, member) == state:
            return build.ZERO, None
        case typed.Apply("add", (x, y)):
            s, other = (x, y) if w.scope.seen(x).now else (y, x)
            a, b = _read(w, state, s, join)
            return build.add(a, other), None if b is None else build.add(b, other)
        case typed.Apply("sub", (x, y)) if not w.scope.seen(y).now:
            a, b = _read(w, state, x, join)
            return build.sub(a, y), None if b is None else build.sub(b, y)
        case typed.Apply(fn, (x, y)) if fn == join:
            s, other = (x, y) if w.scope.seen(x).now else (y, x)
            a, b = _read(w, state, s, join)
            if w.scope.seen(other).now:
                raise _Other
            return a, other if b is None else build.apply(join, b, other)
    raise _Other
