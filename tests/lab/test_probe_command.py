"""`ruledsl check --probe`: what it prints and its exit status."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ruledsl.algebra.verdict import Kind
from ruledsl.cli.app import app

CLIP = "state h[K]\ninput a[K], b[K]\nh = relu(a .* h + b)\noutput o = h"
UNDECIDED = "state h[K]\ninput a[K], x[K]\nh = abs(a .* h + x)\noutput o = h"


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["check", *words, "--probe"], env={"COLUMNS": "100"})


def test_agreement_is_printed_with_what_was_measured() -> None:
    done = run("delta")
    assert done.exit_code == 0
    assert "delta: probe: chunkwise: agrees (at V = 12, K = 16)" in done.stdout
    text = " ".join(done.stdout.split())
    assert "one term L (x) R" in text and "two composed maps are two steps" in text


def test_the_gauge_and_the_monoid_are_named() -> None:
    assert "gauge: shifting m " in run("mlstm").stdout
    assert "one family: clip" in run("-e", CLIP).stdout


def test_undecided_is_held_against_nothing() -> None:
    done = run("-e", UNDECIDED)
    assert done.exit_code == 0 and "nothing is claimed; the numbers allow sequential" in done.stdout


def test_a_contradiction_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from ruledsl import pipeline

    honest = pipeline.verdict

    def lying(rule: Any) -> Any:
        found = honest(rule)
        return replace(found, kind=Kind.CLOSED, strata=tuple(replace(s, kind=Kind.CLOSED) for s in found.strata))

    monkeypatch.setattr(pipeline, "verdict", lying)
    done = run("delta")
    assert done.exit_code == 3
    assert "delta: probe: closed: CONTRADICTS the verdict" in done.stdout
    assert "a fault of ruledsl: S: the verdict says closed, the numbers say chunkwise" in done.stderr
    quiet = run("delta", "--format", "json")
    assert quiet.exit_code == 3 and "a fault of ruledsl" in quiet.stderr
    assert json.loads(quiet.stdout)["rules"][0]["kind"] == "closed"
