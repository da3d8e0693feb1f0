"""Deferred normalisation: S -> A(S) c(S) with A linear and c positive and homogeneous of degree -1.

Only the direction of the state matters: with S = r X, A(rX) c(rX) = A(X) c(X) for r > 0, so the linear maps compose
and the last normaliser is applied at the end. Sub-steps without a normaliser must be linear, with nothing added.
"""

from __future__ import annotations

from ruledsl.algebra import build
from ruledsl.algebra.affine import TooLarge
from ruledsl.algebra.linear import Linear, NotAffine
from ruledsl.algebra.ranges import ANY, interval
from ruledsl.algebra.reparam.change import Change, Outside, Own
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr


def scale_free(scope: Scope, state: State) -> Change | None:
    own = Own(scope, state)
    linear = Linear(scope, frozenset({state}))
    try:
        for version, value in own.values():
            body = _without_normaliser(own, value, version)
            affine = linear.of(body)
            if affine.free or any(t.marker.version != version for t in affine.terms):
                return None
    except (Outside, NotAffine, TooLarge):
        return None
    return Change(
        "deferred normalisation",
        "only the direction of the state matters: the linear maps compose, and one division at the end normalises",
    )


def _without_normaliser(own: Own, expr: Expr, version: int) -> Expr:
    """The linear part of A(S) c(S); `expr` itself if there is no such factor."""
    expr = own.scope.let(expr)
    match expr:
        case typed.Apply("div", (x, y)) if own.reads(y):
            _normaliser(own, y, version, 1)
            return x
        case typed.Apply("mul", (x, y)) if own.reads(x) and own.reads(y):
            for scalar, body in ((x, y), (y, x)):
                if scalar.type.is_scalar:
                    _normaliser(own, scalar, version, -1)
                    return body
            raise Outside
        case typed.Apply("mul", (x, y)) if own.reads(x) or own.reads(y):
            inner = _without_normaliser(own, x if own.reads(x) else y, version)
            return build.mul(y if own.reads(x) else x, inner)
        case typed.Apply("div", (x, y)):
            return build.div(_without_normaliser(own, x, version), y)
    return expr


def _normaliser(own: Own, expr: Expr, version: int, degree: float) -> None:
    if not expr.type.is_scalar or _degree(own, expr, version) != degree or not _positive(own, expr):
        raise Outside


def _positive(own: Own, expr: Expr) -> bool:
    return interval(own.scope, expr).low >= 0 and interval(own.scope, expr) != ANY


def _degree(own: Own, expr: Expr, version: int) -> float:
    """d with f(r S) = r^d f(S) for r > 0."""
    if not own.reads(expr):
        return 0
    expr = own.scope.let(expr)
    if own.is_state(expr, version):
        return 1
    match expr:
        case typed.Apply("add" | "sub" | "max" | "min", (x, y)) | typed.Concat((x, y)):
            degrees = {_degree(own, z, version) for z in (x, y) if not build.is_zero(z)}
            if len(degrees) == 1:
                return degrees.pop()
            raise Outside
        case typed.Apply("neg" | "abs" | "relu", (x,)) | typed.Reduce(_, x) | typed.Transpose(x) | typed.Diag(x):
            return _degree(own, x, version)
        case typed.Apply("mul", (x, y)) | typed.Product(x, y):
            return _degree(own, x, version) + _degree(own, y, version)
        case typed.Apply("div", (x, y)):
            return _degree(own, x, version) - _degree(own, y, version)
        case typed.Apply("sqrt", (x,)):
            return _degree(own, x, version) / 2
        case typed.Apply("pow", (x, n)) if (k := build.value_of(n)) is not None:
            return _degree(own, x, version) * k
    raise Outside
