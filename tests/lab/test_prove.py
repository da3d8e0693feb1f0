"""Random rules: the checker's verdict against the probe's numbers."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from ruledsl.algebra.verdict import Kind
from ruledsl.lab import prove as command
from ruledsl.lab.prove import prove
from ruledsl.lab.random_rule import random_rule

BATCH, BATCHES = 50, 6  # `make prove` runs thousands


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_verdict_and_probe_agree(batch: int) -> None:
    proofs = [prove(seed) for seed in range(batch * BATCH, (batch + 1) * BATCH)]
    wrong = [f"seed {p.seed}: {c}\n{p.text}" for p in proofs for c in p.conflicts]
    assert not wrong, "\n".join(wrong)
    results = Counter(p.result for p in proofs)
    assert results["no decision"] <= BATCH // 10
    assert results["agrees"] >= BATCH // 2


def test_every_verdict_comes_out() -> None:
    from ruledsl.algebra.judge import judge
    from ruledsl.lang.check import check
    from ruledsl.lang.parse import parse
    from ruledsl.lang.source import Source

    kinds = Counter(judge(check(parse(Source(random_rule(seed))))).kind for seed in range(5000, 5080))
    assert all(kinds[kind] for kind in Kind if kind is not Kind.UNDECIDED), kinds
    assert kinds[Kind.UNDECIDED] < 8


def test_a_seed_is_a_text() -> None:
    assert random_rule(7) == random_rule(7) != random_rule(8)


def test_a_contradiction_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    honest = command.judge

    def lying(rule: object) -> object:
        verdict = honest(rule)  # type: ignore[arg-type]
        strata = tuple(replace(s, kind=Kind.CLOSED) for s in verdict.strata)
        return replace(verdict, kind=Kind.CLOSED, strata=strata)

    monkeypatch.setattr(command, "judge", lying)
    seed = next(s for s in range(100) if prove(s).conflicts)
    capsys.readouterr()
    assert command.main(["--count", "1", "--start", str(seed)]) == 1
    out = capsys.readouterr().out
    assert f"contradictions at seeds {seed}" in out and random_rule(seed) in out


def test_agreement_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--count", "2"]) == 0
    assert "2 random rules, seeds 0 to 1" in capsys.readouterr().out
