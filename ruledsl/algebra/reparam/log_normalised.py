"""W -> softmax(a log(W) + X), rows or a whole vector, with a the same along each row.

softmax forgets a constant per row, and log(softmax(Z)) = Z - const: so Z -> a Z + X composes and one softmax is left
at the end."""

from __future__ import annotations

from ruledsl.algebra import build
from ruledsl.algebra.affine import TooLarge
from ruledsl.algebra.linear import Linear, NotAffine
from ruledsl.algebra.reparam.change import Change, Outside, Own
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr


def log_normalised(scope: Scope, state: State) -> Change | None:
    own = Own(scope, state)
    linear = Linear(scope, frozenset({state}))
    try:
        for version, value in own.values():
            body = scope.let(value)
            if not isinstance(body, typed.RowWise) or body.fn != "softmax":
                return None
            affine = linear.of(_logs(own, body.operand, version))
            for t in affine.terms:
                per_row = all(isinstance(f, typed.Diag) for f in t.left) and body.type.is_matrix
                if t.opaque or t.transposed or t.right or t.weight is not None or (t.left and not per_row):
                    return None
    except (Outside, NotAffine, TooLarge):
        return None
    return Change(
        "log, normalisation deferred",
        "affine in the logarithm up to a constant per row, which softmax forgets: the affine maps compose, and one softmax is left at the end",
    )


def _logs(own: Own, expr: Expr, version: int) -> Expr:
    """log(W) replaced by W, which may then stand nowhere else."""
    if not own.reads(expr):
        return expr
    expr = own.scope.let(expr)
    match expr:
        case typed.Apply("log", (x,)) if own.is_state(own.scope.let(x), version):
            return own.scope.let(x)
        case typed.StateRef():
            raise Outside
    return build.rebuild(expr, lambda e: _logs(own, e, version))
