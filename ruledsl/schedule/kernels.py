"""The Triton schedule: which nodes of the forward and gradient programs run in which kernel.

    Kernels = Kernels(forward, backward)         kernels in launch order
    Kernel  = Kernel(name, program, mode, ...)   mode "chunk": one program per chunk and head, rows of the state in a
                                                 loop; mode "serial": one program per sequence, head and block of rows,
                                                 chunks in a loop, the carried state in registers
    Buffer  = a node's tile for every chunk and head, in memory between kernels

The rule of the cut. *Serial* is what depends on the carried state and feeds it; what does not depend on it is *free*.
A free value that the serial kernel needs crosses through memory if making it takes a product (Gram matrix, inverse)
and it has no axis of state rows; otherwise the serial kernel makes it again from the inputs. The output joins the
serial kernel when it does not contract rows of the state; else the entering states are kept and a chunk kernel
follows. Backward: crossing values, a sweep that keeps the entering states, the reverse serial kernel that keeps the
state cotangents, one chunk kernel for every gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ruledsl.chunk.program import PortKind, Program, Result, ResultKind, Rows
from ruledsl.schedule.attributes import integer
from ruledsl.schedule.axes import Axes, axes
from ruledsl.schedule.unsupported import unsupported

HEAVY = frozenset({
    "dot", "gram", "gram_apply", "chain_gram", "chain_apply", "chain_gate", "spans", "spans_gate", "inverse", "scan",
})  # fmt: skip
_SOLVE = "The inverse of every chunk's system."
_AFTER = "Outputs of every chunk, from the state that enters it."
_GRADIENTS = (
    "Gradients of every chunk's inputs, from the state that enters it and the gradient of the state that leaves it."
)
_PURPOSE = {
    "forward": "Chunk after chunk, the state in registers: outputs and the final state.",
    "sweep": "The states again, chunk after chunk; keeps the one that enters each chunk.",
    "reverse": "The gradient of the state, last chunk first; keeps the one of the state that leaves each chunk.",
}
_OPERAND_PATH = frozenset({"cast", "transpose"})


@dataclass(frozen=True, slots=True)
class Buffer:
    """One node's tile, per chunk and head. `operand`: stored in the operand dtype (it is only ever a dot operand)."""

    name: str
    node: int
    operand: bool


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
    mode: str  # "chunk" or "serial"
    purpose: str  # one line for readers
    reads: tuple[Buffer, ...] = ()
    writes: tuple[Buffer, ...] = ()
    results: tuple[Result, ...] = ()
    carries: tuple[Carry, ...] = ()
    reverse: bool = False
    split: bool = False  # rows of the state are split over programs (serial mode)


@dataclass(frozen=True, slots=True)
class Kernels:
    forward: tuple[Kernel, ...]
    backward: tuple[Kernel, ...]
    rows: dict[str, int | None]  # per program: the axis class of the state's rows


