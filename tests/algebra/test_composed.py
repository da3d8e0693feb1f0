"""Kinds that show only when sub-steps, branches or coupled states are put together."""

from __future__ import annotations

import pytest

from .corpus import judged

HEAD = "state S[V, K]\ninput q[K], k[K], v[V], p[K], w[K], u[V], P[K, K], Q[V, V], X[V, K], R[K, K] perm, a, b, x, y\n"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        # a condition chooses between maps that are each of one term
        ("closed", "S = where(x > y, diag(u) S, a*S diag(w))"),
        ("closed", "S = where(x > y, S R, a*S)"),
        ("closed", "S = where(x > y, a*S, b*(S .* X))"),
        ("chunkwise", "S = where(x > y, diag(u) S, a*(S k) p^T) + v k^T"),
        ("chunkwise", "S = where(x > y, S (k k^T), u (v^T S)); S = S diag(w) - (S p) k^T"),
        ("chunkwise", "S = where(x > y, where(x > 1, S diag(k), u (v^T S)), a*(S k) p^T)"),
        ("chunkwise", "S = where(x > y, diag(u) S, S diag(w)); S = S - b*(S k) k^T"),
        ("chunkwise", "S = where(x > y, a*(S k) p^T, Q S); S = b*u (v^T S)"),
        ("dense", "S = where(x > y, S P, diag(u) S)"),
        ("dense", "S = where(x > y, S + u (v^T S) - (S k) p^T, diag(u) S)"),
        ("dense", "S = where(x > y, X .* S, a*(S k) p^T)"),
        # low rank without a diagonal bounds whatever it is multiplied with
        ("chunkwise", "S = S P + v k^T; S = a*(S k) p^T"),
        ("chunkwise", "S = (S k) p^T; S = S P"),
        ("dense", "S = S P; S = S - (S k) p^T"),
        ("dense", "S = S P; S = a*u (v^T S)"),
        # a step that forgets the state
        ("closed", "S = S P; S = v k^T"),
        ("closed", "S = (a - a)*S + X; S = S - b*(S k) k^T"),
        ("closed", "S = a*S + 0*tanh(S)"),
    ],
)
def test_sub_steps_and_branches(kind: str, body: str) -> None:
    found = judged(f"{HEAD}{body}\noutput o = S q")
    assert found.kind == kind, found.reason


@pytest.mark.parametrize(
    ("kind", "structure", "text"),
    [
        (
            "chunkwise",
            "2 x 2 blocks of scalars + rank 2",
            "state S[V, K], h[K]\ninput k[K], v[V], u[V], a\nS = a*S + u h^T\nh = h + prev(S)^T v\noutput o = S k",
        ),
        (
            "closed",
            "2 x 2 blocks of scalars",
            "state S[V, K], Z[K, V]\ninput k[K], v[V], a, b\nS = a*S + b*Z^T\nZ = Z - prev(S)^T + k v^T\noutput o = S k",
        ),
        (
            "closed",
            "2 x 2 blocks, turned",
            "state h[K], c[K]\ninput x[K], th[K/2], a\nh = rotate(h, th) + a*c\nc = a*c + prev(h) + x\noutput o = h",
        ),
        (
            "dense",
            "dense",
            "state S[K, K], Z[K, K]\ninput k[K], a, b\nS = a*S + b*Z^T\nZ = Z - prev(S)\noutput o = S k",
        ),
        (
            "reparametrised",
            "log-sum-exp",
            "state m\ninput f, i\nm = softplus(m + f) - i\noutput o = m",
        ),
    ],
)
def test_coupled_states_and_monoids(kind: str, structure: str, text: str) -> None:
    found = judged(text)
    assert (found.kind, found.strata[0].structure) == (kind, structure), found.reason


def test_many_conditions_are_not_tried_one_by_one() -> None:
    terms = " + ".join(f"where(x > {i}, diag(u) S, a*(S k) p^T)" for i in range(30))
    assert judged(f"{HEAD}S = {terms}\noutput o = S q").kind == "dense"
