"""Entry by entry, h -> min(max(a h + b, low), high): four numbers, closed under composition (a negative a swaps the
ends). With a = 1 and one end this is max-plus (or min-plus)."""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.algebra.reparam.change import Change, Outside, Own
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr


@dataclass(frozen=True, slots=True)
class _Form:
    affine: bool = True  # no end yet
    scaled: bool = False
    ends: frozenset[str] = frozenset()


def clip(scope: Scope, state: State) -> Change | None:
    own = Own(scope, state)
    try:
        forms = [_of(own, value, version, value.type) for version, value in own.values()]
    except Outside:
        return None
    ends = frozenset[str]().union(*(f.ends for f in forms))
    scaled = any(f.scaled for f in forms)
    if not scaled and len(ends) == 1:
        (end,) = ends
        return Change(
            f"{end}-plus",
            f"{end} and + form a semiring: a token is m -> {end}(a + m, b), two numbers, and so are two tokens",
        )
    return Change(
        "clip", "a token is h -> min(max(a h + b, low), high), entry by entry: four numbers, and so are two tokens"
    )


def _of(own: Own, expr: Expr, version: int, type: typed.Type) -> _Form:
    """The form of an expression that reads the state."""
    expr = own.scope.let(expr)
    if expr.type != type:
        raise Outside
    if own.is_state(expr, version):
        return _Form()
    match expr:
        case typed.Apply("neg", (x,)):
            f = _of(own, x, version, type)
            return _Form(f.affine, True, f.ends)
        case typed.Apply("stopgrad", (x,)):
            return _of(own, x, version, type)
        case typed.Apply("relu", (x,)):
            f = _of(own, x, version, type)
            return _Form(False, f.scaled, f.ends | {"max"})
        case typed.Apply("where", (condition, x, y)) if not own.reads(condition):
            forms = [_of(own, z, version, type) for z in (x, y) if own.reads(z)]
            return _Form(
                all(f.affine for f in forms),
                any(f.scaled for f in forms) or len(forms) == 1,
                frozenset[str]().union(*(f.ends for f in forms)),
            )
        case typed.Apply(fn, (x, y)) if own.reads(x) != own.reads(y):
            f = _of(own, x if own.reads(x) else y, version, type)
            match fn:
                case "add" | "sub":
                    return _Form(f.affine, f.scaled or (fn == "sub" and own.reads(y)), f.ends)
                case "mul":
                    return _Form(f.affine, True, f.ends)
                case "div" if own.reads(x):
                    return _Form(f.affine, True, f.ends)
                case "max" | "min":
                    return _Form(False, f.scaled, f.ends | {fn})
        case typed.Apply("add" | "sub", (x, y)):
            if _of(own, x, version, type).affine and _of(own, y, version, type).affine:
                return _Form(True, True)
        case typed.Product(typed.Diag(a), x) if not own.reads(a):
            f = _of(own, x, version, type)
            return _Form(f.affine, True, f.ends)
    raise Outside