class Graph:
    """A program with the questions the cut asks of it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.axes: Axes = axes(program)
        self.heavy = self._forward_closure(lambda i: self._is_heavy(i))

    def _is_heavy(self, index: int) -> bool:
        node = self.program.nodes[index]
        if node.op == "dot":
            m, n = node.shape
            return m != 1 or n != 1
        return node.op in HEAVY

    def _forward_closure(self, seed: Callable[[int], bool]) -> frozenset[int]:
        inside: set[int] = set()
        for index, node in enumerate(self.program.nodes):
            if seed(index) or any(a in inside for a in node.args):
                inside.add(index)
        return frozenset(inside)

    def ports(self, kind: PortKind, names: set[str] | None = None) -> dict[str, int]:
        """Node index of each port of a kind, by name."""
        found = {}
        for index, node in enumerate(self.program.nodes):
            if node.op == "input":
                port = self.program.ports[integer(node)]
                if port.kind is kind and (names is None or port.name in names):
                    found[port.name] = index
        return found

    def dependents(self, sources: set[int]) -> frozenset[int]:
        return self._forward_closure(lambda i: i in sources)

    def ancestors(self, targets: list[int], stop: frozenset[int] = frozenset()) -> frozenset[int]:
        """Everything the targets need, not looking behind `stop`."""
        seen: set[int] = set()
        todo = list(targets)
        while todo:
            index = todo.pop()
            if index not in seen:
                seen.add(index)
                if index not in stop:
                    todo += self.program.nodes[index].args
        return frozenset(seen)

    def owned(self, index: int, rows: int | None) -> bool:
        return rows is not None and rows in self.axes.of[index]

    def crossing(self, targets: list[int], carried: set[int], known: frozenset[int], rows: int | None) -> list[int]:
        """The free values that cross into a serial kernel computing `targets`; `known` are in memory already."""
        depends = self.dependents(carried)
        cross: set[int] = set()
        seen: set[int] = set()
        todo = list(targets)
        while todo:
            index = todo.pop()
            if index in seen or index in carried or index in known or self._block_of(index, known):
                continue
            seen.add(index)
            if index in depends or (index in self.heavy and self.owned(index, rows)):
                todo += self.program.nodes[index].args
            elif index in self.heavy:
                cross.add(index)
        return sorted(cross)

    def _block_of(self, index: int, known: frozenset[int]) -> bool:
        """A block of an inverse that is in memory."""
        node = self.program.nodes[index]
        return node.op == "block" and node.args[0] in known

    def systems(self, targets: list[int], stop: frozenset[int]) -> list[int]:
        """Interleaved systems that the targets need: their inverse is taken in a kernel of its own."""

        def many(i: int) -> bool:
            node = self.program.nodes[i]
            return node.op == "inverse" and isinstance(node.shape[0], Rows) and node.shape[0].slots > 1

        return sorted(i for i in self.ancestors(targets, stop) if i not in stop and many(i))

    def used_inverses(self, targets: list[int], known: frozenset[int]) -> list[int]:
        """Inverses that computing the targets makes and multiplies with. They are made in a kernel of their own: an inverse
        comes out of dots, and its transpose must not go into one (see `emit.triton_recipes`), but may be loaded."""
        inside = self.ancestors(targets, known) - known
        found = {a for i in inside for a in self.program.nodes[i].args if a in inside and a not in known}
        return sorted(i for i in found if self.program.nodes[i].op == "inverse")

    def mixes_rows(self, targets: list[int], known: frozenset[int], rows: int | None) -> bool:
        """Does computing the targets contract (or permute) rows of the state?"""
        if rows is None:
            return False
        if rows in self.axes.mixed:
            return True
        return any(
            i not in known and self.axes.contracted(self.program, i) == rows for i in self.ancestors(targets, known)
        )

    def buffers(self, nodes: list[int], prefix: str, readers: frozenset[int]) -> tuple[Buffer, ...]:
        """Buffers for crossing nodes; `readers` are the nodes that the reading kernels compute."""
        return tuple(Buffer(f"{prefix}{self._word(i)}_{i}", i, self._only_operand(i, readers)) for i in nodes)

    def _word(self, index: int) -> str:
        node = self.program.nodes[index]
        return str(node.attr) if node.op == "map" else node.op

    def _only_operand(self, index: int, readers: frozenset[int]) -> bool:
        users = [u for u in readers if index in self.program.nodes[u].args and u != index]
        return bool(users) and all(
            (self.program.nodes[u].op == "dot" and 1 not in self.program.nodes[u].shape)
            or (self.program.nodes[u].op in _OPERAND_PATH and self._only_operand(u, readers))
            for u in users
        )


def state_rows(graph: Graph) -> int | None:
    """The axis class of the state's rows; several states with different row axes: the first that has one."""
    for index in graph.ports(PortKind.STATE).values():
        if (found := graph.axes.of[index][0]) is not None:
            return found
    return None


def _carries(graph: Graph, kind: PortKind, states: tuple[str, ...]) -> tuple[Carry, ...]:
    """Carried values of the forward (kind STATE) or the gradient program (kind COTANGENT)."""
    enter = graph.ports(kind, set(states))
    out = []
    for name in states:
        if kind is PortKind.STATE:
            leave = graph.program.result(name, ResultKind.STATE).node
        else:
            leave = next(
                r.node for r in graph.program.results
                if r.kind is ResultKind.GRADIENT and r.port is not None and r.port.kind is PortKind.STATE and r.name == name
            )  # fmt: skip
        if name in enter:
            out.append(Carry(name, enter[name], leave))
    return tuple(out)


def cut(forward: Program, gradient: Program) -> Kernels:
    """Cut the two programs of a rule into kernels."""
    f, g = Graph(forward), Graph(gradient)
    states = tuple(r.name for r in forward.results if r.kind is ResultKind.STATE)
    rows = {"forward": state_rows(f), "gradient": state_rows(g)}
    ahead = _forward(f, states, rows["forward"])
    back = _backward(f, g, states, rows)
    return Kernels(ahead, back, rows)


