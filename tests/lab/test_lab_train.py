"""Training within a budget, the test on held-out bytes, the picture."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ruledsl.lab import train as training
from ruledsl.lab.plot import loss_curve
from ruledsl.lab.train import Progress, Recipe, held_out_bits, train


class _Bigram(nn.Module):
    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.full((256, 256), value))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]


def test_a_model_that_knows_nothing_needs_eight_bits() -> None:
    assert held_out_bits(_Bigram(), torch.randint(256, (1000,)), 100) == pytest.approx(8, abs=1e-5)


def test_each_byte_but_the_first_of_a_window_counts() -> None:
    model = _Bigram()
    data = torch.tensor([1, 2] * 50)
    with torch.no_grad():
        model.table[1, 2] = 50.0  # 1 -> 2 is certain, 2 -> 1 is not known
    assert held_out_bits(model, data, 2) == pytest.approx(0, abs=1e-6)
    assert held_out_bits(model, data, 5, size=3) == pytest.approx(8 * 20 / 40, abs=1e-4)


def test_a_run_of_steps_is_reproducible_and_learns() -> None:
    data = torch.arange(5000) * 7 % 256
    curves = []
    for _ in range(2):
        model = _Bigram()
        curves.append([p.bits for p in train(model, data, Recipe(steps=40, batch=8, context=16, rate=0.3))])
    assert curves[0] == curves[1] and len(curves[0]) == 40
    assert curves[0][0] == pytest.approx(8, abs=1e-4) and curves[0][-1] < 6
    assert curves[0] != [
        p.bits for p in train(_Bigram(), data, Recipe(steps=40, batch=8, context=16, rate=0.3, seed=1))
    ]


def test_the_time_budget_is_kept() -> None:
    seen: list[Progress] = []
    begin = time.monotonic()
    curve = train(_Bigram(), torch.randint(256, (500,)), Recipe(seconds=0.5, batch=2, context=8), seen.append)
    assert 0.5 <= time.monotonic() - begin < 3
    assert curve == seen and [p.step for p in curve] == list(range(1, len(curve) + 1))
    assert all(0 <= a.used <= b.used < 1 for a, b in zip(curve, curve[1:], strict=False))


def test_the_rate_warms_up_and_goes_down_to_a_tenth() -> None:
    assert training._schedule(0, 20, 0.0) == pytest.approx(1 / 20)
    assert training._schedule(30, 20, 0.0) == 1.0
    assert training._schedule(100, 20, 1.0) == pytest.approx(0.1)


def test_a_loss_that_explodes_is_an_error() -> None:
    with pytest.raises(FloatingPointError, match="step 0"):
        train(_Bigram(math.nan), torch.randint(256, (500,)), Recipe(steps=3, batch=2, context=8))


def test_picture(tmp_path: Path) -> None:
    curve = [Progress(i, 8 / i, i / 50) for i in range(1, 50)]
    path = tmp_path / "new" / "loss.png"
    loss_curve(curve, {"uniform": 8.0, "held out": 2.0}, path, "S = a*S + b*(v - S k) k^T")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
