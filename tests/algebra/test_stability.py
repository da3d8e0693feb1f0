"""Every claim about stability against numbers: norms of sampled tokens, witnesses that grow, texts about memory."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from ruledsl.algebra.analysis import analyse
from ruledsl.algebra.evaluate import matmul
from ruledsl.algebra.horizon import half_life, write_bound
from ruledsl.algebra.judge import judge
from ruledsl.algebra.token_matrix import token_matrix
from ruledsl.algebra.verdict import Witness
from ruledsl.algebra.witness import shown
from ruledsl.lang import typed

from .corpus import ACCEPTED, checked, judged, text, verdict
from .numbers import Stratum, maps, strata

HEAD = "state S[V, K]\ninput q[K], k[K] unit, v[V], p[K] unit, "
OWN = {
    "scalar": HEAD + "a in (0, 0.99]\nS = a*S + v k^T\noutput o = S q",
    "signed": HEAD + "a in [-0.9, 0.5], b in [0, 2]\nS = a*S\nS = S + b*(v - S k) k^T\noutput o = S q",
    "diagonal": HEAD + "a[K] in [0.5, 0.98], b in [0, 1]\nS = S diag(a)\nS = S + b*(v - S k) k^T\noutput o = S q",
    "two vectors": HEAD + "a in [0, 0.5], b in [0, 0.25]\nS = a*S - b*(S p) k^T + v k^T\noutput o = S q",
    "both sides": HEAD + "b in [0, 2], y[V] unit\nS = (I - b*y y^T) S (I - b*k k^T) + v k^T\noutput o = S q",
    "a bounded write": HEAD + "a in [0, 0.9], b in [0, 1]\nS = a*S + b*(p k^T)\noutput o = S q".replace("S[V", "S[K"),
    "a reset": HEAD + "a in [0, 0]\nS = a*S + v k^T\noutput o = S q",
    "coupled": "state h[K], c[K]\ninput x[K], a in [0, 0.6], b in [-0.3, 0.3]\nh = a*h - b*c + x\nc = b*prev(h) + a*c\noutput o = h",
    "a turn": "state h[K], c[K]\ninput x[K], m[K] in [0, 0.9], w[K]\nlet r = m .* cos(w)\nlet j = m .* sin(w)\nh = r .* h - j .* c + x\nc = j .* prev(h) + r .* c\noutput o = h",
}
OWN["a bounded write"] = OWN["a bounded write"].replace("S[V, K]", "S[K, K]")


def proven() -> list[tuple[str, Stratum]]:
    names = [*ACCEPTED, *OWN]
    found = [(n, s) for n in names for s in strata(OWN.get(n, n))]
    return [(n, s) for n, s in found if s.stability.rate is not None]


@pytest.mark.parametrize(("name", "stratum"), proven(), ids=lambda x: x if isinstance(x, str) else "")
def test_no_norm_exceeds_the_claim(name: str, stratum: Stratum) -> None:
    """Neither of a token's linear part nor, where it is bounded, of its write."""
    rate, write = stratum.stability.rate, write_bound(stratum.analysis.scope, stratum.part)
    assert rate is not None and rate <= 1
    for linear, added in maps(stratum, 12):
        assert np.linalg.norm(linear, 2) <= rate + 1e-9
        if write is not None and math.isfinite(write.value):
            assert np.linalg.norm(added) <= write.value + 1e-9


def test_the_claims_are_not_all_empty() -> None:
    """The bound is reached, or nearly, by a sampled token."""
    for name in ("scalar", "diagonal", "a reset", "a turn"):
        (stratum,) = strata(OWN[name])
        largest = max(np.linalg.norm(m, 2) for m, _ in maps(stratum, 40))
        assert largest >= 0.98 * stratum.stability.rate, name


GROWING = [n for n in ACCEPTED if verdict(n).stability.witness is not None]


@pytest.mark.parametrize("name", GROWING)
def test_a_witness_grows_when_it_is_repeated(name: str) -> None:
    """From a random state, 400 tokens: the state grows by the rate that is told; and the tokens keep the promises."""
    found = verdict(name)
    seen = found.stability.witness
    assert seen is not None and seen.rate > 1 and f"{seen.rate:.3f}" in found.stability.proof
    _keeps_promises(found.rule, seen)
    maps = _witness_maps(name, seen)
    state = np.random.default_rng(0).normal(size=len(maps[0]))
    log = 0.0
    for turn in range(400):
        state = maps[turn % len(maps)] @ state
        size = np.linalg.norm(state)
        log, state = log + math.log(size), state / size
    assert log / 400 == pytest.approx(math.log(seen.rate), rel=0.05, abs=0.02)


