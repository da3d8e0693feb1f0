"""Expressions, coefficients and affine maps with the token written at each name: `b*k` as `b_t*k_t`.

What is the same for every token (params, consts, lets made of these) stays as it is. A state as the token began
carries the token before, its last version the token itself; the position t is pos. For display: nothing here is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ruledsl.algebra import build
from ruledsl.algebra.affine import Affine, Free, Term
from ruledsl.algebra.scalars import Coef
from ruledsl.algebra.scope import Scope
from ruledsl.algebra.sides import Part
from ruledsl.algebra.text import AT
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Ref, Role

Change = Callable[[Expr], Expr]


@dataclass(frozen=True, slots=True)
class At:
    """Writes the token `index` ("t", "s", "1") at every name that has a value per token."""

    scope: Scope
    index: str

    def __call__(self, expr: Expr) -> Expr:
        match expr:
            case Ref(name, Role.INPUT | Role.READ, _, lag):
                return replace(expr, name=name + AT + back(self.index, lag), lag=None)
            case Ref(name, Role.LET | Role.OUTPUT, _, lag) if AT not in name and varies(self.scope, expr):
                return replace(expr, name=name + AT + back(self.index, lag), lag=None)
            case typed.StateRef(name, type, version, member):
                own = name if member is None else f"{name}[{member}]"
                last = len(self.scope.assigns.get((name, member), ()))
                at = (
                    back(self.index, build.ONE)
                    if not version
                    else self.index
                    if version == last
                    else f"{self.index},{version}"
                )
                return Ref(own + AT + at, Role.INPUT, type, span=expr.span)
            case typed.Builtin("t"):
                return Ref(f"pos{AT}{self.index}", Role.INPUT, expr.type, span=expr.span)
        return build.rebuild(expr, self)


def back(index: str, lag: Expr | None) -> str:
    """The index of the token `lag` tokens before."""
    if lag is None:
        return index
    steps = build.value_of(lag)
    shown = "?" if steps is None else f"{steps:g}"
    return str(int(index) - int(steps)) if index.isdigit() and steps is not None else f"{index}-{shown}"


def earlier(scope: Scope, own: frozenset[str]) -> Change:
    """Writes prev(m) for a state as the token began where m would be read as its new value: states outside `own`."""

    def change(expr: Expr) -> Expr:
        match expr:
            case typed.StateRef(name, type, 0, member) if name not in own and scope.assigns.get((name, member)):
                shown = name if member is None else f"{name}[{member}]"
                return Ref(shown, Role.INPUT, type, build.ONE, span=expr.span)
        return build.rebuild(expr, change)

    return change


def varies(scope: Scope, expr: Expr, visited: frozenset[str] = frozenset(), inside: bool = False) -> bool:
    """Whether the value differs from token to token; `inside`: of a chunk, where what is frozen does not."""
    match expr:
        case typed.Frozen():
            return not inside
        case typed.StateRef() | typed.Builtin("t") | Ref(_, Role.INPUT | Role.READ):
            return True
        case Ref(lag=lag) if inside and lag is not None:
            return True
        case Ref(name, Role.LET | Role.OUTPUT) if name in scope.lets:
            return name not in visited and varies(scope, scope.lets[name], visited | {name}, inside)
    return any(varies(scope, c, visited, inside) for c in typed.children(expr))


def coef(value: Coef, change: Change) -> Coef:
    return Coef(tuple((c, tuple((change(a), p) for a, p in powers)) for c, powers in value.terms))


def part(value: Part, change: Change) -> Part:
    return Part(coef(value.coef, change), value.kind, maybe(value.matrix, change), maybe(value.key, change))


def affine(value: Affine, change: Change) -> Affine:
    """The markers stay."""
    return Affine(
        value.type,
        tuple(_term(t, change) for t in value.terms),
        tuple(Free(coef(f.coef, change), tuple(map(change, f.chain))) for f in value.free),
    )


def _term(t: Term, change: Change) -> Term:
    return replace(
        t,
        coef=coef(t.coef, change),
        left=tuple(map(change, t.left)),
        right=tuple(map(change, t.right)),
        weight=maybe(t.weight, change),
    )


def maybe(expr: Expr | None, change: Change) -> Expr | None:
    return None if expr is None else change(expr)
