"""How long each kernel of a schedule should take: the slowest of its bytes, its products and its chain of dependent
products, and a launch.

Bytes are counted once per kernel (programs that share a tile find it in the cache) and at the device's copy rate. The
estimates are to be held against measurements: where they differ, the kernel that is named is the first to look at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ruledsl.chunk.program import PortKind, Program, Result, ResultKind, Rows
from ruledsl.chunk.systems import inside
from ruledsl.schedule.cost import STEPS, extent, work
from ruledsl.schedule.kernels import Buffer, Kernel, Mode
from ruledsl.schedule.target import Target

LAUNCH = 4e-6  # seconds of a kernel that does nothing, in a queue that is full
_TOKENS = {PortKind.INPUT, PortKind.COTANGENT}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one kernel; `limit`: "bytes", "tensor cores", "latency" or "launch"."""

    kernel: str
    seconds: float
    limit: str


@dataclass(frozen=True, slots=True)
class Run:
    """What kernels run on: tokens per chunk, the rule's sizes, heads, sequences, tokens of each, bytes of an operand."""

    chunk: int
    sizes: Mapping[str, int]
    heads: int
    batch: int
    length: int
    itemsize: int

    @property
    def chunks(self) -> int:
        return math.ceil(self.length / self.chunk)

    @property
    def tiles(self) -> int:
        return self.heads * self.batch * self.chunks


def predict(kernel: Kernel, program: Program, run: Run, device: Target) -> Estimate:
    """`program`: the one that the kernel's nodes belong to."""
    own = _own(kernel, program)
    applied = inside(program)
    flops = sum(work(program, program.nodes[n], run.chunk, run.sizes).flops * (STEPS if n in applied else 1) for n in own)
    chain = _chain(kernel, program, own) * run.chunks if kernel.mode is Mode.SERIAL else 0
    found = {
        "bytes": _moved(kernel, program, own, run) / device.bandwidth,
        "tensor cores": run.tiles * flops / device.dot_rate,
        "latency": chain * device.step,
        "launch": LAUNCH,
    }
    limit = max(found, key=found.__getitem__)
    return Estimate(kernel.name, max(found[n] for n in found if n != "launch") + LAUNCH, limit)


def _own(kernel: Kernel, program: Program) -> set[int]:
    """The nodes that the kernel computes, and the leaves that it loads."""
    if kernel.mode not in (Mode.CHUNK, Mode.SERIAL, Mode.SYSTEM):
        return {b.node for b in kernel.writes if not b.levels}
    made = {b.node for b in kernel.reads if not b.levels}
    open_ = [b.node for b in kernel.writes] + [r.node for r in kernel.results] + [c.leave for c in kernel.carries]
    entered = {c.enter for c in kernel.carries}
    found: set[int] = set()
    while open_:
        n = open_.pop()
        if n in found or n in made:
            continue
        found.add(n)
        if n not in entered:
            open_ += program.nodes[n].args
    return found


def _chain(kernel: Kernel, program: Program, own: set[int]) -> int:
    """Products, one after the other, between a state that enters a chunk and one that leaves it; at least one step."""
    longest = {c.enter: 0 for c in kernel.carries}
    for n, node in enumerate(program.nodes):
        if n in own and n not in longest:
            before = [longest[a] for a in node.args if a in longest]
            if before:
                longest[n] = max(before) + (node.op == "dot")
    return max([1, *(longest.get(c.leave, 0) for c in kernel.carries)])


def _moved(kernel: Kernel, program: Program, own: set[int], run: Run) -> float:
    """Bytes from and to memory, over the whole run."""

    def area(n: int) -> int:
        return math.prod(extent(axis, run.chunk, run.sizes) for axis in program.nodes[n].shape)

    def buffered(b: Buffer) -> float:
        levels = run.chunk.bit_length() - 1 + 2 if b.levels else 1
        return area(b.node) * levels * (run.itemsize if b.operand else 4)

    leaves = (n for n in own if program.nodes[n].op == "input")
    inputs = [n for n in leaves if program.port(program.nodes[n]).kind in _TOKENS]
    each = sum(map(buffered, (*kernel.reads, *kernel.writes)))
    each += sum(area(n) * run.itemsize for n in inputs)
    each += sum(area(r.node) * run.itemsize for r in kernel.results if _by_token(r, program))
    each += sum(buffered(c.keep) for c in kernel.carries if c.keep is not None and c.keep not in kernel.writes)
    states = sum(2 * 4 * area(c.leave) for c in kernel.carries)
    return run.tiles * each + run.heads * run.batch * states


def _by_token(result: Result, program: Program) -> bool:
    return result.kind is not ResultKind.STATE and isinstance(program.nodes[result.node].shape[0], Rows)
