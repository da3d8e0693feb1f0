"""The kind of every rule, the place that is blamed, and ways to write the same thing."""

from __future__ import annotations

import pytest

from ruledsl.algebra.verdict import Kind

from .corpus import ACCEPTED, SHIPPED, judged, rule, stated, verdict


@pytest.mark.parametrize("name", ACCEPTED + SHIPPED)
def test_stated_kind(name: str) -> None:
    found = verdict(name)
    assert found.kind == stated(name), found.reason
    assert found.kind is max((s.kind for s in found.strata), key=lambda k: k.number)


BLAMED = {
    "case_03": "tanh(v - S k)",
    "case_22": "relu(P h + x)",
    "case_23": "tanh(a .* h + x)",
    "case_28b": "exp(ir - m)",
    "case_30b": "sigmoid(sum(S q))",
    "case_45b": "abs(S k - v).^3",
    "case_46a": "layernorm(S k)",
    "case_48": "silu(W0 k)",
    "case_50b": "softmax(A .* log(W) - P)",
    "case_53": "S S",
    "case_60c": "topk(S k, 4)",
    "gru": "sigmoid(xz + Uz h)",
    "ba_fast_weights": "h h^T",
}


@pytest.mark.parametrize("name", [n for n in ACCEPTED if stated(n) == "sequential"])
def test_blame(name: str) -> None:
    found = verdict(name)
    assert found.blame is not None
    blamed = rule(name).source.slice(found.blame)
    assert blamed and f"`{blamed}`" in found.reason
    if name in BLAMED:
        assert blamed == BLAMED[name]


@pytest.mark.parametrize(
    ("name", "shape"), [("case_23", "diagonal"), ("case_22", "dense"), ("gru", "dense"), ("case_48", "dense")]
)
def test_jacobian(name: str, shape: str) -> None:
    assert f"the token's Jacobian is {shape}" in verdict(name).reason


HEAD = "state S[V, K]\ninput q[K], k[K], v[V], p[K], w[K], u[V], x[K], P[K, K], Q[V, V], X[V, K], a, b, g\n"
MATRIX = [
    ("chunkwise", "S = diag(u) S (I - b*k k^T) + v k^T"),
    ("chunkwise", "S = (I - b*v v^T) S (I - b*k k^T)"),
    ("chunkwise", "S = (I - g*u u^T) S; S = S - b*(S k) k^T"),
    ("chunkwise", "S = S - b*S (k k^T)"),
    ("chunkwise", "let r = S^T u; S = S + b*v r^T"),
    ("chunkwise", "S = S - b*grad(0.5*dot(S k - v, S k - v), S)"),
    ("closed", "S = a*S - b*grad(-dot(S k, v), S)"),
    ("closed", "S = diag(u) S + S diag(w)"),
    ("closed", "S = a*S + sum(S)*0*X"),
    ("closed", "S = a*prev(S); S = S + v k^T"),
    ("closed", "S = (S + v k^T) diag(softmax(w))"),
    ("closed", "let y = S q; S = a*S + v k^T; output o = y"),
    ("dense", "S = Q S + v k^T"),
    ("dense", "S = Q S P + v k^T"),
    ("dense", "S = S (P + b*k k^T)"),
    ("dense", "S = a*S + sum(S)*X"),
    ("dense", "S = X .* S - b*(S k) k^T"),
    ("dense", "S = S - b*grad(0.5*norm2(Q (S k - v)), S)"),
    ("dense", "let y = S q; S = a*S + prev(y) k^T; output o = y"),
    ("dense", "output o = S q; S = a*S + prev(o, 2) k^T"),
    ("sequential", "let y = tanh(S q); S = a*S + prev(y) k^T; output o = y"),
    ("sequential", "S = S + b*(v - S k) (S^T v)^T"),
    ("sequential", "S = a*S + dot(S k, S k)*(v k^T)"),
    ("sequential", "S = where(sum(S) > 0, S, a*S) + v k^T"),
    ("sequential", "S = S - b*grad(0.5*norm2(S k - v)*norm2(S k), S)"),
    ("sequential", "S = S diag(softmax(S^T v)) + v k^T"),
    ("sequential", "S = S*norm(S)"),
    ("sequential", "S = S/norm(S) + v k^T"),
    ("sequential", "S = (S + v k^T)/norm(S)"),
    ("sequential", "S = rmsnorm(S) + v k^T"),
    ("reparametrised", "S = S/sum(S) + v k^T"),
    ("reparametrised", "S = S - b*(S k) k^T; S = S/norm(S)"),
    ("reparametrised", "S = max(S, X)"),
    ("frozen", "S = S + b*(v - frozen(S, 8) k) k^T"),
    ("sequential", "S = S + b*tanh(v - frozen(S, 8) k - S k) k^T"),
]


@pytest.mark.parametrize(("kind", "body"), MATRIX)
def test_kind_of_matrix_rule(kind: str, body: str) -> None:
    found = judged(HEAD + body + ("" if "output" in body else "\noutput o = S q"))
    assert found.kind == kind, found.reason


