"""Which units depend on each other, by changing one at a time and looking at what changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ruledsl.lab.probe.machine import Context, Machine, Unit

CHANGED = 1e-11  # relative


def dependence(machine: Machine, contexts: Sequence[Context], generator: torch.Generator) -> Tensor:
    """Bool [units, units]: entry (i, j) says that the next value of unit i was seen to depend on unit j, in this token
    or through a copy frozen at its start."""
    units = machine.units
    seen = torch.zeros(len(units), len(units), dtype=torch.bool)
    for c in contexts:
        wide = c.spread(2 * len(units) + 1)
        x = wide.x.clone().reshape(c.rows, 2 * len(units) + 1, -1)
        for j, u in enumerate(units):
            noise = torch.randn(c.rows, 2, u.size, generator=generator, dtype=x.dtype)
            old = x[:, 0:1, u.span]
            x[:, 2 * j + 1, u.span] = (old[:, 0].abs() + 0.1) * (1 + noise[:, 0].abs())
            x[:, 2 * j + 2, u.span] = old[:, 0] + noise[:, 1] * (1 + old[:, 0].abs())
        after = machine.run(wide.at(x.flatten(0, 1)), 1).reshape(x.shape)
        for i, v in enumerate(units):
            base = after[:, :1, v.span]
            change = (after[:, 1:, v.span] - base).abs().nan_to_num(0).amax(-1)
            scale = base.abs().amax(-1).nan_to_num(1).clamp(min=1e-3)
            seen[i] |= (change / scale > CHANGED).reshape(c.rows, len(units), 2).any(-1).any(0)
    return seen


def components(seen: Tensor, units: Sequence[Unit]) -> list[list[int]]:
    """Strongly connected components as lists of unit numbers. Lagged lets that hold no loop are left out."""
    reach = seen.clone()
    for _ in range(max(1, len(units).bit_length())):
        reach |= (reach.double() @ reach.double()) > 0
    out: list[list[int]] = []
    for i, _ in enumerate(units):
        if not any(i in part for part in out):
            out.append([j for j, _ in enumerate(units) if j == i or (reach[i, j] and reach[j, i])])
    return [part for part in out if any(units[i].slot is None for i in part) or bool(reach[part][:, part].any())]
