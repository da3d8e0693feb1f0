"""Which monoid a map that is not affine could belong to: each family is fitted to one token and to two.

    exponential   e^y is affine in e^x, entry by entry (log-sum-exp)
    clip          y is linear between at most two flat ends, entry by entry (max-plus among them)
    fractional    y (c x + d) = a x + b, entry by entry (Moebius)
    projective    straight lines go to straight lines (a common denominator)
    direction     only the direction counts, and planes through 0 go to such planes (deferred normalisation)
    log           the logarithm is affine in the logarithm, both up to a constant per row, which is forgotten
    inverse       the inverse of the new state is affine in the inverse of the old one

A fit is exact (float64) or none. Nothing here looks at the rule's text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat

import torch
from torch import Tensor

from ruledsl.lab.probe.machine import Unit
from ruledsl.lab.probe.points import Draw, affinity, definite, normal, positive

Map = Callable[[Tensor], Tensor]  # [R, P, n] -> [R, P, n]
EXACT = 1e-8
GRID = 41
REACH = 6.0
CLOSER = 6


def family(maps: Sequence[Map], units: Sequence[Unit], rows: int, draw: Draw, generator: torch.Generator) -> str:
    """The first family that all maps (one token, two tokens) fit; "" if none does. `draw`: points where the maps have
    values, and are not affine."""
    for name, fits in _families(units, rows, draw, generator):
        if all(fits(f) for f in maps):
            return name
    return ""


def _families(
    units: Sequence[Unit], rows: int, draw: Draw, g: torch.Generator
) -> Iterator[tuple[str, Callable[[Map], bool]]]:
    n = sum(u.size for u in units)
    grid = torch.linspace(-REACH, REACH, GRID) if draw is normal else torch.logspace(-1.5, 1.5, GRID)
    if len(units) == 1:
        tests = (("exponential", _exponential), ("clip", _clip), ("fractional", _fractional))
        yield from ((name, partial(_by_entry, test, draw, units, grid.double(), rows, g)) for name, test in tests)
    if n > 1:
        yield "projective", lambda f: _projective(f, draw(units, rows, 12, g), draw is normal)
        yield "direction", lambda f: _direction(f, draw(units, rows, 8, g))
    if len(units) == 1 and n > 1 and draw is not normal:
        yield "log", lambda f: _log(f, units[0], rows, g)
    if len(units) == 1 and units[0].rows == units[0].cols > 1:
        yield "inverse", lambda f: _inverse(f, units[0], rows, g)


# ------------------------------------------------------------------------------------------------ entry by entry


def _by_entry(
    test: Callable[[Map, Tensor, int, int], bool],
    draw: Draw,
    units: Sequence[Unit],
    grid: Tensor,
    rows: int,
    g: torch.Generator,
    f: Map,
) -> bool:
    return entrywise(f, draw, units, rows, g) and test(f, grid, sum(u.size for u in units), rows)


def entrywise(f: Map, draw: Draw, units: Sequence[Unit], rows: int, g: torch.Generator) -> bool:
    """Whether entries can be exchanged between two points before or after."""
    x, y = draw(units, rows, 1, g), draw(units, rows, 1, g)
    mask = torch.rand(rows, 3, x.shape[-1], generator=g) < 0.5
    fx, fy, fm = f(torch.cat([x, y, torch.where(mask, x, y)], 1)).split([1, 1, 3], 1)
    want = torch.where(mask, fx, fy)
    return bool((fm - want).abs().max() <= EXACT * want.abs().max().clamp(min=1e-6))


def _curves(f: Map, x: Tensor, n: int, rows: int) -> Tensor:
    """Images over a grid [G] for all entries, or over grids [curves, G] of their own; some entries: [curves, G]."""
    some = torch.linspace(0, n - 1, min(n, 6)).long()
    points = torch.zeros(rows, n, x.shape[-1], dtype=x.dtype)
    points[:, some] = x.expand(rows, len(some), -1) if x.dim() == 1 else x.reshape(rows, len(some), -1)
    y = f(points.mT.contiguous()).mT
    return y[:, some].reshape(rows * len(some), -1)


def _exponential(f: Map, x: Tensor, n: int, rows: int) -> bool:
    y = _curves(f, x, n, rows)
    return _dependent([x.exp().expand_as(y), torch.ones_like(y), y.exp()])


def _fractional(f: Map, x: Tensor, n: int, rows: int) -> bool:
    y = _curves(f, x, n, rows)
    return _dependent([x.expand_as(y), torch.ones_like(y), x * y, y])


def _dependent(columns: list[Tensor]) -> bool:
    """Whether the columns [curves, G] of every curve are linearly dependent."""
    a = torch.stack(columns, -1)
    if not bool(a.isfinite().all()):
        return False
    a = a / a.abs().amax(-2, keepdim=True).clamp(min=1e-300)
    values = torch.linalg.svdvals(a)
    return bool((values[:, -1] <= 1e-12 * values[:, 0]).all())


def _clip(f: Map, x: Tensor, n: int, rows: int) -> bool:
    y = _curves(f, x, n, rows)
    x = x.expand_as(y)
    for closer in range(CLOSER):  # a steep part of few steps is looked at closer; a jump stays one step
        if not bool(y.isfinite().all()):
            return False
        slopes = y.diff(dim=-1) / x.diff(dim=-1)
        noise = 1e-15 * y.abs().amax(-1) / x.diff(dim=-1).amin(-1) + EXACT * slopes.abs().amax(-1)
        if not all(map(_one_slope, slopes.tolist(), noise.tolist(), repeat(closer == CLOSER - 1))):
            return False
        x = torch.stack([_closer(*each) for each in zip(x, slopes, noise, strict=True)])
        y = _curves(f, x, n, rows)
    return True


def _closer(x: Tensor, slopes: Tensor, noise: Tensor) -> Tensor:
    """A grid over the steps that are not flat, if these are few; else the same one."""
    steep = (slopes.abs() > noise).nonzero()[:, 0]
    if not 0 < len(steep) <= 4:
        return x
    low, high = float(x[steep[0]]), float(x[steep[-1] + 1])
    more = 0.3 * (high - low)
    return torch.linspace(low - more, high + more, len(x), dtype=x.dtype)


def _one_slope(slopes: list[float], noise: float, close: bool) -> bool:
    """Flat, at most one step between, sloped, at most one step between, flat."""
    steep = [abs(s) > noise for s in slopes]
    if not any(steep):
        return True
    first, last = steep.index(True), len(steep) - steep[::-1].index(True)
    inner = slopes[first:last]
    if not all(steep[first:last]) or any(s * inner[0] < 0 for s in inner):
        return False
    if len(inner) < 3:
        return not close
    core = inner[len(inner) // 2]
    if any(abs(s - core) > noise for s in inner[1:-1]):
        return False
    # next to a flat end, seen or beyond the grid, a step may be less steep
    return all(abs(s - core) <= noise or abs(s) < abs(core) for s in (inner[0], inner[-1]))


# ------------------------------------------------------------------------------------------------ as a whole


def _projective(f: Map, x: Tensor, whole: bool) -> bool:
    """Four points on a line go to four on a line, with the same cross-ratio."""
    a, b = x.chunk(2, 1)
    first, second = (0.3, 1.4) if whole else (0.3, 0.6)
    fa, fb, fc, fd = f(torch.cat([a, b, a + first * (b - a), a + second * (b - a)], 1)).chunk(4, 1)
    u, v, w = fb - fa, fc - fa, fd - fa
    if not bool((u.isfinite() & v.isfinite() & w.isfinite()).all()):
        return False
    scale = torch.stack([u, v, w]).norm(dim=-1).amax(0).clamp(min=1e-12)
    if bool((scale <= 1e-9 * (1 + fa.norm(dim=-1))).all()):
        return False  # a constant is affine
    square = (u * u).sum(-1).clamp(min=1e-300)
    s, t = (u * v).sum(-1) / square, (u * w).sum(-1) / square
    for z, at in ((v, s), (w, t)):
        if bool(((z - at[..., None] * u).norm(dim=-1) > EXACT * scale).any()):
            return False
    left, right = first * (1 - second) * t * (1 - s), second * (1 - first) * s * (1 - t)
    return bool(((left - right).abs() <= EXACT * (1 + left.abs() + right.abs())).all())


def _direction(f: Map, x: Tensor) -> bool:
    a, b = x.chunk(2, 1)
    fa, fb, fc, fd, fe = f(torch.cat([a, b, 0.7 * a + 0.9 * b, 3.0 * a, 0.2 * a], 1)).chunk(5, 1)
    if not bool(torch.stack([fa, fb, fc, fd, fe]).isfinite().all()):
        return False
    for other in (fd, fe):  # the whole ray goes to one point
        if bool(((other - fa).norm(dim=-1) > EXACT * fa.norm(dim=-1).clamp(min=1e-9)).any()):
            return False
    basis = torch.stack([fa, fb], -1)
    weights = torch.linalg.lstsq(basis, fc.unsqueeze(-1)).solution
    return bool(((basis @ weights).squeeze(-1) - fc).norm(dim=-1).max() <= EXACT * fc.norm(dim=-1).max())


def _log(f: Map, unit: Unit, rows: int, g: torch.Generator) -> bool:
    def inside(z: Tensor) -> Tensor:
        return _centred(f(z.exp()).log(), unit)

    def logs(units: Sequence[Unit], rows: int, count: int, g: torch.Generator) -> Tensor:
        return positive(units, rows, count, g).log()

    if not affinity(inside, logs, [unit], rows, g) < EXACT:
        return False
    x = positive([unit], rows, 3, g)
    shift = torch.randn(rows, 3, unit.rows, 1, generator=g, dtype=torch.float64)
    shift = shift.expand(-1, -1, -1, unit.cols) if unit.cols > 1 else shift[:, :, :1].expand(-1, -1, unit.rows, -1)
    moved = _centred(f(x * shift.flatten(2).exp()).log(), unit) - _centred(f(x).log(), unit)
    return bool(moved.abs().max() < EXACT * 10)


def _centred(z: Tensor, unit: Unit) -> Tensor:
    """Without the mean of each row; a vector is one row."""
    wide = z.unflatten(-1, (unit.rows, unit.cols))
    return (wide - wide.mean(-1 if unit.cols > 1 else -2, keepdim=True)).flatten(-2)


def _inverse(f: Map, unit: Unit, rows: int, g: torch.Generator) -> bool:
    def turned(z: Tensor) -> Tensor:
        wide = z.unflatten(-1, (unit.rows, unit.rows))
        gone = (wide == 0).all(-1, keepdim=True).all(-2, keepdim=True)  # a factor 0: 0 for ever, whatever came before
        return torch.where(
            gone, wide, torch.linalg.inv(torch.where(gone, 1.0, 0.0) * torch.eye(unit.rows) + wide)
        ).flatten(-2)

    try:
        return affinity(lambda z: turned(f(turned(z))), definite, [unit], rows, g) < EXACT
    except torch.linalg.LinAlgError:
        return False
