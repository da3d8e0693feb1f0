"""A rule's chunk kernels as they are generated: their text, what a caller has to know, and why there are none."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ruledsl import pipeline
from ruledsl.chunk.program import Port, PortKind, Program, ResultKind, Shape
from ruledsl.emit.names import comment
from ruledsl.emit.rule_lines import rule_lines
from ruledsl.emit.triton_functions import device_functions
from ruledsl.emit.triton_launch import padded_sizes
from ruledsl.emit.triton_names import tensor_key
from ruledsl.emit.triton_text import triton_text
from ruledsl.lang import typed
from ruledsl.runtime.chunkable import Chunkable
from ruledsl.runtime.chunked import StateTile, state_tiles
from ruledsl.runtime.setting import Setting
from ruledsl.schedule.cost import extent
from ruledsl.schedule.cut import cut
from ruledsl.schedule.graph import Graph
from ruledsl.schedule.kernels import Kernels, Mode
from ruledsl.schedule.slots import slots
from ruledsl.schedule.tiles import Tiles, longest, power, tiles
from ruledsl.schedule.unsupported import unsupported

if TYPE_CHECKING:
    from ruledsl.runtime.rule import Rule

MAX_STATE = 256  # rows or columns of a state that a kernel holds
MAX_WHOLE = 128  # of one that cannot come in blocks of rows
MAX_SHARED = 227 << 10  # bytes of shared memory that one program has at most, on any device so far
MAX_FROZEN = 1 << 16  # entries of all states and their frozen copies, which one program carries: as many as there are registers


@dataclass(frozen=True, slots=True)
class TritonForm:
    """What is generated once for a rule and its sizes."""

    programs: tuple[Program, Program]  # forward, gradient
    kernels: Kernels
    text: str
    key: str
    inputs: tuple[Port, ...]  # one for each tensor: a family and each lag are one
    params: tuple[Port, ...]
    states: tuple[StateTile, ...]
    with_gradient: frozenset[str]
    anew: frozenset[str]  # states that every chunk makes anew
    aligned: bool  # chunks are where the position says (states are frozen), not where the sequence begins
    wide: bool  # operands of products are float32 for inputs of 16 bits too, see `_wide`
    positions: bool  # do kernels read the position of a token?
    candidates: tuple[Tiles, ...]
    kept: tuple[tuple[str, Shape], ...]  # what backward takes over in the operands' dtype


def refusal(found: Chunkable, setting: Setting) -> str:
    """Why the rule has no kernels in this setting; "" if it has."""
    if setting.dtype == torch.float64:
        return "kernels compute in float32; backends 'torch' and 'recurrent' compute in float64"
    fixed = found.program.chunk or setting.chunk_size
    if fixed and (fixed < 16 or fixed & (fixed - 1)):
        return f"chunks of {fixed} tokens; kernels need a power of two from 16, backend 'torch' takes any"
    sizes = dict(setting.sizes)
    for name, type_ in found.program.types:
        widest = max((typed.dim_value(d, sizes) for d in type_.dims), default=1)
        if widest > MAX_STATE:
            return f"`{name}` has a size of {widest}, kernels go to {MAX_STATE}; backend 'torch' runs it"
    return ""


def holds_frozen(program: Program, setting: Setting) -> bool:
    """Do chunk kernels hold the states of a rule that freezes them, in chunks as long as the rule says? Else kernels for tokens do."""
    graph, chunk, sizes = Graph(program), program.chunk, dict(setting.sizes)
    assert chunk is not None
    shapes = [program.nodes[i].shape for i in graph.ports(PortKind.STATE).values()]
    entries = sum(math.prod(power(extent(axis, 1, sizes)) for axis in shape) for shape in shapes)
    return 16 <= chunk <= longest((program,), sizes) and chunk == power(chunk) and entries <= MAX_FROZEN


def _wide(forward: Program) -> bool:
    """Are 16 bits too few for the operands of products? They are for an inverse whose entries grow with several reads of the state by
    one token, and for memories of layers."""
    return any(slots(axis) > 1 for node in forward.nodes for axis in node.shape) or _layers(Graph(forward))


def _layers(graph: Graph) -> bool:
    """Does a state change by a product with a state of what such a product made? Operands of 16 bits lose too much there: 0.7 % of
    the final states of a memory of two layers."""
    entering = set(graph.ports(PortKind.STATE).values())

    def reads(index: int) -> bool:
        args = graph.args(index) if graph.op(index) == "dot" and not graph.is_state(index) else ()
        return any(graph.is_state(a) and not graph.ancestors([a]).isdisjoint(entering) for a in args)

    found = set(filter(reads, graph.ancestors(node for _, node in graph.results(ResultKind.STATE))))
    return any(not graph.ancestors(graph.args(i)).isdisjoint(found) for i in found)


def _check_held(kernels: Kernels, programs: tuple[Program, Program], sizes: Mapping[str, int], operand: int) -> None:
    """Unsupported: a kernel reads a state whose rows and columns are not in blocks there, and that no shared memory holds."""
    graphs = dict(zip(("forward", "gradient"), map(Graph, programs), strict=True))
    for kernel in (*kernels.forward, *kernels.backward):
        graph = graphs[kernel.program]
        parted = kernel.rows if kernel.split or kernel.mode is Mode.CHUNK else None
        for index in [b.node for b in kernel.reads] + [c.enter for c in kernel.carries]:
            axes = zip(graph.program.nodes[index].shape, graph.axes.of[index], strict=True)
            held = [power(extent(dim, 1, sizes)) for dim, axis in axes if axis is None or axis != parted]
            if graph.is_state(index) and len(held) == 2 and math.prod(held) * operand > MAX_SHARED:
                size = " x ".join(map(str, held))
                raise unsupported(f"`{kernel.name}_kernel` holds a state of {size} entries whole: more than shared memory")


def form_of(rule: Rule, found: Chunkable, setting: Setting, begins: bool = True) -> TritonForm:
    """Kernels for a rule in a setting. `begins`: of a rule that freezes states, only for sequences from their first token on.
    Raises Unsupported."""
    sizes = dict(setting.sizes)
    begins = begins and found.program.chunk is not None
    forward, gradient = pipeline.kernel_programs(found.token, found.unrolled, found.sizes, begins)
    for node in map(forward.nodes.__getitem__, Graph(forward).whole):
        if (widest := max(extent(axis, 1, sizes) for axis in node.shape)) > MAX_WHOLE:
            raise unsupported(
                f"`{forward.port(node).name}` has a size of {widest}; where its rows and columns are the same axis, or are permuted, "
                f"kernels hold it whole and go to {MAX_WHOLE}"
            )
    header = "\n".join(["# Generated by ruledsl from the rule", *comment(rule.source.text)])
    padded = padded_sizes((forward, gradient), sizes)
    kernels = cut(forward, gradient)
    wide = _wide(forward)
    operand = 4 if wide or setting.out_dtype == torch.float32 else 2
    _check_held(kernels, (forward, gradient), sizes, operand)
    text = triton_text(kernels, forward, gradient, padded, header, device_functions(), rule_lines(rule.typed, rule.source))
    ports = {tensor_key(p): p for p in (*forward.ports, *gradient.ports)}
    states = state_tiles(found, forward)
    with_gradient = {tensor_key(r.port) for r in gradient.results if r.kind is ResultKind.GRADIENT and r.port is not None}
    anew = {s.key for s in states} - with_gradient
    return TritonForm(
        (forward, gradient),
        kernels,
        text,
        hashlib.sha256(f"{rule.hash}\n{text}".encode()).hexdigest()[:24],
        tuple(p for p in ports.values() if p.kind is PortKind.INPUT),
        tuple(p for p in ports.values() if p.kind is PortKind.PARAM),
        states,
        frozenset(with_gradient | anew),
        frozenset(anew),
        forward.chunk is not None and not begins,
        wide,
        any(p.kind is PortKind.POSITION for p in forward.ports),
        tiles((forward, gradient), sizes, operand),
        tuple((b.name, gradient.nodes[b.node].shape) for _, b in kernels.kept),
    )
