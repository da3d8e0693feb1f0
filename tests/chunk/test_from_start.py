"""Programs of chunks that begin where the position is a multiple of their length: what they no longer need of entering states."""

from __future__ import annotations

from pathlib import Path

import pytest

from ruledsl.chunk.from_start import carried, from_start
from ruledsl.chunk.program import PortKind, Program, ResultKind
from ruledsl.runtime.chunkable import Chunkable
from ruledsl.runtime.rule import load

RULES = Path(__file__).resolve().parents[2] / "rules"
FROZEN = "input q[K], k[K], v[V], b in [0, 1]\nlet e = v - frozen(S, 16) k\n"


def program(text: str) -> Program:
    found = load(text).chunkable()
    assert isinstance(found, Chunkable), found
    return found.program


def entering(found: Program) -> set[str]:
    return {p.name for p in found.ports if p.kind is PortKind.STATE}


@pytest.mark.parametrize(("name", "states"), [("ttt_linear", {"W", "c"}), ("titans", {"W1", "W2", "P1", "P2"}), ("ttt_mlp", {"W", "U", "c", "e"})])
def test_copies_and_sums_that_begin_again_are_not_carried(name: str, states: set[str]) -> None:
    found = program((RULES / f"{name}.rule").read_text())
    start = from_start(found)
    assert entering(found) > states and entering(start) == states
    assert {r.name for r in start.results} == {r.name for r in found.results}  # they leave the chunk all the same
    assert {r.name for r in carried(start).results if r.kind is ResultKind.STATE} == states


@pytest.mark.parametrize(
    ("keep", "needed"),
    [
        ("where(mod(t, 16) == 0, 0, 1)", False),
        ("where(mod(t, 8) == 0, 0, 1)", False),
        ("where(mod(t, 16) == 1, 0, 1)", True),  # the first token still adds to what was there
        ("where(mod(t, 32) == 0, 0, 1)", True),
        ("where(b > 0.5, 0, 1)", True),  # only the data says
    ],
)
def test_a_sum_is_needed_unless_every_chunk_begins_it_again(keep: str, needed: bool) -> None:
    text = f"state S[V, K], G[V, K]\n{FROZEN}let keep = {keep}\nG = keep*G + b*e k^T\nS = frozen(S, 16) + G\noutput o = S q"
    assert ("G" in entering(from_start(program(text)))) == needed
