"""The short convolution against torch's, cut anywhere, packed."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv1d, silu

from ruledsl.nn.conv import ShortConv


@pytest.mark.parametrize("width", [2, 4])
def test_is_a_causal_depthwise_convolution(width: int) -> None:
    conv, x = ShortConv(6, width), torch.randn(2, 9, 6)
    y, _ = conv(x)
    padded = torch.nn.functional.pad(x.mT, (width - 1, 0))
    want = silu(conv1d(padded, conv.weight.flip(0).T[:, None], groups=6)).mT
    torch.testing.assert_close(y, want)


@pytest.mark.parametrize("cut", [0, 1, 2, 5, 9])
def test_cut_anywhere(cut: int) -> None:
    conv, x = ShortConv(6, 4), torch.randn(2, 9, 6)
    whole, last = conv(x, conv.init_state(2))
    first, state = conv(x[:, :cut])
    second, state = conv(x[:, cut:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole)
    assert torch.equal(state, last)


def test_packed_is_one_by_one() -> None:
    """With sequences shorter than the width, empty ones, and tokens after the last."""
    conv, lengths = ShortConv(6, 4), [0, 1, 5, 0, 2, 3]
    x, before = torch.randn(1, 13, 6), torch.randn(6, 3, 6)
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    for given in (None, before):
        y, state = conv(x, given, bounds)
        assert y.shape == x.shape
        for i, n in enumerate(lengths):
            part = x[:, bounds[i] : bounds[i] + n]
            want, last = conv(part, None if given is None else given[i : i + 1])
            torch.testing.assert_close(y[:, bounds[i] : bounds[i] + n], want)
            assert torch.equal(state[i : i + 1], last)


def test_gradient() -> None:
    conv = ShortConv(3, 3).double()
    x, state = (
        torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True),
        torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(lambda x, s: conv(x, s), (x, state))
