"""One kernel as a function: its signature, and the frame around its body.

    chunk kernel     program (n, h): chunk n, head h
    serial kernel    program (s * H + h, block): sequence s, head h, block of state rows; chunks in a loop, the carried
                     states in registers
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ruledsl.emit.triton_frame import Frame
from ruledsl.emit.triton_kernel import Body, block_lanes
from ruledsl.emit.triton_memory import TensorKind
from ruledsl.lang.typed import Dim
from ruledsl.schedule.kernels import Carry, Kernel


@dataclass(frozen=True, slots=True)
class Definition:
    """A kernel's text, and what its launch must know."""

    kernel: Kernel
    frame: Frame
    tensors: dict[str, TensorKind]  # pointer arguments, in order
    constants: tuple[str, ...]
    helpers: frozenset[str]  # device functions that it calls
    text: str

    @property
    def serial(self) -> bool:
        return self.kernel.mode == "serial"

    @property
    def dims(self) -> dict[str, Dim]:
        return self.frame.dims


def definition(frame: Frame) -> Definition:
    """The function of one kernel."""
    kernel, body = frame.kernel, Body(frame)
    inner = body.lines()
    lines = _serial(frame, body, inner) if kernel.mode == "serial" else _chunk(inner)
    setup = ["row = tl.arange(0, C)"]
    for name in sorted(frame.dims):
        if any(f"i_{name}" in line or f"B_{name}" in line for line in lines):
            setup.append(f"i_{name} = tl.minimum(tl.arange(0, B_{name}), {name} - 1)")
            if frame.dims[name] in frame.padded:
                setup.append(f"m_{name} = tl.arange(0, B_{name}) < {name}")
    constants = [*sorted(frame.dims), *(f"B_{name}" for name in sorted(frame.dims))]
    constants += ["C", "LEVELS", "ROWS", "BLOCK", "BLOCKS", "OP", "IP", "IP_SOLVE"]
    if any("WIDE" in line for line in lines):
        constants += ["WIDE", "WIDE_LEVELS"]
    tensors = _in_order(body.memory.tensors, inner + lines)
    arguments: list[str] = []
    for name, kind in tensors.items():
        arguments.append(name)
        if kind is TensorKind.TOKEN:
            arguments += [f"{name}_token", f"{name}_head", f"{name}_group"]
    arguments += [a for c in kernel.carries for a in (f"initial_{c.state}", f"final_{c.state}")]
    arguments += ["starts", "counts", "places"] + (["begins", "ends"] if kernel.mode == "serial" else []) + ["H"]
    signature = ",\n    ".join([", ".join(arguments), ", ".join(f"{c}: tl.constexpr" for c in constants)])
    text = "\n".join(f"    {line}" for line in setup + lines)
    source = f"@triton.jit\ndef {kernel.name}_kernel(\n    {signature},\n):\n{text}\n"
    return Definition(kernel, frame, tensors, tuple(constants), frozenset(body.helpers), source)


def _in_order(tensors: dict[str, TensorKind], lines: list[str]) -> dict[str, TensorKind]:
    """Pointers in the order in which the text uses them."""
    words = dict.fromkeys(w for line in lines for w in re.findall(r"\w+", line))
    return {name: tensors[name] for name in words if name in tensors}


_CHUNK = [
    "start = tl.load(starts + n)",
    "token = start + tl.minimum(row, count - 1)",
    "valid = row < count",
    "place = tl.load(places + n)",
]


def _chunk(inner: list[str]) -> list[str]:
    return [
        "n = tl.program_id(0).to(tl.int64)",
        "h = tl.program_id(1)",
        "count = tl.load(counts + n)",
        "if count == 0:",
        "    return",
        *_CHUNK,
        *inner,
    ]


def _serial(frame: Frame, body: Body, inner: list[str]) -> list[str]:
    kernel, memory, held = frame.kernel, body.memory, body.recipes.orientation
    lines = [
        "s = tl.program_id(0).to(tl.int64) // H",
        "h = (tl.program_id(0) % H).to(tl.int64)",
        "block = tl.program_id(1)",
        *block_lanes(),
    ]
    for c in kernel.carries:
        lines.append(f"state_{c.state} = {memory.load_state(c.enter, f'initial_{c.state}', held[c.enter])}")
    loop = ["count = tl.load(counts + n)", *_CHUNK]
    for c in kernel.carries:
        if c.keep:
            loop.append(memory.store_buffer(c.keep.name, c.enter, f"state_{c.state}", held[c.enter]))
    loop += inner
    loop += [f"state_{c.state} = {body.leaving(c.enter, c.leave)}" for c in kernel.carries if c.leave != c.enter]
    lines += ["begin = tl.load(begins + s)", "end = tl.load(ends + s)"]
    if kernel.reverse:
        lines += ["for back in range(0, end - begin):", "    n = end - 1 - back"]
    else:
        lines += ["for n in range(begin, end):"]
    lines += [f"    {line}" for line in loop]
    return lines + [_final(c, body) for c in kernel.carries]


def _final(carry: Carry, body: Body) -> str:
    held = body.recipes.orientation[carry.enter]
    return body.memory.store_state(carry.enter, f"final_{carry.state}", f"state_{carry.state}", held)
