"""Norms of linear maps, enclosed from declared ranges.

A side D + sum_j alpha_j p_j w_j^T with scalar D and one p parallel to w is symmetric: its norm is exactly
max(|D|, |D + alpha p.w|). Otherwise |D| + sum |alpha||p||w|; factors multiply.
"""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.algebra import build, text
from ruledsl.algebra.affine import Term, peel
from ruledsl.algebra.ranges import interval, is_unit
from ruledsl.algebra.scalars import Coef
from ruledsl.algebra.scope import Scope
from ruledsl.algebra.sides import Part as SidePart
from ruledsl.algebra.sides import PartKind, merge
from ruledsl.algebra.steps import Factored, Map, Step
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Interval

INF = float("inf")


@dataclass(frozen=True, slots=True)
class Bound:
    """An enclosure of a norm, with its text."""

    value: float
    strict: bool  # the value itself is not reached
    text: str

    def times(self, other: Bound) -> Bound:
        if self.text == "1":
            return other
        if other.text == "1":
            return self
        value = self.value * other.value if 0 not in (self.value, other.value) else 0.0
        return Bound(value, self.strict or other.strict, f"{_group(self.text)} * {_group(other.text)}")

    @property
    def claim(self) -> str:
        if self.value < 1 or (self.value == 1 and self.strict):
            return "contractive"
        return "marginal" if self.value == 1 else "not proven"


ONE = Bound(1.0, False, "1")


def map_bound(scope: Scope, step: Step, m: Map) -> Bound | None:
    """Of a sub-step's linear part; None where it has terms that are no products."""
    if isinstance(m, Factored):
        return side_bound(scope, m.left).times(side_bound(scope, m.right))
    if not step.value.terms or any(t.opaque for t in step.value.terms):
        return None
    return added([term_bound(scope, t) for t in step.value.terms])


def term_bound(scope: Scope, t: Term) -> Bound:
    out = _scalar(scope, t.coef)
    if t.weight is not None:
        out = out.times(absolute(scope, t.weight))
    for factor in (*t.left, *t.right):
        out = out.times(_entries(scope, factor))
    return out


def _entries(scope: Scope, factor: Expr) -> Bound:
    if isinstance(factor, typed.Diag):
        return absolute(scope, factor.operand)
    if factor.type.is_vector or factor.type.is_row:
        return norm(scope, factor if factor.type.is_vector else build.transpose(factor))
    return Bound(INF, False, f"|{text.plain(factor)}|")


def side_bound(scope: Scope, found: tuple[SidePart, ...]) -> Bound:
    flat = [p for p in found if p.kind is not PartKind.RANK]
    ranks = [p for p in found if p.kind is PartKind.RANK]
    if all(p.kind in (PartKind.IDENTITY,) for p in flat) and len(ranks) == 1:
        d = flat[0].coef if flat else Coef(())
        exact = _parallel(scope, d, ranks[0])
        if exact is not None:
            return exact
    parts = []
    diagonal = [p for p in merge(list(flat)) if p.kind in (PartKind.IDENTITY, PartKind.DIAGONAL)]
    value = build.summed(
        build.mul(p.coef.expr(), p.matrix) if p.matrix is not None else p.coef.expr() for p in diagonal
    )
    if value is not None:
        parts.append(absolute(scope, value))
    for p in flat:
        if p.kind is PartKind.MONOMIAL:
            parts.append(_scalar(scope, p.coef).times(_monomial(scope, p.matrix)))
        elif p.kind is PartKind.TURN:
            parts.append(_scalar(scope, p.coef).times(_turn(scope, p.matrix)))
        elif p.kind is PartKind.DENSE:
            assert p.matrix is not None
            parts.append(Bound(INF, False, f"|{text.plain(p.matrix)}|"))
    for p in ranks:
        assert p.matrix is not None and p.key is not None
        parts.append(_scalar(scope, p.coef).times(norm(scope, p.matrix)).times(norm(scope, p.key)))
    return added(parts)


def _monomial(scope: Scope, matrix: Expr | None) -> Bound:
    match matrix:
        case typed.Product(x, y):
            return _monomial(scope, x).times(_monomial(scope, y))
        case typed.Diag(x):
            return absolute(scope, x)
        case typed.Transpose(x):
            return _monomial(scope, x)
        case typed.Ref(name) | typed.Member(typed.Ref(name)) if name in scope.symbols and scope.symbols[name].perm:
            return ONE
    return Bound(INF, False, "" if matrix is None else f"|{text.plain(matrix)}|")


def _turn(scope: Scope, matrix: Expr | None) -> Bound:
    match matrix:
        case typed.Product(x, y):
            return _turn(scope, x).times(_turn(scope, y))
        case typed.Rotate():
            return ONE
        case typed.Diag(x):
            return absolute(scope, x)
    return Bound(INF, False, "" if matrix is None else f"|{text.plain(matrix)}|")


