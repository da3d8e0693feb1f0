"""A program with the questions that cutting it into kernels asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ruledsl.chunk.program import PortKind, Program, ResultKind, Rows
from ruledsl.chunk.systems import outer
from ruledsl.schedule.attributes import integer
from ruledsl.schedule.axes import Axes, axes

HEAVY = frozenset({
    "dot", "gram", "gram_apply", "chain_gram", "chain_apply", "decay_gate", "log_gate", "spans", "spans_gate",
    "inverse", "conjugate", "scan",
})  # fmt: skip
# operations that read products of a decay from memory, unless it is a `running` one: which argument the decay is
CHAINS = {"chain_gram": 2, "chain_apply": 2, "decay_gate": 0, "log_gate": 0, "spans": 0, "before": 0, "after": 0}
_LEAVES = frozenset({"input", "const", "full", "eye"})
_PLAIN = frozenset({"cast", "transpose"})
ELEMENTWISE = frozenset({"map", "select", "cast", "transpose", "expand", "mask"})


class Graph:
    """`rows` is the axis class of the state's rows: of several states with different row axes, the first that has one."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.axes: Axes = axes(program)
        # what a conjugate reads: its right side and what its matrix is made of
        self._systems = {i: (*sorted(outer(program, i)), n.args[2]) for i, n in enumerate(program.nodes) if n.op == "conjugate"}
        self.exact = frozenset(a for read in self._systems.values() for a in read)  # what systems are made of
        self.heavy = self._closure(self.is_heavy)
        self._fixed = self._numbers()
        self.rows: int | None = None
        reached = self.ancestors(r.node for r in program.results)
        for index in self.ports(PortKind.STATE).values():
            if self.rows is None and index in reached:
                self.rows = self.axes.of[index][0]
        entering = self.ports(PortKind.STATE)
        held = {*entering.values(), *self.ports(PortKind.COTANGENT, entering).values()}
        self.whole = frozenset(i for i in held if self.large(i) and self.axes.of[i][0] in self.axes.mixed)  # states in no blocks
        # divided by a decay, until the decay's own gradient multiplies by it: more than 16 bits hold
        self.wide = self._closure(lambda i: self.op(i) == "log_gate")
        self.late = self._closure(lambda i: self.contracts_rows(i) or self.reads_whole(i) or self.op(i) in ("inverse", "conjugate", "decay_gate"))

    def op(self, index: int) -> str:
        return self.program.nodes[index].op

    def args(self, index: int) -> tuple[int, ...]:
        return self._systems.get(index, self.program.nodes[index].args)

    def _numbers(self) -> frozenset[int]:
        """Numbers that do not depend on the token."""
        found: set[int] = set()
        for index, node in enumerate(self.program.nodes):
            leaf = node.op in _LEAVES or all(a in found for a in node.args)
            if leaf and node.shape == (1, 1):
                found.add(index)
        return frozenset(found)

    def is_heavy(self, index: int) -> bool:
        node = self.program.nodes[index]
        if node.op == "dot":
            m, n = node.shape
            return m != 1 or n != 1
        return node.op in HEAVY

    def _closure(self, seed: Callable[[int], bool]) -> frozenset[int]:
        inside: set[int] = set()
        for index, node in enumerate(self.program.nodes):
            if seed(index) or any(a in inside for a in node.args):
                inside.add(index)
        return frozenset(inside)

    def ports(self, kind: PortKind, names: Iterable[str] | None = None) -> dict[str, int]:
        """Node index of each port of a kind, by name."""
        found = {}
        for index, node in enumerate(self.program.nodes):
            if node.op == "input":
                port = self.program.ports[integer(node)]
                if port.kind is kind and (names is None or port.name in names):
                    found[port.name] = index
        return found

    def dependents(self, sources: Iterable[int]) -> frozenset[int]:
        seeds = set(sources)
        return self._closure(lambda i: i in seeds)

    def ancestors(self, targets: Iterable[int], stop: Iterable[int] = ()) -> frozenset[int]:
        """Everything the targets need, not looking behind `stop`."""
        seen: set[int] = set()
        todo, ends = list(targets), set(stop)
        while todo:
            index = todo.pop()
            if index not in seen:
                seen.add(index)
                if index not in ends:
                    todo += self.args(index)
        return frozenset(seen)

    def owned(self, index: int) -> bool:
        """Has the tile an axis of state rows?"""
        return self.rows is not None and self.rows in self.axes.of[index]

    def contracts_rows(self, index: int) -> bool:
        """Does the node sum over rows of the state?"""
        return self.rows is not None and self.axes.contracted(self.program, index) == self.rows

    def reads_whole(self, index: int) -> bool:
        """Is the node a product with a state that cannot come in blocks?"""
        return self.op(index) == "dot" and any(self.bare(a) in self.whole for a in self.args(index))

    def large(self, index: int) -> bool:
        """Neither a single row, nor a single column."""
        return 1 not in self.program.nodes[index].shape

    def is_state(self, index: int) -> bool:
        """A tile without an axis of tokens, like a state or its cotangent?"""
        return self.large(index) and not any(isinstance(axis, Rows) for axis in self.program.nodes[index].shape)

    def has_gate(self, decay: int) -> bool:
        """Does a `decay_gate`, or anything of single columns, read the decay's level products?"""
        narrow = self.program.nodes[decay].shape[1] == 1
        return narrow or any(n.op == "decay_gate" and n.args[0] == decay for n in self.program.nodes)

    def table(self, index: int) -> int | None:
        """Which argument of a node is a decay whose products it reads from memory."""
        place = CHAINS.get(self.op(index))
        return None if place is None or self.op(self.args(index)[place]) == "running" else place

    def trivial(self, index: int) -> bool:
        """Read from the caller's memory or made from nothing: never worth a buffer."""
        return index in self._fixed or self.op(index) in _LEAVES

    def bare(self, index: int) -> int:
        """Behind casts and transposes."""
        while self.op(index) in _PLAIN:
            index = self.args(index)[0]
        return index

    def mixes_rows(self, targets: Iterable[int], known: Iterable[int]) -> bool:
        """Does computing the targets contract (or permute) rows of the state?"""
        return self.rows is not None and self.mixes(self.rows, targets, known)

    def mixes(self, axis: int, targets: Iterable[int], known: Iterable[int]) -> bool:
        """Does computing the targets contract (or permute) an axis class?"""
        if axis in self.axes.mixed:
            return True
        ends = set(known)
        made = self.ancestors(targets, ends) - ends
        return any(self.axes.contracted(self.program, i) == axis for i in made)

    def solves(self, targets: Iterable[int]) -> bool:
        """Does computing the targets solve systems of tokens?"""
        return not self.ancestors(targets).isdisjoint(self._systems)

    def only_operand(self, index: int, readers: Iterable[int]) -> bool:
        """Do the readers use the node in dots between large tiles alone?"""
        uses = self._uses(index, list(readers))
        return bool(uses) and all(uses)

    def is_operand(self, index: int, readers: Iterable[int]) -> bool:
        """Does a dot between large tiles among the readers use the node?"""
        return any(self._uses(index, list(readers)))

    def _uses(self, index: int, among: list[int]) -> list[bool]:
        """Of each use, behind casts and transposes: is it a dot between large tiles?"""
        found = []
        for user in among:
            if index not in self.args(user) or user == index:
                continue
            if self.op(user) in _PLAIN:
                found += self._uses(user, among) or [False]
            else:
                found.append(self.op(user) == "dot" and self.large(user))
        return found

    def word(self, index: int) -> str:
        """What the node is called after."""
        node = self.program.nodes[index]
        return str(node.attr) if node.op == "map" else node.op

    def results(self, kind: ResultKind, port: PortKind | None = None) -> list[tuple[str, int]]:
        """Name and node of the results of a kind, of those of a port's kind."""
        return [
            (r.name, r.node) for r in self.program.results
            if r.kind is kind and (port is None or (r.port is not None and r.port.kind is port))
        ]  # fmt: skip
