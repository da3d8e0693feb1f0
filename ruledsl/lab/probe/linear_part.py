"""The matrices of an affine map of some units, token after token, and whether composing them is taking two steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ruledsl.lab.probe.machine import Context, Machine, Unit

FAR = 100.0
ROUNDING = 4e-15


@dataclass(frozen=True, slots=True)
class Maps:
    runs: tuple[tuple[Tensor, ...], ...]  # per run of tokens: one matrix [n, n] per token
    composition: float  # |two steps - two composed maps|, relative


def linear_part(machine: Machine, c: Context, own: Tensor, tokens: int, generator: torch.Generator) -> Maps:
    """One run per row of the context. Columns are differences from the image of 0, exact for an affine map."""
    n = own.numel()
    unit = torch.cat([torch.zeros(1, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)])
    runs: list[list[Tensor]] = [[] for _ in range(c.rows)]
    shifts: list[Tensor] = []
    here = c
    for _ in range(tokens):
        image = machine.move(here, own, unit.expand(c.rows, n + 1, n))
        slope = image[:, 1:] - image[:, :1]
        size = image[:, :1].abs().amax(-1, keepdim=True)
        long = (size / slope.abs().amax((1, 2), keepdim=True).clamp(min=1e-30)).clamp(1, 1e8)
        if bool((long > FAR).any()):  # the columns of some would drown in the rounding of the constant
            slope = (machine.move(here, own, long * unit) - image[:, :1])[:, 1:] / long
        else:
            long = torch.ones_like(size)
        slope = torch.where(slope.abs() > ROUNDING * size / long, slope, 0.0)
        for run, columns in zip(runs, slope, strict=True):
            run.append(columns.T.contiguous())
        shifts.append(image[:, 0])
        here = machine.step(here)
    x = torch.randn(c.rows, 2, n, generator=generator, dtype=torch.float64)
    found = machine.move(c, own, x, 2)
    worst = 0.0
    for r, run in enumerate(runs):
        expected = (x[r] @ run[0].T + shifts[0][r]) @ run[1].T + shifts[1][r]
        scale = found[r].abs().max().clamp(min=1e-6)
        worst = max(worst, float((found[r] - expected).abs().max() / scale))
    return Maps(tuple(map(tuple, runs)), worst)


def coordinates(units: Sequence[Unit]) -> Tensor:
    """Where the units lie in the long vector."""
    return torch.cat([torch.arange(u.start, u.start + u.size) for u in units])


def joined(found: Sequence[Maps]) -> Maps:
    """All the runs whose matrices are finite, and the worst composition of all that has a value."""
    runs = tuple(run for maps in found for run in maps.runs if all(bool(m.isfinite().all()) for m in run))
    known = [maps.composition for maps in found if math.isfinite(maps.composition)]
    return Maps(runs or found[0].runs, max(known, default=math.nan))
