"""The composition law of each stratum: what one token is, what two are, what a run of tokens stores.

Affine strata only (`monoids` has the changes of variable). A token is S -> L S R + U; two tokens, 1 and then 2, are
S -> (L_2 L_1) S (R_1 R_2) + (L_2 U_1 R_2 + U_2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce

from ruledsl.algebra import dated
from ruledsl.algebra.affine import TooLarge
from ruledsl.algebra.analysis import Part
from ruledsl.algebra.explain.explanation import Equation, Line, Sentence
from ruledsl.algebra.explain.writer import Writer, times
from ruledsl.algebra.scalars import UNIT
from ruledsl.algebra.sides import Part as SidePart
from ruledsl.algebra.sides import PartKind, Shape, compose, merge, side
from ruledsl.algebra.steps import ElementWise, Factored, Unfactored, composed
from ruledsl.algebra.transition import affine_text, side_text, state_text
from ruledsl.lang.typed import Type

MOST_STEPS = 32  # sub-steps of a token whose product is taken
MOST_PARTS = 4  # of a product of two tokens that is written out
MOST_OFFSETS = 4
_IDENTITY = SidePart(UNIT, PartKind.IDENTITY)


def law(w: Writer, part: Part) -> Iterator[Line]:
    """Of an affine stratum."""
    if part.too_large:
        yield Sentence("not followed: " + (part.found.reason if part.found else ""))
    elif part.blocks:
        yield from _coupled(w, part)
    elif any(isinstance(m, Unfactored) and m.ways for m in part.maps):
        yield from _chosen(w, part)
    elif any(isinstance(m, Unfactored) for m in part.maps):
        yield from _unfactored(w, part)
    elif any(isinstance(m, ElementWise) for m in part.maps):
        yield from _element_wise(w, part)
    else:
        yield from _factored(w, part)


# ------------------------------------------------------------------------------------------------ S -> L S R + U


def _factored(w: Writer, part: Part) -> Iterator[Line]:
    state, type = part.states[0], w.type_of(part.states[0])
    maps = [m for m in part.maps if isinstance(m, Factored)]
    if len(maps) > MOST_STEPS:
        yield Sentence(f"a token has {len(maps)} sub-steps; products of more than {MOST_STEPS} are not written out")
        return
    flips = any(m.transposed for m in maps)
    own = w.own(state)
    if not maps:
        yield Sentence(f"{w.inline(own)} does not change; nothing is stored")
        return
    left, right = _product([list(m.left) for m in reversed(maps)]), _product([list(m.right) for m in maps])
    if type.is_scalar:
        left, right = _product([left, right]), [_IDENTITY]
    if flips:
        yield from _flipped(w, part, left, right, type)
        return
    sides = [(n, p) for n, p in (("L", left), ("R", right)) if not _is_identity(p)]
    carried = not any(not p for _, p in sides)
    names = {n: w.fresh(n, "Q" if n == "L" else "W") for n, _ in sides}
    u = w.fresh("U", "Y")
    lhs = " ".join([*([names["L"]] if "L" in names else []), own, *([names["R"]] if "R" in names else [])])
    if not carried:
        yield Sentence(
            f"a token forgets all that was before: two tokens are the second one; only its {w.inline(u)} is stored"
        )
        return
    yield Equation(own, f"{lhs} + {u}", "<-", "one token")
    for n, p in sides:
        found = [m.left for m in reversed(maps)] if n == "L" else [m.right for m in maps]
        factors = [side_text(s, w.tex).removesuffix(" I") for s in found if not _is_identity(list(s))]
        short = len(p) <= MOST_PARTS or len(factors) == 1
        whole = tuple(dated.part(x, w.today(part)) for x in p)
        yield Equation(names[n], _bare(side_text(whole, w.tex)) if short else " ".join(factors))
    yield Equation(u, _offset(w, part))
    two = " ".join(
        [
            *([f"({_at(w, names['L'], 2)} {_at(w, names['L'], 1)})"] if "L" in names else []),
            own,
            *([f"({_at(w, names['R'], 1)} {_at(w, names['R'], 2)})"] if "R" in names else []),
        ]
    )
    first = " ".join(
        [
            *([_at(w, names["L"], 2)] if "L" in names else []),
            _at(w, u, 1),
            *([_at(w, names["R"], 2)] if "R" in names else []),
        ]
    )
    yield Equation(own, f"{two} + ({first} + {_at(w, u, 2)})", "<-", "two tokens, 1 and then 2")
    for n, p in sides:
        yield from _written_out(w, names[n], p, n)
    yield Sentence(_stored(w, part, left, right, type))


def _written_out(w: Writer, name: str, found: list[SidePart], which: str) -> Iterator[Line]:
    """The product of two tokens' factors in the rule's names."""
    if len(found) ** 2 > MOST_PARTS:
        return
    one, two = ([dated.part(p, w.at(i)) for p in found] for i in ("1", "2"))
    order = (one, two) if which == "R" else (two, one)
    try:
        both = merge([compose(a, b) for a in order[0] for b in order[1]])
    except TooLarge:
        return
    shown = f"{_at(w, name, 1)} {_at(w, name, 2)}" if which == "R" else f"{_at(w, name, 2)} {_at(w, name, 1)}"
    yield Equation(shown, _bare(side_text(tuple(both), w.tex)))


def _stored(w: Writer, part: Part, left: list[SidePart], right: list[SidePart], type: Type) -> str:
    """What a run of n tokens needs, in numbers."""
    kept, dense = [], []
    rank = 0
    for found, dim in ((left, type.rows), (right, type.cols)):
        own = side(found)
        match own.shape:
            case Shape.SCALAR:
                kept.append("1 number")
            case Shape.DIAGONAL:
                kept.append(f"{times(dim)} numbers")
            case Shape.TURN:
                kept.append(f"{times(dim)} numbers (pairs: a length and an angle)")
            case Shape.MONOMIAL:
                kept.append(f"a permutation and {times(dim)} numbers")
            case Shape.DENSE:
                dense.append(times(dim))
        if own.rank:
            rank += own.rank
            kept.append(f"{own.rank} pair{'s' if own.rank > 1 else ''} of {times(dim)}-vectors per token")
    u = f"{w.inline(w.fresh('U', 'Y'))} ({times(type.rows, type.cols)} numbers)"
    if dense:
        k = " and ".join(f"{d}^2 numbers" for d in dense)
        return f"a run of tokens stores {k} for the factor, and {u}; composing costs a dense product, {dense[0]}^3"
    if rank:
        return (
            f"a run of n tokens stores {' and '.join(kept)}, and {u}: the rank grows by {rank} per token, so a chunk"
            f" bounds it and the state starts the next chunk"
        )
    return (
        f"a run of tokens of any length stores {' and '.join([*kept, u])}: as much as one token"
        if kept
        else (f"a run of tokens of any length stores {u}, the sum of the tokens': as much as one token")
    )


def _flipped(w: Writer, part: Part, left: list[SidePart], right: list[SidePart], type: Type) -> Iterator[Line]:
    own, u = w.own(part.states[0]), w.fresh("U", "Y")
    turn = r"^\top" if w.tex else "^T"
    today = w.today(part)
    pieces = [
        _bare(side_text(tuple(dated.part(x, today) for x in p), w.tex)) for p in (left, right) if not _is_identity(p)
    ]
    yield Equation(
        own, f"{' '.join(p.removesuffix(' I') for p in pieces)} {own}{turn} + {u}".strip(), "<-", "one token"
    )
    yield Equation(u, _offset(w, part))
    yield Sentence(
        f"two tokens transpose twice: a run of tokens is a factor, whether the state is transposed, and {w.inline(u)};"
        f" under a transposed factor {w.inline(u)} is transposed with the state"
    )


# ------------------------------------------------------------------------------------------------ other affine maps


def _element_wise(w: Writer, part: Part) -> Iterator[Line]:
    own, x, u = w.own(part.states[0]), w.fresh("X", "D", "F"), w.fresh("U", "Y")
    type = w.type_of(part.states[0])
    dot = r" \odot " if w.tex else " .* "
    yield Equation(own, f"{x}{dot}{own} + {u}", "<-", "one token, entry by entry")
    yield Equation(
        own,
        f"({_at(w, x, 2)}{dot}{_at(w, x, 1)}){dot}{own} + ({_at(w, x, 2)}{dot}{_at(w, u, 1)} + {_at(w, u, 2)})",
        "<-",
        "two tokens, 1 and then 2",
    )
    yield Sentence(
        f"a run of tokens of any length stores 2*{times(type.rows, type.cols)} numbers: as much as one token"
    )


def _unfactored(w: Writer, part: Part) -> Iterator[Line]:
    state, type = part.states[0], w.type_of(part.states[0])
    own, f, u = w.own(state), w.fresh("T", "F"), w.fresh("U", "Y")
    why = next(m.why for m in part.maps if isinstance(m, Unfactored))
    n = times(type.rows, type.cols)
    yield Equation(own, f"{f}({own}) + {u}", "<-", "one token")
    yield Equation(
        own, f"{_at(w, f, 2)}({_at(w, f, 1)}({own})) + ({_at(w, f, 2)}({_at(w, u, 1)}) + {_at(w, u, 2)})", "<-",
        "two tokens, 1 and then 2",
    )  # fmt: skip
    yield Sentence(
        f"{w.inline(f)} is linear, but {why}: as a matrix on the entries of the state it has ({n})^2 numbers, and"
        f" composing two costs ({n})^3"
    )


def _chosen(w: Writer, part: Part) -> Iterator[Line]:
    """A condition on the inputs chooses between maps of one class."""
    own, (state,) = w.own(part.states[0]), part.states
    for step in part.steps:
        yield Equation(
            state_text(state, w.tex), affine_text(dated.affine(step.value, w.today(part)), w.tex), "<-", "one token"
        )
    found = part.found
    assert found is not None
    yield Sentence(
        f"a condition that does not read {w.inline(own)} chooses between maps, each of them a factor on either side of"
        f" {w.inline(own)}: {found.reason}"
    )


def _coupled(w: Writer, part: Part) -> Iterator[Line]:
    names = [w.own(s) for s in part.states]
    n = len(names)
    x, p, u = w.fresh("X", "Y"), w.fresh("P", "F"), w.fresh("U", "Y")
    stacked = f"({', '.join(names)})"
    yield Equation(x, stacked, "=", "the states, stacked")
    yield Equation(x, f"{p} {x} + {u}", "<-", "one token")
    for state, value in part.blocks:
        yield Equation(state_text(state, w.tex), affine_text(dated.affine(value, w.today(part)), w.tex), "<-")
    yield Equation(x, f"({_at(w, p, 2)} {_at(w, p, 1)}) {x} + ({_at(w, p, 2)} {_at(w, u, 1)} + {_at(w, u, 2)})", "<-", "two tokens, 1 and then 2")  # fmt: skip
    found = part.found
    assert found is not None
    sizes = " + ".join(times(w.type_of(s).rows, w.type_of(s).cols) for s in part.states)
    each = "a number each" if "scalar" in found.structure else "an entry-wise factor each"
    if found.rank:
        yield Sentence(
            f"a run of m tokens stores {n} x {n} blocks ({each}), {found.rank} pair{'s' if found.rank > 1 else ''} of"
            f" stacked vectors per token, and {w.inline(u)} ({sizes} numbers): a chunk bounds the rank"
        )
    elif found.kind.parallel:
        yield Sentence(
            f"a run of tokens of any length stores {n} x {n} blocks ({each}) and {w.inline(u)} ({sizes} numbers):"
            f" as much as one token"
        )
    else:
        yield Sentence(f"the blocks are dense: {found.reason}")


# ------------------------------------------------------------------------------------------------ pieces


def _product(sides: list[list[SidePart]]) -> list[SidePart]:
    return reduce(lambda x, y: merge([compose(a, b) for a in x for b in y]), sides)


def _is_identity(found: list[SidePart]) -> bool:
    return len(found) == 1 and found[0].kind is PartKind.IDENTITY and found[0].coef.literal == 1


def _bare(shown: str) -> str:
    return shown[1:-1] if shown.startswith("(") and shown.endswith(")") and _closes_last(shown) else shown


def _closes_last(shown: str) -> bool:
    depth = 0
    for i, c in enumerate(shown):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return i == len(shown) - 1
    return False


def _offset(w: Writer, part: Part) -> str:
    """U: what a token adds. Through several sub-steps an earlier one's passes the later factors."""
    state = part.states[0]
    whole = composed(w.scope, part.linear, part.states)[state] if len(part.steps) > 1 else part.steps[0].value
    if len(whole.free) > MOST_OFFSETS:
        return w.words("what the sub-steps add up to from a state of 0")
    return affine_text(dated.affine(replace(whole, terms=()), w.today(part)), w.tex)


def _at(w: Writer, name: str, token: int) -> str:
    return w.name(name, str(token))
