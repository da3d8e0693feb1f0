"""One side of a term: small blocks, moved blocks, such a thing plus low rank, or dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

SMALL = 8  # mixed coordinates per unit that still count as few; every size is larger
NOISE = 1e-9
TRIES = 160
WIDE = 36
MOST_RANK = 3  # of what is added to a permutation


class Shape(IntEnum):
    PLAIN = 0
    LOW = 1
    UNCLEAR = 2
    DENSE = 3


@dataclass(frozen=True, slots=True)
class SideShape:
    shape: Shape
    account: str
    rank: tuple[int, int] = (0, 0)  # of the off-diagonal blocks, after one and after two tokens


def blocks_small(pattern: Tensor, few: int) -> bool:
    """Whether the connected components of a pattern [n, n] have at most `few` members."""
    linked = pattern | pattern.T
    if int(linked.sum(1).max()) > few:
        return False
    n = pattern.shape[0]
    label = torch.arange(n)
    for _ in range(few):
        new = torch.minimum(label, torch.where(linked, label[None], n).amin(1))
        if bool((new == label).all()):
            break
        label = new
    else:
        return False  # a path longer than any small block
    return int(label.bincount(minlength=n).max()) <= few


def moved(pattern: Tensor, groups: Tensor) -> bool:
    """Whether each group of coordinates reads at most one group."""
    _, number = groups.unique(return_inverse=True)
    count = int(number.max()) + 1
    table = torch.zeros(count, count, dtype=torch.int64)
    table.index_put_((number[:, None].expand_as(pattern), number[None].expand_as(pattern)), pattern.long(), True)
    return bool(((table > 0).sum(1) <= 1).all())


def shape_of(runs: Sequence[Sequence[Tensor]], groups: Tensor) -> SideShape:
    """`runs`: one matrix [n, n] per token, up to a factor each; `groups` [n] as in `_Layout`."""
    every = [m for run in runs for m in run]
    n = every[0].shape[0]
    if n == 1:
        return SideShape(Shape.PLAIN, "a number")
    patterns = [m.abs() > NOISE * m.abs().max() for m in every]
    units = int(groups.unique(return_counts=True)[1].max())
    if blocks_small(torch.stack(patterns).any(0), SMALL * units):
        return SideShape(Shape.PLAIN, "diagonal" if all(map(_diagonal, patterns)) else "of small blocks")
    if all(moved(p, groups) for p in patterns):
        return SideShape(Shape.PLAIN, "moved and scaled")
    generator = torch.Generator().manual_seed(0)
    halves = [_halves(groups, generator) for _ in range(4)]
    room = min(min(len(a), len(b)) for a, b in halves) // units  # one block of several may be all that is dense
    one = max(_cut_rank(m, halves) for m in every)
    two = max(_cut_rank(run[1] @ run[0], halves) for run in runs)
    width = n // units
    if 8 * one + 4 <= width and two <= 2 * one:
        return SideShape(Shape.LOW, f"with off-diagonal blocks of rank {one}, then {two}, of {room}", (one, two))
    found = [_moved_plus_rank(m, generator) for m in every]
    if units == 1 and all(r is not None for r in found):
        most = max(r or 0 for r in found)
        return SideShape(Shape.LOW, f"moved and scaled plus rank {most}", (most, 2 * most))
    if one >= room or (width >= WIDE and 3 * one > room):  # permutations that are added up leave holes
        return SideShape(Shape.DENSE, f"with off-diagonal blocks of rank {one} of {room}", (one, two))
    return SideShape(Shape.UNCLEAR, f"with off-diagonal blocks of rank {one} of {room}", (one, two))


def _diagonal(pattern: Tensor) -> bool:
    return not bool((pattern & ~torch.eye(pattern.shape[0], dtype=torch.bool)).any())


def _halves(groups: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two halves of the coordinates: groups, and pairs of neighbours 2i - 1, 2i, stay together."""
    paired = torch.where(groups >= 0, groups // 2, groups)
    names = paired.unique()
    names = names[torch.randperm(len(names), generator=generator)]
    first = torch.isin(paired, names[: len(names) // 2])
    return first.nonzero()[:, 0], (~first).nonzero()[:, 0]


def _cut_rank(m: Tensor, halves: Sequence[tuple[Tensor, Tensor]]) -> int:
    scale = m.abs().max()
    most = 0
    for a, b in halves:
        for block in (m[a][:, b], m[b][:, a]):
            most = max(most, int((torch.linalg.svdvals(block) > NOISE * scale).sum()))
    return most


def _moved_plus_rank(m: Tensor, generator: torch.Generator) -> int | None:
    """The least r for which m is a matrix of rank r but for at most one entry per row and column; None: none is small.

    An entry is explained if some r rows and r columns away from it predict it: m_ij = m_iJ (m_IJ)^-1 m_Ij."""
    n, scale = m.shape[0], m.abs().max()
    for r in range(1, MOST_RANK + 1):
        rows = torch.rand(TRIES, n, generator=generator).argsort(1)[:, :r]
        cols = torch.rand(TRIES, n, generator=generator).argsort(1)[:, :r]
        core = m[rows[:, :, None], cols[:, None, :]]
        values = torch.linalg.svdvals(core)
        sound = values[:, -1] > 1e-5 * scale
        core, rows, cols = core[sound], rows[sound], cols[sound]
        if not len(core):
            continue
        guess = m[:, cols].permute(1, 0, 2) @ torch.linalg.solve(core, m[rows])
        rest = (guess - m).abs()
        rest.scatter_(1, rows[:, :, None].expand(-1, -1, n), torch.inf)
        rest.scatter_(2, cols[:, None, :].expand(-1, n, -1), torch.inf)
        left = rest.amin(0) > 1e-8 * scale
        if int(left.sum(0).max()) <= 1 and int(left.sum(1).max()) <= 1:
            return r
    return None
