"""The token of one stratum as sub-steps: each an affine map of the version before it.

Step = Step(version, base, value)             version <- affine in `base` (of one state)
Map  = Factored(left, right, transposed)      X -> L X R, sides as sums of parts
     | ElementWise(transposed, ways)          X -> W .* X, or with its transpose
     | Unfactored(why, ways)                  affine, but no product of two sides
`ways`: by conditions that do not read the state, each token's map is one of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from ruledsl.algebra.affine import Affine, Marker, Term, TooLarge, substitute
from ruledsl.algebra.conditions import mask
from ruledsl.algebra.linear import Linear
from ruledsl.algebra.scalars import UNIT, Coef
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.sides import Part, PartKind, Shape, merge, parts, side
from ruledsl.lang import typed

MOST_MONOMIALS = 1024  # of a version over the states as the token began; they triple from sub-step to sub-step
MOST_CONDITIONS = 4  # that choose between maps; each doubles the ways


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
    ways: tuple[Map, ...] = ()


@dataclass(frozen=True, slots=True)
class Unfactored:
    why: str
    ways: tuple[Map, ...] = ()


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
    version = versions(scope, linear, states)
    return {s: version(s, len(scope.assigns[s])) for s in states if scope.assigns.get(s)}


def versions(scope: Scope, linear: Linear, states: tuple[State, ...]) -> Callable[[State, int], Affine]:
    """Any version of the states, by state and number, over the states as the token began."""
    types = {s: scope.symbols[s[0]].type.member for s in states}
    values: dict[Marker, Affine] = {}
    for state in states:
        for k, assign in enumerate(scope.assigns.get(state, []), start=1):
            values[Marker(state[0], k, state[1], types[state])] = spread(linear.of(assign.value), types[state])
    done: dict[Marker, Affine] = {}

    def close(marker: Marker) -> Affine:
        if marker not in done:
            value = values[marker]
            inner = {t.marker: close(t.marker) for t in value.terms if t.marker.version > 0}
            done[marker] = found = substitute(value, inner)
            if (
                sum(len(c.terms) for c in [*(t.coef for t in found.terms), *(f.coef for f in found.free)])
                > MOST_MONOMIALS
            ):
                raise TooLarge
        return done[marker]

    return lambda state, k: close(Marker(state[0], k, state[1], types[state]))


def map_of(scope: Scope, terms: tuple[Term, ...]) -> Map:
    """The linear part of a step."""
    found = _map_of(scope, terms)
    conditions = _conditions(terms) if isinstance(found, ElementWise) or _dense(found) else []
    if not 0 < len(conditions) <= MOST_CONDITIONS:
        return found
    ways = tuple(map_of(scope, _where(terms, conditions[0], holds)) for holds in (True, False))
    flat = tuple(w for way in ways for w in (way.ways if not isinstance(way, Factored) and way.ways else (way,)))
    if any(isinstance(w, Unfactored) or (isinstance(found, Factored) and _dense(w)) for w in flat):
        return found
    if isinstance(found, ElementWise):
        return replace(found, ways=flat)
    return Unfactored("a condition chooses between maps that are no product of the same two sides", flat)


def _dense(m: Map) -> bool:
    match m:
        case Factored(left, right):
            return Shape.DENSE in (side(list(left)).shape, side(list(right)).shape)
        case ElementWise():
            return False
        case Unfactored():
            return True
        case _:
            assert_never(m)


def _conditions(terms: tuple[Term, ...]) -> list[typed.Expr]:
    """The conditions that are factors of some coefficient."""
    found = (mask(atom) for t in terms for _, powers in t.coef.terms for atom, power in powers if power > 0)
    return list(dict.fromkeys(m[0] for m in found if m is not None))


def _where(terms: tuple[Term, ...], condition: typed.Expr, holds: bool) -> tuple[Term, ...]:
    """The terms that are left when the condition is known."""
    out = []
    for t in terms:
        kept = []
        for number, powers in t.coef.terms:
            masks = [(mask(atom), atom) for atom, power in powers if power > 0]
            told = {atom: m[1] for m, atom in masks if m is not None and m[0] == condition}
            if all(value is holds for value in told.values()):
                kept.append((number, tuple((a, p) for a, p in powers if a not in told)))
        if kept:
            out.append(replace(t, coef=Coef(tuple(kept))))
    return tuple(out)


def _map_of(scope: Scope, terms: tuple[Term, ...]) -> Map:
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
