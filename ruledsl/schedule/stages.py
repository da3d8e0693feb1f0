"""What chunk kernels are made for, stage by stage: a node's stage is how many library kernels are behind it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

from ruledsl.chunk.program import PortKind, Result
from ruledsl.schedule.attributes import logged
from ruledsl.schedule.graph import CHAINS, ELEMENTWISE, Graph
from ruledsl.schedule.kernels import Load

MOST_SUMS = 3  # products over state rows in one chunk kernel; one less beside decayed products, or the sums of a gate
MOST_TOGETHER = 8  # products over state rows in a kernel that does nothing else
MOST_GRAMS = 4  # products over columns in one chunk kernel that does anything else
MOST_STATES = 2  # tiles of states that a kernel of 4 warps reads beside products
LIGHT, HEAVY, MANY_SUMS = 1, 6, 4  # products, and sums, in one chunk kernel, see `load`; measured


def row_sums(graph: Graph, memory: Collection[int], targets: list[int]) -> frozenset[int]:
    """Products over state rows, or with whole states, that get a kernel of their own, since there are many of them: their sums
    would fill the registers of the one that goes on with them."""
    made = graph.ancestors(targets, memory) - set(memory)
    found = [i for i in made if graph.contracts_rows(i) or graph.reads_whole(i)]
    more = [i for i in made if graph.op(i) == "sum" and i not in found and graph.large(graph.args(i)[0])]
    most = MOST_SUMS - (len(more) >= MANY_SUMS or any(graph.op(i) in CHAINS for i in made))
    most *= 64 // min(64, graph.program.chunk or 64)  # tiles of short chunks are small
    return frozenset(found if sum(map(graph.large, found)) > most else ())


def state_sums(graph: Graph, memory: Collection[int], targets: list[int]) -> frozenset[int]:
    """Numbers that are sums over the entries of states in memory (S * dS, the gradient of a scalar decay), where products of
    these tiles are wanted too: beside those, what is also wanted in registers is not loaded ahead. A diagonal decay's sums
    stay there: the other load costs more (benchmarks/NOTES.md)."""
    made = graph.ancestors(targets, memory) - set(memory)
    if not any(graph.op(i) == "dot" and graph.large(i) and (graph.contracts_rows(i) or graph.reads_whole(i)) for i in made):
        return frozenset()

    plain: set[int] = set()  # made of what is in memory, entry by entry and by sums
    for i in sorted(made):
        stored = (a in plain or a in memory or graph.trivial(a) for a in graph.args(i))
        if graph.op(i) in ELEMENTWISE | {"sum"} and all(stored):
            plain.add(i)
    numbers = (i for i in plain if graph.op(i) == "sum" and graph.program.nodes[i].shape == (1, 1))
    return frozenset(i for i in numbers if any(graph.contracts_rows(a) or a in graph.whole for a in graph.ancestors([i], memory)))


def by_states(graph: Graph, memory: Collection[int], nodes: list[int]) -> list[list[int]]:
    """Products over state rows, those of one kernel together. Too many for the registers of one, or with states that come in no
    blocks: by the states that they read."""
    if len(nodes) <= MOST_TOGETHER and graph.whole.isdisjoint(graph.ancestors(nodes, memory)):
        return [nodes]
    entering = graph.ports(PortKind.STATE)
    states = {*entering.values(), *graph.ports(PortKind.COTANGENT, entering).values()}
    groups: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for node in nodes:
        groups[tuple(sorted(graph.ancestors([node], memory) & states))].append(node)
    return list(groups.values())


def summed_pairs(graph: Graph, nodes: Collection[int]) -> frozenset[int]:
    """Tiles of pairs of tokens whose entries are summed later: such sums cancel (the gradient of a gate), in 16 bits they are noise."""
    found = set()
    for node in nodes:
        if graph.axes.of[node] != (None, None) or not graph.large(node):
            continue
        same = {node}  # made from it entry by entry
        for i in range(node + 1, len(graph.program.nodes)):
            if same & set(graph.args(i)):
                if graph.op(i) == "sum":
                    found.add(node)
                elif graph.op(i) in ELEMENTWISE:
                    same.add(i)
    return frozenset(found)


def gram_products(graph: Graph, memory: Collection[int], targets: list[int]) -> frozenset[int]:
    """Products of tiles from memory over columns that get a kernel of their own, where there are too many to be added up in the
    registers of one that does more: a token with several reading steps has one for each pair of steps."""
    made = graph.ancestors(targets, memory) - set(memory)
    light: set[int] = set(memory)  # made of what is in memory, without products
    for i in sorted(made):
        if not graph.is_heavy(i) and light.issuperset(graph.args(i)):
            light.add(i)
    found = [
        i for i in made
        if graph.op(i) == "dot" and graph.axes.of[i] == (None, None) and graph.large(i)
        and not graph.contracts_rows(i) and light.issuperset(graph.args(i))
    ]  # fmt: skip
    return frozenset(found if len(found) > MOST_GRAMS else ())


def column_sums(graph: Graph, memory: Collection[int], targets: list[int]) -> frozenset[int]:
    """Sums over columns, of what level products make, that other columns need: one kernel would walk the levels
    twice."""
    made = graph.ancestors(targets, memory) - set(memory)
    levelled = graph.dependents(i for i in made if graph.op(i) in ("chain_apply", "log_gate"))
    found = set()
    for index in made & levelled:
        columns = graph.axes.contracted(graph.program, index)
        if columns not in (None, graph.rows, *graph.axes.mixed):
            users = graph.dependents([index]) & made - {index}
            if any(columns in graph.axes.of[u] for u in users):
                found.add(index)
    return frozenset(found)


def stages(graph: Graph, memory: Collection[int], levels: Collection[int], sums: frozenset[int]) -> dict[int, int]:
    """Of every node. `levels`: decays whose level products are there; `sums`: what ends a kernel as well."""
    stage: dict[int, int] = {}
    for index, node in enumerate(graph.program.nodes):
        if index in memory:
            stage[index] = 0
            continue
        place = graph.table(index)
        found = [stage[a] + (a in sums) for i, a in enumerate(node.args) if i != place]
        if place is not None:
            decay = node.args[place]
            found.append(0 if decay in levels else stage[decay] + 1)
        stage[index] = max(found, default=0) + (node.op in ("inverse", "conjugate", "decay_gate"))
    return stage


def load(graph: Graph, memory: Collection[int], targets: list[int], rows: int | None, running: bool) -> Load:
    """By the tiles that the kernel's products hold: one for decayed products, half a tile for a Gram matrix. `rows`: the axis
    that it visits in blocks; `running`: does it multiply by running decays?"""
    made = graph.ancestors(targets, memory) - set(memory)
    if rows is not None and rows == graph.rows:
        if not any(_works_on_rows(graph, memory, i) for i in made):
            return Load.ROWS
        products = any(graph.op(i) == "dot" and graph.large(i) for i in made)
        read = [i for i in graph.ancestors(targets, memory) if i in memory or graph.op(i) == "input"]
        return Load.MANY if products and sum(map(graph.is_state, read)) > MOST_STATES else Load.SUMS
    levelled = sum(graph.op(i) in ("chain_gram", "chain_apply") for i in made)
    gates = any(graph.op(i) == "log_gate" and logged(graph.program.nodes[i])[0] for i in made)
    dots = [i for i in made if graph.op(i) == "dot" and graph.large(i)]
    wide = [i for i in dots if graph.axes.of[i] != (None, None)]
    sums = sum(graph.op(i) == "sum" for i in made)
    held = levelled + len(wide) + 0.5 * (len(dots) - len(wide))
    if levelled >= HEAVY and not running:
        return Load.HEAVY
    if gates or wide and sums >= MANY_SUMS:
        return Load.SLIM
    if running or not held:
        return Load.RUNNING if running else Load.PLAIN
    return Load.LIGHT if held <= LIGHT else Load.USUAL


def multiplies_running(graph: Graph, memory: Collection[int], targets: list[int]) -> bool:
    """Are there products of tokens with a running decay between them?"""
    made = graph.ancestors(targets, memory) - set(memory)
    found = (graph.program.nodes[i] for i in made if graph.op(i) in ("chain_gram", "chain_apply", "log_gate"))
    return any((n.op != "log_gate" or logged(n)[0]) and graph.op(n.args[CHAINS[n.op]]) == "running" for n in found)


def _works_on_rows(graph: Graph, memory: Collection[int], index: int) -> bool:
    """Does a node do something else than a product with a tile of state rows as it is in memory?"""
    if graph.op(index) not in ("map", "sum", "amax"):
        return False
    sources = [graph.bare(a) for a in graph.args(index)]
    return any((s in memory or graph.op(s) == "input") and graph.owned(s) and graph.large(s) for s in sources)


def blocks(graph: Graph, memory: Collection[int], targets: list[int]) -> int | None:
    """The axis that a chunk kernel visits in blocks: the state's rows if it has any, else the most frequent one."""
    made = graph.ancestors(targets, memory)
    count = Counter(c for i in made for c in graph.axes.of[i] if c is not None and c not in graph.axes.mixed)
    if graph.rows in count:
        return graph.rows
    return max(sorted(count), key=count.__getitem__, default=None)


