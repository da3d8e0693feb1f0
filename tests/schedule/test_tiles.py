"""Tiles: what is tried first, what last, and that files of choices are read as they were written."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from ruledsl import pipeline
from ruledsl.chunk.program import Program
from ruledsl.schedule.cut import cut
from ruledsl.schedule.kernels import Load, Mode
from ruledsl.schedule.tiles import LOADS, Loop, Tiles, alike, alternatives, narrowed, tiles

TOP = "state S[V, K]\ninput q[K], k[K], v[V], a[K] in [0.01, 1], g in (-inf, 0], b in [0, 1]\n"
PLAIN = TOP + "S = S + v k^T\noutput o = S q"
READS = TOP + "S = exp(g)*S\nS = S + b*(v - S k) k^T\noutput o = S q"
COUPLED = (
    "state S[V, K], M[V, K]\ninput q[K], k[K], v[V], a in (0, 1], m in [0, 1], b in [0, 1]\n"
    "M = m*M + b*(v - S k) k^T\nS = a*S + M\noutput o = S q"
)
DIAGONAL = TOP + "S = S diag(a)\nS = S + b*(v - S k) k^T\noutput o = S q"


def programs(text: str) -> tuple[Program, Program]:
    verdict = pipeline.verdict(pipeline.check(pipeline.parse(pipeline.read(text))))
    assert verdict.token is not None
    return pipeline.kernel_programs(verdict.token, verdict.rule, verdict.sizes)


@pytest.mark.parametrize("text", [PLAIN, READS, DIAGONAL])
@pytest.mark.parametrize("size", [16, 64, 128, 256])
@pytest.mark.parametrize("bytes_", [2, 4])
def test_the_last_resort_is_small(text: str, size: int, bytes_: int) -> None:
    found = tiles(programs(text), {"K": size, "V": size}, bytes_)
    assert len(found) == len(set(found))
    last = found[-1]
    assert last.chunk == 16 and last.serial.side == 16
    assert all(getattr(last, name).stages == 1 for name in LOADS)
    assert all(t.chunk <= found[0].chunk for t in found)


def test_chunks_are_long_where_neither_level_nor_inverse_grows_with_them() -> None:
    sizes = {"K": 128, "V": 128}
    assert [tiles(programs(t), sizes, 2)[0].chunk for t in (PLAIN, READS, DIAGONAL)] == [64, 32, 32]
    assert tiles(programs(PLAIN), {"K": 16, "V": 128}, 2)[0].chunk == 32


def test_few_sequences_have_their_states_in_more_programs() -> None:
    short, long = (replace(alike(c, Loop(4, 64, 2)), serial=Loop(4, 64, 3)) for c in (32, 64))
    shape = {"tokens": 64 * 8192, "rows": 128, "units": 132}
    assert narrowed(short, 4, heads=16, **shape) == short  # 128 programs
    assert narrowed(short, 2, heads=16, **shape).serial == Loop(4, 32, 3)
    assert narrowed(short, 1, heads=16, **shape).serial == Loop(2, 16, 3)
    assert narrowed(long, 1, heads=1, **shape) == long
    assert narrowed(short, 1, heads=1, **shape | {"units": 1}) == short
    assert narrowed(short, 1, heads=1, **shape | {"tokens": 4096}) == short


def test_choices_are_read_as_they_are_written() -> None:
    for t in (alike(32, Loop(4, 32, 2)), *tiles(programs(READS), {"K": 64, "V": 64}, 2)):
        assert Tiles.read(json.loads(json.dumps(asdict(t)))) == t


def test_a_search_tries_fields_that_there_are() -> None:
    found = alternatives(programs(READS), {"K": 128, "V": 128})
    assert set(found) == {"chunk", *LOADS}
    assert set(LOADS) == {"serial", *Load}


def test_chunks_are_as_long_as_states_are_frozen() -> None:
    frozen = programs(TOP + "S = S + b*(v - frozen(S, 16) k) k^T\noutput o = S q")
    assert {t.chunk for t in tiles(frozen, {"K": 128, "V": 128}, 2)} == {16}
    assert alternatives(frozen, {"K": 128, "V": 128})["chunk"] == (16,)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (READS, {"gradients_sums": Load.SUMS, "gradients": Load.ROWS, "gradients_2": Load.SLIM}),
        (TOP + "S = S + b*(v - S k) k^T\noutput o = S q", {"gradients": Load.ROWS, "gradients_2": Load.USUAL}),
        (COUPLED, {"gradients_sums": Load.SUMS, "gradients": Load.MANY}),
        (DIAGONAL, {"forward_prepare": Load.RUNNING, "gradients": Load.SUMS, "gradients_2": Load.SLIM}),
    ],
)
def test_a_kernel_runs_by_what_it_holds(text: str, wanted: dict[str, Load]) -> None:
    found = cut(*programs(text))
    loads = {k.name: k.load for k in (*found.forward, *found.backward) if k.mode is Mode.CHUNK}
    assert loads.items() >= wanted.items()
