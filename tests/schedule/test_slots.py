"""Programs without interleaved tiles compute the same."""

from __future__ import annotations

import pytest
import torch

from ruledsl.chunk.build import Builder
from ruledsl.chunk.program import Port, PortKind, Program, Result, ResultKind, Rows
from ruledsl.runtime.interpret import interpret
from ruledsl.schedule.slots import without_slots
from ruledsl.schedule.unsupported import Unsupported

TOKENS, PAIRS = Rows(1), Rows(2)


def pairs(op: str = "mask") -> Program:
    """Two rows per token: a system in four blocks, its inverse, and what the rows of slot 1 read."""
    b = Builder()
    k1, k2, v = (b.input(Port(n, PortKind.INPUT), (TOKENS, "K")) for n in ("k1", "k2", "v"))
    k = b.make("interleave", (k1, k2))
    z = b.make("interleave", (v, 2.0 * k1))
    blocks = [
        b.mask(b.dot(x, y, tb=True), "strict" if j >= i else "incl")
        for i, x in enumerate((k1, k2))
        for j, y in enumerate((k1, k2))
    ]
    gram = b.make("blocks", [0.1 * x for x in blocks], 2) if op == "mask" else b.make("topk", (k,), 2)
    solved = b.dot(b.make("inverse", (gram,)), z) if op == "mask" else gram
    read = b.mask(b.dot(k, k, tb=True), "incl")
    o = b.make("slot", (b.dot(read, solved) if op == "mask" else solved,), 1)
    total = b.dot(k, z, ta=True) + b.sum(solved, 0)
    return b.program(
        [(Result("o", ResultKind.OUTPUT, 0), o), (Result("S", ResultKind.STATE, 0, Port("S", PortKind.STATE)), total)]
    )


def test_the_results_are_the_same() -> None:
    program = pairs()
    split = without_slots(program)
    generator = torch.Generator().manual_seed(0)
    given = {p: torch.randn(5, 3, generator=generator, dtype=torch.float64) for p in program.ports}
    expected, found = (list(interpret(p, given, {"K": 3}, 5).values()) for p in (program, split))
    for e, f in zip(expected, found, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-12, atol=1e-12)


def test_only_the_system_is_still_interleaved() -> None:
    def wide(p: Program) -> set[str]:
        return {n.op for n in p.nodes if any(isinstance(a, Rows) and a.slots > 1 for a in n.shape)}

    assert {"interleave", "dot", "mask"} <= wide(pairs())
    assert wide(without_slots(pairs())) == {"blocks", "inverse"}


def test_a_program_without_slots_stays_as_it_is() -> None:
    split = without_slots(pairs())
    plain = Program(split.nodes[:3], split.ports, ())
    assert without_slots(plain) is plain


def test_what_does_not_split_is_named() -> None:
    with pytest.raises(Unsupported, match="`topk` over the reading sub-steps"):
        without_slots(pairs("topk"))
