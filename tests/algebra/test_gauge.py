"""States that cancel: named where the algebra shows it, checked on numbers, and not claimed otherwise."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from ruledsl.algebra.analysis import analyse
from ruledsl.algebra.explain import explain
from ruledsl.algebra.explain.render import plain
from ruledsl.algebra.gauge import Gauge, gauges
from ruledsl.algebra.verdict import Verdict

from . import token
from .corpus import ACCEPTED, SHIPPED, judged, text, verdict

MLSTM = text("case_26")
FOUND = {
    "case_26": "C n",
    "case_28a": "c n",
    "mlstm": "C n",
    "rwkv4": "a b",
    "rules/mlstm": "C n",
    "rules/rwkv4": "a b",
}
SAYS = "m is a gauge (a stabiliser): C' = C*exp(m), n' = n*exp(m) follow an affine recurrence without m, and no output depends on m"


def found(v: Verdict) -> tuple[Gauge, ...]:
    return gauges(analyse(v.rule))


def law(v: Verdict) -> list[str]:
    body = plain(explain(v)).split("\ncomposition law\n")[1].split("\n\n")[0]
    return [" ".join(row.split()) for row in body.split("\n")]


@pytest.mark.parametrize("name", ["mlstm", "case_26", "rules/mlstm"])
def test_mlstm_names_its_stabiliser(name: str) -> None:
    v = verdict(name)
    assert v.reason.endswith(SAYS)
    assert [s.reason.split("; ")[-1] for s in v.strata[1:]] == [
        f"m cancels: {x}' = {x}*exp(m) is affine without it" for x in ("C", "n")
    ]


def test_the_recurrence_and_the_output_without_it() -> None:
    lines = law(verdict("case_26"))
    at = lines.index("change of variables: m is a gauge (a stabiliser)")
    assert lines[at + 1 : at + 6] == [
        "C' = C*exp(m)",
        "n' = n*exp(m)",
        "C' <- exp(f)*C' + exp(i)*v k^T (without m)",
        "n' <- exp(f)*n' + exp(i)*k (without m)",
        "o = C' q/max(abs(n'^T q), 1) (the same output)",
    ]


def test_the_names_do_not_matter() -> None:
    names = {"C": "Memory", "n": "total", "m": "top", "f": "keep", "i": "put"}
    renamed = re.sub(r"\b[Cnmfi]\b", lambda w: names[w[0]], MLSTM)
    said = re.sub(r"\b[Cnm]\b", lambda w: names[w[0]], SAYS)
    assert judged(renamed).reason.endswith(said)


@pytest.mark.parametrize("name", [*ACCEPTED, *SHIPPED])
def test_on_the_collection(name: str) -> None:
    states = [" ".join(s for s, _ in g.states) for g in found(verdict(name))]
    assert states == ([FOUND[name]] if name in FOUND else [])


@pytest.mark.parametrize("name", FOUND)
def test_on_numbers(name: str) -> None:
    """m + d and X exp(-d) give the same X exp(m) after the token, and the same output."""
    v = verdict(name)
    (gauge,) = found(v)
    sizes = token.sizes_of(v.rule, v.sizes)
    for seed in range(5):
        env, d = token.sample(v.rule, sizes, seed), 1.5
        moved = dict(env)
        moved[gauge.by[0], 0, None] = [[x + d for x in row] for row in env[gauge.by[0], 0, None]]
        for x, _ in gauge.states:
            moved[x, 0, None] = [[y * math.exp(-d) for y in row] for row in env[x, 0, None]]
        (one, out), (two, same) = (token.run(v.rule, e, sizes) for e in (env, moved))
        for x in gauge.states:
            sides = [np.array(last[x]) * np.exp(last[gauge.by]) for last in (one, two)]
            np.testing.assert_allclose(*sides, rtol=1e-9)
        if gauge.invariant:
            for o in out:
                np.testing.assert_allclose(out[o], same[o], rtol=1e-9)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("exp(f + prev(m) - m)", "exp(f - prev(m) + m)"),
        ("exp(f + prev(m) - m)", "exp(f + 2*prev(m) - m)"),
        ("exp(i - m)", "exp(i + m)"),
        ("exp(i - m)", "exp(i)"),
        ("exp(i - m)", "exp(i - prev(m))"),
        ("exp(i - m)", "exp(i - h)"),
        ("exp(f + prev(m) - m)", "exp(f + prev(m) - h)"),
        ("exp(i - m)", "sigmoid(i - m)"),
        ("exp(i - m)", "(exp(i - m) + m)"),
    ],
)
def test_a_gate_that_does_not_cancel(old: str, new: str) -> None:
    """Of both states: neither is claimed, and the text is as without a gauge."""
    changed = MLSTM.replace(old, new).replace("state C", "state h, C").replace("m = max", "h = max(f + h, i)\nm = max")
    assert changed.count(new) == 2
    v = judged(changed)
    assert not found(v)
    assert not any(word in s.reason for s in v.strata for word in ("gauge", "cancels"))
    assert not any("gauge" in line or "cancels" in line for line in law(v))


def test_one_state_of_two() -> None:
    """n with a gate of its own: C alone is affine without m, and the read-out is not invariant."""
    v = judged(MLSTM.replace("exp(i - m)*k\n", "exp(i)*k\n"))
    (gauge,) = found(v)
    assert gauge.states == (("C", None),) and not gauge.invariant
    assert v.strata[0].reason.endswith("; C' = C*exp(m) follows an affine recurrence without m")


@pytest.mark.parametrize(
    ("old", "new", "invariant"),
    [
        ("max(abs(dot(n, q)), exp(-m))", "max(abs(dot(n, q)), 1)", False),
        ("max(abs(dot(n, q)), exp(-m))", "max(abs(dot(n, q)), exp(m))", False),
        ("C q / max(abs(dot(n, q)), exp(-m))", "C q", False),
        ("C q / max(abs(dot(n, q)), exp(-m))", "m*C q / dot(n, q)", False),
        ("C q / max(abs(dot(n, q)), exp(-m))", "C q * exp(m)", True),
        ("C q / max(abs(dot(n, q)), exp(-m))", "C q / sqrt(dot(n, q)^2 + exp(-2*m))", True),
        ("C q / max(abs(dot(n, q)), exp(-m))", "prev(C) q / dot(prev(n), q)", True),
        ("C q / max(abs(dot(n, q)), exp(-m))", "prev(C) q / dot(n, q)", False),
        ("C q / max(abs(dot(n, q)), exp(-m))", "tanh(C q / dot(n, q))", True),
        ("C q / max(abs(dot(n, q)), exp(-m))", "tanh(C q)", False),
    ],
)
def test_the_read_out(old: str, new: str, invariant: bool) -> None:
    v = judged(MLSTM.replace(old, new))
    (gauge,) = found(v)
    assert gauge.invariant is invariant
    assert ("gauge" in v.reason) is invariant and "follow an affine recurrence without m" in v.reason
    assert any("gauge" in line for line in law(v)) is invariant
    assert any("is not shown" in line for line in law(v)) is not invariant


def test_a_stabiliser_per_entry_cancels_entry_by_entry_only() -> None:
    """A product mixes the entries, and their factors differ."""
    assert found(verdict("case_28a"))[0].invariant
    mixed = text("case_28a").replace("param", "").replace("g .* c ./ n", "(P c) ./ (P n)").replace("g[D]", "P[D, D]")
    (gauge,) = found(judged(mixed))
    assert not gauge.invariant
    within = text("case_28a").replace("exp(i - m) .* z", "exp(i - m) .* z + P c").replace("g[D]", "g[D], P[D, D]")
    assert all(("c", None) not in g.states for g in found(judged(within)))


def test_sub_steps_and_an_invariant_state_below() -> None:
    steps = MLSTM.replace(
        "C = exp(f + prev(m) - m)*C + exp(i - m)*v k^T",
        "C = exp(prev(m))*C\nC = exp(f - m)*C\nC = C + exp(i - m)*v k^T",
    )
    below = steps.replace("state C", "state h[V], C").replace("output o = ", "h = 0.5*h + ") + "output o = h\n"
    (gauge,) = found(judged(below))
    assert gauge.states == (("C", None), ("n", None)) and gauge.invariant
