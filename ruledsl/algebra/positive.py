"""Is a matrix over states symmetric positive definite? Proven from the text and the promises, or it counts as not.

A state is symmetric positive semidefinite if its first value is and every assignment keeps it so: a sum, with coefficients
that are not negative, of such states (also as D X D^T), of outer products of a vector with itself and of diagonals that
are not negative. States that read one another are proven together. A matrix that is such a sum is definite if one of its
diagonals is positive. What a caller hands in as a first state is the caller's promise.
"""

from __future__ import annotations

from ruledsl.algebra import build
from ruledsl.algebra.affine import Affine, TooLarge
from ruledsl.algebra.linear import Linear, NotAffine
from ruledsl.algebra.ranges import interval
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.sides import Part, PartKind, matrix, parts
from ruledsl.lang.typed import Expr

_UNPROVEN = "its matrix is not proven symmetric positive definite: "


def not_definite(scope: Scope, expr: Expr) -> str:
    """Why the matrix is not known to be symmetric positive definite; empty if it is."""
    held = _semidefinite(scope)
    try:
        value = Linear(scope, frozenset(scope.states)).of(expr)
    except (NotAffine, TooLarge) as e:
        return _UNPROVEN + str(e)
    for t in value.terms:
        if t.marker.state not in held:
            return f"{_UNPROVEN}{t.marker.name} need not stay symmetric with eigenvalues of 0 or more"
    if not _keeps(scope, value, held):
        return f"{_UNPROVEN}it is no sum of such matrices with coefficients of 0 or more"
    if not any(_positive(scope, p) for p in _free(scope, value)):
        return f"{_UNPROVEN}no positive diagonal is added"
    return ""


def _semidefinite(scope: Scope) -> frozenset[State]:
    """The largest set of states of which each stays symmetric positive semidefinite while the others do."""
    linear = Linear(scope, frozenset(scope.states))
    values: dict[State, list[Affine]] = {}
    for state in scope.states:
        symbol = scope.symbols[state[0]]
        type = symbol.type.member
        if symbol.learned or type.rows != type.cols or not type.is_matrix:
            continue
        if symbol.init is not None and not all(_not_negative(scope, p) for p in matrix(scope, build.full(symbol.init, type))):
            continue
        try:
            values[state] = [linear.of(a.value) for a in scope.assigns.get(state, [])]
        except (NotAffine, TooLarge):
            continue
    held = frozenset(values)
    while True:
        kept = frozenset(s for s in held if all(_keeps(scope, x, held) for x in values[s]))
        if kept == held:
            return held
        held = kept


def _keeps(scope: Scope, value: Affine, held: frozenset[State]) -> bool:
    """Is the sum semidefinite if the states in `held` are?"""
    for t in value.terms:
        if t.marker.state not in held or t.opaque or t.weight is not None or t.marker.version < 0:
            return False
        if tuple(build.transpose(f) for f in reversed(t.left)) != t.right or not _at_least_0(scope, t.coef.expr()):
            return False
    return all(_not_negative(scope, p) for p in _free(scope, value))


def _free(scope: Scope, value: Affine) -> list[Part]:
    return [p.times(f.coef) for f in value.free for p in parts(scope, f.chain)]


def _not_negative(scope: Scope, p: Part) -> bool:
    match p.kind:
        case PartKind.IDENTITY:
            return _at_least_0(scope, p.coef.expr())
        case PartKind.DIAGONAL:
            assert p.matrix is not None
            return _at_least_0(scope, build.mul(p.coef.expr(), p.matrix))
        case PartKind.RANK:
            return p.matrix == p.key and _at_least_0(scope, p.coef.expr())
    return False


def _positive(scope: Scope, p: Part) -> bool:
    if p.kind not in (PartKind.IDENTITY, PartKind.DIAGONAL):
        return False
    range = interval(scope, p.coef.expr() if p.matrix is None else build.mul(p.coef.expr(), p.matrix))
    return range.low > 0 or (range.low == 0 and range.low_open)


def _at_least_0(scope: Scope, expr: Expr) -> bool:
    return interval(scope, expr).low >= 0