VECTOR = [
    ("reparametrised", "max-plus", "state m\ninput f, i\nm = max(m, i) + f"),
    ("reparametrised", "min-plus", "state m\ninput f, i\nm = min(f + m, i)"),
    ("reparametrised", "clip", "state h[K]\ninput a[K], x[K]\nh = clip(a .* h + x, -1, 1)"),
    ("reparametrised", "log-sum-exp", "state m\ninput f, i\nm = log(exp(m + f) + exp(i))"),
    ("reparametrised", "Moebius", "state l = 1\ninput k, r in (0, 1], s\nl = l - l*k*k*l/(k*l*k + r)\nl = l + s"),
    (
        "reparametrised",
        "inverse",
        "state P[K, K] = I\ninput k[K], g in (0, 1]\nlet h = P k/(g + k^T P k)\nP = (P - h (k^T P))/g",
    ),
    (
        "reparametrised",
        "inverse",
        "state P[K, K] = I\ninput k[K], g in (0, 1]\nP = P - P k (k^T P)/(1 + k^T P k)\nP = P/g",
    ),
    ("reparametrised", "common denominator", "state h[K] = ones\ninput P[K, K], x[K]\nh = x .* (P h)\nh = h/sum(h)"),
    ("undecided", "dense Jacobian", "state P[K, K] = I\ninput k[K]\nP = P - P k (k^T P)/(2 + 3*k^T P k)"),
    ("undecided", "diagonal Jacobian", "state h[K]\ninput a[K], x[K]\nh = abs(a .* h + x)"),
    ("undecided", "diagonal Jacobian", "state h\ninput a, x\nh = max(a*h, x*h)"),
    ("undecided", "diagonal Jacobian", "state h\ninput a, x\nh = h*h + x/h"),
    ("sequential", "diagonal Jacobian", "state h\ninput x\nh = h*h + x"),
    ("sequential", "dense Jacobian", "state h[K]\ninput x[K], P[K, K]\nh = P tanh(h) + x"),
    ("closed", "complex diagonal", "state h[K]\ninput x[K], th[K/2]\nh = rotate(h, th) + x"),
    ("closed", "2 x 2 blocks of scalars", "state h, c\ninput a, b, u\nh = a*h - b*c + u\nc = b*prev(h) + a*c"),
    ("chunkwise", "identity + rank 1", "state h[K]\ninput x[K], k[K], b\nh = h - b*k (k^T h) + x"),
    ("dense", "dense", "state h[K]\ninput x[K], P[K, K]\nh = P h + x"),
    ("dense", "dense", "state h[D], c[D]\ninput x[D]\nparam U[D, D]\nh = c + x\nc = U h"),
]


@pytest.mark.parametrize(("kind", "structure", "text"), VECTOR)
def test_kind_of_other_states(kind: str, structure: str, text: str) -> None:
    state = text.split()[1].split("[")[0].rstrip(",")
    read = "P k" if state == "P" else state
    found = judged(f"{text}\noutput o = {read}")
    assert (found.kind, found.strata[0].structure) == (kind, structure), found.reason


def test_names_decide_nothing() -> None:
    """The same algebra under other names."""
    text = "state Softmax[V, K], m[K]\ninput q[K], tanh2[K], softmaxed[V], tanh3\n"
    text += "Softmax = Softmax + tanh3*(softmaxed - Softmax tanh2) tanh2^T\nm = m + tanh2\noutput o = Softmax q"
    found = judged(text)
    assert [s.kind for s in found.strata] == [Kind.CHUNKWISE, Kind.CLOSED]


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("delta", 1),
        ("rwkv7", 1),
        ("dplr", 1),
        ("omega_linear", 4),
        ("case_58", 3),
        ("momentum_delta", 1),
        ("titans_linear", 1),
        ("case_35", 1),
        ("linear", None),
    ],
)
def test_rank(name: str, rank: int | None) -> None:
    assert verdict(name).strata[0].rank == rank


def test_rank_per_loop_turn_is_told() -> None:
    assert "rank n, from n sub-steps per token" in verdict("delta_product").reason


def test_strata() -> None:
    found = {s.states: s.kind for s in verdict("rls").strata}
    assert found == {("P",): Kind.REPARAMETRISED, ("S",): Kind.CHUNKWISE}
    order = [s.states for s in verdict("mamba3").strata]
    assert order == [("th",), ("S",)]


def test_states_in_a_ring_are_one_stratum() -> None:
    text = "state h, c, e\ninput a, x\nh = a*c + x\nc = a*e\ne = prev(h) + x\noutput o = h"
    assert [s.states for s in judged(text).strata] == [("h", "c", "e")]


def test_many_terms_are_a_named_limit() -> None:
    text = "state S[V, K]\ninput q[K], k[K], v[V], b\nS = S - sum(prev(b, j)*(S prev(k, j)) prev(k, j)^T for j in 0..299)\noutput o = S q"
    found = judged(text)
    assert found.kind is Kind.UNDECIDED
    assert "more than 256 terms" in found.reason


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mission", "S <- S (a I - b k k^T) + b v k^T"),
        ("gla", "S <- S diag(a) + v k^T"),
        ("case_07", "S <- (I - b v v^T) S + v k^T"),
    ],
)
def test_transition_text(name: str, line: str) -> None:
    assert verdict(name).transition == line


def test_transition_latex() -> None:
    assert verdict("mission").latex == r"S \leftarrow S (a I - b k k^\top) + b v k^\top"


def test_price() -> None:
    found = verdict("gated_delta").price
    assert found.state_bytes == "4*K*V"
    assert found.train_bytes == "4*K + 4*V + 4"
    assert found.decode_bytes == "8*K*V + 4*K + 4*V + 4"
    assert "C" in found.train_flops and "C" not in found.decode_flops
    assert "6*K*V" in found.train_flops  # one read of the state, one write, one read-out
