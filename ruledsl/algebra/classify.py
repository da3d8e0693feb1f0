"""The kind of an affine stratum.

One state: every sub-step is X -> L X R, or element-wise. Composing keeps both sides in their class, so a side that is
diagonal (plus permutations or rotations of pairs) stays of O(1) size, and rank adds up along the tokens.
Several states: the whole token as n x n blocks; blocks that are multiples of I (or diagonal, or element-wise) mix the
states by a small matrix, and low rank counts on the stacked state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce

from ruledsl.algebra.affine import Affine, Term, flip
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.sides import Part, PartKind, Shape, Side, both, either, parts, side
from ruledsl.algebra.steps import ElementWise, Factored, Map, Unfactored
from ruledsl.algebra.verdict import Kind


@dataclass(frozen=True, slots=True)
class Class:
    kind: Kind
    structure: str
    reason: str
    rank: int | None = None


def single(maps: list[Map]) -> Class:
    """Of a state that is a stratum of its own, from its sub-steps."""
    maps = next(([m] for m in maps if _zero(m)), maps)  # all that came before is forgotten
    for m in maps:
        if isinstance(m, Unfactored) and not m.ways:
            return _dense(m.why)
    found = _of_ways([m.ways if isinstance(m, Unfactored) else (m,) for m in maps])
    if found.kind is Kind.DENSE and any(isinstance(m, ElementWise) and m.ways for m in maps):
        return _of_ways([(m,) if isinstance(m, Factored) else m.ways or (m,) for m in maps])
    return found


def _of_ways(steps: list[tuple[Map, ...]]) -> Class:
    """`steps`: per sub-step, the maps of which it is one."""
    every = [w for ways in steps for w in ways]
    flips = any(not isinstance(w, Unfactored) and w.transposed for w in every)
    left = right = Side(Shape.IDENTITY, 0)
    for step in steps:
        ways = [w for w in step if isinstance(w, Factored)]
        if not ways:
            continue
        left = both(left, reduce(either, (side(list(w.left)) for w in ways)))
        right = both(right, reduce(either, (side(list(w.right)) for w in ways)))
        if any(w.transposed for w in ways):
            left, right = right, left
    rank = left.rank + right.rank
    factored = [w for w in every if isinstance(w, Factored)]
    if flips:  # the sides change places from token to token
        left = right = both(left, right)
    if Shape.DENSE in (left.shape, right.shape):
        return _dense("a dense factor", "K^3")
    if len(factored) < len(every):
        if rank:
            return _dense("an element-wise factor next to low rank")
        if not (left.plain and right.plain):
            return Class(
                Kind.CLOSED,
                "element-wise, permuted",
                "each entry of the state is moved and scaled by itself; composing two tokens gives the same again",
            )
        return Class(
            Kind.CLOSED,
            "element-wise",
            "each entry of the state has a factor of its own; composing two tokens multiplies them",
        )
    name = _name(left, right, flips)
    if rank == 0:
        return Class(
            Kind.CLOSED, name, f"the transition is {_article(name)}; composing two tokens gives the same again"
        )
    count = sum(1 for m in factored if side(list(m.left)).rank or side(list(m.right)).rank)
    text = f"{count} sub-steps per token add rank {rank}" if count > 1 else f"each token adds rank {rank}"
    two = left.rank and right.rank
    where = " on both sides" if two else " on the left" if left.rank else ""
    return Class(Kind.CHUNKWISE, f"{name} + rank {rank}", f"{name} + low rank{where}: {text}, bounded by a chunk", rank)


def _zero(m: Map) -> bool:
    return isinstance(m, Factored) and (not m.left or not m.right)


def _name(left: Side, right: Side, flips: bool) -> str:
    order = list(Shape)
    if left.shape in (Shape.IDENTITY, Shape.SCALAR) or right.shape in (Shape.IDENTITY, Shape.SCALAR):
        name = str(max(left.shape, right.shape, key=order.index))
    elif left.shape is right.shape:
        name = f"{left.shape} on both sides"
    else:
        name = f"{left.shape} on the left, {right.shape} on the right"
    return name + (", transposed" if flips else "")


def _article(name: str) -> str:
    if name.startswith("identity"):
        return name.replace("identity", "the identity", 1)
    return f"a {name}" if name.startswith(("permutation",)) else name


def _dense(why: str, price: str = "(KV)^3") -> Class:
    return Class(Kind.DENSE, "dense", f"affine, but {why}: composing two tokens costs a dense product of order {price}")


# ------------------------------------------------------------------------------------------------ coupled states

_FLAT = (PartKind.IDENTITY, PartKind.DIAGONAL, PartKind.TURN)


def orientation(entries: list[tuple[State, Term]]) -> dict[State, bool]:
    """Which states to replace by their transposes so that no term is transposed, as far as there is such a choice."""
    turned: dict[State, bool] = {}
    links = [(target, t.marker.state, _transposed(t)) for target, t in entries]
    for start in dict.fromkeys(s for a, b, _ in links for s in (a, b)):
        if start in turned:
            continue
        turned[start] = False
        waiting = [start]
        while waiting:
            here = waiting.pop()
            for a, b, differ in links:
                if here in (a, b):
                    other = b if here == a else a
                    if other not in turned:
                        turned[other] = turned[here] != differ
                        waiting.append(other)
    return turned


def _transposed(t: Term) -> bool:
    return t.transposed and not t.marker.type.is_scalar


def oriented(entries: list[tuple[State, Term]], turned: Mapping[State, bool]) -> list[tuple[State, Term]]:
    """The terms over the states so replaced."""
    out = []
    for target, t in entries:
        new = replace(t, transposed=_transposed(t))
        new = flip(new) if turned[target] else new
        out.append((target, replace(new, transposed=new.transposed != turned[t.marker.state])))
    return out


def coupled(scope: Scope, values: dict[State, Affine]) -> Class:
    """Of states that depend on each other, from each one's new value over the old ones."""
    n = len(values)
    entries = [(target, t) for target, value in values.items() for t in value.terms]
    entries = oriented(entries, orientation(entries))
    if any(t.opaque or t.transposed for _, t in entries):
        return _dense("coupled states with a factor that mixes their entries", "(nKV)^3")
    low: list[tuple[State, Term]] = []
    shapes = set()
    turns = False
    for target, t in entries:
        sides = parts(scope, t.left), parts(scope, t.right)
        if all(p.kind in _FLAT for s in sides for p in s):
            element = t.weight is not None
            turns = turns or any(p.kind is PartKind.TURN for s in sides for p in s)
            diagonals = [any(p.kind is not PartKind.IDENTITY for p in s) for s in sides]
            shapes.add(
                "element"
                if element or all(diagonals)
                else "left"
                if diagonals[0]
                else "right"
                if diagonals[1]
                else "scalar"
            )
        elif (
            any(p.kind is PartKind.DENSE or p.kind is PartKind.MONOMIAL for s in sides for p in s)
            or t.weight is not None
        ):
            return _dense("coupled states with a dense factor", "(nK)^3")
        else:
            low.append((target, t))
    text = f"{n} coupled states: each token mixes them by {n} x {n} blocks"
    if not low:
        if shapes <= {"scalar"}:
            return Class(Kind.CLOSED, f"{n} x {n} blocks of scalars", f"{text} that are multiples of I")
        if turns:
            return Class(Kind.CLOSED, f"{n} x {n} blocks, turned", f"{text}, and turns pairs of entries")
        return Class(Kind.CLOSED, f"{n} x {n} blocks, element-wise", f"{text}, entry by entry")
    on_right = [_identity(parts(scope, t.left)) for _, t in low]
    on_left = [_identity(parts(scope, t.right)) for _, t in low]
    if all(on_right) and shapes <= {"scalar", "right"} or all(on_left) and shapes <= {"scalar", "left"}:
        rank = _stacked_rank(scope, low, right=all(on_right))
        inner = "multiples of I" if shapes <= {"scalar"} else "turns of pairs" if turns else "diagonal"
        blocks = "scalars" if shapes <= {"scalar"} else "turns" if turns else "diagonals"
        name = f"{n} x {n} blocks of {blocks} + rank {rank}"
        return Class(
            Kind.CHUNKWISE,
            name,
            f"{text} that are {inner}, plus rank {rank} on the stacked state, bounded by a chunk",
            rank,
        )
    return _dense("coupled states with several terms L S R that do not factor", "(nKV)^3")


def _identity(found: list[Part]) -> bool:
    return all(p.kind is PartKind.IDENTITY for p in found)


def _stacked_rank(scope: Scope, low: list[tuple[State, Term]], right: bool) -> int:
    reads, keys = set(), set()
    for target, t in low:
        for p in parts(scope, t.right if right else t.left):
            if p.kind is PartKind.RANK:
                read, key = (p.matrix, p.key) if right else (p.key, p.matrix)
                reads.add((t.marker, read))
                keys.add((target, key))
    return min(len(reads), len(keys))
