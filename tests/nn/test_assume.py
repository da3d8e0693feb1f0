"""What a layer adds to a rule's text, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
from small_layers import ALL_NAMES, load

import ruledsl
from ruledsl.nn.assume import Plan, assume

HEAD = "state S[V, K]\ninput q[K], k[K], v[V], "


def _plans(rule: str) -> dict[str, Plan]:
    text = rule if "\n" in rule or "=" in rule else None
    return {p.name: p for p in assume((ruledsl.load(text) if text else load(rule)).verdict)}


def test_undeclared_coefficients_and_keys_of_the_shortest_rule() -> None:
    plans = _plans("S = a*S + b*(v - S k) k^T")
    assert {n: (p.unit, p.interval is not None, p.gate) for n, p in plans.items()} == {
        "a": (False, True, True),
        "b": (False, True, True),
        "k": (True, False, False),
        "v": (False, False, False),
        "q": (False, False, False),
    }
    assert [p.name for p in plans.values() if p.assumed] == [n for n in plans if n in "abk"]
    assert "decay" in plans["a"].assumed and "coefficient" in plans["b"].assumed and "unit" in plans["k"].assumed


@pytest.mark.parametrize("name", ALL_NAMES)
def test_what_is_declared_is_not_assumed(name: str) -> None:
    spec = {e.name: e for e in load(name).spec.inputs}
    for plan in _plans(name).values():
        declared = spec[plan.name]
        if declared.interval is not None or declared.unit:
            assert (plan.interval, plan.unit, plan.assumed) == (declared.interval, declared.unit, "")
        else:
            assert bool(plan.assumed) == (plan.interval is not None or plan.unit)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (HEAD + "g\nparam A\nS = exp(-exp(A)*softplus(g))*S + v k^T\noutput o = S q", "g"),
        (HEAD + "g\nlet x = g + 1\nlet a = sigmoid(x)\nS = a*S + v k^T\noutput o = S q", "g"),
        (HEAD + "g[K]\nS = S diag(exp(logsigmoid(g)/16)) + v k^T\noutput o = S q", "g"),
        (HEAD + "b\nS = S + b*(v - S softmax(k)) softmax(k)^T\noutput o = S q", "k"),
    ],
)
def test_an_input_that_the_rule_squashes_keeps_the_real_line(text: str, name: str) -> None:
    plan = _plans(text)[name]
    assert plan.interval is None and not plan.unit and not plan.assumed


@pytest.mark.parametrize(
    ("text", "ranged", "unit"),
    [
        (HEAD + "x[V]\nS = diag(x) S + v k^T\noutput o = S q", {"x"}, set()),
        (HEAD + "g\nlet p = g*k\nS = S + (v - S p) k^T\noutput o = S q", {"g"}, {"k"}),
        (HEAD + "b\nS = S - b*v (v^T S) + v k^T\noutput o = S q", {"b"}, {"v"}),
        (HEAD + "c[K], d[K]\nS = S + (S c) d^T + v k^T\noutput o = S q", set(), {"c", "d"}),
    ],
)
def test_vectors(text: str, ranged: set[str], unit: set[str]) -> None:
    plans = _plans(text).values()
    assert {p.name for p in plans if p.interval} == ranged
    assert {p.name for p in plans if p.unit} == unit


def test_entries_of_a_vector_that_are_only_used_one_by_one_are_coefficients() -> None:
    text = "state S[V, K]\ninput q[K], k[n, K], v[n, V], b[n]\nfor j in 1..n: S = S + b[j]*(v[j] - S k[j]) k[j]^T\noutput o = S q"
    plans = _plans(text)
    assert plans["b"].interval is not None and plans["k"].unit and not plans["v"].assumed


def test_needs_no_torch() -> None:
    code = "import sys; import ruledsl.nn.assume; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
