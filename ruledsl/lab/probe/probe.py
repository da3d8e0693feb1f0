"""The probe: a typed rule, measured by running it. See the package for what is measured."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from ruledsl.algebra.verdict import Kind
from ruledsl.lab.probe.context import context
from ruledsl.lab.probe.families import Map, entrywise, family
from ruledsl.lab.probe.gauge import gauge
from ruledsl.lab.probe.linear_part import coordinates, joined, linear_part
from ruledsl.lab.probe.machine import Context, Machine, Unit
from ruledsl.lab.probe.points import DRAWS, affinity, normal
from ruledsl.lab.probe.probed import AFFINE, ANY, Measured, Probed
from ruledsl.lab.probe.sizes import choices
from ruledsl.lab.probe.strata import components, dependence
from ruledsl.lab.probe.structure import structure
from ruledsl.lang import typed
from ruledsl.lang.walk import expressions, subexpressions

STRAIGHT = 1e-8  # residual below which a map is affine
WIDEST = 1600  # coordinates whose matrices are formed
BRANCHES = 4  # more draws, if the rule takes one of several ways somewhere
NONE = Probed({}, (), frozenset({Kind.CLOSED}))


def probe(rule: typed.Rule, seed: int = 0) -> Probed:
    """Loops and families are run with few members, all other sizes are 12 or more and differ."""
    if not rule.of(typed.Role.STATE):
        return NONE
    trouble = ""
    found = None
    for sizes in choices(rule):
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                new = _probed(Machine(rule, sizes), seed)
        except (ValueError, torch.linalg.LinAlgError) as e:
            trouble = trouble or str(e)
            continue
        found = new if found is None else min(found, new, key=_unclear)
        if not _unclear(found):
            break  # wider states cannot tell more
    return found or Probed({}, (), ANY, trouble=trouble or "no sizes fit the rule")


def _unclear(found: Probed) -> int:
    """How many parts are affine of a structure that the sizes were too small to tell."""
    return sum(p.kinds == AFFINE for p in found.parts)


def _probed(machine: Machine, seed: int) -> Probed:
    generator = torch.Generator().manual_seed(seed)
    seen = dependence(machine, [context(machine, 8, 2, generator, wide) for wide in (False, True)], generator)
    if machine.token.carried.frozen:
        seen |= dependence(machine, [context(machine, 8, 2, generator, True, start=True)], generator)
    parts = tuple(_measured(machine, part, seen, generator) for part in components(seen, machine.units))
    kinds = frozenset(max(c, key=lambda k: k.number) for c in product(*(p.kinds for p in parts)))
    shifts = gauge(machine, context(machine, 3, 2, generator, False), seen)
    return Probed(machine.sizes, parts, kinds or frozenset({Kind.CLOSED}), shifts)


def _measured(machine: Machine, part: Sequence[int], seen: Tensor, generator: torch.Generator) -> Measured:
    units = [machine.units[i] for i in part]
    lagged = all(u.slot is not None for u in units)
    about = machine.units if lagged else units
    readers = [u for i, u in enumerate(about) if u.slot is None and (not lagged or bool(seen[i, part].any()))]
    names = tuple(dict.fromkeys(u.name for u in readers))
    lets = tuple(dict.fromkeys(u.name for u in units)) if lagged else ()
    return replace(_of_units(machine, units, names, generator), lagged=lets)


def _of_units(machine: Machine, units: Sequence[Unit], names: tuple[str, ...], generator: torch.Generator) -> Measured:
    own = coordinates(units)
    residual = math.nan
    for draw, wide in product(DRAWS, (True, False)):
        inside = context(machine, 6, 2, generator, wide)
        residual = affinity(_map(machine, inside, own, 1), draw, units, inside.rows, generator)
        if math.isfinite(residual):
            break
    else:
        return Measured(names, ANY, "no decision: no points where the map has finite values were found")
    for i in range(BRANCHES if _branches(machine.rule) else 0):
        if residual < STRAIGHT:
            inside = context(machine, 6, 2, generator, i % 2 == 0)
            residual = affinity(_map(machine, inside, own, 1), draw, units, inside.rows, generator)
    copied = machine.token.carried.frozen and _reads_own_copy(
        machine, context(machine, 24, 2, generator, False), units, own, generator
    )
    if copied and residual >= STRAIGHT:
        text = "not affine, although what is frozen was held"
        return Measured(names, frozenset({Kind.SEQUENTIAL}), text, residual)
    if copied:
        first = context(machine, 24, 2, generator, True, start=True)
        free = affinity(_map(machine, first, own, 1), draw, units, first.rows, generator)
        if not free < STRAIGHT:
            text = f"affine while the frozen copy is held, not where it is taken (residual {free:.1e})"
            return Measured(names, frozenset({Kind.FROZEN}), text, residual)
        text = "affine, whether the frozen copy is held or taken"
        return Measured(names, AFFINE | {Kind.FROZEN}, text, residual)
    if residual < STRAIGHT:
        return _affine(machine, names, own, units, residual, generator)
    steps = [_map(machine, inside, own, 1), _map(machine, inside, own, 2)]
    found = family(steps, units, inside.rows, draw, generator)
    if found:
        text = f"not affine; one token and two are both of one family: {found}"
        return Measured(names, frozenset({Kind.REPARAMETRISED}), text, residual, monoid=found)
    text = "not affine, and of no family of maps that compose"
    return Measured(names, frozenset({Kind.SEQUENTIAL}), text, residual)


def _map(machine: Machine, c: Context, own: Tensor, steps: int) -> Map:
    return lambda points: machine.move(c, own, points, steps)


def _reads_own_copy(machine: Machine, c: Context, units: Sequence[Unit], own: Tensor, g: torch.Generator) -> bool:
    """Whether the units' next values change with the frozen copy of one of them."""
    keys = [key for key in c.frozen if key[0] in {u.name for u in units}]
    other = dict(c.frozen)
    for key in keys:
        other[key] = other[key] + torch.rand(other[key].shape, generator=g, dtype=torch.float64)
    before, after = (machine.step(replace(c, frozen=copies)).x[:, own] for copies in (c.frozen, other))
    return not torch.equal(before.nan_to_num(), after.nan_to_num())