def _witness_maps(name: str, seen: Witness) -> list[np.ndarray]:
    analysis = analyse(verdict(name).rule)
    part = next(p for p in analysis.parts if p.found is not None and not _proven(name, p.states))
    lags = {k for t in (*seen.tokens,) for k in range(8)}
    out = []
    for i in range(len(seen.tokens)):
        env = {(n, k): v for n, v in seen.params.items() for k in lags}
        for k in lags:
            env |= {(n, k): v for n, v in seen.tokens[(i - k) % len(seen.tokens)].items()}
        out.append(np.array(token_matrix(analysis.scope, part, env, seen.sizes)))
    return out


def _proven(name: str, states: tuple[object, ...]) -> bool:
    return any(s.part.states == states and s.stability.rate is not None for s in strata(name))


def _keeps_promises(rule: typed.Rule, seen: Witness) -> None:
    for values in (*seen.tokens, seen.params):
        for name, value in values.items():
            symbol = rule.symbol(name)
            members = value if symbol.type.family else [value]
            for m in members:
                if symbol.unit:
                    assert np.linalg.norm(m) == pytest.approx(1)
                if symbol.interval is not None:
                    assert symbol.interval.low <= np.min(m) and np.max(m) <= symbol.interval.high


def test_two_tokens_that_grow_although_each_alone_does_not() -> None:
    """Single transitions have eigenvalues <= 1; the known pair grows 1.118 times per token."""
    seen = verdict("rwkv7").stability.witness
    assert seen is not None and len(seen.tokens) == 2 and seen.rate == pytest.approx(1.118, abs=0.001)
    one, two = _witness_maps("rwkv7", seen)
    assert max(abs(np.linalg.eigvals(one))) < 1.0001 and max(abs(np.linalg.eigvals(two))) < 1.0001
    assert max(abs(np.linalg.eigvals(np.array(matmul(two.tolist(), one.tolist()))))) > 1.2


def test_a_witness_is_shown_to_try_by_hand() -> None:
    lines = shown(
        Witness(2.0, ({"a": [[3.0]], "k": [[1.0], [-0.5]], "p": [[[1.0]], [[2.0]]]},), {"g": [[0.25]]}, {"K": 2}, True)
    ).split("\n")
    assert lines == ["token 1: a = 3, k = (1, -0.5), p = (1, 2) (at K=2)", "params: g = 0.25"]


def test_the_search_is_repeatable_and_short() -> None:
    start = time.process_time()
    again = judge(checked(text("rwkv7")))
    assert time.process_time() - start < 3
    assert again.stability.witness == verdict("rwkv7").stability.witness


# ------------------------------------------------------------------------------------------------ what is said


@pytest.mark.parametrize(
    ("name", "claim", "memory", "growth"),
    [
        ("scalar", "contractive", "at most half is left after 69 tokens, at most 1% after 459 tokens", "0.99^T |S_0| + 100 max|u|, |u| <= |v|"),
        ("signed", "contractive", "half is left after 7 tokens", "0.9^T |S_0| + 10 max|u|, |u| <= b * |v|"),
        ("diagonal", "contractive", "half is left after 35 tokens", "0.98^T |S_0| + 50 max|u|"),
        ("two vectors", "contractive", "half is left after 3 tokens", "0.75^T |S_0| + 4 max|u|"),
        ("both sides", "marginal", "does not fade; it is overwritten along the keys", "|S_0| + T max|u|, |u| <= |v|"),
        ("a bounded write", "contractive", "half is left after 7 tokens", "|u| <= b <= 1"),
        ("a reset", "contractive", "gone with the next token", "|S_T| <= 1 max|u|"),
        ("coupled", "contractive", "", "max|u|"),
        ("a turn", "contractive", "half is left after 7 tokens", "0.9^T |S_0| + 10 max|u|, |u| <= |x|"),
    ],
)  # fmt: skip
def test_memory_and_growth(name: str, claim: str, memory: str, growth: str) -> None:
    found = judged(OWN[name]).stability
    assert found.claim == claim
    assert memory in found.memory, found.memory
    assert growth in found.growth, found.growth


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("delta", "a write does not fade; it is overwritten along the keys that are read"),
        ("linear", "a write does not fade"),
        ("gated_linear", "half-life <= ln 2/-ln(a): 69 tokens where that is 0.99, no end where it is 1"),
        ("rwkv6", "at no rate that the ranges bound"),
        ("retention", "half-life of a write: 22, 44, 88, 177, ... tokens in head 0, 1, 2, 3, ..."),
        ("mission", "not proven"),
    ],
)
def test_memory_of_known_rules(name: str, words: str) -> None:
    assert words in verdict(name).stability.memory


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.99, 0.999])
def test_half_life(rate: float) -> None:
    assert rate ** half_life(rate) == pytest.approx(0.5)


def test_a_complex_diagonal_is_as_large_as_its_modulus() -> None:
    assert verdict("lru").stability.claim == verdict("s4d").stability.claim == "contractive"


def test_a_write_that_holds_another_state_says_so() -> None:
    assert "which holds M" in verdict("case_34").stability.growth


def test_nothing_is_claimed_of_what_is_not_affine() -> None:
    found = verdict("mlstm").stability
    assert found.claim == "not applicable" and found.rate is None
