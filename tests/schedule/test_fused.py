"""Backward passes without states in memory: which rules have one, and what their kernels split."""

from __future__ import annotations

import pytest

from ruledsl import pipeline
from ruledsl.schedule.cut import cut
from ruledsl.schedule.kernels import Kernels, Mode

TOP = "state S[V, K]\ninput q[K], k[K], v[V], a in (0, 1], b in [0, 1]\n"


def made(text: str) -> Kernels:
    verdict = pipeline.verdict(pipeline.check(pipeline.parse(pipeline.read(TOP + text))))
    assert verdict.token is not None
    return cut(*pipeline.kernel_programs(verdict.token, verdict.rule, verdict.sizes))


def test_a_kernel_for_each_direction_and_axis() -> None:
    found = made("S = S + v k^T\noutput o = S q")
    serial = [k for k in found.backward if k.mode is Mode.SERIAL]
    results = {k.name: sorted(r.name for r in k.results) for k in serial}
    assert results == {"sweep_columns": ["q"], "reverse_columns": ["k"], "reverse": ["v"]}
    assert all(k.split and c.keep is None for k in serial for c in k.carries)
    assert {k.name for k in serial if k.columns} == {"sweep_columns", "reverse_columns"}
    assert found.kept == () and [k.name for k in found.forward] == ["forward"]


@pytest.mark.parametrize(
    "text",
    [
        "S = a*S + v k^T\noutput o = S q",
        "S = S + b*(v - S k) k^T\noutput o = S q",
        "S = S + v k^T\noutput o = S^T v",  # v's gradient needs the state and the state's gradient
        "S = S + b*v k^T\noutput o = S q",  # b's gradient sums over rows and columns
    ],
)
def test_other_rules_keep_states(text: str) -> None:
    assert all(c.keep for k in made(text).backward for c in k.carries)
