"""Texts that double at each step are judged, or given up, in bounded time; state versions are kept apart."""

from __future__ import annotations

import time

import pytest

from ruledsl.algebra.readout import token_form
from ruledsl.algebra.verdict import Kind
from ruledsl.lang.unroll import unroll

from .corpus import checked, judged, rule, verdict

HEAD = "state S[V, K]\ninput q[K], k[K], v[V], x[K], a, P[K, K]\n"


def chain(first: str, step: str, last: str, count: int = 40, name: str = "y") -> str:
    lets = [f"let {name}0 = {first}"] + [
        f"let {name}{i} = {step.replace('#', f'{name}{i - 1}')}" for i in range(1, count)
    ]
    return HEAD + "\n".join(lets) + "\n" + last.replace("#", f"{name}{count - 1}")


DOUBLING = {
    "squares of a scalar": (chain("a", "#*#", "S = #*S + v k^T\noutput o = S q"), "closed"),
    "sums of a vector": (chain("x", "# .* # + #", "S = S diag(#) + v k^T\noutput o = S q"), "closed"),
    "sums that read the state": (chain("S k", "# + #", "S = S + # k^T\noutput o = S q"), "chunkwise"),
    "squares that read the state": (chain("S k", "# .* #", "S = S + # k^T\noutput o = S q"), "sequential"),
    "through an earlier token": (chain("S k", "# + #", "output o = #\nS = S + prev(o) k^T"), "dense"),
    "a gradient": (chain("S k", "# .* # + #", "S = S - grad(sum(#), S)\noutput o = S q"), "sequential"),
    "matrices": (chain("P", "# + # P", "S = S # + v k^T\noutput o = S q", name="M"), "dense"),
    "matrices that hold the state": (chain("S", "# P + #", "S = a*S + v k^T\noutput o = # q", name="M"), "closed"),
    "a long chain": (chain("S k", "# + v", "S = S + # k^T\noutput o = S q", count=900), "chunkwise"),
    "a piecewise map": (chain("S", "# + #", "S = max(#, v k^T)\noutput o = S q", name="M"), "undecided"),
    "norms of rows": (
        HEAD + "S = S - grad(sum(" + "layernorm(" * 12 + "S" + ")" * 12 + "), S)\noutput o = S q",
        "sequential",
    ),
    "many sub-steps": (HEAD + "S = a*S + (v - S k) k^T\n" * 200 + "output o = S q", "chunkwise"),
}


@pytest.mark.parametrize("name", DOUBLING)
def test_doubling_is_bounded(name: str) -> None:
    text, kind = DOUBLING[name]
    start = time.monotonic()
    found = judged(text)
    assert found.kind == kind, found.reason
    assert time.monotonic() - start < 20


def test_token_form_at_a_large_family() -> None:
    form, _ = token_form(unroll(rule("delta_product"), {"n": 40}))
    assert form is not None and len(form.forms[0].steps) == 40


def test_coupled_states_over_many_sub_steps() -> None:
    """Over the states as the token began, the terms triple from sub-step to sub-step."""
    text = (
        "state S[V, K], M[V, K]\ninput q[K], k[n, K], p[n, K], v[n, V], a, m\n"
        "for j in 1..n:\n  M = m*M + (v[j] - S p[j]) k[j]^T\n  S = a*S + M\noutput o = S q"
    )
    start = time.monotonic()
    found = [token_form(unroll(checked(text), {"n": n})) for n in (3, 40)]
    assert time.monotonic() - start < 10
    assert found[0][0] is not None and len(found[0][0].coupled[0].writes) == 3
    assert found[1][0] is None and "terms" in found[1][1]


def test_judging_is_fast() -> None:
    start = time.monotonic()
    for name in ("rwkv7", "momentum_delta", "ttt_mlp", "rls"):
        verdict.__wrapped__(name)
    assert time.monotonic() - start < 8


def test_warning_about_keys() -> None:
    assert any("k is read and written along" in n for n in verdict("mission").notes)
    assert not any("read and written along" in n for n in verdict("delta").notes)


def test_a_let_sees_the_version_where_it_stands() -> None:
    """The error is taken before the decay in one and after it in the other."""
    before = judged(HEAD + "let e = v - S k; S = a*S; S = S + e k^T\noutput o = S q")
    after = judged(HEAD + "S = a*S; let e = v - S k; S = S + e k^T\noutput o = S q")
    assert before.token is not None and after.token is not None
    assert [w.after_decay for w in before.token.forms[0].steps[0].writes] == [False]
    assert [w.after_decay for w in after.token.forms[0].steps[0].writes] == [True]
    assert before.kind is after.kind is Kind.CHUNKWISE
