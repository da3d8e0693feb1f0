"""Tile sizes of the Triton kernels: chunk length, rows of the state per program, warps, stages of loads.

`tiles(...)` lists them best first; the caller takes the first that fits the device. `alternatives(...)` is what a search on
a device may try instead. Measured on one H200 at K = V = 128 in
bf16 (benchmarks/NOTES.md); elsewhere the choices keep a chunk's widest tile and the state within registers and shared memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ruledsl.chunk.program import Program, Rows
from ruledsl.lang.typed import dim_value

_LEVELLED = {"gram", "gram_apply", "chain_gram", "chain_apply", "decay_gate", "log_gate"}


@dataclass(frozen=True, slots=True)
class Loop:
    """How kernels of one load run."""

    warps: int
    side: int  # rows (of a chunk kernel without state rows: columns) of a tile at once
    stages: int  # of the loads
    registers: int | None = None  # most of a thread, None: what the compiler takes

    def __str__(self) -> str:
        limit = f" in {self.registers} registers" if self.registers else ""
        return f"{self.warps} x {self.side} x {self.stages}{limit}"


@dataclass(frozen=True, slots=True)
class Tiles:
    chunk: int  # tokens, a power of two, at least 16
    serial: Loop
    light: Loop  # this and the rest: chunk kernels, see `kernels.Load`
    usual: Loop
    rows: Loop
    sums: Loop
    many: Loop
    slim: Loop
    heavy: Loop
    running: Loop
    plain: Loop

    def plan(self) -> dict[str, int | Loop]:
        """As launchers look it up."""
        return {"chunk": self.chunk} | {name: getattr(self, name) for name in LOADS}

    @classmethod
    def read(cls, x: Mapping[str, Any]) -> Tiles:
        """The reverse of `dataclasses.asdict`."""
        values: dict[str, Any] = {n: Loop(**v) if isinstance(v, Mapping) else v for n, v in x.items()}
        return cls(**values)


def alike(chunk: int, loop: Loop) -> Tiles:
    """The same for all kernels."""
    return Tiles(chunk, *[loop] * len(LOADS))


LOADS = tuple(f.name for f in fields(Tiles))[1:]
# of 16-bit operands and sides of at most 128, by tokens of a chunk; others spill or want more shared memory
_MEASURED = {
    64: {"rows": Loop(8, 32, 3), "slim": Loop(4, 16, 2)},
    32: {
        "light": Loop(2, 64, 2), "usual": Loop(4, 64, 3), "rows": Loop(4, 64, 2), "sums": Loop(4, 64, 1),
        "many": Loop(8, 64, 1), "slim": Loop(2, 16, 2), "heavy": Loop(8, 64, 2), "running": Loop(2, 32, 2, 168),
        "plain": Loop(4, 64, 2, 128),
    },
}  # fmt: skip


LONG = 8192  # tokens of a sequence; a shorter one is not worth kernels of its own


def tiles(programs: Iterable[Program], sizes: Mapping[str, int], operand_bytes: int) -> tuple[Tiles, ...]:
    """Candidates for programs at these sizes with operands of that many bytes."""
    programs = tuple(programs)
    nodes = [node for p in programs for node in p.nodes]
    widths = [dim_value(axis, sizes) for n in nodes for axis in n.shape if not isinstance(axis, Rows)]
    wide = power(max(widths, default=16))
    most = longest(programs, sizes)
    # a level for each doubling, a row of blocks for each 16 rows of a system: both grow with the chunk
    costly = any(n.op in _LEVELLED or n.op in ("inverse", "conjugate") for n in nodes)
    small = operand_bytes == 2 and wide <= 128
    chunk = 64 if small and not costly else 16 if operand_bytes == 4 and wide > 128 else 32
    chunk = min(chunk, most)
    block = 64 if small else 32 if wide <= 128 else 16
    own = programs[0].chunk  # of states that are frozen for so long
    lengths = [own] if own else [c for c in (64, 32, 16) if c <= chunk]
    measured = _MEASURED[max(32, chunk)] if small else {}
    usual = Loop(4 if small and chunk < 64 else 8, 64, 1)

    found = []
    for b in (b for b in (block, 16) if b <= block):
        rows = replace(usual, side=b)
        safe = dict.fromkeys(LOADS, usual) | {"rows": rows, "sums": rows, "many": replace(rows, warps=8), "slim": replace(usual, side=32)}
        serial = [Loop(4, b, s) for s in ((3, 2, 1) if operand_bytes == 2 and chunk < 64 else (2, 1))]
        found += [safe | loops | {"serial": s} for s in serial for loops in (measured, {})]
    return tuple(dict.fromkeys(Tiles(c, **loops) for c in lengths for loops in found))


def narrowed(tiles: Tiles, sequences: int, tokens: int, heads: int, rows: int, units: int) -> Tiles:
    """Fewer rows of the state for one program of a serial kernel, where few but long sequences leave multiprocessors idle: a step
    takes less time with fewer. `tokens`: of all sequences; `rows`: of the state; `units`: multiprocessors."""
    serial = tiles.serial
    least = 64 if tiles.chunk == 64 else 16  # as in `longest`: illegal accesses, with a side of 32 too
    if tokens < LONG * sequences:
        return tiles
    while serial.side > least and 4 * sequences * heads * -(-rows // serial.side) < 3 * units:
        side = serial.side // 2
        serial = Loop(2 if side == 16 else serial.warps, side, serial.stages)
    return replace(tiles, serial=serial)


def alternatives(programs: Iterable[Program], sizes: Mapping[str, int]) -> dict[str, tuple[int | Loop, ...]]:
    """Values of each field of `Tiles` that a search tries, the field that matters most first."""
    programs = tuple(programs)
    own, most = programs[0].chunk, longest(programs, sizes)
    gradient = tuple(Loop(w, n, s) for w, n, s in ((2, 16, 2), (2, 32, 2), (4, 64, 1), (4, 64, 2), (8, 64, 1), (8, 64, 2)))
    return {
        "chunk": (own,) if own else tuple(c for c in (16, 32, 64) if c <= most),
        "serial": tuple(Loop(w, b, s) for w, b, s in ((4, 16, 2), (4, 32, 2), (4, 64, 2), (4, 64, 3), (8, 64, 1), (8, 64, 2))),
        **dict.fromkeys(("slim", "heavy", "many", "sums", "rows"), gradient),
        **dict.fromkeys(("usual", "light", "running", "plain"), (Loop(2, 64, 2), Loop(4, 64, 2), Loop(4, 64, 3), Loop(8, 64, 1))),
    }


def longest(programs: tuple[Program, ...], sizes: Mapping[str, int]) -> int:
    """Tokens of the longest chunk that kernels may take."""
    axes = [axis for p in programs for n in p.nodes for axis in n.shape]
    slots = max((axis.slots for axis in axes if isinstance(axis, Rows)), default=1)
    widths = (dim_value(axis, sizes) for axis in axes if not isinstance(axis, Rows))
    # 64-row dots with a side of 16 gave wrong values and illegal accesses on an H200 (Triton 3.6)
    most = 32 if min((w for w in widths if w > 1), default=64) < 64 else 64
    return max(16, min(most, 64 // power(slots)))


def power(n: int) -> int:
    """The least power of two from n."""
    return 1 << max(0, n - 1).bit_length()
