"""Affine maps of state versions.

    Affine = Affine(terms, free)
    Term   = coef * L (W .* X^tau) R      X: Marker, a state's version; L, R chains of state-free matrices
    Free   = coef * chain                 state-free

Chains are kept short: scalar factors go to the coefficient, and so do stretches between two 1-wide places. Not here:
how an expression becomes one (see `linear`), what the terms mean (see `sides`, `classify`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ruledsl.algebra import build
from ruledsl.algebra.scalars import MINUS, UNIT, Coef
from ruledsl.algebra.scope import State
from ruledsl.lang import typed
from ruledsl.lang.source import NOWHERE, Span
from ruledsl.lang.typed import Expr, Type

LIMIT = 256

Chain = tuple[Expr, ...]


class TooLarge(Exception):
    """More terms than the checker follows."""

    def __str__(self) -> str:
        return f"more than {LIMIT} terms"


@dataclass(frozen=True, slots=True)
class Marker:
    name: str
    version: int  # -1: a let or output of an earlier token
    member: int | None
    type: Type = field(compare=False)

    @property
    def state(self) -> State:
        return self.name, self.member


@dataclass(frozen=True, slots=True)
class Term:
    coef: Coef
    marker: Marker
    left: Chain = ()
    right: Chain = ()
    transposed: bool = False
    weight: Expr | None = None  # shaped like the (transposed) state
    opaque: bool = False  # linear in the marker, but no product of this kind
    barrier: str = ""  # what keeps the term out of a chunk form
    span: Span = field(default=NOWHERE, compare=False)

    @property
    def like(self) -> tuple[object, ...]:
        return self.marker, self.left, self.right, self.transposed, self.weight, self.barrier


@dataclass(frozen=True, slots=True)
class Free:
    coef: Coef
    chain: Chain

    @property
    def expr(self) -> Expr:
        return build.mul(self.coef.expr(), build.chain(self.chain))


@dataclass(frozen=True, slots=True)
class Affine:
    type: Type
    terms: tuple[Term, ...] = ()
    free: tuple[Free, ...] = ()

    def plus(self, *others: Affine) -> Affine:
        """Like terms are added up; opaque ones stay apart."""
        terms: dict[object, Term] = {}
        free: dict[Chain, Free] = {}
        for part in (self, *others):
            for t in part.terms:
                key = (len(terms),) if t.opaque else t.like
                old = terms.get(key)
                terms[key] = t if old is None else replace(old, coef=old.coef.plus(t.coef))
            for f in part.free:
                known = free.get(f.chain)
                free[f.chain] = f if known is None else Free(known.coef.plus(f.coef), f.chain)
        kept = tuple(t for t in terms.values() if not t.coef.is_zero)
        if len(kept) > LIMIT or len(free) > 4 * LIMIT:
            raise TooLarge
        return Affine(self.type, kept, tuple(f for f in free.values() if not f.coef.is_zero))

    def scaled(self, coef: Coef) -> Affine:
        if coef.is_zero:
            return Affine(self.type)
        return Affine(self.type, tuple(replace(t, coef=t.coef.times(coef)) for t in self.terms),
                      tuple(replace(f, coef=f.coef.times(coef)) for f in self.free))  # fmt: skip


# ------------------------------------------------------------------------------------------------ chains


def split(factors: Chain) -> tuple[Coef, Chain]:
    """A chain with scalar factors, and scalar stretches between two 1-wide places, moved to the coefficient. What is
    left has at most one 1-wide place; if that is inside, the chain is two factors: a column and a row."""
    coef, flat = UNIT, list[Expr]()
    for factor in factors:
        c, kept = peel(factor)
        coef = coef.times(c)
        flat.extend(kept)
    c, out = _stretch(flat)
    return coef.times(c), out


def _stretch(flat: list[Expr]) -> tuple[Coef, Chain]:
    if not flat:
        return UNIT, ()
    widths = [flat[0].type.rows, *(f.type.cols for f in flat)]
    ones = [i for i, w in enumerate(widths) if w == 1]
    if not ones:
        out = list[Expr]()
        for factor in flat:
            if out and isinstance(out[-1], typed.Diag) and isinstance(factor, typed.Diag):
                out[-1] = build.product(out[-1], factor)
            elif not isinstance(factor, typed.Eye):
                out.append(factor)
        return UNIT, tuple(out)
    coef = Coef.of(build.chain(flat[ones[0] : ones[-1]]))
    parts = (build.chain(part) for part in (flat[: ones[0]], flat[ones[-1] :]) if part)
    return coef, tuple(parts)


def peel(expr: Expr) -> tuple[Coef, Chain]:
    """A state-free expression as scalar factor and chain."""
    if expr.type.is_scalar:
        return Coef.of(expr), ()
    match expr:
        case typed.Apply("neg", (x,)):
            c, chain = peel(x)
            return c.times(MINUS), chain
        case typed.Apply("mul", (x, y)) if x.type.is_scalar or y.type.is_scalar:
            s, x = (x, y) if x.type.is_scalar else (y, x)
            c, chain = peel(x)
            return c.times(Coef.of(s)), chain
        case typed.Apply("div", (x, y)) if y.type.is_scalar:
            c, chain = peel(x)
            return c.times(Coef.of(build.div(build.ONE, y))), chain
        case typed.Product(x, y):
            (c, left), (d, right) = peel(x), peel(y)
            e, chain = _stretch([*left, *right])
            return c.times(d).times(e), chain
        case typed.Transpose(x):
            c, chain = peel(x)
            return c, tuple(build.transpose(f) for f in reversed(chain))
    return UNIT, (expr,)


def tidy(term: Term) -> Term:
    """Scalar stretches of both chains moved to the coefficient."""
    if term.opaque:
        return term
    (c, left), (d, right) = split(term.left), split(term.right)
    return replace(term, coef=term.coef.times(c).times(d), left=left, right=right)


def flip(t: Term) -> Term:
    return replace(
        t,
        left=tuple(build.transpose(f) for f in reversed(t.right)),
        right=tuple(build.transpose(f) for f in reversed(t.left)),
        transposed=not t.transposed,
        weight=None if t.weight is None else build.transpose(t.weight),
    )


def substitute(x: Affine, inner: dict[Marker, Affine]) -> Affine:
    """`x` with markers replaced by what they are affine in."""
    terms, free = list[Term](), list(x.free)
    for t in x.terms:
        if t.marker not in inner:
            terms.append(t)
            continue
        terms += [tidy(_inside(t, u)) for u in inner[t.marker].terms]
        for f in inner[t.marker].free:
            if not t.opaque:
                c, chain = split(_around(t, f.chain))
                free.append(Free(t.coef.times(f.coef).times(c), chain))
        if len(terms) > 8 * LIMIT:
            raise TooLarge
    return Affine(x.type).plus(Affine(x.type, tuple(terms), tuple(free)))


def _inside(t: Term, u: Term) -> Term:
    coef, barrier = t.coef.times(u.coef), t.barrier or u.barrier
    if t.opaque or u.opaque:
        return replace(u, coef=coef, opaque=True, barrier=barrier)
    if t.transposed:
        u = flip(u)
    weight = u.weight
    if t.weight is not None:
        if not all(isinstance(f, typed.Diag) for f in u.left + u.right):
            return replace(u, coef=coef, opaque=True, barrier=barrier)
        weight = t.weight if weight is None else build.mul(t.weight, weight)
    return replace(
        u, coef=coef, left=t.left + u.left, right=u.right + t.right, weight=weight, barrier=barrier, span=t.span
    )


def _around(t: Term, chain: Chain) -> Chain:
    if t.transposed:
        chain = tuple(build.transpose(f) for f in reversed(chain))
    if t.weight is not None:
        chain = (build.mul(t.weight, build.chain(chain)),)
    return t.left + chain + t.right
