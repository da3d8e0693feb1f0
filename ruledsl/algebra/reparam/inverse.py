"""P -> c (P - n (P u)(w^T P)/(d + e w^T P u)) with n = e: by Sherman and Morrison the inverse of P gains a rank-one
term, P^-1 -> (P^-1 + (e/d) u w^T)/c, which is affine."""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.algebra import build
from ruledsl.algebra.affine import Term, TooLarge
from ruledsl.algebra.linear import Linear, NotAffine
from ruledsl.algebra.reparam.change import Change, Outside, Own
from ruledsl.algebra.scalars import MINUS, UNIT, Coef
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr


@dataclass(frozen=True, slots=True)
class _Piece:
    coef: Coef
    factors: tuple[Expr, ...]  # of a product, each reading the state
    below: tuple[Expr, ...]  # denominators that read the state


def inverse(scope: Scope, state: State) -> Change | None:
    own = Own(scope, state)
    linear = Linear(scope, frozenset({state}))
    try:
        for version, value in own.values():
            if not _sherman_morrison(own, linear, value, version):
                return None
    except (Outside, NotAffine, TooLarge):
        return None
    return Change(
        "inverse", "affine in the inverse of the state (Sherman-Morrison): each token adds a rank-one term to it"
    )


def _sherman_morrison(own: Own, linear: Linear, value: Expr, version: int) -> bool:
    pieces = _pieces(own, value, UNIT)
    plain = [p for p in pieces if len(p.factors) == 1 and not p.below]
    quotients = [p for p in pieces if len(p.factors) == 2 and len(p.below) == 1]
    if len(plain) + len(quotients) != len(pieces) or len(quotients) > 1:
        return False
    scale = Coef(())
    for p in plain:
        term = _one(linear, p.factors[0], version)
        if term.left or term.right:
            return False
        scale = scale.plus(p.coef.times(term.coef))
    if not quotients:
        return not scale.is_zero
    (q,) = quotients
    column, row = _one(linear, q.factors[0], version), _one(linear, q.factors[1], version)
    if column.left or len(column.right) != 1 or row.right or len(row.left) != 1:
        return False
    below = linear.of(q.below[0])
    if len(below.terms) != 1 or not below.free or any(f.chain for f in below.free):
        return False
    inner = below.terms[0]
    if (
        (inner.left, inner.right, inner.marker.version) != (row.left, column.right, version)
        or inner.transposed
        or inner.opaque
    ):
        return False
    taken = q.coef.times(column.coef).times(row.coef).times(MINUS)
    return taken == inner.coef.times(scale)


def _one(linear: Linear, expr: Expr, version: int) -> Term:
    """The expression as a single linear term."""
    affine = linear.of(expr)
    if len(affine.terms) != 1 or affine.free:
        raise Outside
    term = affine.terms[0]
    if term.opaque or term.transposed or term.weight is not None or term.marker.version != version:
        raise Outside
    return term


def _pieces(own: Own, expr: Expr, coef: Coef) -> list[_Piece]:
    expr = own.scope.let(expr)
    match expr:
        case typed.Apply("add", (x, y)):
            return _pieces(own, x, coef) + _pieces(own, y, coef)
        case typed.Apply("sub", (x, y)):
            return _pieces(own, x, coef) + _pieces(own, y, coef.times(MINUS))
        case typed.Apply("neg", (x,)):
            return _pieces(own, x, coef.times(MINUS))
        case typed.Apply("mul", (x, y)) if x.type.is_scalar and not own.reads(x):
            return _pieces(own, y, coef.times(Coef.of(x)))
        case typed.Apply("mul", (x, y)) if y.type.is_scalar and not own.reads(y):
            return _pieces(own, x, coef.times(Coef.of(y)))
        case typed.Apply("div", (x, y)) if y.type.is_scalar and not own.reads(y):
            return _pieces(own, x, coef.times(Coef.of(build.div(build.ONE, y))))
    return [_product(own, expr, coef)]


def _product(own: Own, expr: Expr, coef: Coef) -> _Piece:
    """Scalars, denominators and at most two factors that read the state."""
    expr = own.scope.let(expr)
    if not own.reads(expr):
        raise Outside
    match expr:
        case typed.Apply("mul", (x, y)) if x.type.is_scalar and not own.reads(x):
            return _product(own, y, coef.times(Coef.of(x)))
        case typed.Apply("mul", (x, y)) if y.type.is_scalar and not own.reads(y):
            return _product(own, x, coef.times(Coef.of(y)))
        case typed.Apply("mul", (x, y)) if x.type.is_scalar or y.type.is_scalar:
            s, body = (x, y) if x.type.is_scalar else (y, x)
            match own.scope.let(s):
                case typed.Apply("div", (top, below)) if not own.reads(top):
                    inner = _product(own, body, coef.times(Coef.of(top)))
                    return _Piece(inner.coef, inner.factors, (*inner.below, below))
            raise Outside
        case typed.Apply("div", (x, y)) if y.type.is_scalar and not own.reads(y):
            return _product(own, x, coef.times(Coef.of(build.div(build.ONE, y))))
        case typed.Apply("div", (x, y)):
            inner = _product(own, x, coef)
            return _Piece(inner.coef, inner.factors, (*inner.below, y))
        case typed.Apply("neg", (x,)):
            return _product(own, x, coef.times(MINUS))
        case typed.Product(x, y) if own.reads(x) and own.reads(y):
            left, right = _product(own, x, coef), _product(own, y, UNIT)
            return _Piece(left.coef.times(right.coef), left.factors + right.factors, left.below + right.below)
    return _Piece(coef, (expr,), ())
