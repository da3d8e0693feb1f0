"""What one token of a rule becomes as a program; its numbers are tested where it runs."""

from __future__ import annotations

import pytest

from ruledsl import pipeline
from ruledsl.chunk.program import Port, PortKind, Program, ResultKind
from ruledsl.chunk.token_program import token_program
from ruledsl.chunk.unsupported import UnsupportedForm


def program(text: str, **given: object) -> Program:
    rule = pipeline.check(pipeline.parse(pipeline.read(text)))
    sizes = dict.fromkeys(pipeline.unroll_sizes(rule), 3)
    return token_program(pipeline.unroll(rule, sizes), sizes, given.get("lags", {}), given.get("frozen", ()))  # type: ignore[arg-type]


def ops(p: Program) -> set[str]:
    return {n.op for n in p.nodes}


def test_structured_products_form_no_matrix() -> None:
    p = program("state S[V, K]\ninput q[K], k[K], w[K], v[V]\nS = S (diag(w) - k k^T) + v k^T\noutput o = S q")
    assert "dot" not in ops(p) and "diagonal" not in ops(p) and "eye" not in ops(p)
    p = program("state S[V, K]\ninput q[K], A[K, K], v[V]\nlet M = I - 0.5*A\nS = S M + v q^T\noutput o = S q")
    assert "eye" not in ops(p) and sum(n.op == "dot" for n in p.nodes) == 1


def test_what_is_looked_back_at_is_a_ring_of_states() -> None:
    p = program("state s[K]\ninput x[K]\ns = s + prev(x, 2)\noutput o = s", lags={"x": 2})
    leaving = {r.port: r.node for r in p.results if r.kind is ResultKind.STATE}
    assert list(leaving) == [Port("s", PortKind.STATE), *(Port("prev.x", PortKind.STATE, (j,)) for j in (1, 2))]
    older, newer = (p.nodes[leaving[Port("prev.x", PortKind.STATE, (j,))]] for j in (1, 2))
    assert p.port(older) == Port("prev.x", PortKind.STATE, (2,)) and p.port(newer) == Port("x", PortKind.INPUT)
    assert dict(p.types)["prev.x"].family == (2,)


def test_a_frozen_state_is_copied_where_a_chunk_begins() -> None:
    text = "state S[V, K]\ninput q[K], k[K], v[V]\nS = S - grad(0.5*norm2(frozen(S, 4) k - v), S)\noutput o = S q"
    p = program(text, frozen=(("S", 4),))
    copy = p.result("frozen.S.4", ResultKind.STATE)
    assert p.nodes[copy.node].op == "select"
    assert any(port.kind is PortKind.POSITION for port in p.ports)


def test_members_of_families_are_states_of_their_own() -> None:
    p = program("state s[n, K]\ninput x[K], a[n]\nfor j in 2..n:\n    s[j] = s[j - 1]\ns[1] = a[1]*x\noutput o = s[n]")
    assert [r.port.member for r in p.results if r.kind is ResultKind.STATE and r.port] == [(1,), (2,), (3,)]


def test_what_has_no_form_says_why() -> None:
    with pytest.raises(UnsupportedForm, match="solve"):
        program("state H[K, K]\ninput q[K], k[K]\nH = H + k k^T\noutput o = solve(H + I, q, 5)")
    with pytest.raises(UnsupportedForm, match="over 40 tokens"):
        program("state s[K]\ninput x[K]\ns = s + prev(x, 40)\noutput o = s", lags={"x": 40})
