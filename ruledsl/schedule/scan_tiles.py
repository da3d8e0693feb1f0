"""How scan kernels are cut: lanes of a block, tokens of a turn, warps, pieces of a sequence.

A program walks over a piece of a sequence with a block of the states in registers. Without pieces a token is read once, but
only sequences, heads and blocks run side by side; with pieces every level of states is summed up first, which reads the tokens
once more for each. Measured on an H200 for a vector state (benchmarks/NOTES.md): blocks of 128 lanes, four to a thread, take 0.6 of
the time of 32; a multiprocessor is full with 16 programs of a warp. Where there are fewer, pieces pay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from ruledsl.chunk.program import Axis, PortKind, ResultKind
from ruledsl.lang.typed import dim_value
from ruledsl.schedule.target import Target
from ruledsl.schedule.tiles import power
from ruledsl.schedule.token_split import Marked, Split

FILL = 16  # programs for each unit of a device: with so many, one program more costs as much as it does
SHORTEST = 64  # tokens of a piece
_ROWS, _VECTOR = 16, 128  # lanes of a block: of matrices, of vectors
_EACH = 256  # entries of the largest tile for a warp
_HELD = 32  # registers of a thread for the states of a turn
_LONGEST = 8  # tokens of a turn
_LINES = 1_200  # of a kernel: what is compiled before the first call
SEGMENT = 64  # tokens between kept states, where keeping every turn's would be more than the inputs
_LAUNCH = 8e-6  # seconds that one more kernel takes


@dataclass(frozen=True, slots=True)
class ScanTiles:
    block: int  # lanes of the axis that is cut
    turn: int  # tokens that are written out
    segment: int  # tokens between kept states
    warps: int


def scan_tiles(split: Split, sizes: Mapping[str, int]) -> ScanTiles:
    """For the walk over a rule's tokens and its gradient."""
    forward, gradient = split.forward.program, split.gradient.program
    states = [r.node for r in forward.results if r.kind is ResultKind.STATE]

    def number(dim: Axis) -> int:
        return dim_value(dim, sizes)  # type: ignore[arg-type]

    block = 1
    if split.dim is not None:
        vectors = all(1 in forward.nodes[i].shape for i in states if split.forward.cut[i] is not None)
        block = min(power(number(split.dim)), _VECTOR if vectors else _ROWS)

    def entries(marked: Marked, node: int) -> int:
        shape = enumerate(marked.program.nodes[node].shape)
        return prod(block if marked.cut[node] == axis else power(number(dim)) for axis, dim in shape)

    largest = max(entries(m, i) for m in (split.forward, split.gradient) for i in range(len(m.program.nodes)))
    warps = min(max(largest // _EACH, 1), 8)
    held = max(largest, sum(entries(split.forward, i) for i in states))
    registers = -(-held // (32 * warps))
    lines = len(forward.nodes) + len(gradient.nodes)
    turn = _LONGEST
    while turn > 1 and (turn * registers > _HELD or turn * lines > _LINES):
        turn //= 2
    read = [n.shape for n in forward.nodes if n.op == "input" and forward.port(n).kind is PortKind.INPUT]
    kept = 4 * sum(prod(map(number, forward.nodes[i].shape)) for i in states)
    few = kept <= 2 * turn * sum(prod(map(number, shape)) for shape in read)
    return ScanTiles(block, turn, turn if few else SEGMENT, warps)


@lru_cache(maxsize=1024)
def piece(programs: int, length: int, levels: int, tiles: ScanTiles, device: Target) -> int:
    """Tokens of a piece: the length, or a part of it that costs less. `programs`: of all sequences, heads and blocks."""
    best, least = length, seconds(programs, length, length, levels, device)
    tokens = SHORTEST
    while tokens < length:
        if tokens % tiles.turn == 0 and (cost := seconds(programs, length, tokens, levels, device)) < least:
            best, least = tokens, cost
        tokens *= 2
    return best


def seconds(programs: int, length: int, tokens: int, levels: int, device: Target) -> float:
    """An estimate for one direction: steps one after the other, as many programs side by side as fill the device."""
    pieces = -(-length // tokens)
    waves = max(1.0, programs * pieces / (FILL * device.units))
    if pieces == 1:
        return length * waves * _step(device)
    walks = (levels + 1) * tokens * waves * _step(device)
    return walks + levels * (pieces * _step(device) + 2 * _LAUNCH)


def _step(device: Target) -> float:
    """Seconds of a token in a program that has others beside it."""
    return device.step / 8
