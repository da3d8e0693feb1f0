"""Functions of whole vectors and matrices [..., rows, cols]: by row, and of their layout."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LAYERNORM_EPS = 1e-5
UNIT_EPS = 1e-6

COMPARE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "<": torch.lt,
    "<=": torch.le,
    ">": torch.gt,
    ">=": torch.ge,
    "==": torch.eq,
}


def _rmsnorm(x: Tensor, axis: int) -> Tensor:
    return x * torch.rsqrt((x * x).mean(axis, keepdim=True) + LAYERNORM_EPS)


def _layernorm(x: Tensor, axis: int) -> Tensor:
    return _rmsnorm(x - x.mean(axis, keepdim=True), axis)


def _unit(x: Tensor, axis: int) -> Tensor:
    return x * torch.rsqrt((x * x).sum(axis, keepdim=True) + UNIT_EPS)


ROW_WISE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "softmax": torch.softmax,
    "layernorm": _layernorm,
    "rmsnorm": _rmsnorm,
    "unit": _unit,
}


def kron(x: Tensor, y: Tensor) -> Tensor:
    blocks = x[..., :, None, :, None] * y[..., None, :, None, :]
    return blocks.flatten(-4, -3).flatten(-2, -1)


def diagonal(x: Tensor) -> Tensor:
    return torch.diagonal(x, dim1=-2, dim2=-1).unsqueeze(-1)


def topk(x: Tensor, axis: int, count: int) -> Tensor:
    """1 at the `count` largest entries, 0 elsewhere."""
    chosen = torch.topk(x.detach(), min(count, x.shape[axis]), dim=axis).indices
    return torch.zeros_like(x).scatter(axis, chosen, 1.0)


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Turn the plane of entries 2i-1 and 2i by angle[i]."""
    odd, even, c, s = x[..., 0::2, :], x[..., 1::2, :], torch.cos(angle), torch.sin(angle)
    return torch.stack([odd * c - even * s, odd * s + even * c], -2).flatten(-3, -2)
