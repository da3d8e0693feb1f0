"""Interval arithmetic on typed expressions, entry by entry, from declared promises and the function table.

The answer is an enclosure: every value lies in it. Undeclared inputs are unbounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ruledsl.algebra import build
from ruledsl.algebra.scope import Scope
from ruledsl.lang import typed
from ruledsl.lang.functions import TABLE
from ruledsl.lang.typed import Expr, Interval, Role

INF = math.inf
ANY = Interval(-INF, INF, True, True)
FLAT_BELOW = frozenset(
    {"relu", "sign", "floor", "sqrt"}
)  # monotone, not strictly: an end of the range may be reached inside
FLAT_ABOVE = frozenset({"sign", "floor"})


def point(x: float) -> Interval:
    return Interval(x, x)


def hull(a: Interval, b: Interval) -> Interval:
    low, low_open = min((a.low, a.low_open), (b.low, b.low_open))
    high, high_closed = max((a.high, not a.high_open), (b.high, not b.high_open))
    return Interval(low, high, low_open, not high_closed)


def interval(scope: Scope, expr: Expr) -> Interval:
    match expr:
        case typed.Number(value):
            return point(value)
        case typed.SizeOf():
            return Interval(1, INF, False, True)
        case typed.Builtin(name):
            return Interval(1 if name == "heads" else 0, INF, False, True)
        case typed.Ref(name, role, _, lag):
            return _ref(scope, name, role, lag)
        case typed.Member(base):
            return interval(scope, base)
        case typed.Transpose(x):
            return interval(scope, x)
        case typed.Diag(x):
            return hull(interval(scope, x), point(0))
        case typed.Eye():
            return Interval(0, 1)
        case typed.Ones():
            return point(1)
        case typed.Compare():
            return Interval(0, 1)
        case typed.Apply(fn, args):
            return _apply(scope, expr, fn, args)
        case typed.RowWise(fn, x, _, _):
            return {"softmax": Interval(0, 1), "topk": Interval(0, 1), "unit": Interval(-1, 1)}.get(fn, ANY)
        case typed.Reduce("sum", x):
            return _summed(interval(scope, x), _count(x.type))
        case typed.Product(x, y) if x.type.cols != 1:
            if expr.type.is_scalar and build.transpose(x) == y:
                return Interval(0, 1) if is_unit(scope, y) else Interval(0, INF, False, True)
            if expr.type.is_scalar and is_unit(scope, build.transpose(x)) and is_unit(scope, y):
                return Interval(-1, 1)
            return _summed(
                _times(interval(scope, x), interval(scope, y)), x.type.cols if isinstance(x.type.cols, int) else None
            )
        case typed.Product(x, y):
            return _times(interval(scope, x), interval(scope, y))
        case typed.Concat(parts):
            out = interval(scope, parts[0])
            for part in parts[1:]:
                out = hull(out, interval(scope, part))
            return out
        case typed.Kron(x, y):
            return _times(interval(scope, x), interval(scope, y))
    return ANY


def is_unit(scope: Scope, expr: Expr) -> bool:
    """A vector of norm 1, by promise or by `unit(...)`. A lagged one is 0 before the first token: norm at most 1."""
    expr = scope.let(expr)
    match expr:
        case typed.Member(typed.Ref(name)) | typed.Ref(name, Role.INPUT | Role.PARAM | Role.CONST):
            return name in scope.symbols and scope.symbols[name].unit
        case typed.RowWise("unit", x):
            return x.type.is_vector
        case typed.Apply("neg", (x,)):
            return is_unit(scope, x)
        case typed.Rotate(x):
            return is_unit(scope, x)
    return False


def _count(type: typed.Type) -> int | None:
    return type.rows * type.cols if isinstance(type.rows, int) and isinstance(type.cols, int) else None


def _summed(x: Interval, n: int | None) -> Interval:
    if n is not None:
        return Interval(x.low * n, x.high * n, x.low_open, x.high_open)
    low, high = -INF if x.low < 0 else x.low, INF if x.high > 0 else x.high  # at least one entry
    return Interval(low, high, x.low_open or low == -INF, x.high_open or high == INF)


def _ref(scope: Scope, name: str, role: Role, lag: Expr | None) -> Interval:
    if role in (Role.LET, Role.OUTPUT):
        for earlier, value in scope.lets.items():  # in order, so that a long chain needs no deep recursion
            if earlier not in scope.ranges:
                scope.ranges[earlier] = ANY
                scope.ranges[earlier] = interval(scope, value)
            if earlier == name:
                break
        out = scope.ranges.get(name, ANY)
    elif name in scope.symbols:
        symbol = scope.symbols[name]
        if symbol.interval is not None:
            out = symbol.interval
        elif symbol.unit:
            out = Interval(-1, 1)
        elif symbol.perm:
            out = Interval(0, 1)
        elif role is Role.CONST and symbol.init is not None:
            out = interval(scope, symbol.init)
        else:
            out = ANY
    else:
        out = ANY
    return out if lag is None else hull(out, point(0))


def _apply(scope: Scope, expr: Expr, fn: str, args: tuple[Expr, ...]) -> Interval:
    if fn == "where":
        return hull(interval(scope, args[1]), interval(scope, args[2]))
    found = [interval(scope, a) for a in args]
    if fn == "mul" and args[0] == args[1]:
        return _square(found[0])
    return of_function(fn, found, build.value_of(args[1]) if len(args) == 2 else None)


def of_function(fn: str, found: Sequence[Interval], number: float | None = None) -> Interval:
    """What a row of the function table makes of values in these ranges. `number`: the second one, if it is a number."""
    match fn:
        case "add":
            return _plus(found[0], found[1])
        case "sub":
            return _plus(found[0], _negated(found[1]))
        case "neg":
            return _negated(found[0])
        case "mul":
            return _times(found[0], found[1])
        case "div":
            return _times(found[0], _inverse(found[1]))
        case "pow":
            return _power(found[0], found[1], number)
        case "max" | "min":
            pick = max if fn == "max" else min
            out = found[0]
            for other in found[1:]:
                low, high = pick(out.low, other.low), pick(out.high, other.high)
                out = Interval(low, high, _open_at(low, out, other, "low"), _open_at(high, out, other, "high"))
            return out
        case "abs":
            x = found[0]
            if x.low >= 0:
                return x
            if x.high <= 0:
                return _negated(x)
            return Interval(0, max(-x.low, x.high), False, x.low_open if -x.low > x.high else x.high_open)
        case "mod" if number is not None and number > 0:
            return Interval(0, number, False, True)
    row = TABLE[fn]
    if row.monotone and row.python is not None and len(found) == 1:
        out = _monotone(row.python, row.monotone, row.bounds, found[0])
        if fn in FLAT_BELOW and math.isfinite(out.low):
            out = Interval(out.low, out.high, False, out.high_open)
        if fn in FLAT_ABOVE and math.isfinite(out.high):
            out = Interval(out.low, out.high, out.low_open, False)
        return out
    low, high = row.bounds
    return Interval(low, high, low == -INF, high == INF)


def _open_at(end: float, a: Interval, b: Interval, which: str) -> bool:
    """An end of max or min is open only if every argument that has it is open there."""
    opens = [getattr(x, which + "_open") for x in (a, b) if getattr(x, which) == end]
    return all(opens)


def _monotone(python: Callable[..., float], sign: int, bounds: tuple[float, float], x: Interval) -> Interval:
    def at(v: float, limit: float) -> float:
        try:
            return min(max(python(v), bounds[0]), bounds[1])
        except (OverflowError, ValueError):
            return limit

    low, high = at(x.low, bounds[0]), at(x.high, bounds[1])
    out = Interval(low, high, x.low_open or math.isinf(x.low), x.high_open or math.isinf(x.high))
    return out if sign > 0 else Interval(at(x.high, bounds[0]), at(x.low, bounds[1]), out.high_open, out.low_open)


def _plus(a: Interval, b: Interval) -> Interval:
    return Interval(a.low + b.low, a.high + b.high, a.low_open or b.low_open, a.high_open or b.high_open)


def _negated(x: Interval) -> Interval:
    return Interval(-x.high, -x.low, x.high_open, x.low_open)


def _product(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y


def _times(a: Interval, b: Interval) -> Interval:
    corners = []
    for x, xo in ((a.low, a.low_open), (a.high, a.high_open)):
        for y, yo in ((b.low, b.low_open), (b.high, b.high_open)):
            value = _product(x, y)
            attained = (not xo and not yo) or (value == 0 and ((x == 0 and not xo) or (y == 0 and not yo)))
            corners.append((value, attained))
    low, high = min(c for c, _ in corners), max(c for c, _ in corners)
    return Interval(
        low, high, not any(ok for c, ok in corners if c == low), not any(ok for c, ok in corners if c == high)
    )


def _square(x: Interval) -> Interval:
    out = _times(x, x)
    if x.low < 0 < x.high:
        return Interval(0, out.high, False, out.high_open)
    return out


def _inverse(x: Interval) -> Interval:
    if x.low > 0 or x.high < 0:
        return Interval(
            1 / x.high if math.isfinite(x.high) else 0,
            1 / x.low if math.isfinite(x.low) else 0,
            x.high_open,
            x.low_open,
        )
    if x.low == 0 and x.low_open:
        return Interval(1 / x.high if math.isfinite(x.high) else 0, INF, x.high_open, True)
    return ANY


def _power(base: Interval, exponent: Interval, n: float | None) -> Interval:
    if n is not None and float(n).is_integer() and n >= 0:
        out = point(1.0)
        for _ in range(min(int(n), 16)):
            out = _times(out, base)
        if int(n) % 2 == 0 and base.low < 0 < base.high:
            return Interval(0, out.high, False, out.high_open)
        return out if n <= 16 else ANY
    if base.low > 0 or (base.low == 0 and exponent.low > 0):
        ends = [_raise(b, e) for b in (base.low, base.high) for e in (exponent.low, exponent.high)]
        opened = base.low_open or base.high_open or exponent.low_open or exponent.high_open
        low, high = min(ends), max(ends)
        if base.low <= 1 <= base.high:
            low, high = min(low, 1.0), max(high, 1.0)
        if base.low == base.high:  # monotone in the exponent
            rising = base.low >= 1
            return Interval(
                low,
                high,
                exponent.low_open if rising else exponent.high_open,
                exponent.high_open if rising else exponent.low_open,
            )
        return Interval(low, high, opened, opened)
    return ANY


def _raise(b: float, e: float) -> float:
    if math.isinf(e):
        return 1.0 if b == 1 else (INF if (b > 1) == (e > 0) else 0.0)
    try:
        return float(b**e)
    except (OverflowError, ZeroDivisionError):
        return INF
