"""How tokens are scanned, as text for people. Deterministic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ruledsl.schedule.scan_tiles import ScanTiles, piece, seconds
from ruledsl.schedule.target import Target

_PROGRAMS = (16, 64, 256, 1024, 4096)
_TOKENS = 4096


def text(
    tiles: ScanTiles, blocks: int, levels: Sequence[Sequence[Sequence[str]]], device: Target, sizes: Mapping[str, int]
) -> str:
    """`levels`: forward and backward, the parts of maps that each level sums up; `blocks`: of the states of a head."""
    at = ", ".join(f"{n} = {size}" for n, size in sizes.items())
    deepest = max(map(len, levels))
    lines = [
        f"tiles at {at or 'any sizes'}:",
        f"  {tiles.block} lanes of the axis that is cut, {blocks} blocks of a head, {tiles.warps} warps",
        f"  {tiles.turn} tokens are written out; states are kept every {tiles.segment} tokens",
    ]
    for name, walk, found in zip(("forward", "backward"), ("run", "back"), levels, strict=True):
        lines += ["", f"{name}, sequences whole: {walk}", f"{name}, in pieces: {2 * len(found) + 1} kernels"]
        first = "" if name == "forward" else "d"
        for i, parts in enumerate(found):
            lines.append(f"  {first}sum{i:<5} composes over a piece: {', '.join(parts)}")
            lines.append(f"  {first}join{i:<4} what enters each piece{' from behind' if first else ''}")
        lines.append(f"  {walk:<9} outputs" if name == "forward" else f"  {walk:<9} gradients")
    lines += ["", f"pieces of {_TOKENS} tokens on {device.name}, by programs (sequences * heads * blocks); `chunk_size` sets others:"]
    for programs in _PROGRAMS:
        tokens = piece(programs, _TOKENS, deepest, tiles, device)
        cost = seconds(programs, _TOKENS, tokens, deepest, device) / seconds(programs, _TOKENS, _TOKENS, deepest, device)
        how = "whole" if tokens == _TOKENS else f"{_TOKENS // tokens} pieces of {tokens} tokens, {cost:.2f} of the time (estimate)"
        lines.append(f"  {programs:>5}     {how}")
    return "\n".join(lines) + "\n"
