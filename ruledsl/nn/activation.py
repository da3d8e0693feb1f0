"""From a declared range to the map that brings a projection into it.

    finite [a, b]  a + (b - a) sigmoid(x)        (-1, 1)  tanh(x)
    [a, inf)       a + softplus(x)               (-inf, b]  b - softplus(x)

Whether an end is open does not matter: each map stays inside, up to rounding in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ruledsl.lang.typed import Interval


def activate(x: Tensor, interval: Interval | None) -> Tensor:
    """Bring `x` into the interval, element by element; in float32 at least, as 1 - decay needs more than bfloat16."""
    if interval is None or (math.isinf(interval.low) and math.isinf(interval.high)):
        return x
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    low, high = interval.low, interval.high
    if math.isinf(high):
        return softplus(x) if low == 0 else low + softplus(x)
    if math.isinf(low):
        return high - softplus(x)
    if (low, high) == (-1, 1):
        return x.tanh()
    if (low, high) == (0, 1):
        return x.sigmoid()
    return low + (high - low) * x.sigmoid()


def unit(x: Tensor) -> Tensor:
    """x / |x| along the last axis, as the language's `unit`: x*rsqrt(sum(x^2) + 1e-6)."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + 1e-6)).to(x.dtype)
