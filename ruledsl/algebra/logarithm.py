"""The logarithm of a decay as an expression, where taking it is safe.

Symbolic where the decay is made by exp, sigmoid, powers and products of such; `log(.)` where the declared range is
bounded away from 0. Otherwise there is none: the decay may be 0, negative, or come close to 0.
"""

from __future__ import annotations

import math

from ruledsl.algebra import build
from ruledsl.algebra.ranges import interval
from ruledsl.algebra.scope import Scope
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Number


def log_of(scope: Scope, expr: Expr) -> Expr | None:
    match expr:
        case typed.Ref(name, typed.Role.LET | typed.Role.OUTPUT, _, None) if name in scope.lets:
            if name not in scope.logs:
                scope.logs[name] = log_of(scope, scope.lets[name])
            found = scope.logs[name]
        case _:
            found = _symbolic(scope, expr)
    if found is not None:
        return found
    return build.apply("log", expr) if interval(scope, expr).low > 0 else None


def _symbolic(scope: Scope, expr: Expr) -> Expr | None:
    match expr:
        case Number(value) if value > 0:
            return build.number(math.log(value))
        case typed.Ones():
            return build.ZERO
        case typed.Apply("exp", (x,)):
            return x
        case typed.Apply("sigmoid", (x,)):
            return build.apply("logsigmoid", x)
        case typed.Apply("sub", (Number(1.0), x)) if isinstance(s := scope.let(x), typed.Apply) and s.fn == "sigmoid":
            return build.apply("logsigmoid", build.neg(s.args[0]))
        case typed.Apply("mul" | "div" as fn, (x, y)):
            a, b = log_of(scope, x), log_of(scope, y)
            if a is None or b is None:
                return None
            return build.add(a, b) if fn == "mul" else build.sub(a, b)
        case typed.Apply("sqrt", (x,)):
            a = log_of(scope, x)
            return None if a is None else build.mul(build.number(0.5), a)
        case typed.Apply("pow", (x, e)):
            a = log_of(scope, x)
            return None if a is None else build.mul(e, a)
        case typed.Apply("where", (condition, x, y)):
            a, b = log_of(scope, x), log_of(scope, y)
            return (
                None if a is None or b is None else typed.Apply("where", (condition, a, b), expr.type, span=expr.span)
            )
    return None
