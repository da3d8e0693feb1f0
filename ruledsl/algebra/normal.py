"""The normal form of one matrix or vector state, for the chunk floor.

Terms are collected by write key; a read with the same key shares its row with the value. A state whose low rank is on
the left is put transposed. Sub-steps stay sub-steps; one that only decays joins the next, unless a read-out looks
between them. What has no such form gets a reason instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ruledsl.algebra import build
from ruledsl.algebra.affine import Affine, Free
from ruledsl.algebra.logarithm import log_of
from ruledsl.algebra.scalars import UNIT, Coef, common, over
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.sides import Part, PartKind, matrix, merge
from ruledsl.algebra.steps import ElementWise, Factored, Map, Step, Unfactored
from ruledsl.algebra.verdict import Decay, MatrixForm, Write
from ruledsl.algebra.verdict import Step as FormStep
from ruledsl.lang.typed import Expr, Type

NO_OUTER_PRODUCT = "a matrix is added that is no outer product: no matmul form"


class NoForm(Exception):
    """There is no matmul form; the message says why."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the read-outs want of a state: the versions they look at, and whether they take it whole."""

    versions: frozenset[int]
    whole: bool  # a vector state read as itself, not in an inner product


def matrix_form(scope: Scope, state: State, steps: list[Step], maps: list[Map], demand: Demand) -> MatrixForm:
    symbol = scope.symbols[state[0]]
    plain = [_factored(m) for m in maps]
    for step in steps:
        for t in step.value.terms:
            if t.barrier:
                raise NoForm(f"{t.barrier} keeps the gradient of a chunk from following the token's")
    transposed = _orientation(symbol.type, plain, demand)
    form = [_step(scope, s, m, transposed) for s, m in zip(steps, plain, strict=True)]
    if any(s.left is not None for s in form) and any(w.read is not None for s in form for w in s.writes):
        raise NoForm(
            "a decay on the rows next to a read of the rows' products: every row would need a system of its own"
        )
    rows, cols = symbol.type.rows, symbol.type.cols
    if transposed:
        rows, cols = cols, rows
    return MatrixForm(state[0], rows, cols, transposed, _join(form, demand), state[1])


def _factored(m: Map) -> Factored:
    match m:
        case ElementWise():
            raise NoForm("the decay is a full matrix, entry by entry: no matmul form")
        case Unfactored(why):
            raise NoForm(why)
        case Factored() if m.transposed:
            raise NoForm("the state is transposed from token to token: no matmul form")
    for part in (*m.left, *m.right):
        if part.kind in (PartKind.MONOMIAL, PartKind.TURN, PartKind.DENSE):
            raise NoForm(f"the transition has a {part.kind} factor: no matmul form")
    return m


def _orientation(type: Type, maps: list[Factored], demand: Demand) -> bool:
    left = any(p.kind is PartKind.RANK for m in maps for p in m.left)
    right = any(p.kind is PartKind.RANK for m in maps for p in m.right)
    if left and right:
        raise NoForm("low rank on both sides: no matmul form")
    if type.is_vector:  # as a row where it is read in inner products, as a column where it is read whole
        return left or not demand.whole
    return left


def _step(scope: Scope, step: Step, m: Map, transposed: bool) -> FormStep:
    assert isinstance(m, Factored)
    left, right = (m.right, m.left) if transposed else (m.left, m.right)
    if transposed:
        left, right = tuple(_turned(p) for p in left), tuple(_turned(p) for p in right)
    decay_left, decay_right = _decay(scope, left), _decay(scope, right)
    factor = UNIT  # a scalar of the rows' side belongs to the whole transition
    if decay_left is not None and decay_left.value.type.is_scalar:
        factor = Coef.of(decay_left.value)
        decay_left = None
        right = tuple(p.times(factor) for p in right)
        decay_right = _decay(scope, right)
    ranks = [p for p in right if p.kind is PartKind.RANK]
    if ranks and decay_left is not None:
        raise NoForm(
            "a decay on the rows next to a read of the rows' products: every row would need a system of its own"
        )
    if not m.left or not m.right:
        decay_right = Decay(build.ZERO)
    return FormStep(step.version, decay_right, decay_left, _writes(ranks, offset(scope, step.value, transposed)))