def _parallel(scope: Scope, d: Coef, p: SidePart) -> Bound | None:
    """D + alpha p w^T with p parallel to w: the norm exactly."""
    assert p.matrix is not None and p.key is not None
    (c, x), (e, y) = _direction(scope, p.matrix), _direction(scope, p.key)
    if x != y:
        return None
    alpha = p.coef.times(c).times(e)
    square = build.product(build.transpose(x), x)
    along = alpha if is_unit(scope, x) else alpha.times(Coef.of(square))
    top = absolute(scope, d.expr())
    ratio = _ratio(scope, along)
    both = d.plus(along).expr()
    second = absolute(scope, both)
    if ratio is not None and d.literal is not None:
        ends = [(abs(d.literal + ratio.low), ratio.low_open), (abs(d.literal + ratio.high), ratio.high_open)]
        value = max(end for end, _ in ends)
        second = Bound(value, all(opened for end, opened in ends if end == value), f"|{text.plain(both)}|")
    if top.text == second.text:
        return top
    larger = max(top.value, second.value)
    strict = all(b.strict for b in (top, second) if b.value == larger)
    return Bound(larger, strict, f"max({top.text}, {second.text})")


def _direction(scope: Scope, vector: Expr) -> tuple[Coef, Expr]:
    """Scalar factor and direction, through lets."""
    c, chain = peel(vector)
    inner = build.chain(chain)
    value = scope.let(inner)
    if value is inner:
        return c, inner
    d, again = _direction(scope, value)
    match value:  # keep the name unless the let is a multiple of something
        case typed.Apply("mul" | "div" | "neg") if d.literal != 1:
            return c.times(d), again
        case typed.Ref():
            return c.times(d), again
    return c, inner


def _ratio(scope: Scope, along: Coef) -> Interval | None:
    """+-y/(c + y) with y >= 0 and c > 0 lies in [0, 1): an implicit step."""
    if len(along.terms) != 1:
        return None
    size, powers = along.terms[0]
    for atom, power in powers:
        match atom:
            case typed.Apply("add", (x, y)) if power == -1:
                rest = Coef(((1.0, tuple((a, n) for a, n in powers if a is not atom)),))
                for constant, moving in ((x, y), (y, x)):
                    top = Coef.of(moving)
                    at = interval(scope, moving)
                    same = top == rest.times(Coef(((top.terms[0][0], ()),))) if len(top.terms) == 1 else False
                    if same and at.low >= 0 and interval(scope, constant).low > 0 and top.terms[0][0] == abs(size):
                        return Interval(0, 1, False, True) if size > 0 else Interval(-1, 0, True, False)
    return None


def added(parts: list[Bound]) -> Bound:
    if not parts:
        return Bound(0.0, False, "0")
    if len(parts) == 1:
        return parts[0]
    return Bound(sum(p.value for p in parts), any(p.strict for p in parts), " + ".join(p.text for p in parts))


def _scalar(scope: Scope, coef: Coef) -> Bound:
    return absolute(scope, coef.expr())


def _size(scope: Scope, expr: Expr) -> tuple[float, bool]:
    """The largest absolute value of an entry, and whether it is out of reach."""
    x = interval(scope, expr)
    value = max(abs(x.low), abs(x.high))
    return value, all(opened for end, opened in ((abs(x.low), x.low_open), (abs(x.high), x.high_open)) if end == value)


def absolute(scope: Scope, expr: Expr) -> Bound:
    """|x| of a scalar; the largest entry of a vector or matrix."""
    if (literal := build.value_of(expr)) is not None:
        return Bound(abs(literal), False, f"{abs(literal):g}")
    value, strict = _size(scope, expr)
    match expr:
        case typed.Apply("neg", (inner,)):
            expr = inner
    shown = text.plain(expr)
    if interval(scope, expr).low < 0:
        shown = f"|{shown}|" if expr.type.is_scalar else f"max|{shown}|"
    elif not expr.type.is_scalar:
        shown = f"max({shown})"
    return Bound(value, strict, shown)


def norm(scope: Scope, vector: Expr) -> Bound:
    """Of a vector: 1 by promise; |x .* y| <= |x| max|y|."""
    if is_unit(scope, vector):
        return ONE
    return Bound(_length(scope, vector), False, f"|{text.plain(vector)}|")


def _length(scope: Scope, vector: Expr) -> float:
    match vector:
        case typed.Ref(name, _, _, None) if name in scope.lets:  # once: lets that read one twice would double the work
            if name not in scope.lengths:
                scope.lengths[name] = _length_of(scope, vector)
            return scope.lengths[name]
    return _length_of(scope, vector)


def _length_of(scope: Scope, vector: Expr) -> float:
    if is_unit(scope, vector):
        return 1.0
    match scope.let(vector):
        case typed.RowWise("softmax" | "unit"):
            return 1.0
        case typed.Apply("mul", (x, y)):
            found = [INF]
            for a, b in ((x, y), (y, x)):
                if a.type == vector.type:
                    lengths = _length(scope, a), _size(scope, b)[0]
                    found.append(0.0 if 0 in lengths else lengths[0] * lengths[1])
            return min(found)
        case typed.Apply("div", (x, y)) if y.type.is_scalar:
            inverse = _size(scope, build.div(build.ONE, y))[0]
            return _length(scope, x) * inverse if inverse else 0.0
        case typed.Apply("neg", (x,)) | typed.Rotate(x):
            return _length(scope, x)
        case typed.Apply("add" | "sub", (x, y)) if x.type == y.type:
            return _length(scope, x) + _length(scope, y)
    return INF


def _group(shown: str) -> str:
    depth, inside = 0, False
    for c in shown:  # a sum outside of brackets and bars
        inside ^= c == "|"
        depth += (c in "([") - (c in ")]")
        if c in "+-" and depth == 0 and not inside:
            return f"({shown})"
    return shown
