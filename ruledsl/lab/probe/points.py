"""Points to look at a map from: of either sign, positive, or positive definite, and a map's affinity between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ruledsl.lab.probe.machine import Unit

Draw = Callable[[Sequence[Unit], int, int, torch.Generator], Tensor]  # units, rows, points -> [R, P, n]


def normal(units: Sequence[Unit], rows: int, count: int, generator: torch.Generator) -> Tensor:
    """Of either sign, of sizes from 0.3 to 30."""
    n = sum(u.size for u in units)
    scale = 0.3 * 100 ** torch.rand(rows, count, 1, generator=generator, dtype=torch.float64)
    return scale * torch.randn(rows, count, n, generator=generator, dtype=torch.float64)


def positive(units: Sequence[Unit], rows: int, count: int, generator: torch.Generator) -> Tensor:
    n = sum(u.size for u in units)
    return torch.randn(rows, count, n, generator=generator, dtype=torch.float64).exp()


def definite(units: Sequence[Unit], rows: int, count: int, generator: torch.Generator) -> Tensor:
    """Square units are symmetric and positive definite, the others positive."""
    parts = []
    for u in units:
        if u.rows == u.cols:
            a = torch.randn(rows, count, u.rows, u.rows, generator=generator, dtype=torch.float64)
            parts.append((a @ a.mT / u.rows + torch.eye(u.rows, dtype=torch.float64)).flatten(2))
        else:
            parts.append(positive([u], rows, count, generator))
    return torch.cat(parts, 2)


DRAWS: tuple[Draw, ...] = (normal, positive, definite)


def affinity(f: Callable[[Tensor], Tensor], draw: Draw, units: Sequence[Unit], rows: int, g: torch.Generator) -> float:
    """How far f is from affine along random lines, relative to its values; NaN where f has none.

    f maps [R, P, n] to [R, P, n]; z = x + s (y - x) must go to f(x) + s (f(y) - f(x))."""
    pairs = 7
    x, y = draw(units, rows, pairs, g), draw(units, rows, pairs, g)
    s = torch.tensor([0.35, 0.8, 1.6, -0.7, 0.5, 0.2, -1.5], dtype=torch.float64)[:, None]
    if draw is not normal:  # stay inside the cone
        s = s.abs().clamp(max=0.8)
    fx, fy, fz = f(torch.cat([x, y, x + s * (y - x)], 1)).split(pairs, 1)
    scale = torch.stack([fx, fy, fz]).abs().amax((0, -1)).clamp(min=1e-6)
    return float(((fz - fx - s * (fy - fx)).abs().amax(-1) / scale).amax())
