"""The Triton schedule: which nodes of the forward and gradient programs run in which kernel.

    Kernels = Kernels(forward, backward, kept)   kernels in launch order
    Kernel  = Kernel(name, program, mode, ...)   mode "chunk": one program per chunk and head, rows of
                                                 the state (or columns, if none) in a loop; mode
                                                 "serial": one program per sequence, head and block of
                                                 rows, chunks in a loop, the carried state in registers;
                                                 modes "solve", "levels", "gate": library kernels, see
                                                 `Mode`
    Buffer  = a node's tile for every chunk and head, in memory between kernels

`schedule.cut` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ruledsl.chunk.program import Result


class Mode(StrEnum):
    CHUNK = "chunk"
    SERIAL = "serial"
    SYSTEM = "system"  # a chunk kernel whose axes are all whole: the solutions of a system that each token has, in float32
    SOLVE = "solve"  # (I - A)^-1 for every chunk: reads A in float32 and overwrites it, writes the inverse
    LEVELS = "levels"  # products of a diagonal decay inside every block of 2, 4, 8 ... tokens (see `Buffer.levels`)
    GATE = "gate"  # the gradient of a diagonal decay from the gradients of those products


class Load(StrEnum):
    """What a chunk kernel holds at once: warps, side of its tiles and stages of its loads are chosen by it, see
    `tiles.Tiles`."""

    LIGHT = "light"  # one Gram matrix
    USUAL = "usual"
    ROWS = "rows"  # rows of the state in blocks, for products alone: the loads of the next block go ahead
    SUMS = "sums"  # rows of the state in blocks, for more than products
    MANY = "many"  # the same with products, of more than two states
    SLIM = "slim"  # the gradients of Gram matrices and their decay, or many sums beside products: few columns
    HEAVY = "heavy"  # level products of many
    RUNNING = "running"  # products with running decays, without gradients of these
    PLAIN = "plain"  # no products


@dataclass(frozen=True, slots=True)
class Buffer:
    """One node's tile, per chunk and head.

    operand: stored in the operand dtype of the dots. levels: not the node's value but one tile for each doubling of the
    block length b = 2, 4, ... C/2: of a decay a, row t holds the product of a[i] over mid <= i < t in the right half
    of a block of 2b rows and over t < i < mid in the left half; of a `decay_gate`, the gradient of that. Two more: the products of
    all a[i] with i < t, and with i > t. Where all readers of a decay take chunks at once, those of small blocks are left out for
    chunks that allow it."""

    name: str
    node: int
    operand: bool
    levels: bool = False


@dataclass(frozen=True, slots=True)
class Carry:
    """A state (or its cotangent) that a serial kernel carries from chunk to chunk."""

    state: str
    enter: int  # the port's node
    leave: int  # the result's node
    keep: Buffer | None = None  # where the value entering each chunk is kept


@dataclass(frozen=True, slots=True)
class Kernel:
    name: str
    program: str  # "forward" or "gradient"
    mode: Mode
    purpose: str  # one line for readers
    reads: tuple[Buffer, ...] = ()
    writes: tuple[Buffer, ...] = ()
    results: tuple[Result, ...] = ()
    carries: tuple[Carry, ...] = ()
    reverse: bool = False
    split: bool = False  # rows of the state are split over programs (serial mode)
    rows: int | None = None  # the axis class that is split over programs, or visited in blocks (chunk mode)
    columns: bool = False  # that class is not the state's rows
    load: Load = Load.USUAL
    twice: bool = False  # for chunks whose running decays fit one product, then for the others: both in one would fill the registers


@dataclass(frozen=True, slots=True)
class Kernels:
    forward: tuple[Kernel, ...]
    backward: tuple[Kernel, ...]
    kept: tuple[tuple[Buffer, Buffer], ...] = ()  # what forward writes and backward reads, each as both call it

    @property
    def kinds(self) -> tuple[str, ...]:
        """The fields of `tiles.Tiles` by which these kernels run."""
        loads = {k.load.value for k in (*self.forward, *self.backward) if k.mode is Mode.CHUNK}
        return (Mode.SERIAL.value, *sorted(loads))
