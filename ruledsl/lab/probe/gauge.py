"""Gauge states: adding to one of them while scaling the states that read it leaves every output as it was."""

from __future__ import annotations

import math

from torch import Tensor

from ruledsl.lab.probe.machine import Context, Machine, Unit

SHIFT = 0.7
SAME = 1e-9


def gauge(machine: Machine, c: Context, seen: Tensor) -> tuple[str, ...]:
    """Names of states m for which m + d together with exp(-d) times each state that depends on m gives the same
    outputs, though neither alone does. `seen`: who depends on whom."""
    if not machine.rule.outputs:
        return ()
    plain = machine.outputs(c)[0]
    found = []
    for i, u in enumerate(machine.units):
        others = [v for j, v in enumerate(machine.units) if j != i and seen[j, i] and v.slot is None]
        if u.slot is not None or not others:
            continue
        both, shifted, scaled = (
            all(_same(x, moved[name]) for name, x in plain.items())
            for moved in (
                machine.outputs(c.at(_moved(c.x, u, others, *by)))[0]
                for by in ((SHIFT, SHIFT), (SHIFT, 0.0), (0.0, SHIFT))
            )
        )
        if both and not shifted and not scaled:
            found.append(str(u))
    return tuple(found)


def _moved(x: Tensor, shifted: Unit, scaled: list[Unit], shift: float, scale: float) -> Tensor:
    new = x.clone()
    new[:, shifted.span] += shift
    for u in scaled:
        new[:, u.span] *= math.exp(-scale)
    return new


def _same(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= SAME * a.abs().max().clamp(min=1e-9))
