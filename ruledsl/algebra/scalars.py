"""Scalar coefficients as sums of monomials: number * atom^power * ...

Products, quotients, signs and whole powers are taken apart; anything else (a sum, a function, a let) is an atom.
Two coefficients are equal when their monomials are; that misses identities between atoms, and never invents one.
"""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.algebra import build
from ruledsl.lang.typed import Apply, Expr, Number, Product

Powers = tuple[tuple[Expr, int], ...]  # in order of first appearance, no power 0


def _join(x: Powers, y: Powers) -> Powers:
    out = dict(x)
    for atom, power in y:
        out[atom] = out.get(atom, 0) + power
    return tuple((a, p) for a, p in out.items() if p)


@dataclass(frozen=True, slots=True, eq=False)
class Coef:
    terms: tuple[tuple[float, Powers], ...]

    @staticmethod
    def of(expr: Expr) -> Coef:
        """Of a scalar expression."""
        assert expr.type.is_scalar, expr
        match expr:
            case Number(value):
                return Coef(((value, ()),)) if value else ZERO
            case Apply("neg", (x,)):
                return Coef.of(x).times(MINUS)
            case Apply("sub", (x, y)) if x == y:
                return ZERO
            case Apply("mul", (x, y)):
                return Coef.of(x).times(Coef.of(y))
            case Apply("div", (x, y)):
                return Coef.of(x).times(Coef.of(y).inverse(y))
            case Apply("pow", (x, Number(n))) if float(n).is_integer() and abs(n) <= 8:
                base = Coef.of(x) if n > 0 else Coef.of(x).inverse(x)
                if n and len(base.terms) == 1:
                    (c, powers), count = base.terms[0], abs(int(n))
                    return Coef(((c**count, tuple((a, p * count) for a, p in powers)),))
            case Product(x, y) if repr(build.transpose(x)) > repr(y):
                expr = build.product(build.transpose(y), build.transpose(x))  # one spelling of an inner product
        return Coef(((1.0, ((expr, 1),)),))

    def inverse(self, expr: Expr) -> Coef:
        """One over it; `expr` is its text, used as an atom if it is a sum."""
        if len(self.terms) == 1:
            c, powers = self.terms[0]
            return Coef(((1 / c, tuple((a, -p) for a, p in powers)),))
        return Coef(((1.0, ((expr, -1),)),))

    def times(self, other: Coef) -> Coef:
        out: dict[frozenset[tuple[Expr, int]], tuple[float, Powers]] = {}
        for c, x in self.terms:
            for d, y in other.terms:
                powers = _join(x, y)
                key = frozenset(powers)
                old = out.get(key, (0.0, powers))
                out[key] = (old[0] + c * d, old[1])
        return Coef(tuple((c, p) for c, p in out.values() if c))

    def plus(self, other: Coef) -> Coef:
        out = {frozenset(p): (c, p) for c, p in self.terms}
        for c, p in other.terms:
            key = frozenset(p)
            old = out.get(key, (0.0, p))
            out[key] = (old[0] + c, old[1])
        return Coef(tuple((c, p) for c, p in out.values() if c))

    @property
    def is_zero(self) -> bool:
        return not self.terms

    @property
    def literal(self) -> float | None:
        """The number, if it is one."""
        if not self.terms:
            return 0.0
        return self.terms[0][0] if len(self.terms) == 1 and not self.terms[0][1] else None

    def _key(self) -> frozenset[tuple[frozenset[tuple[Expr, int]], float]]:
        return frozenset((frozenset(p), c) for c, p in self.terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Coef) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def expr(self) -> Expr:
        parts = [_monomial(c, p) for c, p in sorted(self.terms, key=lambda t: t[0] < 0)]
        return build.summed(parts) or build.ZERO


def _monomial(c: float, powers: Powers) -> Expr:
    top = build.chain(a for a, p in powers for _ in range(p))
    bottom = build.chain(a for a, p in powers for _ in range(-p))
    out = build.mul(build.number(abs(c)), top)
    out = build.div(out, bottom)
    return build.neg(out) if c < 0 else out


def common(coefs: list[Coef]) -> Coef:
    """The monomial that divides every monomial of all of them: shared powers, and the number if its size is shared.
    Positive; 1 if there is none."""
    monomials = [t for c in coefs for t in c.terms]
    if not monomials:
        return UNIT
    size = abs(monomials[0][0]) if len({abs(c) for c, _ in monomials}) == 1 else 1.0
    powers = []
    for atom, power in monomials[0][1]:
        others = [dict(p).get(atom, 0) for _, p in monomials]
        low = min(others) if power > 0 else max(others)
        if low * power > 0:
            powers.append((atom, low))
    return Coef(((size, tuple(powers)),))


def over(coef: Coef, monomial: Coef) -> Coef:
    ((c, powers),) = monomial.terms
    return coef.times(Coef(((1 / c, tuple((a, -p) for a, p in powers)),)))


ZERO = Coef(())
UNIT = Coef(((1.0, ()),))
MINUS = Coef(((-1.0, ()),))
