"""Of which degree an expression is in the exponential of a state m.

The degree is (p, q) if the expression is exp(p prev(m) + q m) times something without m, given such degrees of the
states. Degrees add up along products and agree along sums; a maximum or a root of what is homogeneous is homogeneous.
Exponents are taken apart as affine forms in m. Sound, not complete: what has no degree by these rules may yet have one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from ruledsl.algebra import build
from ruledsl.algebra.affine import TooLarge
from ruledsl.algebra.linear import Linear, NotAffine
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Role, StateRef

Degree = tuple[Fraction, Fraction]  # powers of exp(prev(m)) and exp(m)
NONE: Degree = (Fraction(0), Fraction(0))
BEGUN: Degree = (Fraction(-1), Fraction(0))  # of X as the token begins
ENDED: Degree = (Fraction(0), Fraction(-1))


class NoDegree(Exception):
    """Not homogeneous by these rules."""


@dataclass(slots=True)
class Degrees:
    scope: Scope
    m: State
    start: dict[State, Degree]
    moved: frozenset[State]  # what may depend on m
    names: dict[str, Degree | None] = field(default_factory=dict)  # of lets and outputs; None: no degree
    versions: dict[tuple[State, int], Degree | None] = field(default_factory=dict)

    def walk(self) -> None:
        """Of every statement, in order."""
        made: dict[State, int] = {}
        for s in self.scope.rule.body:
            assert not isinstance(s, typed.For)
            try:
                found: Degree | None = self.of(s.value)
            except NoDegree:
                found = None
            if isinstance(s, typed.Assign):
                index = None if s.member is None else build.value_of(s.member)
                state = s.state, None if index is None else int(index)
                made[state] = made.get(state, 0) + 1
                self.versions[state, made[state]] = found
            else:
                self.names[s.name] = found

    def of(self, expr: Expr) -> Degree:
        if not self.scope.seen(expr).every & self.moved:
            return NONE
        found = self._of(expr)
        if found != NONE and not self._scalar and expr.type != self._type:
            raise NoDegree  # a factor per entry of m scales what has these entries
        return found

    @property
    def _type(self) -> typed.Type:
        own = self.scope.symbols[self.m[0]].type
        return typed.Type(own.rows, own.cols)

    @property
    def _scalar(self) -> bool:
        return self._type.is_scalar

    def _of(self, expr: Expr) -> Degree:
        match expr:
            case StateRef(name, _, version, member) if (name, member) != self.m:
                state = name, member
                return _known(self.versions.get((state, version)) if version else self.start.get(state))
            case typed.Ref(name, Role.LET | Role.OUTPUT, _, None):
                return _known(self.names.get(name))
            case typed.Apply("exp", (x,)):
                return self._exponent(x)
            case typed.Apply("mul", (x, y)):
                return _sum(self.of(x), self.of(y))
            case typed.Apply("div", (x, y)):
                return _sum(self.of(x), _times(self.of(y), Fraction(-1)))
            case typed.Apply("pow", (x, e)) if (n := build.value_of(e)) is not None:
                return _times(self.of(x), Fraction(n))
            case typed.Apply("sqrt", (x,)):
                return _times(self.of(x), Fraction(1, 2))
            case typed.Apply("add" | "sub" | "max" | "min" | "neg" | "abs" | "relu", args):
                return self._same(args)
            case typed.Apply("where", (condition, x, y)):
                if self.of(condition) != NONE:
                    raise NoDegree
                return self._same((x, y))
            case typed.Compare(_, x, y):
                self._same((x, y))
                return NONE
            case typed.Product(x, y) if self._scalar:
                return _sum(self.of(x), self.of(y))
            case typed.Transpose() | typed.Reduce() | typed.Diag() | typed.Concat() if self._scalar:
                return self._same(tuple(typed.children(expr)))
            case StateRef() | typed.Ref() | typed.Frozen():
                raise NoDegree
        if any(self.of(x) != NONE for x in typed.children(expr)):
            raise NoDegree
        return NONE

    def _same(self, args: tuple[Expr, ...]) -> Degree:
        degrees = {self.of(x) for x in args if not build.is_zero(x)}
        if len(degrees) != 1:
            raise NoDegree
        return degrees.pop()

    def _exponent(self, expr: Expr) -> Degree:
        """Of exp(expr): expr is a sum of multiples of m and something of degree 0."""
        try:
            affine = Linear(self.scope, frozenset({self.m})).of(expr)
        except (NotAffine, TooLarge):
            raise NoDegree from None
        last = len(self.scope.assigns[self.m])
        out = NONE
        for t in affine.terms:
            number, spread = t.coef.literal, (*t.left, *t.right)
            if number is None or t.opaque or t.transposed or t.weight is not None or t.marker.version not in (0, last):
                raise NoDegree
            if t.barrier or spread and not (self._scalar and all(isinstance(f, typed.Ones) for f in spread)):
                raise NoDegree
            out = _sum(out, _times(BEGUN if t.marker.version == 0 else ENDED, Fraction(-number)))
        if any(self.of(f.expr) != NONE for f in affine.free):
            raise NoDegree
        return out


def _known(degree: Degree | None) -> Degree:
    if degree is None:
        raise NoDegree
    return degree


def _sum(x: Degree, y: Degree) -> Degree:
    return x[0] + y[0], x[1] + y[1]


def _times(x: Degree, n: Fraction) -> Degree:
    return x[0] * n, x[1] * n
