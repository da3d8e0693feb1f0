"""Closed, chunkwise or dense: from the matrices of an affine map alone.

1. Coordinates that never mix with more than a few others, or are only moved and scaled: closed.
2. One term L (x) R once the units are laid side by side (each as it is or transposed): the sides are looked at.
   Each is small blocks or moved blocks (plain), such a thing plus low rank, or dense.
3. More terms: dense.

Sizes are 12 or more and differ, so that 8 mixed coordinates are few and half a side has room for a low rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from ruledsl.algebra.verdict import Kind
from ruledsl.lab.probe.linear_part import Maps
from ruledsl.lab.probe.machine import Unit
from ruledsl.lab.probe.probed import AFFINE
from ruledsl.lab.probe.side import SMALL, Shape, blocks_small, moved, shape_of

NOISE = 1e-10  # relative to the largest entry
FAINT = 1e-13  # a term may be a product of many small factors


@dataclass(frozen=True, slots=True)
class Structure:
    kinds: frozenset[Kind]
    account: str
    terms: tuple[int, int] | None = None
    rank: tuple[int, int] | None = None


def structure(maps: Maps, units: Sequence[Unit]) -> Structure:
    """Of the units in the order in which their coordinates make up the matrices."""
    every = [m for run in maps.runs for m in run]
    scale = max(float(m.abs().max()) for m in every)
    if scale == 0:
        return Structure(frozenset({Kind.CLOSED}), "the new state does not depend on the old one")
    nonzero = [m.abs() > NOISE * scale for m in every]
    few = SMALL * max(Counter((u.rows, u.cols) for u in units).values())
    if blocks_small(torch.stack(nonzero).any(0), few):
        return Structure(frozenset({Kind.CLOSED}), f"coordinates mix in blocks of at most {few} that stay")
    groups = _positions(units)
    if groups is not None and all(moved(m, groups) for m in nonzero):
        return Structure(frozenset({Kind.CLOSED}), "coordinates are moved and scaled")
    if any(1 < d < SMALL for u in units for d in (u.rows, u.cols)):
        return Structure(AFFINE, "affine; the state is too small to tell the structure")
    least = None
    for layout in _layouts(units):
        terms = _counted(maps, layout)
        least = terms if least is None else min(least, terms)
        if max(terms) <= 1 and all(_terms(layout.arranged(m)) <= 1 for m in every):
            return _sided(maps, layout)
    if least is None:
        return Structure(frozenset({Kind.DENSE}), "affine; the states share no side")
    return Structure(frozenset({Kind.DENSE}), f"{least[0]} terms L (x) R after one token, {least[1]} after two", least)


def _positions(units: Sequence[Unit]) -> Tensor | None:
    """The number of each coordinate's place in its unit, if all units are alike."""
    if len({(u.rows, u.cols) for u in units}) > 1:
        return None
    return torch.arange(units[0].size).repeat(len(units))


@dataclass(frozen=True, slots=True)
class _Layout:
    """Coordinates as common rows x stacked columns. `flip`: a square state that comes out transposed."""

    order: Tensor  # [rows * columns]: coordinate of each place
    rows: int
    columns: int
    groups: Tensor  # [columns]: columns with the same number >= 0 are the same column of different units
    flip: bool = False

    def arranged(self, m: Tensor) -> Tensor:
        """[rows^2, columns^2]: of rank 1 for one term, L[v, v'] R[c', c]."""
        wide = m[self.order][:, self.order].reshape(self.rows, self.columns, self.rows, self.columns)
        wide = wide.permute(0, 3, 1, 2) if self.flip else wide.permute(0, 2, 1, 3)
        return wide.reshape(self.rows**2, self.columns**2)

    @property
    def straight(self) -> _Layout:
        return replace(self, flip=False)


def _layouts(units: Sequence[Unit]) -> Iterator[_Layout]:
    starts = [sum(u.size for u in units[:i]) for i in range(len(units))]
    for rows in dict.fromkeys(d for u in units for d in (u.rows, u.cols)):
        choices = [[t for t in (False, True) if (u.cols if t else u.rows) == rows] for u in units]
        for turned in product(*choices):
            parts, groups = [], []
            for u, start, t in zip(units, starts, turned, strict=True):
                own = torch.arange(start, start + u.size).reshape(u.rows, u.cols)
                parts.append(own.T if t else own)
                width = parts[-1].shape[1]
                groups.append(torch.arange(width) if width > 1 else torch.tensor([-1 - start]))
            stacked = torch.cat(parts, 1)
            yield _Layout(stacked.flatten(), rows, stacked.shape[1], torch.cat(groups))
    if len(units) == 1 and units[0].rows == units[0].cols > 1:
        n = units[0].rows
        yield _Layout(torch.arange(n * n), n, n, torch.arange(n), flip=True)


def _terms(a: Tensor) -> int:
    """Numerical rank; 1 and 0 without a decomposition."""
    scale = float(a.abs().max())
    if scale == 0:
        return 0
    at = int(a.abs().argmax())
    i, j = divmod(at, a.shape[1])
    rest = a - a[:, j : j + 1] * a[i : i + 1] / a[i, j]
    if float(rest.abs().max()) < NOISE * scale:
        return 1
    values = torch.linalg.svdvals(a if a.shape[0] <= a.shape[1] else a.T)
    return int((values > FAINT * values[0]).sum())


def _counted(maps: Maps, layout: _Layout) -> tuple[int, int]:
    """Terms of one and of two tokens: the most that a few runs show."""
    some = maps.runs[:2]
    one = max(_terms(layout.arranged(run[0])) for run in some)
    return one, max(_terms(layout.straight.arranged(run[1] @ run[0])) for run in some)


def _sides(a: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """L [rows, rows] and R [columns, columns] of one term, each up to a factor."""
    at = int(a.abs().argmax())
    i, j = divmod(at, a.shape[1])
    left, right = a[:, j].reshape(rows, rows), a[i].reshape(columns, columns)
    return left / left.abs().max().clamp(min=1e-300), right / right.abs().max().clamp(min=1e-300)


def _sided(maps: Maps, layout: _Layout) -> Structure:
    runs = [[_sides(layout.arranged(m), layout.rows, layout.columns) for m in run] for run in maps.runs]
    if layout.flip:  # the sides change places from token to token
        crossed = [run for (a, b), (c, d) in runs for run in ([b, c], [a, d])]
        both = shape_of(crossed, layout.groups)
        worst, rank = both.shape, both.rank
        text = f"one term L (x) R of the transposed state; its sides {both.account}"
    else:
        left = shape_of([[a for a, _ in run] for run in runs], torch.arange(layout.rows))
        right = shape_of([[b for _, b in run] for run in runs], layout.groups)
        worst, rank = max(left.shape, right.shape), (left.rank[0] + right.rank[0], left.rank[1] + right.rank[1])
        text = f"one term L (x) R; L {left.account}, R {right.account}"
    match worst:
        case Shape.PLAIN:
            kinds = frozenset({Kind.CLOSED})
        case Shape.LOW:
            kinds = frozenset({Kind.CHUNKWISE})
        case Shape.DENSE:
            kinds = frozenset({Kind.DENSE})
        case Shape.UNCLEAR:
            kinds = AFFINE
    return Structure(kinds, text, (1, 1), rank)
