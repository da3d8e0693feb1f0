"""What a node costs: bytes, products, exponentials, and the seconds they take on a device.

Tiles are float32 and every operation of its own reads its arguments and writes its value, as torch text does. The
estimates order plans; they are not predictions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ruledsl.chunk.program import Axis, Node, Program, Rows
from ruledsl.chunk.systems import inside
from ruledsl.lang.typed import dim_value
from ruledsl.schedule.labels import Carry, Label, labels
from ruledsl.schedule.target import Target

STEPS = 16  # of a conjugate gradient
VIEWS = frozenset(
    {"input", "unknown", "const", "full", "eye", "cast", "expand", "transpose", "cut", "slot", "block", "last", "pairs"}
)
DECAYED = frozenset({"gram", "gram_apply", "chain_gram", "chain_apply", "chain_gate"})
_TRANSCENDENTAL = frozenset(
    {
        "exp",
        "log",
        "sin",
        "cos",
        "tanh",
        "sigmoid",
        "logsigmoid",
        "silu",
        "gelu",
        "softplus",
        "elu",
        "pow",
        "erf_half",
        "logaddexp",
    }
)


@dataclass(frozen=True, slots=True)
class Work:
    """Of one tile: one chunk of one head."""

    flops: float = 0.0
    bytes: float = 0.0
    exps: float = 0.0
    steps: int = 0  # dependent operations

    def times(self, count: int) -> Work:
        return Work(count * self.flops, count * self.bytes, count * self.exps, count * self.steps)

    def seconds(self, device: Target, tiles: int) -> float:
        """For `tiles` of them in one go."""
        busy = self.flops / device.dot_rate + self.bytes / device.bandwidth + self.exps / device.exp_rate
        return self.steps * device.step + tiles * busy


def extent(axis: Axis, chunk: int, sizes: Mapping[str, int]) -> int:
    """The number of rows or columns that an axis stands for."""
    return axis.slots * chunk if isinstance(axis, Rows) else dim_value(axis, sizes)


def work(program: Program, node: Node, chunk: int, sizes: Mapping[str, int]) -> Work:
    """What one tile of the node takes."""

    def area(n: Node) -> int:
        return extent(n.shape[0], chunk, sizes) * extent(n.shape[1], chunk, sizes)

    if node.op in VIEWS:
        return Work()
    args = [program.nodes[a] for a in node.args]
    size = area(node)
    moved = 4.0 * (size + sum(map(area, args)))
    match node.op:
        case "dot":
            ta, _ = node.attr  # type: ignore[misc, str-unpack]
            inner = extent(args[0].shape[0 if ta else 1], chunk, sizes)
            return Work(2.0 * size * inner, moved, steps=1)
        case "inverse" | "solve":
            n = extent(args[0].shape[0], chunk, sizes)
            return Work(n * n * extent(node.shape[1], chunk, sizes), 3 * moved, steps=int(math.log2(max(n, 2))))
        case op if op in DECAYED:
            columns = extent(args[1].shape[1], chunk, sizes)
            levels = max(1, math.ceil(math.log2(max(chunk, 2))))
            rows = 4.0 * chunk * columns
            return Work(chunk * chunk * columns, levels * 8 * rows, chunk * columns * levels, 6 * levels)
        case "map" | "mexp":
            exps = size if node.op == "mexp" or node.attr in _TRANSCENDENTAL else 0
            return Work(0.0, moved, exps, 1)
        case "scan":
            return Work(0.0, 3 * moved, steps=chunk)
        case _:
            return Work(0.0, moved, steps=1)


def seconds(
    program: Program,
    carried: tuple[Carry, ...],
    device: Target,
    chunk: int,
    sizes: Mapping[str, int],
    heads: int,
    length: int,
) -> float:
    """Of a pass over `heads` sequences of `length` tokens: serial nodes once per chunk, the others over all chunks at once."""
    chunks = math.ceil(length / chunk)
    total = 0.0
    applied = inside(program)
    for index, (node, label) in enumerate(zip(program.nodes, labels(program, carried), strict=True)):
        each = work(program, node, chunk, sizes).times(STEPS if index in applied else 1)
        total += chunks * each.seconds(device, heads) if label is Label.SERIAL else each.seconds(device, heads * chunks)
    return total