def _turned(p: Part) -> Part:
    return Part(p.coef, p.kind, p.key, p.matrix) if p.kind is PartKind.RANK else p


def _decay(scope: Scope, found: tuple[Part, ...]) -> Decay | None:
    """The diagonal part of a side; None for the identity."""
    flat = [p for p in found if p.kind is not PartKind.RANK]
    if not flat:
        return Decay(build.ZERO)
    if len(flat) == 1 and flat[0].kind is PartKind.IDENTITY and flat[0].coef.literal == 1:
        return None
    value = build.summed(build.mul(p.coef.expr(), p.matrix) if p.matrix is not None else p.coef.expr() for p in flat)
    assert value is not None
    return Decay(value, log_of(scope, value))


def offset(scope: Scope, value: Affine, transposed: bool) -> list[tuple[Coef, Expr, Expr]]:
    """The state-free part as coef * u w^T."""
    out = []
    for f in value.free:
        found = _outer(scope, f, value.type)
        for p in found:
            if p.kind is not PartKind.RANK:
                raise NoForm(NO_OUTER_PRODUCT)
            assert p.matrix is not None and p.key is not None
            u, w = (p.key, p.matrix) if transposed else (p.matrix, p.key)
            out.append((p.coef, u, w))
    return out


def _outer(scope: Scope, f: Free, type: Type) -> list[Part]:
    if type.is_scalar:
        return [Part(f.coef, PartKind.RANK, build.ONE, build.ONE)] if not f.chain else []
    return merge([p.times(f.coef) for p in matrix(scope, build.chain(f.chain))])


def _writes(ranks: list[Part], offsets: list[tuple[Coef, Expr, Expr]]) -> tuple[Write, ...]:
    """One per key. Where a read and a value stand together, the factor they share becomes the scale."""
    keys: list[Expr] = []
    for key in [p.key for p in ranks] + [w for _, _, w in offsets]:
        assert key is not None
        if key not in keys:
            keys.append(key)
    out = []
    for key in keys:
        reads = [(p.coef, p.matrix) for p in ranks if p.key == key]
        values = [(c, u) for c, u, w in offsets if w == key]
        out.append(_write(key, [(c, m) for c, m in reads if m is not None], values))
    return tuple(out)


def _write(key: Expr, reads: list[tuple[Coef, Expr]], values: list[tuple[Coef, Expr]]) -> Write:
    if not reads:
        return Write(key, summed(values))
    shared = common([c for c, _ in reads] + [c for c, _ in values])
    reads = [(over(c, shared), x) for c, x in reads]
    values = [(over(c, shared), x) for c, x in values]
    scale = None if shared == UNIT else shared.expr()
    value = summed(values) if values else None
    if len(reads) == 1:
        coef, read = reads[0]
        return Write(key, value, coef.expr(), read, scale)
    return Write(key, value, build.ONE, summed(reads), scale)


def summed(parts: list[tuple[Coef, Expr]]) -> Expr:
    out = build.summed(build.mul(c.expr(), x) for c, x in parts)
    assert out is not None
    return out


def _join(steps: list[FormStep], demand: Demand) -> tuple[FormStep, ...]:
    """A step that only decays joins the next one, whose reads then see the decay."""
    out: list[FormStep] = []
    for step in steps:
        before = out[-1] if out else None
        hidden = before is not None and not before.writes and before.version not in demand.versions
        if before is not None and hidden and (step.right is None and step.left is None):
            writes = tuple(replace(w, after_decay=w.read is not None) for w in step.writes)
            out[-1] = FormStep(step.version, before.right, before.left, writes)
        elif (
            before is not None
            and hidden
            and not any(w.read is not None for w in step.writes)
            and not step.left
            and not before.left
        ):
            out[-1] = replace(step, right=_times(before.right, step.right))
        else:
            out.append(step)
    return tuple(out)


def _times(x: Decay | None, y: Decay | None) -> Decay | None:
    if x is None or y is None:
        return x or y
    log = build.add(x.log, y.log) if x.log is not None and y.log is not None else None
    return Decay(build.mul(x.value, y.value), log)