def _serial(
    graph: Graph, name: str, program: str, carries: tuple[Carry, ...], results: list[Result], rows: int | None,
    reverse: bool, kept: tuple[Buffer, ...] = (),
) -> tuple[list[Kernel], Kernel, tuple[Buffer, ...]]:  # fmt: skip
    """A serial kernel for the carries and results; the chunk kernels that prepare what crosses into it; and all that is
    then in memory."""
    carried = {c.enter for c in carries}
    targets = [c.leave for c in carries] + [r.node for r in results]
    before: list[Kernel] = []
    memory = kept
    systems = graph.systems(targets, frozenset(carried) | {b.node for b in kept})
    if systems:
        if graph.used_inverses(systems, frozenset(b.node for b in kept)):
            raise unsupported("a system of reading sub-steps that is made with another's inverse has no Triton form")
        solved = tuple(Buffer(f"{name}_inverse_{i}", i, False) for i in systems)
        before.append(Kernel(f"{name}_solve", program, "chunk", _SOLVE, reads=kept, writes=solved))
        memory += solved
    known = frozenset(b.node for b in memory)
    cross = graph.crossing(targets, carried, known, rows)
    alone = graph.used_inverses(cross, known)
    if alone:
        solved = tuple(Buffer(f"{name}_inverse_{i}", i, False) for i in alone)
        word = "solve_more" if systems else "solve"
        before.append(Kernel(f"{name}_{word}", program, "chunk", _SOLVE, reads=memory, writes=solved))
        memory += solved
        known |= frozenset(alone)
        cross = [i for i in cross if i not in known]
    stop = frozenset(cross) | known | frozenset(carried)
    needed = graph.ancestors(targets, stop)
    buffers = graph.buffers(cross, f"{name}_", needed)
    if buffers:
        purpose = f"What `{name}_kernel` needs of every chunk and does not depend on the state."
        before.append(Kernel(f"{name}_prepare", program, "chunk", purpose, reads=memory, writes=buffers))
    split = not graph.mixes_rows(targets, stop, rows)
    used = tuple(b for b in memory if b.node in needed)
    serial = Kernel(
        name, program, "serial", _PURPOSE[name], buffers + used, (), tuple(results), carries, reverse, split
    )
    return before, serial, memory + buffers


def _keeping(kernel: Kernel, word: str) -> tuple[Kernel, tuple[Buffer, ...]]:
    """The serial kernel, keeping what enters each chunk."""
    carries = tuple(replace(c, keep=Buffer(f"{word}_{c.state}", c.enter, False)) for c in kernel.carries)
    return replace(kernel, carries=carries), tuple(c.keep for c in carries if c.keep)


def _forward(graph: Graph, states: tuple[str, ...], rows: int | None) -> tuple[Kernel, ...]:
    carries = _carries(graph, PortKind.STATE, states)
    outputs = [r for r in graph.program.results if r.kind is ResultKind.OUTPUT]
    carried = frozenset(c.enter for c in carries)
    inside = [r for r in outputs if not graph.mixes_rows([r.node], carried, rows)]
    after = [r for r in outputs if r not in inside]
    before, serial, memory = _serial(graph, "forward", "forward", carries, inside, rows, reverse=False)
    if not after:
        return (*before, serial)
    serial, kept = _keeping(serial, "enter")
    last = Kernel("forward_after", "forward", "chunk", _AFTER, memory + kept, (), tuple(after))
    return (*before, serial, last)


def _backward(f: Graph, g: Graph, states: tuple[str, ...], rows: dict[str, int | None]) -> tuple[Kernel, ...]:
    kernels: list[Kernel] = []
    entering = g.ports(PortKind.STATE)
    memory: tuple[Buffer, ...] = ()
    if entering:  # sweep forward again, keeping the state that enters each chunk
        before, sweep, _ = _serial(
            f, "sweep", "forward", _carries(f, PortKind.STATE, states), [], rows["forward"], reverse=False
        )
        sweep, _ = _keeping(sweep, "enter")
        kernels += [*before, sweep]
        memory = tuple(Buffer(f"enter_{name}", index, False) for name, index in entering.items())
    carries = _carries(g, PortKind.COTANGENT, states)
    if carries:
        before, reverse, memory = _serial(
            g, "reverse", "gradient", carries, [], rows["gradient"], reverse=True, kept=memory
        )
        reverse, kept = _keeping(reverse, "leave")
        kernels += [*before, reverse]
        memory += kept
    gradients = [
        r for r in g.program.results
        if r.kind is ResultKind.GRADIENT and not (r.port is not None and r.port.kind is PortKind.STATE)
    ]  # fmt: skip
    if gradients:
        systems = g.systems([r.node for r in gradients], frozenset(b.node for b in memory))
        assert not systems, "every system of the gradient is solved before its serial kernel"
        alone = g.used_inverses([r.node for r in gradients], frozenset(b.node for b in memory))
        if alone:
            solved = tuple(Buffer(f"gradients_inverse_{i}", i, False) for i in alone)
            kernels.append(Kernel("gradients_solve", "gradient", "chunk", _SOLVE, reads=memory, writes=solved))
            memory += solved
        kernels.append(Kernel("gradients", "gradient", "chunk", _GRADIENTS, memory, (), tuple(gradients)))
    return tuple(kernels)
