"""Which axis of a token's states is cut into blocks."""

from __future__ import annotations

import pytest

from ruledsl import pipeline
from ruledsl.chunk.token_program import token_program
from ruledsl.schedule.token_split import Split, split

READ = "output o = S q"
MATRIX = "state S[V, K]\ninput q[K], k[K], v[V], b\n"


def of(text: str) -> Split:
    rule = pipeline.check(pipeline.parse(pipeline.read(text)))
    forward = token_program(pipeline.unroll(rule, {}), {}, {}, ())
    return split(forward, pipeline.gradient(forward))


@pytest.mark.parametrize(
    ("text", "dim", "shared"),
    [
        (f"{MATRIX}S = S + b*(v - S k) k^T\n{READ}", "V", False),
        (f"{MATRIX}S = S + b*tanh(v - S k) k^T\n{READ}", "V", False),
        ("state S[K, V]\ninput q[K], k[K], v[V]\nS = S + k (v - S^T k)^T\noutput o = S^T q", "V", False),
        (f"{MATRIX}S = S + b*layernorm(v - S k) k^T\n{READ}", None, False),  # every row of the state is needed at once
        (f"{MATRIX}S = S/(1 + norm(S)) + v k^T\n{READ}", None, False),
        (
            "state S[V, K], n[K]\ninput q[K], k[K], v[V]\nS = S + v k^T\nn = n + k\noutput o = S q / dot(n, q)",
            "V",
            True,
        ),
        ("state h[D]\ninput x[D], f[D]\nh = f .* h + x\noutput o = h", "D", False),
        ("state h[D]\ninput x[D]\nparam W[D, D]\nh = tanh(W h + x)\noutput o = h", None, False),
    ],
)
def test_cut(text: str, dim: str | None, shared: bool) -> None:
    found = of(text)
    assert (found.dim, found.shared) == (dim, shared)


def test_a_square_state_is_cut_by_rows() -> None:
    """Equal sizes are not the same axis."""
    found = of("state S[K, K]\ninput q[K], k[K], v[K]\nS = S + (v - S k) k^T\noutput o = S q")
    node = found.forward.program.results[-1].node
    assert found.forward.cut[node] == 0
