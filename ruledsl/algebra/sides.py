"""What a state-free matrix is made of: a sum of elementary parts, found by structure and by promises.

    Part = Part(coef, kind, ...)    identity | diagonal(vector) | rank(u, w): u w^T | monomial(matrix): permutation x
                                    diagonal | turn(matrix): rotations of entry pairs | dense(matrix)

`parts` distributes sums and products of matrices and looks through lets; `Side` says what their sum is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ruledsl.algebra import build
from ruledsl.algebra.affine import LIMIT, Chain, TooLarge, peel
from ruledsl.algebra.scalars import MINUS, UNIT, Coef
from ruledsl.algebra.scope import Scope
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Type


class PartKind(StrEnum):
    IDENTITY = "identity"
    DIAGONAL = "diagonal"
    RANK = "rank"
    MONOMIAL = "monomial"
    TURN = "turn"
    DENSE = "dense"


@dataclass(frozen=True, slots=True)
class Part:
    coef: Coef
    kind: PartKind
    matrix: Expr | None = None  # diagonal: the vector; rank: the column u; else the matrix
    key: Expr | None = None  # rank: w, of u w^T

    def times(self, coef: Coef) -> Part:
        return Part(self.coef.times(coef), self.kind, self.matrix, self.key)


def parts(scope: Scope, chain: Chain) -> list[Part]:
    """Of the product of a chain of matrices; the empty chain is the identity."""
    out = [Part(UNIT, PartKind.IDENTITY)]
    if len(chain) == 2 and chain[0].type.cols == 1:
        return [Part(UNIT, PartKind.RANK, chain[0], build.transpose(chain[1]))]
    for factor in chain:
        out = merge([compose(a, b) for a in out for b in matrix(scope, factor)])
    return out


def matrix(scope: Scope, expr: Expr) -> list[Part]:
    """Of one matrix; a vector or row counts as u 1^T or 1 w^T."""
    if expr.type.is_vector:
        return [_ranked(expr, build.ONE)]
    if expr.type.is_row:
        return [_ranked(build.ONE, build.transpose(expr))]
    match expr:
        case typed.Eye():
            return [Part(UNIT, PartKind.IDENTITY)]
        case typed.Diag(x):
            c, chain = peel(x)
            return [Part(c, PartKind.DIAGONAL, build.chain(chain))]
        case typed.Ones():
            rows, cols = typed.Ones(Type(expr.type.rows, 1)), typed.Ones(Type(expr.type.cols, 1))
            return [Part(UNIT, PartKind.RANK, rows, cols)]
        case typed.Product(x, y) if x.type.cols == 1:
            return [_ranked(x, build.transpose(y))]
        case typed.Product(x, y):
            return merge([compose(a, b) for a in matrix(scope, x) for b in matrix(scope, y)])
        case typed.Transpose(x):
            return [_flip(p) for p in matrix(scope, x)]
        case typed.Apply("add" | "sub" as fn, (x, y)) if x.type == y.type:
            second = matrix(scope, y)
            return merge(matrix(scope, x) + ([p.times(MINUS) for p in second] if fn == "sub" else second))
        case typed.Apply("neg", (x,)):
            return [p.times(MINUS) for p in matrix(scope, x)]
        case typed.Apply("mul", (x, y)) if x.type.is_scalar or y.type.is_scalar:
            s, x = (x, y) if x.type.is_scalar else (y, x)
            return [p.times(Coef.of(s)) for p in matrix(scope, x)]
        case typed.Apply("div", (x, y)) if y.type.is_scalar:
            return [p.times(Coef.of(build.div(build.ONE, y))) for p in matrix(scope, x)]
        case typed.Apply("where", (condition, x, y)) if condition.type.is_scalar:
            return _where(scope, condition, x, y)
        case typed.Ref(name, role, _, lag) if role in (typed.Role.LET, typed.Role.OUTPUT) and lag is None:
            if name not in scope.matrices:
                scope.matrices[name] = tuple(matrix(scope, scope.lets[name]))
            return list(scope.matrices[name])
        case typed.Ref(name) | typed.Member(typed.Ref(name)) if name in scope.symbols and scope.symbols[name].perm:
            return [Part(UNIT, PartKind.MONOMIAL, expr)]
        case typed.Rotate(typed.Eye()):
            return [Part(UNIT, PartKind.TURN, expr)]
        case typed.Number(0.0):
            return []
    return [Part(UNIT, PartKind.DENSE, expr)]


def _where(scope: Scope, condition: Expr, x: Expr, y: Expr) -> list[Part]:
    out = []
    for branch, a, b in ((x, build.ONE, build.ZERO), (y, build.ZERO, build.ONE)):
        mask = Coef.of(typed.Apply("where", (condition, a, b), condition.type))
        inner = (
            matrix(scope, branch)
            if branch.type.is_matrix
            else []
            if build.is_zero(branch)
            else [Part(UNIT, PartKind.DENSE, branch)]
        )
        out += [p.times(mask) for p in inner]
    return merge(out)


def _ranked(u: Expr, w: Expr) -> Part:
    (c, left), (d, right) = peel(u), peel(w)
    return Part(c.times(d), PartKind.RANK, build.chain(left), build.chain(right))


def _flip(p: Part) -> Part:
    match p.kind:
        case PartKind.RANK:
            return Part(p.coef, p.kind, p.key, p.matrix)
        case PartKind.IDENTITY | PartKind.DIAGONAL:
            return p
    assert p.matrix is not None
    return Part(p.coef, p.kind, build.transpose(p.matrix))


def compose(x: Part, y: Part) -> Part:
    """The product of two parts."""
    coef, kinds = x.coef.times(y.coef), (x.kind, y.kind)
    identity, diagonal, rank = PartKind.IDENTITY, PartKind.DIAGONAL, PartKind.RANK
    if x.kind is identity or y.kind is identity:
        other = y if x.kind is identity else x
        return Part(coef, other.kind, other.matrix, other.key)
    assert x.matrix is not None and y.matrix is not None
    as_matrix = [build.diag(p.matrix) if p.kind is diagonal and p.matrix is not None else p.matrix for p in (x, y)]
    assert as_matrix[0] is not None and as_matrix[1] is not None
    if kinds == (diagonal, diagonal):
        return Part(coef, diagonal, build.mul(x.matrix, y.matrix))
    if kinds == (rank, rank):
        assert x.key is not None
        inner = build.product(build.transpose(x.key), y.matrix)
        return Part(coef.times(Coef.of(inner)), rank, x.matrix, y.key)
    if x.kind is rank:
        assert x.key is not None
        return Part(coef, rank, x.matrix, build.transpose(build.product(build.transpose(x.key), as_matrix[1])))
    if y.kind is rank:
        return Part(coef, rank, build.product(as_matrix[0], y.matrix), y.key)
    made = build.product(as_matrix[0], as_matrix[1])
    if PartKind.DENSE in kinds or set(kinds) == {PartKind.MONOMIAL, PartKind.TURN}:
        return Part(coef, PartKind.DENSE, made)
    kind = PartKind.TURN if PartKind.TURN in kinds else PartKind.MONOMIAL
    return Part(coef, kind, made)


def merge(found: list[Part]) -> list[Part]:
    """Like parts added up."""
    out: dict[object, Part] = {}
    for p in found:
        key = p.kind, p.matrix, p.key
        old = out.get(key)
        out[key] = p if old is None else Part(old.coef.plus(p.coef), p.kind, p.matrix, p.key)
    if len(out) > LIMIT:
        raise TooLarge
    return [p for p in out.values() if not p.coef.is_zero]


class Shape(StrEnum):
    """What the sum of parts on one side is, in rising order of generality."""

    IDENTITY = "identity"
    SCALAR = "scalar"
    DIAGONAL = "diagonal"
    TURN = "complex diagonal"
    MONOMIAL = "permutation x diagonal"
    DENSE = "dense"


@dataclass(frozen=True, slots=True)
class Side:
    """diagonal-like part plus rank; `bare`: there is no such part, the rank is all."""

    shape: Shape
    rank: int
    bare: bool = False

    @property
    def plain(self) -> bool:
        return self.shape in (Shape.IDENTITY, Shape.SCALAR, Shape.DIAGONAL)


def side(found: list[Part]) -> Side:
    flat = [p for p in found if p.kind is not PartKind.RANK]
    ranks = [p for p in found if p.kind is PartKind.RANK]
    kinds = {p.kind for p in flat}
    rank = min(len({p.matrix for p in ranks}), len({p.key for p in ranks})) if ranks else 0
    if PartKind.DENSE in kinds or (PartKind.MONOMIAL in kinds and len(flat) > 1):
        return Side(Shape.DENSE, rank)
    if PartKind.MONOMIAL in kinds:
        return Side(Shape.MONOMIAL, rank)
    if PartKind.TURN in kinds:
        return Side(Shape.TURN, rank)
    if PartKind.DIAGONAL in kinds:
        return Side(Shape.DIAGONAL, rank)
    if len(flat) == 1 and flat[0].coef.literal == 1:
        return Side(Shape.IDENTITY, rank)
    return Side(Shape.SCALAR, rank, bare=not flat)


def both(x: Side, y: Side) -> Side:
    """Of a product of two such matrices: ranks add, but a bare factor bounds the rank whatever stands beside it."""
    if x.bare or y.bare:
        return Side(Shape.SCALAR, min(s.rank for s in (x, y) if s.bare), bare=True)
    return Side(_joined(x.shape, y.shape), x.rank + y.rank)


def either(x: Side, y: Side) -> Side:
    """What holds for the one and for the other."""
    return Side(_joined(x.shape, y.shape), max(x.rank, y.rank), x.bare and y.bare)


def _joined(x: Shape, y: Shape) -> Shape:
    a, b = sorted((x, y), key=list(Shape).index)
    return Shape.DENSE if {a, b} == {Shape.TURN, Shape.MONOMIAL} else b
