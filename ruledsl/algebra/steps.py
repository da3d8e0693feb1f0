"""The token of one stratum as sub-steps: each an affine map of the version before it.

Step = Step(version, base, value)             version <- affine in `base` (of one state)
Map  = Factored(left, right, transposed)      X -> L X R, sides as sums of parts
     | ElementWise(transposed)                X -> W .* X, or with its transpose
     | Unfactored(why)                        affine, but no product of two sides
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ruledsl.algebra.affine import Affine, Marker, Term, substitute
from ruledsl.algebra.linear import Linear
from ruledsl.algebra.scalars import UNIT, Coef
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.sides import Part, PartKind, merge, parts
from ruledsl.lang import typed


@dataclass(frozen=True, slots=True)
class Step:
    version: int
    base: int
    value: Affine


@dataclass(frozen=True, slots=True)
class Factored:
    left: tuple[Part, ...]
    right: tuple[Part, ...]
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class ElementWise:
    transposed: bool


@dataclass(frozen=True, slots=True)
class Unfactored:
    why: str


Map = Factored | ElementWise | Unfactored


def steps_of(scope: Scope, linear: Linear, state: State) -> list[Step]:
    """One step per assignment of a state that is a stratum of its own. Assignments are joined where a later one reads
    a version before the last."""
    out: list[Step] = []
    values: dict[int, Affine] = {}
    for k, assign in enumerate(scope.assigns.get(state, []), start=1):
        value = spread(linear.of(assign.value), scope.symbols[state[0]].type)
        values[k] = value
        read = {t.marker.version for t in value.terms if t.marker.state == state and t.marker.version >= 0}
        first = min(read, default=k - 1)
        while out and out[-1].base > first:
            out.pop()
        if out and out[-1].version > first:
            base = out.pop().base
        else:
            base = out[-1].version if out else 0
        out.append(Step(k, base, over(scope, state, values, value, base)))
    return out


def over(scope: Scope, state: State, values: dict[int, Affine], value: Affine, base: int) -> Affine:
    """`value` with the versions after `base` put in terms of it."""
    while True:
        later = {t.marker for t in value.terms if t.marker.state == state and t.marker.version > base}
        if not later:
            return value
        last = max(later, key=lambda m: m.version)
        value = substitute(value, {last: values[last.version]})


def spread(value: Affine, type: typed.Type) -> Affine:
    """`S = 0`: a number assigned to a vector or matrix."""
    member = typed.Type(type.rows, type.cols)
    if value.type == member or not value.type.is_scalar:
        return Affine(member, value.terms, value.free)
    assert not value.terms, "a scalar that reads the state is assigned to a vector"
    return Affine(member, (), tuple(replace(f, chain=(*f.chain, typed.Ones(member))) for f in value.free))


def composed(scope: Scope, linear: Linear, states: tuple[State, ...]) -> dict[State, Affine]:
    """Each state's last version over the states as the token began."""
    out: dict[State, Affine] = {}
    values: dict[Marker, Affine] = {}
    for state in states:
        type = scope.symbols[state[0]].type
        for k, assign in enumerate(scope.assigns.get(state, []), start=1):
            marker = Marker(state[0], k, state[1], typed.Type(type.rows, type.cols))
            values[marker] = spread(linear.of(assign.value), type)
    done: dict[Marker, Affine] = {}

    def close(marker: Marker) -> Affine:
        if marker not in done:
            value = values[marker]
            inner = {t.marker: close(t.marker) for t in value.terms if t.marker.version > 0}
            done[marker] = substitute(value, inner)
        return done[marker]

    for state in states:
        type = scope.symbols[state[0]].type
        member = typed.Type(type.rows, type.cols)
        last = len(scope.assigns.get(state, []))
        if last:
            out[state] = close(Marker(state[0], last, state[1], member))
    return out


def map_of(scope: Scope, terms: tuple[Term, ...]) -> Map:
    """The linear part of a step."""
    if any(t.opaque for t in terms):
        return Unfactored("not of the form L S R")
    turned = {t.transposed for t in terms}
    sides = [(parts(scope, t.left), parts(scope, t.right)) for t in terms]
    if any(t.weight is not None for t in terms) or len(turned) == 2:
        if all(_diagonal(p) for pair in sides for p in pair):
            return ElementWise(True in turned)
        return Unfactored(
            "an element-wise factor next to a product" if len(turned) == 1 else "the state next to its transpose"
        )
    transposed = turned == {True}
    if len({t.left for t in terms}) <= 1:
        one = len(terms) == 1 and bool(terms[0].left) and not terms[0].right
        left = sides[0][0] if sides else parts(scope, ())
        right = [p.times(t.coef) for t, (_, r) in zip(terms, sides, strict=True) for p in r]
        if one:
            return Factored(tuple(p.times(terms[0].coef) for p in left), tuple(sides[0][1]), transposed)
        return Factored(tuple(left), tuple(merge(right)), transposed)
    if len({t.right for t in terms}) == 1:
        left = merge([p.times(t.coef) for t, (side, _) in zip(terms, sides, strict=True) for p in side])
        return Factored(tuple(left), tuple(sides[0][1]), transposed)
    return _pairs([(t.coef, a, b) for t, (x, y) in zip(terms, sides, strict=True) for a in x for b in y], transposed)


def _diagonal(found: list[Part]) -> bool:
    return all(p.kind in (PartKind.IDENTITY, PartKind.DIAGONAL) for p in found)


def _pairs(pairs: list[tuple[Coef, Part, Part]], transposed: bool) -> Map:
    """Sums on both sides: factored if the parts of one side agree."""
    for left_is_one in (True, False):
        both = [(a, b, c) if left_is_one else (b, a, c) for c, a, b in pairs]
        if len({(p.kind, p.matrix, p.key) for p, _, _ in both}) == 1:
            first = both[0][0]
            one = (Part(UNIT, first.kind, first.matrix, first.key),)
            other = tuple(merge([b.times(c).times(a.coef) for a, b, c in both]))
            return Factored(one, other, transposed) if left_is_one else Factored(other, one, transposed)
    if all(_diagonal([a, b]) for _, a, b in pairs):
        return ElementWise(transposed)
    return Unfactored("several terms L S R that do not factor into sub-steps")
