"""Cut the forward and gradient programs of a rule into kernels.

*Serial* is what depends on the carried state and feeds it; the rest is *free*. Everything free that a serial kernel
uses and that has no axis of state rows is made ahead of it, in chunk kernels that run in parallel, so that the chain of
one chunk after the other holds nothing but its own products. An output joins the serial kernel when it does not contract
rows of the state and needs no system solved; else the entering states are kept and a chunk kernel follows.

Backward: a sweep that carries the states again and keeps the one entering each chunk, a reverse kernel that carries
and keeps the states' gradients, chunk kernels for every other gradient. Products that a serial kernel makes anyway
and a later kernel needs are kept too: their bytes are fewer than those of the state they would be made from. Gram matrices,
inverses and solutions are taken over from the forward pass (`schedule.kept`).

Four things are kernels of their own, between the chunk kernels that make their arguments and those that use them: the
inverse of a chunk's system, the solutions of systems that tokens have (with all that their matrices are made of), the level
products of a diagonal decay that may be negative (see `schedule.by_logarithms`), the gradient of one that may be 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from ruledsl.chunk.program import PortKind, Program, Result, ResultKind
from ruledsl.schedule.fused import Fused, fused, is_cheap, plain
from ruledsl.schedule.graph import CHAINS, ELEMENTWISE, Graph
from ruledsl.schedule.independent import independent
from ruledsl.schedule.kept import kept
from ruledsl.schedule.kernels import Buffer, Carry, Kernel, Kernels, Mode
from ruledsl.schedule.stages import (
    Ahead,
    blocks,
    by_states,
    column_sums,
    gate_arguments,
    gram_products,
    load,
    multiplies_running,
    row_sums,
    stages,
    state_sums,
    summed_pairs,
)

_PURPOSE = {
    Mode.SYSTEM: "For every token what its matrix takes to the right side, by conjugate gradients.",
    Mode.SOLVE: "The inverse of every chunk's system.",
    Mode.LEVELS: "Products of the decays inside blocks of tokens.",
    Mode.GATE: "The gradient of the decays.",
}
_FORWARD = "Chunk after chunk, the state in registers: outputs and the final state."
_SWEEP = "The states again, chunk after chunk; keeps the one that enters each chunk."
_REVERSE = "The gradient of the state, last chunk first; keeps the one of the state that leaves each chunk."
_AFTER = "Outputs of every chunk, from the state that enters it."
_GRADIENTS = (
    "Gradients of every chunk's inputs, from the state that enters it and the gradient of the state that leaves it."
)
_ALONE = "Chunk after chunk, the state or its gradient in registers: the gradients that depend on it."
MOST_BESIDE = 2  # products that a serial kernel makes for a result beside its chain
_IN_PLACE = ELEMENTWISE | {"dot"}  # with state rows: made where it is used; the serial chain does not wait for it


def cut(forward: Program, gradient: Program) -> Kernels:
    """`gradient` has the states among its results (`differentiate(..., keep_states=True)`)."""
    found = [_cut(Graph(f), Graph(g), suffix) for suffix, f, g in independent(forward, gradient)]
    return Kernels(*(tuple(x for part in side for x in part) for side in zip(*found, strict=True)))


def _cut(f: Graph, g: Graph, suffix: str) -> tuple[tuple[Kernel, ...], tuple[Kernel, ...], tuple[tuple[Buffer, Buffer], ...]]:
    """The kernels of one group of states, and what is kept between them. `suffix`: of their names."""
    whole = fused(g) if plain(f) else None
    ahead = _forward(f, whole is not None, suffix)
    if whole is not None:
        return ahead, _serial_alone(g, whole, suffix), ()
    both = kept(f, ahead, g)
    return ahead, _backward(g, {b.node: b for _, b in both}, suffix), both


def _serial_alone(graph: Graph, whole: Fused, suffix: str) -> tuple[Kernel, ...]:
    """No state is kept in memory: a serial kernel for each direction and axis that is split."""
    cutter = Cutter(graph, "gradient")
    for (kind, along), results in whole.serial.items():
        name = "sweep" if kind is PortKind.STATE else "reverse"
        name += ("" if along == graph.rows else "_columns") + suffix
        cutter.serial(name, _ALONE, _carries(graph, kind), list(results), keep="", along=along)
    cutter.ahead(f"gradients{suffix}", (), whole.rest, _GRADIENTS)
    return tuple(cutter.kernels)


def _forward(graph: Graph, inline: bool, suffix: str) -> tuple[Kernel, ...]:
    carries = _carries(graph, PortKind.STATE)
    outputs = [r for r in graph.program.results if r.kind is ResultKind.OUTPUT]
    carried = [c.enter for c in carries]
    inside = [r for r in outputs if not graph.mixes_rows([r.node], carried) and not graph.solves([r.node])]
    after = [r for r in outputs if r not in inside]
    inside += [r for r in graph.program.results if r.kind is ResultKind.STATE and r.name not in {c.state for c in carries}]
    cutter = Cutter(graph, "forward")
    along = graph.rows if inline else None
    cutter.serial(f"forward{suffix}", _FORWARD, carries, inside, keep="enter" if after else "", along=along)
    cutter.ahead(f"forward_after{suffix}", (), after, _AFTER)
    return tuple(cutter.kernels)


def _backward(graph: Graph, there: dict[int, Buffer], suffix: str) -> tuple[Kernel, ...]:
    """`there`: what is in memory from the forward pass."""
    cutter = Cutter(graph, "gradient", memory=dict(there))
    states, cotangents = _carries(graph, PortKind.STATE), _carries(graph, PortKind.COTANGENT)
    gradients = [
        r for r in graph.program.results
        if r.kind is ResultKind.GRADIENT and not (r.port is not None and r.port.kind is PortKind.STATE)
    ]  # fmt: skip
    wanted = [r.node for r in gradients]
    entering = {c.enter for c in states}
    swept = _made(graph, states, ())
    back = _made(graph, cotangents, entering)
    carried = {c.enter for c in cotangents}
    early = [r for r in gradients if _comes_along(graph, r.node, back) or _beside(graph, r.node, carried, entering, there)]
    if states:
        again = _again(graph, swept, [*wanted, *(c.leave for c in cotangents)], entering)
        later = Later([*(c.leave for c in cotangents), *(r.node for r in early)], carried)
        cutter.serial(f"sweep{suffix}", _SWEEP, states, [], keep="enter", also=again, later=later)
    if cotangents:
        gradients = [r for r in gradients if r not in early]
        again = _again(graph, back, [r.node for r in gradients], carried | set(cutter.memory))
        cutter.serial(f"reverse{suffix}", _REVERSE, cotangents, early, keep="leave", also=again)
    cutter.ahead(f"gradients{suffix}", (), gradients, _GRADIENTS)
    return tuple(cutter.kernels)


def _carries(graph: Graph, kind: PortKind) -> tuple[Carry, ...]:
    """Carried values of the forward (kind STATE) or the gradient direction (kind COTANGENT)."""
    states = dict(graph.results(ResultKind.STATE))
    leaving = states if kind is PortKind.STATE else dict(graph.results(ResultKind.GRADIENT, PortKind.STATE))
    enter = graph.ports(kind, states)
    return tuple(Carry(name, enter[name], leaving[name]) for name in states if name in enter)


def _made(graph: Graph, carries: tuple[Carry, ...], known: Iterable[int]) -> frozenset[int]:
    """What a serial kernel computes from what it carries."""
    carried = {c.enter for c in carries}
    needed = graph.ancestors([c.leave for c in carries], carried | set(known))
    return (needed & graph.dependents(carried)) - carried


def _again(graph: Graph, made: frozenset[int], wanted: list[int], known: set[int]) -> list[int]:
    """The products among `made` that the nodes wanted later would need again."""
    found, seen, todo = set(), set(), list(wanted)
    while todo:
        index = todo.pop()
        if index in seen or index in known:
            continue
        seen.add(index)
        if index in made and graph.op(index) == "dot" and graph.large(index) and graph.owned(index):
            found.add(index)
        else:
            todo += graph.args(index)
    return sorted(found)


def _comes_along(graph: Graph, result: int, made: frozenset[int]) -> bool:
    """Is a result an element-wise function of what a serial kernel makes?"""
    found, todo = False, [result]
    while todo:
        index = todo.pop()
        if index in made:
            found = True
        elif graph.op(index) in ELEMENTWISE and index not in graph.heavy:
            todo += graph.args(index)
        elif not graph.trivial(index):
            if graph.op(index) not in ELEMENTWISE:
                return False
            todo += graph.args(index)
    return found and graph.owned(result)


def _beside(graph: Graph, result: int, carried: set[int], states: set[int], there: Iterable[int]) -> bool:
    """Can a serial kernel make a result beside its chain: by few products of what it carries and of what it loads?"""
    ends = carried | set(there)
    made = graph.ancestors([result], ends) - ends
    depends = graph.dependents(carried | states)
    rows = [i for i in made if graph.owned(i) or graph.contracts_rows(i)]
    plain = all(graph.op(i) in _IN_PLACE and not graph.contracts_rows(i) or graph.trivial(i) for i in rows)
    products = sum(graph.op(i) == "dot" for i in rows)
    return graph.owned(result) and result in depends and plain and products <= MOST_BESIDE and depends & made <= set(rows)


@dataclass(frozen=True, slots=True)
class Later:
    """A serial kernel that follows another: what it is for, and the nodes that it carries."""

    targets: list[int]
    carried: set[int]


@dataclass(slots=True)
class Cutter:
    """The kernels of one direction, in order, and what is in memory after them."""

    graph: Graph
    program: str
    kernels: list[Kernel] = field(default_factory=list)
    memory: dict[int, Buffer] = field(default_factory=dict)  # values, by node
    levels: dict[int, Buffer] = field(default_factory=dict)  # level products, by the node of the decay

    def serial(
        self, name: str, purpose: str, carries: tuple[Carry, ...], results: list[Result], keep: str,
        also: Iterable[int] = (), later: Later | None = None, along: int | None = None,
    ) -> None:  # fmt: skip
        """A serial kernel and what is made ahead of it. `keep`: word for the buffers of the values that enter each chunk,
        "" if they are not kept; `also`: nodes to keep; `later`: what crosses into that kernel is made at the same time; `along`:
        the axis class that is split, products of the caller's tiles being made inside."""
        graph = self.graph
        carried = {c.enter for c in carries}
        targets = [*(c.leave for c in carries), *(r.node for r in results), *also]
        needs = [(targets, carried)]
        if later is not None:
            needs.append((later.targets, later.carried | carried | set(also)))
        crossing: dict[int, frozenset[int]] = {}  # what is made ahead, and the nodes that decide whether it is an operand
        for wanted, held in needs:
            found = self._crossing(wanted, held, along is not None)
            readers = graph.ancestors(wanted, held | set(self.memory) | set(found))
            crossing = dict.fromkeys(found, readers) | crossing
        self.ahead(
            f"{name}_prepare", crossing, (), f"What `{name}_kernel` needs of every chunk and does not depend on the state.",
            lambda i: graph.large(i) and graph.only_operand(i, crossing.get(i, ())),
        )  # fmt: skip
        stop = carried | set(self.memory)
        split = along is not None or not graph.mixes_rows(targets, stop)
        reads = self._reads(targets, carried)
        named = ((c, c.state if c.state.isidentifier() else c.enter) for c in carries)
        kept = tuple(Buffer(f"{keep}_{n}", c.enter, c.enter not in graph.exact) for c, n in named) if keep else (None,) * len(carries)
        writes = tuple(Buffer(f"{name}_{graph.word(i)}_{i}", i, True) for i in also)
        self.kernels.append(Kernel(
            name, self.program, Mode.SERIAL, purpose, reads, writes, tuple(results),
            tuple(replace(c, keep=b) for c, b in zip(carries, kept, strict=True)), name.startswith("reverse"), split,
            graph.rows if along is None else along, along not in (None, graph.rows),
        ))  # fmt: skip
        self.memory |= {b.node: b for b in (*writes, *kept) if b is not None}

    def _crossing(self, targets: list[int], carried: set[int], inline: bool) -> list[int]:
        """The free values that cross into a serial kernel: all but what comes from the caller as it is, and cheap
        functions of tiles with state rows. `inline`: all but cheap functions of any tiles."""
        graph = self.graph
        depends = graph.dependents(carried)
        cross: set[int] = set()
        seen: set[int] = set()
        todo = list(targets)
        while todo:
            index = todo.pop()
            if index not in depends:
                index = graph.bare(index)
            if index in seen or index in carried or index in self.memory or self._block_of(index):
                continue
            seen.add(index)
            if index in depends:
                todo += graph.args(index)
            elif graph.op(index) == "block":
                cross.add(graph.args(index)[0])
            elif graph.op(index) == "running":
                todo += graph.args(index)
            elif (graph.owned(index) and graph.op(index) in _IN_PLACE) or (inline and is_cheap(graph, index)):
                todo += graph.args(index)
            elif not graph.trivial(index) and not self._masked_leaf(index):
                cross.add(index)
        return sorted(cross)

    def _masked_leaf(self, index: int) -> bool:
        """What comes from the caller, with padding tokens cleared."""
        return self.graph.op(index) == "select" and all(self.graph.trivial(a) for a in self.graph.args(index))

    def _block_of(self, index: int) -> bool:
        """A block of an inverse that is in memory."""
        return self.graph.op(index) == "block" and self.graph.args(index)[0] in self.memory

    # ------------------------------------------------------------------------------------------- chunk kernels

    def ahead(
        self, name: str, wanted: Iterable[int], results: Iterable[Result], purpose: str,
        operand: Callable[[int], bool] | None = None,
    ) -> None:  # fmt: skip
        """Chunk kernels that put nodes into memory and store results, and the library kernels between them. A node's
        stage is how many library kernels are behind it."""
        results = list(results)
        targets = [r.node for r in results]
        graph = self.graph
        if sums := sorted(state_sums(graph, self.memory, targets)):
            for number, part in enumerate(by_states(graph, self.memory, sums)):
                totals = [Buffer(f"{name}_sum_{i}", i, False) for i in part]
                self._chunk_kernel(f"{name}_sums" + f"_{number}" * (number > 0), purpose, totals, [])
                self.memory |= {b.node: b for b in totals}
        if grams := sorted(gram_products(graph, self.memory, targets)):
            products = [Buffer(f"{name}_gram_{i}", i, False) for i in grams]
            self._chunk_kernel(f"{name}_grams", purpose, products, [])
            self.memory |= {b.node: b for b in products}
        ending = row_sums(graph, self.memory, targets) | column_sums(graph, self.memory, targets)
        stage = stages(graph, self.memory, self.levels, ending)
        plan = Ahead(graph, self.memory, self.levels, stage)
        for index in wanted:
            plan.request(index)
        for r in results:
            plan.results[stage[r.node]].append(r)
        plan.close()
        operand = operand or graph.large
        for at in range(plan.last + 1):
            nodes = sorted(plan.nodes[at])
            stem = f"{name}_{at + 1}" if at else name
            exact = plan.exact | graph.wide | graph.exact | summed_pairs(graph, nodes)
            writes = [Buffer(f"{name}_{graph.word(i)}_{i}", i, operand(i) and i not in exact) for i in nodes]
            writes += [Buffer(f"{name}_products_{g}", g, True, levels=True) for g in sorted(plan.gates[at])]
            made, apart = self._apart(writes, plan.results[at]) if at else (plan.results[at], [])
            summed = [b.node for b in writes if graph.large(b.node) and (graph.contracts_rows(b.node) or graph.reads_whole(b.node))]
            *parts, last_part = by_states(graph, self.memory, summed)
            for number, part in enumerate(parts, 1):
                own = [b for b in writes if b.node in part]
                self._chunk_kernel(f"{stem}_part_{number}", purpose, own, [])
            rest = [b for b in writes if b.node in last_part or b.node not in summed]
            if rest or made:
                self._chunk_kernel(stem, purpose, rest, made)
            if apart:
                self._chunk_kernel(f"{stem}_rows", purpose, [], apart)
            self.memory |= {b.node: b for b in writes if not b.levels}
            self._library(name, plan, at, {b.node: b for b in writes if b.levels})

    def _apart(self, writes: list[Buffer], results: list[Result]) -> tuple[list[Result], list[Result]]:
        """Results with an axis of state rows come last, on their own, if nothing else needs such an axis: the others then go
        through blocks of columns."""
        rows = [r for r in results if self.graph.owned(r.node)]
        rest = [r for r in results if r not in rows]
        alone = rows and not self._needs_rows([*self._needed(writes), *(r.node for r in rest)])
        return (rest, rows) if alone else (results, [])

    def _chunk_kernel(self, name: str, purpose: str, writes: list[Buffer], results: list[Result]) -> None:
        targets = [*self._needed(writes), *(r.node for r in results)]
        rows, twice = blocks(self.graph, self.memory, targets), multiplies_running(self.graph, self.memory, targets)
        reads = self._reads(targets, ())
        gates = (self.levels[self.graph.args(b.node)[CHAINS["decay_gate"]]] for b in writes if b.levels)
        reads = tuple(dict.fromkeys((*reads, *gates)))  # what a gate is made of may be in memory, the decay's products are read
        self.kernels.append(Kernel(
            name, self.program, Mode.CHUNK, purpose, reads, tuple(writes), tuple(results),
            rows=rows, columns=rows != self.graph.rows, load=load(self.graph, self.memory, targets, rows, twice),
            twice=twice,
        ))  # fmt: skip

    def _needed(self, writes: Iterable[Buffer]) -> list[int]:
        """The nodes that buffers are written from: of level products, what a gate is made of."""
        return [n for b in writes for n in (gate_arguments(self.graph, b.node) if b.levels else [b.node])]

    def _needs_rows(self, targets: list[int]) -> bool:
        """Has anything between memory and the targets an axis of state rows?"""
        graph = self.graph
        made = graph.ancestors(targets, self.memory) - set(self.memory)
        return not targets or any(graph.owned(i) or graph.contracts_rows(i) for i in made)

    def _library(self, name: str, plan: Ahead, at: int, products: dict[int, Buffer]) -> None:
        """The library kernels whose arguments are there now."""
        graph = self.graph
        for index in sorted(i for i in plan.decays if plan.stage[i] == at):
            out = Buffer(f"{name}_levels_{index}", index, graph.large(index), levels=True)
            self._add(f"{name}_levels_{index}", Mode.LEVELS, (self.memory[index],), out)
            self.levels[index] = out
        for index in sorted(i for i in plan.inverses if plan.stage[i] == at + 1):
            source = self.memory[graph.args(index)[0]]
            out = Buffer(f"{name}_inverse_{index}", index, True)
            self._add(f"{name}_solve_{index}", Mode.SOLVE, (source,), out)
            self.memory[index] = out
        for index in plan.systems_after(at):
            out = Buffer(f"{name}_solution_{index}", index, True)
            self._add(f"{name}_system_{index}", Mode.SYSTEM, self._reads(graph.args(index), ()), out)
            self.memory[index] = out
        for index, buffer in products.items():
            decay = graph.args(index)[CHAINS["decay_gate"]]
            out = Buffer(f"{name}_gate_{index}", index, True)
            self._add(f"{name}_gate_{index}", Mode.GATE, (self.memory[decay], self.levels[decay], buffer), out)
            self.memory[index] = out

    def _add(self, name: str, mode: Mode, reads: tuple[Buffer, ...], out: Buffer) -> None:
        self.kernels.append(Kernel(name, self.program, mode, _PURPOSE[mode], reads, (out,)))

    def _reads(self, targets: Iterable[int], carried: Iterable[int]) -> tuple[Buffer, ...]:
        """What computing the targets reads from memory."""
        graph = self.graph
        stop = set(self.memory) | set(carried)
        targets = list(targets)
        values: dict[int, Buffer] = {}
        tables: dict[int, Buffer] = {}
        seen: set[int] = set()
        todo = targets
        while todo:
            index = todo.pop()
            if index in seen:
                continue
            seen.add(index)
            if index in stop:
                if index in self.memory:
                    values[index] = self.memory[index]
                continue
            place = graph.table(index)
            if place is not None and graph.args(index)[place] in self.levels:
                tables[graph.args(index)[place]] = self.levels[graph.args(index)[place]]
            todo += [a for i, a in enumerate(graph.args(index)) if i != place]
        return (*(values[i] for i in sorted(values)), *(tables[i] for i in sorted(tables)))
