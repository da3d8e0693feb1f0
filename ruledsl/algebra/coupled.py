"""The normal form of states that depend on each other, for the chunk floor.

Every version that matters is written over the states as the token began, and over copies of what is frozen. Its low rank
is collected by key; what stands along one key is one row where the versions hold multiples of each other, so that it is
computed (and solved for) once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from ruledsl.algebra import build
from ruledsl.algebra.affine import Affine
from ruledsl.algebra.analysis import Part
from ruledsl.algebra.circles import circles
from ruledsl.algebra.classify import orientation, oriented
from ruledsl.algebra.conditions import possible
from ruledsl.algebra.held import with_copies
from ruledsl.algebra.logarithm import log_of
from ruledsl.algebra.normal import Demand, NoForm, offset, summed
from ruledsl.algebra.scalars import MINUS, UNIT, Coef, common, over
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.sides import Part as SidePart
from ruledsl.algebra.sides import PartKind, parts
from ruledsl.algebra.steps import versions
from ruledsl.algebra.verdict import (
    CoupledCopy,
    CoupledForm,
    CoupledRead,
    CoupledState,
    CoupledVersion,
    CoupledWrite,
    Decay,
)
from ruledsl.lang.typed import Dim, Expr, Type

MOST_COUPLED = 4  # states in a circle; a chunk forms a tile of C x C for every pair of them
MOST_JOINT = 32  # states

_Key = TypeVar("_Key")
Item = tuple[int | None, Expr]  # (j, x): the read S_j x; (None, u): the value u
Row = dict[Item, Coef]


def coupled_form(scope: Scope, part: Part, demand: Mapping[State, Demand]) -> CoupledForm:
    """Raises NoForm and TooLarge."""
    states = part.states
    if len(states) > MOST_JOINT:
        raise NoForm(f"{len(states)} states together: more than {MOST_JOINT} have no matmul form here")
    version = versions(scope, part.linear, states)
    last = {s: len(scope.assigns[s]) for s in states}
    wanted = [(s, k) for s in states for k in sorted({*demand[s].versions, last[s]} - {0})]
    split = {(s, k): with_copies(scope, version(s, k)) for s, k in wanted}
    values = {at: value for at, (value, _) in split.items()}
    copies = {marker: copy for _, found in split.values() for marker, copy in found.items()}
    types = {s: scope.symbols[s[0]].type.member for s in states} | {s: copy.type for s, copy in copies.items()}
    turned = _turned(scope, types, values, any(d.whole for d in demand.values()))
    rows, cols = _shape(types, turned)
    number = {s: i for i, s in enumerate(types)}
    read = {(s, k): _read(scope, s, x, turned, number) for (s, k), x in values.items()}
    entries = {(number[s], j): c for s in states for j, c in _last(read, s, last[s], number).items()}
    entries |= {(number[s], number[s]): UNIT for s in copies}
    around = max(map(len, circles(len(types), entries)))
    if around > MOST_COUPLED:
        raise NoForm(f"{around} coupled states: more than {MOST_COUPLED} have no matmul form here")
    gate = common([*entries.values()])
    writes = _Writes([])
    simplest = sorted(read.items(), key=lambda x: sum(len(c.terms) for r in x[1][1].values() for c in r.values()))
    held = {at: [writes.place(key, row) for key, row in low.items()] for at, (_, low) in simplest}
    return CoupledForm(
        tuple(CoupledState(name, turned[name, member], member) for name, member in states),
        rows,
        cols,
        tuple(_write(key, row) for key, row in writes.found),
        tuple(
            CoupledVersion(
                number[s],
                k,
                tuple((j, c.expr()) for j, c in sorted(read[s, k][0].items())),
                tuple((w, c.expr()) for w, c in sorted(held[s, k], key=lambda x: x[0])),
            )
            for s, k in wanted
        ),
        None if gate.literal is not None else Decay(gate.expr(), log_of(scope, gate.expr())),
        tuple((i, j, (c if gate.literal is not None else over(c, gate)).expr()) for (i, j), c in entries.items()),
        tuple(CoupledCopy(copy, turned[s]) for s, copy in copies.items()),
    )


def _last(
    read: Mapping[tuple[State, int], tuple[dict[int, Coef], dict[Expr, Row]]], state: State, version: int, number: Mapping[State, int]
) -> dict[int, Coef]:
    """What a token makes of a state, as multiples of the states."""
    return read[state, version][0] if version else {number[state]: UNIT}


def _turned(
    scope: Scope, types: Mapping[State, Type], values: Mapping[tuple[State, int], Affine], whole: bool
) -> dict[State, bool]:
    """Which states stand transposed: so that none meets the transpose of another, and the low rank is on the right."""
    entries = [(s, t) for (s, _), x in values.items() for t in x.terms]
    turned = dict.fromkeys(types, False) | orientation(entries)
    ranks = [
        [any(p.kind is PartKind.RANK for p in parts(scope, side)) for side in (t.left, t.right)]
        for _, t in oriented(entries, turned)
    ]
    left, right = (any(found) for found in zip(*ranks, strict=True))
    if left and right:
        raise NoForm("coupled states with low rank on both sides: no matmul form")
    vectors = all(t.is_vector for t in types.values())  # as rows where read in inner products
    return {s: turned[s] != (left or vectors and not whole) for s in types}


def _shape(types: Mapping[State, Type], turned: Mapping[State, bool]) -> tuple[Dim, Dim]:
    shapes = {(t.cols, t.rows) if turned[s] else (t.rows, t.cols) for s, t in types.items()}
    if len(shapes) > 1:
        raise NoForm("coupled states of different shapes: no matmul form")
    (shape,) = shapes
    return shape


def _read(
    scope: Scope, state: State, value: Affine, turned: Mapping[State, bool], number: Mapping[State, int]
) -> tuple[dict[int, Coef], dict[Expr, Row]]:
    """A version of `state` as multiples of the states, and as rows along keys."""
    mixed: dict[int, Coef] = {}
    low: dict[Expr, Row] = {}

    def add(key: Expr, item: Item, coef: Coef) -> None:
        row = low.setdefault(key, {})
        row[item] = row[item].plus(coef) if item in row else coef

    for _, t in oriented([(state, t) for t in value.terms], turned):
        if t.barrier:
            raise NoForm(f"{t.barrier} keeps the gradient of a chunk from following the token's")
        if t.opaque or t.transposed or t.weight is not None or t.marker.version < 0:
            raise NoForm("coupled states with a factor that mixes or scales their entries: no matmul form")
        j = number[t.marker.state]
        for left in parts(scope, t.left):
            for right in parts(scope, t.right):
                coef = t.coef.times(left.coef).times(right.coef)
                _refuse(left, right)
                if right.kind is PartKind.IDENTITY:
                    mixed[j] = mixed[j].plus(coef) if j in mixed else coef
                else:
                    assert right.matrix is not None and right.key is not None
                    add(right.key, (j, right.matrix), coef)
    for coef, u, w in offset(scope, value, turned[state]):
        add(w, (None, u), coef)
    rows = {key: _not_zero(row) for key, row in low.items()}
    return _not_zero(mixed), {key: row for key, row in rows.items() if row}


def _not_zero(coefs: Mapping[_Key, Coef]) -> dict[_Key, Coef]:
    return {key: c for key, x in coefs.items() if not (c := possible(x)).is_zero}


def _refuse(left: SidePart, right: SidePart) -> None:
    kinds = (left.kind, right.kind)
    if PartKind.DIAGONAL in kinds:
        raise NoForm("coupled states whose gates are vectors: the matmul form here mixes them by scalars")
    if left.kind is not PartKind.IDENTITY or right.kind not in (PartKind.IDENTITY, PartKind.RANK):
        raise NoForm("coupled states with factors other than scalars and low rank: no matmul form")


@dataclass(slots=True)
class _Writes:
    """Rows along keys, each up to a scalar factor."""

    found: list[tuple[Expr, Row]]

    def place(self, key: Expr, row: Row) -> tuple[int, Coef]:
        """Which of the rows it is a multiple of, and by what factor."""
        for w, (other, known) in enumerate(self.found):
            if other == key and known.keys() == row.keys():
                ratio = _ratio(known, row)
                if ratio is not None:
                    return w, ratio
        shared = next(iter(row.values())) if len(row) == 1 else _shared(row)
        self.found.append((key, {i: UNIT if len(row) == 1 else over(c, shared) for i, c in row.items()}))
        return len(self.found) - 1, shared


def _shared(row: Row) -> Coef:
    """What the coefficients have in common, with the sign that makes the value (or the first read) positive."""
    shared = common(list(row.values()))
    first = next((c for (j, _), c in row.items() if j is None), next(iter(row.values())))
    return shared.times(MINUS) if first.terms[0][0] < 0 else shared


def _ratio(known: Row, row: Row) -> Coef | None:
    """row / known, if that is one factor for all items."""
    for item, c in known.items():
        number = c.literal
        if number:
            ratio = row[item].times(Coef(((1 / number, ()),)))
            return ratio if all(row[i] == known[i].times(ratio) for i in row) else None
    return None


def _write(key: Expr, row: Row) -> CoupledWrite:
    values = [(c, x) for (j, x), c in row.items() if j is None]
    reads = []
    for source in sorted({j for j, _ in row if j is not None}):
        found = [(c, x) for (j, x), c in row.items() if j == source]
        gain, vector = (found[0][0].expr(), found[0][1]) if len(found) == 1 else (build.ONE, summed(found))
        reads.append(CoupledRead(source, gain, vector))
    return CoupledWrite(key, summed(values) if values else None, tuple(reads))
