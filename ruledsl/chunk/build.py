"""Making a Program node by node.

A `Tile` is a value under construction: it overloads `+ - * /`, so that derivative rows of `functions.TABLE` and
formulas apply to it as written. A `Builder` shares equal nodes, checks shapes and applies the local identities of
`identities` and `arithmetic` when a node is made, so no pass has to clean up after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ruledsl.chunk import arithmetic, identities, shapes
from ruledsl.chunk.program import Attr, Axis, Node, Port, Program, Result, Rows, Shape
from ruledsl.chunk.systems import ENDS
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.lang.source import Span
from ruledsl.lang.typed import Dim, Type

MOST_NODES = 3_000  # of a program made of a rule; its gradient has about four times as many
MOST_PORTS = 256  # tensors that it takes
MOST_STEPS = 10_000  # expressions that are gone through for it; a rule of the collection has up to 60


@dataclass(frozen=True, slots=True)
class Tile:
    """A node of a program that is being built. Equal when it is the same node."""

    index: int
    builder: Builder = field(compare=False, repr=False)

    @property
    def node(self) -> Node:
        return self.builder.nodes[self.index]

    @property
    def op(self) -> str:
        return self.node.op

    @property
    def attr(self) -> Attr:
        return self.node.attr

    @property
    def shape(self) -> Shape:
        return self.node.shape

    @property
    def args(self) -> tuple[Tile, ...]:
        return tuple(Tile(i, self.builder) for i in self.node.args)

    @property
    def value(self) -> float | None:
        """The number that every entry is, if it is known."""
        return float(self.attr) if self.op in ("const", "full") else None  # type: ignore[arg-type]

    @property
    def T(self) -> Tile:
        return self.builder.make("transpose", (self,))

    def __add__(self, other: Tile | float) -> Tile:
        return self.builder.apply("add", self, other)

    def __radd__(self, other: float) -> Tile:
        return self.builder.apply("add", other, self)

    def __sub__(self, other: Tile | float) -> Tile:
        return self.builder.apply("sub", self, other)

    def __rsub__(self, other: float) -> Tile:
        return self.builder.apply("sub", other, self)

    def __mul__(self, other: Tile | float) -> Tile:
        return self.builder.apply("mul", self, other)

    def __rmul__(self, other: float) -> Tile:
        return self.builder.apply("mul", other, self)

    def __truediv__(self, other: Tile | float) -> Tile:
        return self.builder.apply("div", self, other)

    def __rtruediv__(self, other: float) -> Tile:
        return self.builder.apply("div", other, self)

    def __neg__(self) -> Tile:
        return self.builder.apply("neg", self)


class Builder:
    """The nodes and ports made so far."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.ports: list[Port] = []
        self.inside: set[int] = set()  # nodes made from an unknown, see `systems`
        self._known: dict[Node, int] = {}
        self._steps = 0

    def spend(self, span: Span) -> None:
        """One more expression of a rule becomes a tile; UnsupportedForm if there are too many to go on within seconds."""
        self._steps += 1
        if len(self.nodes) > MOST_NODES or self._steps > MOST_STEPS:
            what = f"more than {MOST_NODES:,} operations, or {MOST_STEPS:,} with repetitions"
        elif len(self.ports) > MOST_PORTS:
            what = f"more than {MOST_PORTS} tensors"
        else:
            return
        raise UnsupportedForm(f"a token of this rule takes {what}", span)

    # ------------------------------------------------------------------------------------------------ any node

    def raw(self, op: str, args: Sequence[Tile], attr: Attr = None, shape: Shape | None = None) -> Tile:
        """The node as it stands, shared if it exists."""
        assert all(a.builder is self for a in args)
        node = Node(op, tuple(a.index for a in args), attr, shapes.infer(op, tuple(a.shape for a in args), attr, shape))
        index = self._known.get(node)
        if index is None:
            index = self._known[node] = len(self.nodes)
            self.nodes.append(node)
            if op == "unknown" or (op not in ENDS and not self.inside.isdisjoint(node.args)):
                self.inside.add(index)
        return Tile(index, self)

    def make(self, op: str, args: Sequence[Tile], attr: Attr = None, shape: Shape | None = None) -> Tile:
        """The node, or what an identity says it equals."""
        args = tuple(args)
        if op == "map":
            return arithmetic.apply(self, str(attr), args)
        found = identities.apply(self, op, args, attr, shape)
        return found if found is not None else self.raw(op, args, attr, shape)

    # ------------------------------------------------------------------------------------------------ leaves

    def input(self, port: Port, shape: Shape) -> Tile:
        if port not in self.ports:
            self.ports.append(port)
        return self.raw("input", (), self.ports.index(port), shape)

    def const(self, value: float) -> Tile:
        return self.raw("const", (), float(value))

    def full(self, value: float, shape: Shape) -> Tile:
        return self.const(value) if shape == shapes.SCALAR else self.raw("full", (), float(value), shape)

    def zeros(self, shape: Shape) -> Tile:
        return self.full(0.0, shape)

    def eye(self, size: Axis) -> Tile:
        return self.const(1.0) if size == 1 else self.raw("eye", (), None, (size, size))

    # ------------------------------------------------------------------------------------------------ named operations

    def tile(self, value: Tile | float) -> Tile:
        return value if isinstance(value, Tile) else self.const(value)

    def apply(self, fn: str, *args: Tile | float) -> Tile:
        """A row of `functions.TABLE`."""
        return self.make("map", tuple(self.tile(a) for a in args), fn)

    def select(self, op: str, a: Tile | float, b: Tile | float, x: Tile | float, y: Tile | float) -> Tile:
        """a op b ? x : y, entry by entry."""
        return self.make("select", tuple(self.tile(v) for v in (a, b, x, y)), op)

    def cast(self, x: Tile) -> Tile:
        return self.make("cast", (x,))

    def expand(self, x: Tile, shape: Shape) -> Tile:
        return self.make("expand", (x,), None, shape)

    def sum(self, x: Tile, axis: int) -> Tile:
        return self.make("sum", (x,), axis)

    def sum_to(self, x: Tile, shape: Shape) -> Tile:
        """Sum over the axes in which `shape` is 1: the adjoint of spreading."""
        for axis in (0, 1):
            if shape[axis] == 1 and x.shape[axis] != 1:
                x = self.sum(x, axis)
        return self.expand(x, shape)

    def cut(self, x: Tile, start: Dim, width: Dim) -> Tile:
        return self.make("cut", (x,), start, (x.shape[0], width))

    def cat(self, parts: Sequence[Tile]) -> Tile:
        """Columns side by side; parts of one row are spread over the tokens of the others."""
        rows = next((p.shape[0] for p in parts if p.shape[0] != 1), 1)
        return self.make("cat", [self.expand(p, (rows, p.shape[1])) for p in parts])

    def dot(self, x: Tile, y: Tile, ta: bool = False, tb: bool = False) -> Tile:
        return self.make("dot", (x, y), (ta, tb))

    def mask(self, x: Tile, kind: str) -> Tile:
        return self.make("mask", (x,), kind)

    def shift(self, x: Tile, fill: float, by: int) -> Tile:
        return self.make("shift", (x,), (float(fill), by))

    def last(self, x: Tile) -> Tile:
        return self.make("last", (x,))

    def solve(self, a: Tile, b: Tile, adjoint: bool = False) -> Tile:
        return self.make("solve", (a, b), adjoint)

    def per_token(self, x: Tile) -> Tile:
        """The tile with a row for each token."""
        return self.expand(x, (Rows(1), x.shape[1]))

    # ------------------------------------------------------------------------------------------------ whole programs

    def copy(
        self,
        program: Program,
        keep: Iterable[int] | None = None,
        replace: Callable[[Node, tuple[Tile, ...]], Tile | None] | None = None,
        made: dict[int, Tile] | None = None,
    ) -> dict[int, Tile]:
        """Make the nodes of `program` (or those in `keep`) here; `replace` may say what a node becomes. `made`: those that
        are here already, the others are added to it."""
        made = {} if made is None else made
        for i in range(len(program.nodes)) if keep is None else sorted(keep):
            node = program.nodes[i]
            args = tuple(made[a] for a in node.args)
            if node.op == "input":
                made[i] = self.input(program.port(node), node.shape)
                continue
            found = replace(node, args) if replace else None
            made[i] = (
                found
                if found is not None
                else self.make(node.op, args, node.attr, node.shape if fixed(node.op) else None)
            )
        return made

    def substitute(self, results: Sequence[Tile], instead: Mapping[Tile, Tile]) -> list[Tile]:
        """The results with some tiles replaced; what depends on a replaced tile is made again."""
        done: dict[Tile, Tile] = {}
        stack = list(results)
        while stack:
            tile = stack[-1]
            target = instead.get(tile)
            needs = (target,) if target is not None else tile.args
            open_ = [a for a in needs if a not in done]
            if tile in done or not open_:
                stack.pop()
                if tile not in done:
                    args = tuple(done[a] for a in needs)
                    done[tile] = (
                        args[0]
                        if target is not None
                        else tile
                        if args == tile.args
                        else self.make(tile.op, args, tile.attr, tile.shape if fixed(tile.op) else None)
                    )
            else:
                stack += open_
        return [done[r] for r in results]

    def at(self, tile: Tile, leaf: Tile, value: Tile) -> Tile:
        """The tile as it is where `leaf` is `value`, which may be made from them."""
        made = {leaf: value}
        for old in (Tile(i, self) for i in range(leaf.index + 1, tile.index + 1)):
            if any(a in made for a in old.args):
                args = [made.get(a, a) for a in old.args]
                made[old] = self.make(old.op, args, old.attr, old.shape if fixed(old.op) else None)
        return made.get(tile, tile)

    def program(
        self, results: Sequence[tuple[Result, Tile]], types: tuple[tuple[str, Type], ...] = (), chunk: int | None = None
    ) -> Program:
        """What the results need, renumbered; the order of the nodes is the order in which they were made."""
        live: set[int] = set()
        stack = [tile.index for _, tile in results]
        while stack:
            i = stack.pop()
            if i not in live:
                live.add(i)
                stack += self.nodes[i].args
        number = {old: new for new, old in enumerate(sorted(live))}
        used = sorted({int(self.nodes[i].attr) for i in live if self.nodes[i].op == "input"})  # type: ignore[arg-type]
        port = {old: new for new, old in enumerate(used)}
        nodes = tuple(
            Node(n.op, tuple(number[a] for a in n.args), port[int(n.attr)] if n.op == "input" else n.attr, n.shape)  # type: ignore[arg-type]
            for n in (self.nodes[i] for i in sorted(live))
        )
        done = tuple(Result(r.name, r.kind, number[tile.index], r.port) for r, tile in results)
        return Program(nodes, tuple(self.ports[i] for i in used), done, types, chunk)


def fixed(op: str) -> bool:
    """Operations whose shape does not follow from their arguments."""
    return op in ("full", "eye", "unknown", "expand", "cut", "put_last", "unkron")


class Functions:
    """The namespace `f` of `functions.TABLE`'s derivatives."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def __getattr__(self, name: str) -> Callable[..., Tile]:
        return lambda *args: self._builder.apply(name, *args)

    def where(self, op: str, a: Any, b: Any, x: Any, y: Any) -> Tile:
        return self._builder.select(op, a, b, x, y)
