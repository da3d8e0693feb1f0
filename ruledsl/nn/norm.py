"""Root-mean-square norms: over a head's output, and over the residual stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPS = 1e-5


def rms_normalise(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + 1e-5) along the last axis, reduced in float32 at least, in x's dtype."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)).to(x.dtype)


class HeadNorm(nn.Module):
    """[..., heads, width] normalised along `width`, with one weight per head and channel."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_normalise(x) * self.weight.to(x.dtype)

    def extra_repr(self) -> str:
        return f"heads={self.weight.shape[0]}, width={self.weight.shape[1]}"
