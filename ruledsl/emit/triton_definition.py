"""One kernel as a function: its signature, and the frame around its body.

chunk kernel     program (chunk, head)
serial kernel    program (sequence * H + head, block of state rows): chunks in a loop, the carried states in registers
library kernel   a function of `runtime.triton_ops`, launched as it is
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ruledsl.emit.kernel_text import used_lines
from ruledsl.emit.triton_expression import wrapped
from ruledsl.emit.triton_frame import Frame
from ruledsl.emit.triton_kernel import Body, block_lanes
from ruledsl.emit.triton_memory import TensorKind
from ruledsl.emit.triton_names import pointer, safe
from ruledsl.lang.typed import Dim
from ruledsl.schedule.kernels import Kernel, Mode


@dataclass(frozen=True, slots=True)
class Definition:
    """A kernel's text, and what its launch must know."""

    kernel: Kernel
    frame: Frame
    tensors: dict[str, TensorKind]  # pointer arguments, in order
    tables: tuple[str, ...]  # of `TABLES`
    constants: tuple[str, ...]
    helpers: frozenset[str]  # device functions that it calls
    text: str

    @property
    def serial(self) -> bool:
        return self.kernel.mode is Mode.SERIAL

    @property
    def dims(self) -> dict[str, Dim]:
        return self.frame.dims


def definition(frame: Frame) -> Definition:
    """The function of one kernel."""
    kernel = frame.kernel
    if kernel.mode in LIBRARY:
        return _library(frame)
    body = Body(frame)
    inner = body.lines()
    lines = _serial(body, inner) if kernel.mode is Mode.SERIAL else _chunk(body, inner)
    lines = used_lines([*_lanes(frame), *lines], ["chain_back"])
    words = dict.fromkeys(w for line in [*inner, *lines] for w in re.findall(r"\w+", line))
    used = {w for line in lines for w in re.findall(r"\w+", line)}
    tensors = body.memory.tensors
    tensors = {name: tensors[name] for p in words if (name := p.removesuffix("_ptr")) in tensors and p.endswith("_ptr")}
    arguments: list[str] = []
    for name, kind in tensors.items():
        arguments.append(pointer(name))
        if kind is TensorKind.TOKEN:
            arguments += [f"{name}_token", f"{name}_head", f"{name}_group"]
    arguments += [pointer(f"{end}_{safe(c.state)}") for c in kernel.carries for end in ("initial", "final")]
    arguments += [a for a in (*TABLES, "H") if a in used]
    constants = tuple(c for c in [*(n for d in sorted(frame.dims) for n in (d, f"B_{d}")), *_CONSTANTS] if c in used)
    signature = wrapped(f"def {kernel.name}_kernel(", [*arguments, *(f"{c}: tl.constexpr" for c in constants)], "):")
    text = "\n".join(["@triton.jit", *signature, f'    """{kernel.purpose}"""', *(f"    {line}" for line in lines)])
    return Definition(
        kernel,
        frame,
        tensors,
        tuple(a for a in arguments if a in TABLES),
        constants,
        frozenset(body.helpers),
        text + "\n",
    )


def _library(frame: Frame) -> Definition:
    """A kernel without a text of its own; its buffers' sizes are noted."""
    for b in (*frame.kernel.reads, *frame.kernel.writes):
        for extent in frame.node(b.node).shape:
            frame.count(extent)
    return Definition(frame.kernel, frame, {}, (), (), frozenset({LIBRARY[frame.kernel.mode]}), "")


LIBRARY = {Mode.SOLVE: "solve_kernel", Mode.LEVELS: "levels_kernel", Mode.GATE: "gate_kernel"}
TABLES = ("starts", "counts", "places", "begins", "ends", "firsts", "lasts")
_CONSTANTS = ("C", "LEVELS", "FITS", "ROWS", "BLOCK", "BLOCKS", "STAGES", "OP", "IP")


def _lanes(frame: Frame) -> list[str]:
    """Index vectors along every axis (clamped to real lanes), and which lanes are real."""
    lines = ["row = tl.arange(0, C)"]
    for name, dim in sorted(frame.dims.items()):
        if dim in frame.padded:
            lines.append(f"i_{name} = tl.minimum(tl.arange(0, B_{name}), {name} - 1)")
            lines.append(f"m_{name} = tl.arange(0, B_{name}) < {name}")
        else:
            lines.append(f"i_{name} = tl.arange(0, B_{name})")
    return lines


_TOKENS = ["token = tl.minimum(row, count - 1)", "valid = row < count"]
_OF_CHUNK = [
    "count = tl.load(counts + chunk).to(tl.int32)",
    "start = tl.load(starts + chunk)",
    "place = tl.load(places + chunk)",
]
_BY_LENGTH = [  # the same without a load, where only the last chunk of a sequence may be short
    "start = first + (chunk - begin) * C",
    "place = entered + (chunk - begin) * C",
    "count = tl.minimum(last - start, C).to(tl.int32)",
]


def _chunk(body: Body, inner: list[str]) -> list[str]:
    return [
        "chunk = tl.program_id(0).to(tl.int64)",
        "head = tl.program_id(1)",
        *body.done(),
        *_OF_CHUNK,
        "if count == 0:",
        "    return",
        *_TOKENS,
        *inner,
    ]


def _serial(body: Body, inner: list[str]) -> list[str]:
    kernel, memory, recipes = body.frame.kernel, body.memory, body.recipes
    lines = [
        "sequence = tl.program_id(0).to(tl.int64) // H",
        "head = (tl.program_id(0) % H).to(tl.int64)",
        "block = tl.program_id(1)",
        *block_lanes(body.frame),
    ]
    held = {c.enter: (recipes.held(c.enter), recipes.orientation[c.enter]) for c in kernel.carries}
    for c in kernel.carries:
        name, o = held[c.enter]
        lines.append(f"{name} = {memory.load_state(c.enter, f'initial_{safe(c.state)}', o)}")
    program = body.frame.program
    loop = [*(_OF_CHUNK if program.chunk and not program.begins else _BY_LENGTH), *_TOKENS]
    for c in kernel.carries:
        name, o = held[c.enter]
        if c.keep:
            loop.append(memory.store_buffer(c.keep.name, c.enter, name, o))
    loop += inner
    loop += [f"{held[c.enter][0]} = {body.leaving(c)}" for c in kernel.carries if c.leave != c.enter]
    lines += [f"{name} = tl.load({name}s + sequence)" for name in ("begin", "end", "first", "last")]
    lines += ["entered = tl.load(places + begin, mask=begin < end, other=0)"]
    if kernel.reverse:
        lines += ["for back in range(0, end - begin):", "    chunk = end - 1 - back"]
    else:
        lines += ["for chunk in range(begin, end):"]
    lines += [f"    {line}" for line in ["closes = tl.full((1, 1), end - 1, tl.int64) == chunk", *loop]]
    return lines + [memory.store_state(c.enter, f"final_{safe(c.state)}", *held[c.enter]) for c in kernel.carries]
