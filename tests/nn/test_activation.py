"""Ranges hold for any projection, are reached, and pass a gradient."""

from __future__ import annotations

from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ruledsl.lang.typed import Interval
from ruledsl.nn.activation import activate, unit

ENDS = [(0, 1), (-1, 1), (0, 2), (0.006, 1), (-3, 5), (0, inf), (0.25, inf), (-inf, 0), (-inf, 2)]


@pytest.mark.parametrize(("low", "high"), ENDS)
@given(x=st.floats(-60, 60))
@settings(max_examples=30, deadline=None)
def test_values_stay_in_range(low: float, high: float, x: float) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        y = activate(torch.tensor([x], dtype=dtype), Interval(low, high)).double()
        assert low - 1e-6 <= y.item() <= high + 1e-6


@pytest.mark.parametrize(("low", "high"), ENDS)
def test_the_range_is_covered_and_monotone(low: float, high: float) -> None:
    x = torch.linspace(-30, 30, 601, dtype=torch.float64, requires_grad=True)
    y = activate(x, Interval(low, high))
    (slope,) = torch.autograd.grad(y.sum(), x)
    slope = slope * slope[300].sign()
    assert slope.min() >= 0 and slope[260:341].min() > 1e-4
    for end in (low, high):
        assert (y - end).abs().min() < 1e-6 if abs(end) < inf else y.abs().max() > 25


def test_no_range_changes_nothing() -> None:
    x = torch.randn(5)
    assert activate(x, None) is x and activate(x, Interval(-inf, inf)) is x


def test_sigmoids_are_the_plain_ones() -> None:
    x = torch.randn(50, dtype=torch.float64)
    torch.testing.assert_close(activate(x, Interval(0, 1, low_open=True)), x.sigmoid())
    torch.testing.assert_close(activate(x, Interval(0, 2)), 2 * x.sigmoid())
    torch.testing.assert_close(activate(x, Interval(-1, 1, True, True)), x.tanh())


def test_unit() -> None:
    x = torch.randn(3, 7, 5)
    torch.testing.assert_close(unit(x), x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt())
    assert unit(torch.zeros(2, 5)).eq(0).all()
    assert unit(x.bfloat16()).dtype is torch.bfloat16
