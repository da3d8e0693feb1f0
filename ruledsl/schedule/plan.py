"""From the two chunk programs of a rule to what runs: the chunk length, the form of the serial path, the phases.

    Schedule = Schedule(device, chunk, form, forward, backward, saved, reason)
    Pass     = Pass(program, carries, labels, kept)

Each pass runs in three phases: *free* nodes for all chunks at once, *serial* nodes chunk by chunk (in the gradient from
the last chunk to the first), *after* nodes for all chunks at once. Between the passes only the states that enter each
chunk are saved; the gradient program computes the rest again, for all chunks at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ruledsl.chunk.program import Node, Program, Rows
from ruledsl.chunk.systems import inside, outer
from ruledsl.lang.typed import Dim, DimOp
from ruledsl.schedule.cost import seconds
from ruledsl.schedule.fold import Form, fold, lower
from ruledsl.schedule.labels import Carry, Label, carries, labels
from ruledsl.schedule.target import Target

CHUNKS = (16, 32, 64)
TYPICAL_SIZE = 64  # of a size that the caller leaves open
TYPICAL_HEADS = 16  # batch times heads
TYPICAL_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class Pass:
    """A program with its phases. `kept`: serial nodes whose value for each chunk is read after the loop."""

    program: Program
    carries: tuple[Carry, ...]
    labels: tuple[Label, ...]
    kept: tuple[int, ...]

    def phase(self, label: Label) -> tuple[int, ...]:
        return tuple(i for i, own in enumerate(self.labels) if own is label)


@dataclass(frozen=True, slots=True)
class Schedule:
    device: str
    chunk: int
    form: Form
    forward: Pass
    backward: Pass
    saved: tuple[str, ...]  # states whose value at each chunk's start goes from the forward to the backward pass
    reason: str


def plan(
    forward: Program,
    gradient: Program,
    device: Target,
    sizes: Mapping[str, int] | None = None,
    chunk: int | None = None,
    form: Form | None = None,
) -> Schedule:
    """The cheapest schedule by the cost model; `chunk` and `form` override it. `sizes` are those expected: the schedule
    is right for all. A program that is right for one chunk length only has that one, whatever the caller says."""
    operands = device.shared_bytes > 0
    ahead, back = lower(forward, operands), lower(gradient, operands)
    assumed = {name: TYPICAL_SIZE for p in (ahead, back) for name in _sizes(p)} | dict(sizes or {})
    forms = (form,) if form else tuple(Form)
    fixed = forward.chunk or chunk
    lengths = (fixed,) if fixed else CHUNKS
    candidates = []
    for candidate in forms:
        passes = split(fold(ahead, candidate)), split(fold(back, candidate))
        for length in lengths:
            price = sum(
                seconds(p.program, p.carries, device, length, assumed, TYPICAL_HEADS, TYPICAL_LENGTH) for p in passes
            )
            candidates.append((price, length, candidate, passes))
    price, length, chosen, (first, second) = min(candidates, key=lambda c: c[0])
    others = ", ".join(f"{f.value} C={n} {p * 1e3:.1f}" for p, n, f, _ in candidates if (n, f) != (length, chosen))
    reason = f"estimated {price * 1e3:.1f} ms for {TYPICAL_HEADS} heads of {TYPICAL_LENGTH} tokens" + (
        f"; others: {others}" if others else ""
    )
    return Schedule(device.name, length, chosen, first, second, tuple(c.key for c in first.carries), reason)


def split(program: Program) -> Pass:
    """The phases of a program."""
    carried = carries(program)
    label = labels(program, carried)
    entering = {c.enter for c in carried}
    recipes = inside(program)
    read = {
        a
        for i, node in enumerate(program.nodes)
        if label[i] is Label.AFTER and i not in recipes
        for a in (*node.args, *(outer(program, i) if node.op == "conjugate" else ()))
        if label[a] is Label.SERIAL and a not in recipes
    }
    read |= {
        r.node for r in program.results if label[r.node] is Label.SERIAL and r.node not in {c.leave for c in carried}
    }
    return Pass(program, carried, label, tuple(sorted(read - entering)))


def _sizes(program: Program) -> Iterator[str]:
    """The symbols in the shapes."""

    def symbols(dim: Dim) -> Iterator[str]:
        match dim:
            case str():
                yield dim
            case DimOp(_, left, right):
                yield from symbols(left)
                yield from symbols(right)

    def of(node: Node) -> Iterator[str]:
        for axis in node.shape:
            if not isinstance(axis, Rows):
                yield from symbols(axis)

    for node in program.nodes:
        yield from of(node)
