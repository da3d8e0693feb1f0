"""Tile sizes of the Triton kernels: chunk length, rows of the state per program, warps.

`tiles(...)` lists them best first; the caller takes the first that fits the device. `alternatives(...)` is what a search on
a device may try instead. Measured on one H200 at K = V = 128 in
bf16 (benchmarks/NOTES.md); elsewhere the choices keep a chunk's widest tile and the state within registers and shared memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ruledsl.chunk.program import Program, Rows
from ruledsl.lang.typed import dim_value

_LEVELLED = {"gram", "gram_apply", "chain_gram", "chain_apply", "decay_gate", "log_gate"}


@dataclass(frozen=True, slots=True)
class Tiles:
    chunk: int  # tokens, a power of two, at least 16
    block: int  # rows of the state per program
    chunk_warps: int
    light_warps: int  # of chunk kernels with few products, see `kernels.Load`
    heavy_warps: int
    serial_warps: int
    stages: int  # of the loads in serial kernels
    columns: int = 64  # of a tile without state rows that a chunk kernel has at once


def tiles(programs: Iterable[Program], sizes: Mapping[str, int], operand_bytes: int) -> tuple[Tiles, ...]:
    """Candidates for programs at these sizes with operands of that many bytes."""
    programs = tuple(programs)
    nodes = [node for p in programs for node in p.nodes]
    widths = [dim_value(axis, sizes) for n in nodes for axis in n.shape if not isinstance(axis, Rows)]
    wide = _power(max(widths, default=16))
    longest = _longest(programs, sizes)
    # a level for each doubling, a row of blocks for each 16 rows of a system: both grow with the chunk
    costly = any(n.op in _LEVELLED or n.op == "inverse" for n in nodes)
    chunk = 64 if operand_bytes == 2 and wide <= 128 and not costly else 16 if operand_bytes == 4 and wide > 128 else 32
    chunk = min(chunk, longest)
    block = 64 if operand_bytes == 2 and wide <= 128 else 32 if wide <= 128 else 16
    lengths = [c for c in (64, 32, 16) if c <= chunk]
    warps = 8 if wide > 128 or operand_bytes == 4 or chunk == 64 else 4
    light, heavy = (2, 8) if warps == 4 else (warps, warps)
    stages = (3, 2, 1) if operand_bytes == 2 else (2, 1)
    return tuple(Tiles(c, b, warps, light, heavy, 4, s) for c in lengths for b in (block, 16) if b <= block for s in stages)


def alternatives(programs: Iterable[Program], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Values of each field of `Tiles` that a search tries, the field that matters most first."""
    longest = _longest(tuple(programs), sizes)
    return {
        "chunk": tuple(c for c in (16, 32, 64) if c <= longest),
        "block": (16, 32, 64),
        "chunk_warps": (4, 8),
        "serial_warps": (4, 8),
        "stages": (1, 2, 3),
    }


def _longest(programs: tuple[Program, ...], sizes: Mapping[str, int]) -> int:
    """Tokens of the longest chunk that kernels may take."""
    axes = [axis for p in programs for n in p.nodes for axis in n.shape]
    slots = max((axis.slots for axis in axes if isinstance(axis, Rows)), default=1)
    widths = (dim_value(axis, sizes) for axis in axes if not isinstance(axis, Rows))
    # 64-row dots with a side of 16 gave wrong values and illegal accesses on an H200 (Triton 3.6)
    most = 32 if min((w for w in widths if w > 1), default=64) < 64 else 64
    return max(16, min(most, 64 // _power(slots)))


def _power(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
