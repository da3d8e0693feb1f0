"""Entry by entry, h -> (a h + b)/(c h + d): 2 x 2 matrices up to scale.

The value is put over one fraction of polynomials in the state, whose coefficients are state-free; what cancels by
collecting is gone then, and numerator and denominator must be of degree 1 at most.
"""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.algebra import build
from ruledsl.algebra.reparam.change import Change, Outside, Own
from ruledsl.algebra.scalars import MINUS, UNIT, ZERO, Coef
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr

MOST_DEGREE = 6

Poly = tuple[Coef, ...]  # by rising power of the state, no trailing zero


@dataclass(frozen=True, slots=True)
class _Fraction:
    top: Poly
    bottom: Poly

    def plus(self, other: _Fraction) -> _Fraction:
        if self.bottom == other.bottom:
            return _Fraction(_add(self.top, other.top), self.bottom)
        return _Fraction(
            _add(_mul(self.top, other.bottom), _mul(other.top, self.bottom)), _mul(self.bottom, other.bottom)
        )

    def times(self, other: _Fraction) -> _Fraction:
        if self.top == other.bottom:
            return _Fraction(other.top, self.bottom)
        if self.bottom == other.top:
            return _Fraction(self.top, other.bottom)
        return _Fraction(_mul(self.top, other.top), _mul(self.bottom, other.bottom))

    def inverse(self) -> _Fraction:
        return _Fraction(self.bottom, self.top)


def moebius(scope: Scope, state: State) -> Change | None:
    own = Own(scope, state)
    try:
        for version, value in own.values():
            f = _fraction(own, value, version, value.type)
            if len(f.top) > 2 or len(f.bottom) > 2:
                return None
    except Outside:
        return None
    return Change(
        "Moebius",
        "fractional linear: a token is l -> (a l + b)/(c l + d), a 2 x 2 matrix up to scale, and so are two tokens",
    )


def _fraction(own: Own, expr: Expr, version: int, type: typed.Type) -> _Fraction:
    if not own.reads(expr):
        return _Fraction(_trim((_coef(expr),)), (UNIT,))
    expr = own.scope.let(expr)
    if expr.type != type:
        raise Outside
    if own.is_state(expr, version):
        return _Fraction((ZERO, UNIT), (UNIT,))
    match expr:
        case typed.Apply("neg", (x,)):
            f = _fraction(own, x, version, type)
            return _Fraction(_mul(f.top, (MINUS,)), f.bottom)
        case typed.Apply("add" | "sub" | "mul" | "div" as fn, (x, y)):
            a, b = _fraction(own, x, version, type), _fraction(own, y, version, type)
            match fn:
                case "add":
                    return a.plus(b)
                case "sub":
                    return a.plus(_Fraction(_mul(b.top, (MINUS,)), b.bottom))
                case "mul":
                    return a.times(b)
            return a.times(b.inverse())
        case typed.Apply("pow", (x, n)) if (
            (k := build.value_of(n)) is not None and float(k).is_integer() and 0 < abs(k) <= MOST_DEGREE
        ):
            f = _fraction(own, x, version, type)
            out = f
            for _ in range(abs(int(k)) - 1):
                out = out.times(f)
            return out if k > 0 else out.inverse()
        case typed.Product(typed.Diag(a), x) if not own.reads(a):
            return _fraction(own, a, version, type).times(_fraction(own, x, version, type))
    raise Outside


def _coef(expr: Expr) -> Coef:
    """A state-free value; a vector or matrix goes entry by entry, taken apart like a scalar."""
    if expr.type.is_scalar:
        return Coef.of(expr)
    match expr:
        case typed.Apply("neg", (x,)):
            return _coef(x).times(MINUS)
        case typed.Apply("mul", (x, y)):
            return _coef(x).times(_coef(y))
        case typed.Apply("div", (x, y)):
            below = _coef(y)
            return _coef(x).times(below.inverse(y)) if len(below.terms) == 1 else Coef(((1.0, ((expr, 1),)),))
        case typed.Apply("pow", (x, typed.Number(n))) if float(n).is_integer() and 0 < n <= MOST_DEGREE:
            out = UNIT
            for _ in range(int(n)):
                out = out.times(_coef(x))
            return out
        case typed.Ones():
            return UNIT
    return Coef(((1.0, ((expr, 1),)),))


def _trim(p: Poly) -> Poly:
    while p and p[-1].is_zero:
        p = p[:-1]
    return p


def _add(p: Poly, q: Poly) -> Poly:
    n = max(len(p), len(q))
    pad = (*p, *[ZERO] * (n - len(p))), (*q, *[ZERO] * (n - len(q)))
    return _trim(tuple(a.plus(b) for a, b in zip(*pad, strict=True)))


def _mul(p: Poly, q: Poly) -> Poly:
    out = [ZERO] * max(len(p) + len(q) - 1, 0)
    if len(out) > MOST_DEGREE + 1:
        raise Outside
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            out[i + j] = out[i + j].plus(a.times(b))
    return _trim(tuple(out))
