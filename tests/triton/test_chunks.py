"""The chunk kernels, interpreted on the CPU, against the recurrence in float64: outputs, final states, all gradients."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

PROGRAM = Path(__file__).with_name("compare.py")
OUTPUTS, GRADIENTS = 1e-5, 1e-4

EVERY = (
    "linear retention lightning ssd gated_linear gla gla_two_sided hgrn2 rwkv5 rwkv6 mission delta gated_delta delta_product "
    "gated_delta_product kda comba iplr dplr rwkv7 longhorn_exact momentum_delta titans_linear mesa".split()
)
BASIC = "state S[V, K]\ninput q[K], k[K], v[V], a in (0, 1]\n"

# names that generated text uses itself, and names that look like those it makes
NAMES = {
    "tables": "state S[tl, H]\ninput n[H], x[H], s[tl], C in (0, 1], row in [0, 1]\nS = C*S + row*(s - S x) x^T\noutput count = S n",
    "numbers": "state Z_[N1, K_2]\ninput mul_3[K_2], lag1[N1], k_2[K_2], shift in (0, 1], inverse in [0, 1]\n"
    "Z_ = shift*Z_ + inverse*(lag1 - Z_ k_2) k_2^T\noutput d_o = Z_ mul_3\noutput o = Z_ k_2",
    "endings": "state S_t[B_K, K]\ninput S_next[K], i_K[K], token[B_K], spans in (0, 1]\nS_t = spans*S_t + token i_K^T\n"
    "let x = S_t S_next\noutput inputs = x .* token",
    "sizes": "state S[C, T]\ninput q[T], k[T] unit, v[C], a in (0, 1]\nS = a*S + (v - S k) k^T\noutput o = S q / sqrt(T)",
    "more sizes": "state S[S_, STAGES]\ninput q[STAGES], k[STAGES] unit, v[S_], a[STAGES] in (0, 1]\nS = S diag(a) + v k^T\noutput o = S q / sqrt(STAGES)",
}
# rows are split over programs for the first state that has rows; the others must be whole, or stop the split
STATES = {
    "normaliser": "state S[V, K], z[K]\ninput q[K], k[K], v[V], a in (0, 1]\nS = a*S + v exp(k)^T\nz = a*z + exp(k)\n"
    "output o = (S exp(q)) / (1 + z^T exp(q))",
    "other rows": "state S[V, K], P[W, K]\ninput q[K], k[K], v[V], w[W], a in (0, 1]\nS = a*S + v k^T\n"
    "P = a*P + (w - P k) k^T\noutput o = S q * sum(P q)\noutput p = P q",
    "rows are columns": "state S[V, K], P[W, V]\ninput q[K], k[K] unit, v[V], w[W], b in [0, 1], a in (0, 1]\n"
    "S = S + b*(v - S k) k^T\nP = a*P + w (S k)^T\noutput o = P (S q)",
    "through softmax": "state M[L_, K], P[V, L_]\ninput q[K], k[K] unit, v[V], a[L_] in (0, 1]\nM = diag(a) M + (1 - a) k^T\n"
    "P = P diag(a) + v (1 - a)^T\noutput o = P softmax(M q)",
    "a copy": "state S[V, K], P[V, K]\ninput q[K], k[K], v[V], a in [0, 1]\nP = S\nS = a*S + v k^T\noutput o = S q + P q",
}
FORMS = {
    "twice the columns": "state S[V, 2*K]\ninput q[2*K], k[2*K], v[V], a in (0, 1]\nS = a*S + v k^T\noutput o = S q",
    "forgets everything": "state S[V, K]\ninput q[K], k[K], v[V]\nS = v k^T\noutput o = S q",
    "two apart": "state S[V, K], P[V, U]\ninput q[K], k[K], v[V], a in (0, 1], x[U], y[U], w[V], b in [0, 1]\nS = a*S + v k^T\n"
    "P = P + b*(w - P x) x^T\noutput o = S q\noutput p = P y",
    "never read": "state S[V, K]\ninput k[K], v[V], a in (0, 1]\nS = a*S + v k^T\noutput o = v",
    "a number": "state s\ninput x, a in (0, 1]\ns = a*s + x\noutput o = s",
    "four rows": "state S[4, K]\ninput q[K], k[K], v[4], a in (0, 1]\nS = a*S + v k^T\noutput o = S q",
    "looks back": BASIC + "S = a*S + v (k + 0.5*prev(k) + prev(k, 3))^T\noutput o = S q",
    "powers": BASIC + "S = a*S + v (k .^ 4)^T\noutput o = S (q .^ 3)\noutput p = S (0.5*k) .^ 11",
    "one vector on both sides": "state S[K, K]\ninput k[K] unit, b in [0, 1], a in (0, 1]\nS = a*S + b*(k - S k) k^T\noutput o = S k",
    "a gate's products alone in a kernel": "state A[V, V], M[V, V]\ninput x[V], k[V] unit, q[V] unit, c[V], a[V], w[V], u[V], p[V] unit\nparam y\n"
    "A = A + (x - A k) c^T\nM = diag(a) M\nM = M + (A u) w^T\noutput o = A q + y*c\noutput m = M p",
    "params": "state S[V, K]\ninput q[K], k[K], v[V], x\nparam A in [0, inf), w[K]\n"
    "S = exp(-exp(A)*softplus(x))*S + v (k .* w)^T\noutput o = S q",
}
# no decay and no read: no state is kept for the backward pass
ALONE = {
    "read by columns": "state S[V, K]\ninput w[V], k[K], v[V]\nS = S + v k^T\noutput o = S^T w",
    "feature maps": "state S[V, K]\ninput q[K], k[K], v[V]\nS = S + v (exp(k))^T\noutput o = S exp(q) / sqrt(K)",
    "two writes": "state S[V, K]\ninput q[K], k[K], x[K], v[V], w[V]\nS = S + v k^T + w x^T\noutput o = S q",
    "of its own output": "state S[V, K]\ninput q[K], k[K], v[V]\nS = S + v k^T\noutput o = (S q) .* v",
}
COUPLED = {
    "a circle with reads": "state S[V, K], M[V, K]\ninput q[K], k[K], p[K], v[V], u[V], a in [-1, 1], m in [0, 1], b, c\n"
    "S = a*S - b*M + c*(v - S k) k^T\nM = b*prev(S) + m*M + (u - M p) p^T\noutput o = S q\noutput y = M q",
    "a third before the circle": "state S[V, K], M[V, K], R[V, K]\n"
    "input q[K], k[K], p[K], v[V], u[V], a in [-1, 1], m in [0, 1], b, c\n"
    "R = m*R + (v - S k) k^T\nM = a*M + b*S + R\nS = c*prev(M) + m*S + u p^T\noutput o = S q",
    "one of them transposed": "state S[V, K], M[K, V]\ninput q[K], k[K], v[V], a in [-1, 1], m in [0, 1], b\n"
    "M = m*M + k (v - S k)^T\nS = a*S + b*M^T\noutput o = S q\noutput y = M v",
    "vectors": "state x[K], y[K]\ninput u[K], w[K], a in [-1, 1], b\n"
    "x = a*x - b*y + u\ny = b*prev(x) + a*y + w\noutput o = x .* y",
}
READ = "state S[V, K]\ninput q[K], k[K], v[V], a in (0, 1], b in [0, 1]\n"
SUMMED = (
    "state S[V, K], G[V, K]\ninput q[K], k[K], v[V], b in [0, 1]\nG = where({mod}, 0, 1)*G + b*(v - frozen(S, 16) k) k^T\n"
    "S = frozen(S, 16) + G\noutput o = S q"
)
FROZEN = {
    "error at the frozen state": READ + "S = S + b*(v - frozen(S, 16) k) k^T\noutput o = S q + frozen(S, 16) k",
    "begins again from it": READ + "S = a*frozen(S, 32) + b*(v - S k) k^T\noutput o = S q",
    "a decay from it": READ + "let g = sigmoid(dot(frozen(S, 16) k, v))\nS = g*S + b*v k^T\noutput o = S q",
    "two lengths": "state S[V, K], R[V, K]\ninput q[K], k[K], v[V], a in (0, 1]\nS = a*S + (v - frozen(S, 16) k) k^T\n"
    "R = a*R + (frozen(S, 16) k - frozen(R, 32) k) k^T\noutput o = S q + R q",
    "momentum from it, transposed": "state W[K, V], M[V, K]\ninput q[K], k[K], v[V], a in (0, 1], m in [0, 1)\n"
    "M = m*M + (v - tanh(frozen(W, 16)^T k)) k^T\nW = a*frozen(W, 16) + M^T\noutput o = W^T q",
    "a number": "state S[V, K], z\ninput q[K], k[K], v[V], b in [0, 1]\nz = 0.9*z + b\nS = S + frozen(z, 16)*v k^T\noutput o = S q",
    "a sum that begins again twice in a chunk": SUMMED.format(mod="mod(t, 8) == 0"),
    "a sum that begins again later in a chunk": SUMMED.format(mod="mod(t, 16) == 1"),
}
# decays and systems of a frozen state, chunks that dots do not take, the largest entries of a vector: one token at a time
BY_TOKENS = {
    "a diagonal decay": READ + "S = S diag(sigmoid(frozen(S, 16)^T v)) + v k^T\noutput o = S q",
    "a system": READ + "let g = sigmoid(dot(frozen(S, 16) k, v))\nS = g*S + b*(v - S k) k^T\noutput o = S q",
    "chunks of 8": READ + "S = S + b*(v - frozen(S, 8) k) k^T\noutput o = S q",
    "chunks of 24": READ + "S = S + b*(v - frozen(S, 24) k) k^T\noutput o = S q",
    "the largest entries": BASIC + "S = a*S + v topk(k, 2)^T\noutput o = S q",
}
CALLS: list[dict[str, Any]] = [
    {"rule": "gated_delta", "packed": [1, 17, 0, 20], "sizes": {"V": 20}},
    {"rule": "kda", "packed": [16, 5]},
    {"rule": FORMS["one vector on both sides"], "sizes": {"K": 72}},
    {"rule": "mesa", "sizes": {"K": 72, "V": 80}},
    {"rule": "mesa", "packed": [1, 17, 0, 20], "chunk_size": 16},
    {"rule": "gated_delta", "packed": [7, 9], "tail": 5},
    {"rule": "gated_delta_product", "packed": [3, 20]},
    {"rule": "momentum_delta", "packed": [1, 17, 0, 20], "sizes": {"V": 20}},
    {"rule": "rwkv6", "heads": 4, "grouped": ["k", "v"], "strided": True},
    {"rule": "gated_delta", "heads": 4, "grouped": ["q", "a"], "strided": True},
    {"rule": "linear", "batch": 3, "strided": True},
    {"rule": "delta", "length": 1},
    {"rule": "delta", "length": 0},
    {"rule": "gla", "length": 40, "chunk_size": 32, "sizes": {"K": 20}},
    {"rule": "comba", "length": 33, "sizes": {"K": 20, "V": 48}},
    {"rule": FORMS["looks back"], "packed": [2, 17]},
]


def ask(cases: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The answers of `compare.py`, in a process that interprets kernels."""
    env = {**os.environ, "TRITON_INTERPRET": "1", "RULEDSL_CACHE": str(folder)}
    done = subprocess.run([sys.executable, PROGRAM], input=json.dumps(cases), capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def right(cases: list[dict[str, Any]], folder: Path) -> None:
    for case, found in zip(cases, ask(cases, folder), strict=True):
        assert "refused" not in found, (case, found)
        assert found["outputs"] < OUTPUTS and found["state"] < OUTPUTS, (case, found)
        wrong = {name: error for name, error in found["gradients"].items() if not error < GRADIENTS}
        assert found["gradients"] and not wrong, (case, wrong)


@pytest.mark.parametrize("part", range(4))
def test_every_chunk_form(part: int, tmp_path: Path) -> None:
    right([{"rule": name, "length": 20, "sizes": {"V": 20}} for name in EVERY[part::4]], tmp_path)


@pytest.mark.parametrize("part", range(2))
def test_every_kind_of_call(part: int, tmp_path: Path) -> None:
    right(CALLS[part::2], tmp_path)


def test_names_of_the_rule_never_meet_generated_names(tmp_path: Path) -> None:
    right([{"rule": text, "length": 18, "sizes": {"tl": 20, "N1": 20}} for text in NAMES.values()], tmp_path)


def test_several_states(tmp_path: Path) -> None:
    right([{"rule": text, "length": 18, "sizes": {"V": 48, "W": 20}} for text in STATES.values()], tmp_path)


def test_unusual_states_and_functions(tmp_path: Path) -> None:
    right([{"rule": text, "length": 18} for text in FORMS.values()], tmp_path)


def test_without_states_in_memory(tmp_path: Path) -> None:
    cases: list[dict[str, Any]] = [{"rule": text, "length": 40, "sizes": {"V": 20, "K": 40}} for text in ALONE.values()]
    more = {"packed": [1, 40, 0, 20], "tail": 3, "sizes": {"K": 20, "V": 130}}
    right([*cases, *({"rule": text} | more for text in ALONE.values())], tmp_path)


def test_coupled_states(tmp_path: Path) -> None:
    right([{"rule": text, "length": 20, "sizes": {"V": 20}} for text in COUPLED.values()], tmp_path)


@pytest.mark.parametrize("name", ["ttt_linear", "ttt_mlp", "titans", *FROZEN])
def test_frozen_states(name: str, tmp_path: Path) -> None:
    text = FROZEN.get(name, name)
    packed = {"rule": text, "packed": [5, 33, 0, 17], "tail": 2}
    right([packed, packed | {"final": False}, {"rule": text, "length": 41, "batch": 2, "final": False}], tmp_path)
    right([{"rule": text, "length": 41, "cuts": [7, 16, 20]}], tmp_path)


def test_what_goes_by_tokens(tmp_path: Path) -> None:
    right([{"rule": text, "length": 37} for text in BY_TOKENS.values()], tmp_path)


def test_decays_of_any_strength(tmp_path: Path) -> None:
    """Chunks are multiplied at once or level by level, as their decays allow; both kinds stand side by side."""
    text = "state S[V, K]\ninput q[K], k[K], v[V], g[K] in (-inf, 0]\nlet a = exp(g)\nS = S diag(a)\n"
    delta = text + "S = S + 0.5*(v - S k) k^T\noutput o = S q / sqrt(K)"
    plain = text + "S = S + v k^T\noutput o = S q"
    bounded = plain.replace("g[K] in (-inf, 0]\nlet a = exp(g)", "a[K] in [0.01, 1]")
    growing = delta.replace("g[K] in (-inf, 0]", "g[K]")
    smooth = plain.replace("g[K] in (-inf, 0]\nlet a = exp(g)", "g[K]\nlet a = sigmoid(g)")
    cases: list[dict[str, Any]] = [
        {"rule": rule, "length": 75, "scale": {"g": strength}, "sizes": {"K": keys}}
        for rule in (plain, delta) for strength, keys in ((0.05, 64), (2.0, 16), (20.0, 64), (20.0, 48))
    ]  # fmt: skip
    cases += [{"rule": r, "length": 75, "scale": {"g": s}} for r, s in ((growing, 0.3), (growing, 2.0), (smooth, 15.0))]
    right([*cases, {"rule": bounded, "length": 75, "packed": [40, 0, 35]}], tmp_path)


def test_chunks_of_another_length_in_the_backward_pass(tmp_path: Path) -> None:
    """What the forward pass kept is for chunks of its length: it is made again."""
    right([{"rule": name, "length": 40, "chunks": [32, 16]} for name in ("kda", "gated_delta", "linear")], tmp_path)
    right([{"rule": "delta", "length": 40, "between": 16}], tmp_path)


def test_what_cannot_be_done_names_the_operation_and_who_can(tmp_path: Path) -> None:
    texts = {
        "the function `ctz` has no Triton form; backend 'torch' runs it": BASIC + "S = a*S + ctz(t)*v k^T\noutput o = S q",
    }
    cases: list[dict[str, Any]] = [{"rule": text} for text in texts.values()]
    cases += [{"rule": "linear", "length": 2, "sizes": {"K": 300}}, {"rule": "linear", "length": 20, "chunk_size": 24}]
    cases += [{"rule": "mesa", "length": 2, "sizes": {"K": 144}}]
    whole = "`H` has a size of 144; where its rows and columns are the same axis, or are permuted, kernels hold it whole and go to 128"
    reasons = [*texts, "has a size of 300, kernels go to 256", "chunks of 24 tokens", whole]
    for reason, found in zip(reasons, ask(cases, tmp_path), strict=True):
        assert reason in found.get("refused", ""), (reason, found)
