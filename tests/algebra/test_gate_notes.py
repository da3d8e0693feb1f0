"""Decays whose logarithm is not safe are noted at their place; where it is safe nothing is said."""

from __future__ import annotations

import pytest

from ruledsl.algebra.gate_notes import gate_notes
from ruledsl.lang.diagnostic import Severity

from .corpus import ACCEPTED, judged, verdict

HEAD = "state S[V, K]\ninput q[K], k[K], v[V], x[K], {}\nS = {} + v k^T\noutput o = S q"


@pytest.mark.parametrize(
    ("declared", "decayed", "label", "hint"),
    [
        ("a in (0, 1]", "a*S", "it comes near to 0", "`a in [0.001, 1]` if it stays away from 0"),
        ("a in [0, 1)", "a*S", "it may be 0", "`a in [0.001, 1)` if it stays away from 0"),
        ("a in (-1, 1)", "a*S", "it may be negative", ""),
        ("a", "a*S", "nothing is declared about it", "`a in [0.001, 1]` if it is a forgetting gate"),
        ("a[K] in (0, 1)", "S diag(a)", "it comes near to 0", "`a in [0.001, 1)`"),
        ("a", "relu(a)*S", "it may be 0", ""),
    ],
)
def test_an_unsafe_logarithm(declared: str, decayed: str, label: str, hint: str) -> None:
    found = judged(HEAD.format(declared, decayed))
    (note,) = gate_notes(found)
    assert note.code == "RD703" and note.severity is Severity.NOTE
    assert label in note.label and hint in note.hint and bool(hint) == bool(note.hint)
    source = found.rule.source
    assert source.slice(note.span) in decayed and f"`{source.slice(note.span)}`" in note.headline
    if hint:  # the promise that is proposed does away with the note
        promise = note.hint.split("`")[1]
        promise = promise.replace("a in", "a[K] in") if "[K]" in declared else promise
        assert not gate_notes(judged(HEAD.format(promise, decayed)))


@pytest.mark.parametrize(
    ("declared", "decayed"),
    [
        ("a in [0.006, 1]", "a*S"),
        ("a", "exp(-softplus(a))*S"),
        ("a", "sigmoid(a)*S"),
        ("a", "S"),
        ("a", "S diag(exp(-exp(x)))"),
    ],
)
def test_a_safe_logarithm(declared: str, decayed: str) -> None:
    assert not gate_notes(judged(HEAD.format(declared, decayed)))


@pytest.mark.parametrize("name", [n for n in ACCEPTED if verdict(n).token is None])
def test_without_a_chunk_form_no_logarithm_is_wanted(name: str) -> None:
    assert gate_notes(verdict(name)) == ()