def _affine(
    machine: Machine,
    names: tuple[str, ...],
    own: Tensor,
    units: Sequence[Unit],
    residual: float,
    generator: torch.Generator,
) -> Measured:
    if own.numel() > WIDEST:
        here = context(machine, 2, 1, generator, False)
        if entrywise(_map(machine, here, own, 1), normal, units, here.rows, generator):
            return Measured(names, frozenset({Kind.CLOSED}), "affine; entry by entry", residual)
        return Measured(names, AFFINE, f"affine; {own.numel()} coordinates are too many to look further", residual)
    drawn = [linear_part(machine, context(machine, 2, 2, generator, False), own, 2, generator)]
    for i in range(BRANCHES if _branches(machine.rule) else 0):
        drawn.append(linear_part(machine, context(machine, 3, 2, generator, i % 2 == 0), own, 2, generator))
    maps = joined(drawn)
    found = structure(maps, units)
    kinds, text = found.kinds, f"affine; {found.account}"
    if not maps.composition < STRAIGHT:
        return Measured(names, ANY, f"no decision: composed maps differ from two steps by {maps.composition:.1e}")
    if any(u.slot is not None for u in units):
        # A run of tokens may still be described without the lagged value; the two descriptions differ in kind.
        kinds, text = kinds | {Kind.DENSE}, f"{text}; a value of an earlier token is part of the state"
    return Measured(names, kinds, text, residual, maps.composition, found.terms, found.rank)


def _branches(rule: typed.Rule) -> bool:
    """Whether some expression takes one of several ways: more tokens are needed to see them all."""
    return any(
        (isinstance(e, typed.Apply) and e.fn == "where") or (isinstance(e, typed.RowWise) and e.fn == "topk")
        for statement in rule.body
        for expr in expressions(statement)
        for e in subexpressions(expr)
    )
