"""The demo's own judgement, and the whole of it on a few steps."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

import ruledsl
from ruledsl.lab import demo
from ruledsl.lab.demo import MARGIN, TOLERANCE, Outcome, largest_gap, next_lines, run
from ruledsl.nn.model import LanguageModel


def test_what_passes_and_what_fails() -> None:
    assert Outcome(3.0, 3.0 + MARGIN, TOLERANCE).failures() == []
    assert "did not learn" in Outcome(3.2, 4.6, 0.0).failures()[0]
    assert "differ by 2.0e-03" in Outcome(2.0, 4.6, 2e-3).failures()[0]
    assert len(Outcome(math.nan, 4.6, math.nan).failures()) == 2


def test_the_gap_sees_a_step_that_is_wrong() -> None:
    torch.manual_seed(0)
    model = LanguageModel(ruledsl.load("S = a*S + b*(v - S k) k^T"), dim=16, layers=1, heads=2, conv=4)
    tokens = torch.randint(256, (2, 20))
    assert largest_gap(model, tokens) < 1e-4
    step = model.memories[0].step
    model.memories[0].step = lambda x, state: step(x, state._replace(memory=0.9 * state.memory))  # type: ignore[method-assign]
    assert largest_gap(model, tokens) > 1e-3


def test_a_few_steps_of_everything(tmp_path: Path) -> None:
    text = io.StringIO()
    outcome = run(60, 0, tmp_path, Console(file=text, width=100), steps=3)
    said = text.getvalue()
    assert "chunkwise" in said and "byte frequencies 4.6" in said and "uniform 8.00" in said
    assert outcome.gap < TOLERANCE and 4 < outcome.bits < 12 and outcome.failures()
    assert (tmp_path / "demo_loss.png").stat().st_size > 5000
    compile((tmp_path / "mission.py").read_text(), "mission.py", "exec")


@pytest.mark.parametrize(("bits", "status"), [(2.0, 0), (4.5, 1)])
def test_status(
    bits: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "run", lambda *_: Outcome(bits, 4.7, 1e-6))
    assert demo.main(["--folder", str(tmp_path)]) == status
    said = capsys.readouterr()
    assert all(line in said.out for line in next_lines()) == (status == 0)
    assert ("did not learn" in said.err) == (status == 1)


def test_seconds_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        demo.main(["--seconds", "0"])
    assert "must be positive" in capsys.readouterr().err
