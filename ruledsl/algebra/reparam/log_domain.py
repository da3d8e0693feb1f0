"""Entry by entry, m -> log(a exp(m) + b): affine in exp(m)."""

from __future__ import annotations

from ruledsl.algebra.reparam.change import Change, Outside, Own
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr


def log_domain(scope: Scope, state: State) -> Change | None:
    own = Own(scope, state)
    try:
        for version, value in own.values():
            if own.reads(value):
                _log(own, value, version, value.type)
    except Outside:
        return None
    return Change(
        "log-sum-exp",
        "affine in exp of the state: a token is m -> log(a exp(m) + b), two numbers, and so are two tokens",
    )


def _log(own: Own, expr: Expr, version: int, type: typed.Type) -> None:
    """log(a exp(m) + b) with a, b free of the state."""
    expr = own.scope.let(expr)
    if expr.type != type:
        raise Outside
    if own.is_state(expr, version):
        return
    match expr:
        case typed.Apply("add", (x, y)) if own.reads(x) != own.reads(y):
            return _log(own, x if own.reads(x) else y, version, type)
        case typed.Apply("sub", (x, y)) if not own.reads(y):
            return _log(own, x, version, type)
        case typed.Apply("stopgrad" | "softplus", (x,)):  # softplus(x) = log(exp(x) + 1)
            return _log(own, x, version, type)
        case typed.Apply("logaddexp", (x, y)):
            for z in (x, y):
                if own.reads(z):
                    _log(own, z, version, type)
            return
        case typed.Apply("where", (condition, x, y)) if not own.reads(condition):
            for z in (x, y):
                if own.reads(z):
                    _log(own, z, version, type)
            return
        case typed.Apply("log", (x,)):
            return _exp(own, x, version, type)
    raise Outside


def _exp(own: Own, expr: Expr, version: int, type: typed.Type) -> None:
    """a exp(m) + b."""
    expr = own.scope.let(expr)
    if expr.type != type:
        raise Outside
    match expr:
        case typed.Apply("exp", (x,)):
            return _log(own, x, version, type)
        case typed.Apply("add" | "sub", (x, y)):
            for z in (x, y):
                if own.reads(z):
                    _exp(own, z, version, type)
            return
        case typed.Apply("mul", (x, y)) if own.reads(x) != own.reads(y):
            return _exp(own, x if own.reads(x) else y, version, type)
        case typed.Apply("div", (x, y)) if not own.reads(y):
            return _exp(own, x, version, type)
    raise Outside