def gate_arguments(graph: Graph, gate: int) -> list[int]:
    """All arguments of a `decay_gate` but the decay."""
    args = list(graph.args(gate))
    del args[CHAINS["decay_gate"]]
    return args


@dataclass(slots=True)
class Ahead:
    """What the chunk kernels of each stage write and store, as it becomes known."""

    graph: Graph
    memory: Collection[int]
    levels: Collection[int]  # decays whose level products are in memory
    stage: dict[int, int]
    nodes: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    gates: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    results: defaultdict[int, list[Result]] = field(default_factory=lambda: defaultdict(list))
    inverses: set[int] = field(default_factory=set)
    systems: set[int] = field(default_factory=set)
    decays: set[int] = field(default_factory=set)
    exact: set[int] = field(default_factory=set)  # nodes that stay in float32

    def request(self, index: int) -> None:
        """The node is to be in memory; of a running decay, its logarithm."""
        graph = self.graph
        if graph.op(index) == "running":
            (index,) = graph.args(index)
        if index in self.memory:
            return
        match graph.op(index):
            case "inverse":
                self.inverses.add(index)
                self._exactly(graph.args(index)[0])
            case "conjugate":
                self.systems.add(index)
            case "decay_gate":
                self.gates[self.stage[index] - 1].add(index)
                decay = graph.args(index)[CHAINS["decay_gate"]]
                self._levels(decay)
                self._exactly(decay)
            case _:
                self.nodes[self.stage[index]].add(index)

    def _exactly(self, index: int) -> None:
        self.exact.add(index)
        if index not in self.memory:
            self.nodes[self.stage[index]].add(index)

    def _levels(self, decay: int) -> None:
        if decay not in self.levels:
            self.decays.add(decay)
            self._exactly(decay)

    def close(self) -> None:
        """Add what the requested needs: library kernels, and heavy values of earlier stages."""
        at = self.last
        while at >= 0:
            targets = [a for i in self.systems_after(at) for a in self.graph.args(i)]
            targets += [*self.nodes[at], *(r.node for r in self.results[at])]
            targets += [a for g in self.gates[at] for a in gate_arguments(self.graph, g)]
            self._walk(at, targets)
            at -= 1

    @property
    def last(self) -> int:
        """The last stage that has a kernel; -1: none has."""
        return max([*self.nodes, *self.gates, *self.results, *(self.stage[i] - 1 for i in self.systems)], default=-1)

    def systems_after(self, at: int) -> list[int]:
        """The systems that are solved when this stage's nodes are there."""
        return sorted(i for i in self.systems if self.stage[i] == at + 1)

    def _walk(self, at: int, targets: list[int]) -> None:
        graph, memory = self.graph, self.memory
        own, seen, todo = self.nodes[at] | {r.node for r in self.results[at]}, set(), list(targets)
        while todo:
            index = todo.pop()
            if index in seen or index in memory or graph.trivial(index):
                continue
            seen.add(index)
            op = graph.op(index)
            early = index not in own and self.stage[index] < at and index in graph.late and op != "block"
            if op in ("inverse", "conjugate", "decay_gate") or (early and self._worth_keeping(index)):
                self.request(index)
                continue
            place = graph.table(index)
            if place is not None:
                self._levels(graph.args(index)[place])
            todo += [a for i, a in enumerate(graph.args(index)) if i != place]

    def _worth_keeping(self, index: int) -> bool:
        """Not an element-wise function of at most one large tile that would be kept in its place."""
        graph, large, todo = self.graph, set(), [index]
        while todo:
            i = todo.pop()
            if graph.op(i) in ELEMENTWISE and i in graph.late and i not in self.memory:
                todo += graph.args(i)
            elif i in graph.late and graph.large(i):
                large.add(i)
        return index in large or len(large) > 1 or graph.op(index) not in ELEMENTWISE
