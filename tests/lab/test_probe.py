"""The probe on the corpus and the collection, on what each measurement must tell apart, and against false verdicts."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from ruledsl.algebra.judge import judge
from ruledsl.algebra.verdict import Kind
from ruledsl.lab.probe import Probed, compare, probe
from ruledsl.lab.probe.probed import ANY
from ruledsl.lang import typed
from ruledsl.lang.check import check
from ruledsl.lang.parse import parse
from ruledsl.lang.source import Source

ROOT = Path(__file__).resolve().parent.parent.parent
TEXTS = {
    f"{p.parent.name}/{p.stem}": p.read_text()
    for folder in ("tests/corpus", "rules")
    for p in sorted((ROOT / folder).glob("*.rule"))
}
STATED = {name: re.search(r"#.*?(?:expect|verdict):\s*(\w+)", text) for name, text in TEXTS.items()}
ACCEPTED = [name for name, found in STATED.items() if found and found[1] != "refused"]

# Texts for which the numbers leave more than the stated verdict, and why: none.
NO_DECISION: dict[str, str] = {}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def rule(text: str) -> typed.Rule:
    return check(parse(Source(text)))


@cache
def probed(text: str) -> Probed:
    return probe(rule(text))


@pytest.mark.parametrize("name", ACCEPTED)
def test_corpus(name: str) -> None:
    stated = STATED[name]
    assert stated
    found = probed(TEXTS[name])
    assert not found.trouble
    assert Kind(stated[1]) in found.kinds, found
    assert (found.kinds != {Kind(stated[1])}) == (name in NO_DECISION), found
    assert not compare(found, judge(rule(TEXTS[name])))


def test_nothing_that_decides_verdicts_is_imported() -> None:
    """Of the algebra only the names of the kinds, and for the comparison the verdict as data."""
    for path in (ROOT / "ruledsl/lab/probe").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ruledsl.algebra"):
                names = {a.name for a in node.names}
                allowed = {"Kind", "Verdict"} if path.stem == "compare" else {"Kind"}
                assert node.module == "ruledsl.algebra.verdict" and names <= allowed, path


HEAD = "state S[V, K]\ninput q[K], k[K], v[V], p[K], u[V], w[K], P[K, K], R[K, K] perm, X[V, K], a, b\n"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("closed", "S = v k^T"),
        ("closed", "S = S R diag(w)"),
        ("closed", "S = X .* (S R)"),
        ("chunkwise", "S = S R + (S k) p^T"),  # permutation plus rank 1
        ("chunkwise", "S = S - b*(S k) p^T - (S p) w^T - a*(S w) q^T"),  # rank 3 needs wider states
        ("chunkwise", "S = (I - a*u u^T) S (I - b*k k^T)"),
        ("dense", "S = diag(u) S - b*(S k) k^T; S = a*S diag(w)"),
        ("dense", "S = X .* S + diag(u) S R"),
        ("dense", "S = S R + a*S"),  # permutations that are added up
        ("dense", "S = S (P + k k^T)"),
        ("dense", "S = X .* S - (S k) k^T"),
        ("sequential", "S = S + relu(S k) p^T"),
        ("sequential", "S = where(sum(S) > 0, S, a*S)"),
        ("sequential", "S = S/(1 + norm(S))"),
        ("sequential", "S = rmsnorm(S) + v k^T"),
        ("reparametrised", "S = a*S diag(w); S = S/norm(S)"),
        ("reparametrised", "S = S/(2 + sum(S)) + v k^T"),
        ("reparametrised", "S = max(S, X)"),
        ("reparametrised", "S = softplus(S) + X"),
    ],
)
def test_kinds_told_apart(kind: str, body: str) -> None:
    text = f"{HEAD}{body}\noutput o = S q"
    assert probed(text).kinds == {Kind(kind)}, probed(text)


def test_terms_and_rank_are_counted() -> None:
    text = (ROOT / "tests/corpus/case_09.rule").read_text()
    assert probed(text).parts[0].terms == (2, 4)  # 2, 4, 7, 11 over tokens
    (delta,) = probed((ROOT / "tests/corpus/delta.rule").read_text()).parts
    assert (delta.terms, delta.rank) == ((1, 1), (1, 2))
    assert delta.composition is not None and delta.composition < 1e-12


def test_strata_are_found() -> None:
    found = probed((ROOT / "tests/corpus/rls.rule").read_text())
    assert [(m.states, m.monoid) for m in found.parts] == [(("P",), "inverse"), (("S",), "")]
    coupled = probed((ROOT / "tests/corpus/momentum_delta.rule").read_text())
    assert [set(m.states) for m in coupled.parts] == [{"S", "M"}]


@pytest.mark.parametrize(("name", "gauge"), [("mlstm", ("m",)), ("rwkv4", ("p",)), ("case_24", ()), ("delta", ())])
def test_gauge(name: str, gauge: tuple[str, ...]) -> None:
    assert probed((ROOT / f"tests/corpus/{name}.rule").read_text()).gauge == gauge


def test_frozen_is_affine_only_while_held() -> None:
    free = "state S[V, K]\ninput q[K], k[K], v[V]\nS = S + tanh(v - S k) k^T\noutput o = S q"
    held = free.replace("v - S k", "v - frozen(S, 16) k")
    both = free.replace("v - S k", "v - frozen(S, 16) k - S k")
    linear = held.replace("tanh", "")
    assert [probed(t).kinds == {Kind(k)} for t, k in ((free, "sequential"), (held, "frozen"), (both, "sequential"))]
    assert Kind.FROZEN in probed(linear).kinds and len(probed(linear).kinds) == 4


@pytest.mark.parametrize("name", ["delta", "gla", "case_57", "mlstm", "titans", "gru"])
def test_false_verdicts_are_caught(name: str) -> None:
    text = (ROOT / f"tests/corpus/{name}.rule").read_text()
    honest = judge(rule(text))
    for kind in ANY - {honest.kind}:
        strata = tuple(replace(s, kind=kind) for s in honest.strata)
        assert compare(probed(text), replace(honest, kind=kind, strata=strata)), kind
    strata = tuple(replace(s, kind=Kind.UNDECIDED) for s in honest.strata)
    assert not compare(probed(text), replace(honest, kind=Kind.UNDECIDED, strata=strata))


def test_coupling_that_the_verdict_overlooks_is_caught() -> None:
    text = (ROOT / "tests/corpus/case_35.rule").read_text()
    honest = judge(rule(text))
    (one,) = honest.strata
    apart = tuple(replace(one, states=(name,)) for name in one.states)
    (conflict,) = compare(probed(text), replace(honest, strata=apart))
    assert conflict.claimed is None and "depend on each other" in str(conflict)
