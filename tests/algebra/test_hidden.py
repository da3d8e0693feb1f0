"""Lets that read their own past: judged as the states that they are."""

from __future__ import annotations

import pytest

from ruledsl.algebra.hidden import hidden
from ruledsl.algebra.verdict import Kind

from .corpus import ACCEPTED, SHIPPED, judged, verdict

HEAD = "state S[V, K]\ninput q[K], k[K], v[V], x, a in [0, 1)\n"
TAIL = "\nS = h*S + v k^T\noutput o = S q"


@pytest.mark.parametrize(
    ("body", "kind", "states"),
    [
        ("let h = tanh(x + prev(h))", Kind.SEQUENTIAL, ("h",)),
        ("let h = a*prev(h) + x", Kind.CLOSED, ("h",)),
        ("let h = max(prev(h) + a, x)", Kind.REPARAMETRISED, ("h",)),
        ("let g = sigmoid(x + prev(h))\nlet h = tanh(g)", Kind.SEQUENTIAL, ("h",)),
        ("let g = prev(h)*a\nlet h = g + x", Kind.CLOSED, ("h",)),
        ("let h = x*prev(h, 2)", Kind.UNDECIDED, ("S",)),
    ],
)
def test_a_let_that_carries_itself(body: str, kind: Kind, states: tuple[str, ...]) -> None:
    found = judged(HEAD + body + TAIL)
    assert found.kind is kind, found.reason
    assert found.strata[0].states == states
    assert found.token is None and found.no_form
    assert all(s.name != "h" for s in found.rule.symbols), "the rule itself stays as written"


def test_it_is_the_state_that_it_stands_for() -> None:
    """The same verdicts, bounds and price as with the state written out."""
    let = judged(HEAD + "let h = a*prev(h) + x" + TAIL)
    state = judged("state h\n" + HEAD + "h = a*h + x" + TAIL)
    assert [(s.states, s.kind, s.structure) for s in let.strata] == [
        (s.states, s.kind, s.structure) for s in state.strata
    ]
    assert let.stability.bound == state.stability.bound and let.price.state_bytes == state.price.state_bytes
    assert any("h reads its own past" in n for n in let.notes)


def test_an_output_that_goes_round_is_not_decided() -> None:
    found = judged(
        "state S[V, K]\ninput q[K], v[K]\nlet k = q + prev(o)\nS = S + q k^T\noutput o = tanh(k)".replace(
            "[V, K]", "[K, K]"
        )
    )
    assert found.kind is Kind.UNDECIDED and "`o` is made from its own past" in found.reason
    assert found.blame is not None and found.rule.source.slice(found.blame) == "prev(o)"


@pytest.mark.parametrize("name", [*ACCEPTED, *SHIPPED])
def test_no_rule_of_the_collection_has_one(name: str) -> None:
    """Also not those that read an earlier read-out: it comes from a state."""
    assert not hidden(verdict(name).rule)
