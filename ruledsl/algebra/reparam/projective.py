"""A common denominator: S -> (A(S) + U)/(l(S) + c), all of it affine in S. Linear in (S, 1) up to a common factor, so
the linear maps of (S, 1) compose and one division is left at the end."""

from __future__ import annotations

from ruledsl.algebra.affine import TooLarge
from ruledsl.algebra.linear import Linear, NotAffine
from ruledsl.algebra.reparam.change import Change, Outside, Own
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr


def projective(scope: Scope, state: State) -> Change | None:
    own = Own(scope, state)
    linear = Linear(scope, frozenset({state}))
    try:
        for version, value in own.values():
            for part in _over_one_denominator(own, value):
                if any(t.marker.version != version for t in linear.of(part).terms):
                    return None
    except (Outside, NotAffine, TooLarge):
        return None
    return Change(
        "common denominator",
        "a quotient of affine maps: linear in the state and its denominator together, which composes, and one division is left at the end",
    )


def _over_one_denominator(own: Own, value: Expr) -> tuple[Expr, ...]:
    """What must be affine: numerator and denominator, and nothing else."""
    others: list[Expr] = []
    numerators: list[Expr] = []
    denominators: list[Expr] = []

    def visit(expr: Expr) -> None:
        if not own.reads(expr):
            return  # a constant over the common denominator: affine whatever it is
        body = own.scope.let(expr)
        match body:
            case typed.Apply("add" | "sub", (x, y)):
                visit(x)
                visit(y)
            case typed.Apply("neg", (x,)):
                visit(x)
            case typed.Apply("mul", (x, y)) if own.reads(x) != own.reads(y):
                visit(x if own.reads(x) else y)
            case typed.Apply("div", (x, y)) if own.reads(y) and y.type.is_scalar:
                numerators.append(x)
                denominators.append(y)
            case typed.Apply("div", (x, y)):
                visit(x)
            case _:
                others.append(body)

    visit(value)
    if not denominators:
        return (value,)
    if others or any(d != denominators[0] for d in denominators):
        raise Outside  # a term that is not over the denominator would be quadratic when put over it
    return (*numerators, denominators[0])
