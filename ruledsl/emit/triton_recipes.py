"""How each operation of a chunk program is said in Triton: one case per operation.

A `Demand` asks for a node in an orientation; its `Recipe` says which demands it is made of, and the text with
`{0}`, `{1}` ... for them. A transposed operand is never `tl.trans` of something made by a dot (wrong on Triton 3.4 to
3.7.0 on Hopper): the transposition is pushed down through element-wise operations to loads and to dots, which compute
the transposed product.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ruledsl.chunk.program import Node, PortKind
from ruledsl.emit.triton_demand import Demand, Recipe
from ruledsl.emit.triton_frame import Frame, flip, sides
from ruledsl.emit.triton_memory import Memory
from ruledsl.emit.triton_names import cotangent_name, safe
from ruledsl.emit.triton_products import FUNCTIONS, HELPERS, back_part, chain_back, chain_grams, dot, helper, real_dot
from ruledsl.emit.triton_spelling import literal, template
from ruledsl.schedule.attributes import flags, integer, is_zeros, logged, number, shifted
from ruledsl.schedule.kernels import Buffer, Carry, Mode
from ruledsl.schedule.unsupported import unsupported

_ELEMENTWISE = frozenset({"map", "select", "cast", "expand", "mask", "mexp"})
_EITHER_WAY = _ELEMENTWISE | {"dot", "const", "full"}  # can be made transposed


@dataclass(slots=True)
class Recipes:
    """The recipes of one kernel: what it reads from memory or carries is a leaf."""

    frame: Frame
    memory: Memory
    buffers: dict[int, Buffer] = field(init=False)
    carried: dict[int, Carry] = field(init=False)
    by_dots: frozenset[int] = field(init=False)  # nodes made by a dot inside this kernel
    grams: tuple[tuple[int, ...], ...] = field(init=False)  # Gram matrices by level products that are made together
    gates: tuple[int, ...] = field(init=False)  # gradients of decays whose Gram matrices hand back everything at once
    orientation: dict[int, str] = field(init=False)  # each carried state is held the way that most dots use it
    once: frozenset[int] = frozenset()  # tiles in memory that are wanted both ways: loaded once, then transposed

    def __post_init__(self) -> None:
        self.buffers = {b.node: b for b in self.frame.kernel.reads if not b.levels}
        self.carried = {c.enter: c for c in self.frame.kernel.carries}
        self.by_dots = self._made_by_dots()
        self.grams = self._together()
        self.gates = self._gates()
        self.orientation = self._orientations()

    def targets(self) -> list[int]:
        """What the kernel is for."""
        k = self.frame.kernel
        gates = [a for b in k.writes if b.levels for a in self.frame.node(b.node).args]
        written = [b.node for b in k.writes if not b.levels]
        return written + gates + [r.node for r in k.results] + [c.leave for c in k.carries]

    def recipe(self, demand: Demand) -> Recipe:
        """Unsupported: the operation has no Triton form."""
        index, o = demand
        node = self.frame.node(index)
        if o == "back":
            buffer = next((b for b in self.frame.kernel.writes if b.levels and b.node == index), None)
            return chain_back(self.frame, self.memory, index, buffer)
        if o.startswith("grams"):
            return chain_grams(self.frame, self.memory, self.grams[int(o.removeprefix("grams"))])
        if index in self.once and o == "t":
            return self._turned(index)
        if index in self.buffers:
            return Recipe((), self.memory.load_buffer(self.buffers[index], o))
        if index in self.carried:
            name = self.held(index)
            return Recipe((), name if o == self.orientation[index] else f"tl.trans({name})", inline=True)
        if node.op == "input":
            scalar = self.frame.program.port(node).kind in (PortKind.HEAD, PortKind.HEADS, PortKind.SIZE)
            return Recipe((), self.memory.load_port(index, o), inline=scalar)
        if node.op == "block":
            return Recipe((), self.memory.load_block(index, self.buffers[node.args[0]], o))
        if node.shape == (1, 1):
            o = "n"
        if node.op == "select" and (source := self.loaded(index)) is not None:
            return Recipe((), self.memory.load_port(source, o, cleared=True))
        if o == "t" and (node.op not in _EITHER_WAY or (node.op in _ELEMENTWISE and index not in self.by_dots)):
            return Recipe(((index, "n"),), "tl.trans({0})")
        return self._compute(index, node, o)

    def _turned(self, index: int) -> Recipe:
        """A tile that is there in the other orientation. The loads of a serial kernel go ahead: for both orientations only where
        wgmma takes either from shared memory, below its 64 rows each has a load of its own."""
        if self.frame.kernel.mode is Mode.CHUNK:
            return Recipe(((index, "n"),), "tl.trans({0})", inline=True)
        if index in self.buffers:
            load = self.memory.load_buffer(self.buffers[index], "t")
        else:
            source = self.loaded(index)
            assert source is not None
            load = self.memory.load_port(source, "t", cleared=source != index)
        return Recipe(((index, "n"),), f"tl.trans({{0}}) if C >= 64 else {load}")

    def resolve(self, demand: Demand) -> Demand:
        """The demand without transposes: they are a matter of orientation."""
        index, o = demand
        if o not in ("n", "t"):
            return demand
        while (node := self.frame.node(index)).op == "transpose" and not self.frame.leaf(index):
            index, o = node.args[0], flip(o)
        return index, "n" if node.shape == (1, 1) and index not in self.carried else o

    def loaded(self, index: int) -> int | None:
        """The `input` node whose memory a node is read from: its own, or what it clears padding tokens of."""
        node = self.frame.node(index)
        if node.op == "select" and self._is_padding(node):
            filler, index = self.frame.node(node.args[2]), node.args[3]
            node = self.frame.node(index)
            of_tokens = node.op == "input" and self.frame.program.port(node).kind is PortKind.INPUT
            if not of_tokens or filler.op != "const" or number(filler) != 0.0:
                return None
        return index if node.op == "input" else None

    def held(self, index: int) -> str:
        """The variable of a carried state, or of its gradient."""
        state = self.carried[index].state
        name = (
            safe(state)
            if self.frame.program.port(self.frame.node(index)).kind is PortKind.STATE
            else cotangent_name(state)
        )
        return name + ("_t" if self.orientation[index] == "t" else "")

    # ------------------------------------------------------------------------------------------- analysis

    def _made_by_dots(self) -> frozenset[int]:
        found = set(self.carried)
        for index, node in enumerate(self.frame.program.nodes):
            if self.frame.leaf(index):
                continue
            product = node.op in HELPERS or (node.op == "dot" and real_dot(self.frame, node))
            if product or any(a in found for a in node.args):
                found.add(index)
        return frozenset(found)

    def _gates(self) -> tuple[int, ...]:
        made = self.frame.graph.ancestors(self.targets(), self.buffers) - set(self.buffers)
        logs = [i for i in sorted(made) if self.frame.graph.op(i) == "log_gate" and logged(self.frame.node(i))[0]]
        return (*(b.node for b in self.frame.kernel.writes if b.levels), *logs)

    def _together(self) -> tuple[tuple[int, ...], ...]:
        """Those of one decay of which none needs another."""
        graph, groups = self.frame.graph, list[list[int]]()
        for index in sorted(graph.ancestors(self.targets(), self.buffers) - set(self.buffers)):
            if graph.op(index) != "chain_gram":
                continue
            behind = graph.ancestors([index])
            decay = graph.args(index)[2]
            for group in groups:
                if graph.args(group[0])[2] == decay and behind.isdisjoint(group):
                    group.append(index)
                    break
            else:
                groups.append([index])
        return tuple(map(tuple, groups))

    def _orientations(self) -> dict[int, str]:
        votes = {index: {"n": 0, "t": 0} for index in self.carried}
        for index in self.frame.graph.ancestors(self.targets(), frozenset(self.buffers)):
            node = self.frame.node(index)
            if node.op == "dot" and index not in self.buffers:
                for arg, transposed in zip(node.args, flags(node), strict=True):
                    source, odd = self._through(arg)
                    if source in votes:
                        votes[source]["t" if transposed != odd else "n"] += 1
        return {index: "t" if v["t"] > v["n"] else "n" for index, v in votes.items()}

    def _through(self, index: int) -> tuple[int, bool]:
        """Behind casts and transposes: the node, and whether an odd number of transposes was passed."""
        odd = False
        while self.frame.node(index).op in ("cast", "transpose") and index not in self.carried:
            odd ^= self.frame.node(index).op == "transpose"
            index = self.frame.node(index).args[0]
        return index, odd

    # ------------------------------------------------------------------------------------------- cases

    def _compute(self, index: int, node: Node, o: str) -> Recipe:
        def held(i: int, orientation: str) -> Demand:
            return (i, "n" if self.frame.node(i).shape == (1, 1) else orientation)

        frame = self.frame
        same = tuple(held(i, o) for i in node.args)
        match node.op:
            case "const":
                return Recipe((), literal(number(node)), inline=True)
            case "unknown":
                return Recipe((), "direction", inline=True)
            case "full":
                return Recipe((), f"tl.full({frame.shape(index, o)}, {literal(number(node))}, tl.float32)")
            case "eye":
                lanes = f"tl.arange(0, {frame.size(index, 0)})"
                return Recipe((), f"tl.where({lanes}[:, None] == {lanes}[None, :], 1.0, 0.0)")
            case "map":
                return Recipe(same, template(str(node.attr), self._exponent(node)), inline=True)
            case "select":
                if self._is_padding(node):
                    return Recipe(same[2:], f"tl.where(valid{sides(o)[0]}, {{1}}, {{0}})", inline=True)
                return Recipe(same, f"tl.where({{0}} {node.attr} {{1}}, {{2}}, {{3}})", inline=True)
            case "cast":
                return Recipe(same, "{0}.to(OP).to(tl.float32)", inline=True)
            case "expand":
                return Recipe(same, f"tl.broadcast_to({{0}}, {frame.shape(index, o)})", inline=True)
            case "sum" | "amax":
                return self._reduction(node)
            case "cumsum" | "cumprod":
                if node.shape[1] == 1:  # a scan of a one-column tile does not compile (Triton 3.6)
                    flat = "tl.reshape({0}, (C,))"
                    return Recipe(same, f"tl.{node.op}({flat}, axis=0, reverse={bool(node.attr)})[:, None]")
                return Recipe(same, f"tl.{node.op}({{0}}, axis=0, reverse={bool(node.attr)})")
            case "scan":
                return self._scan(node)
            case "shift":
                fill, by = shifted(node)
                text = f"shift({{0}}, {literal(fill)}, {by}, C, {frame.size(index, 1)})"
                return Recipe(same, text, helpers=("shift",))
            case "last":
                return Recipe(same, "tl.sum(tl.where(row[:, None] == C - 1, {0}, 0.0), axis=0, keep_dims=True)")
            case "put_last":
                return Recipe(same, "tl.where(row[:, None] == C - 1, {0}, 0.0)", inline=True)
            case "mask":
                return Recipe(same, f"tl.where({_triangle(node, o)}, {{0}}, 0.0)", inline=True)
            case "mexp":  # masked before the exponential, whose argument may be large outside
                test = _triangle(node, o)
                return Recipe(same, f"tl.where({test}, tl.exp(tl.where({test}, {{0}}, 0.0)), 0.0)")
            case "dot":
                return dot(frame, node, o)
            case "cut":
                return self._cut(node)
            case "cat":
                return self._cat(index, node)
            case "pairs":
                shape = f"({frame.size(index, 0)}, {frame.size(index, 1)}, 2)"
                return Recipe(((node.args[0], "n"),), f"tl.split(tl.reshape({{0}}, {shape}))[{integer(node)}]")
            case "unpairs":
                return Recipe(same, f"tl.reshape(tl.join({{0}}, {{1}}), {frame.shape(index, o)})")
            case "chain_apply" if (found := back_part(frame, self.gates, index)) is not None:
                return Recipe((found[0],), f"{{0}}[{found[1]}]")
            case "log_gate":
                return _log_gate(index, node)
            case "chain_gram":
                x, _, decay = node.args
                at, group = next((i, g) for i, g in enumerate(self.grams) if index in g)
                text = f"{{0}}[{group.index(index)}]"
                return Recipe(((decay, f"grams{at}"),), text, accumulate=frame.loops and frame.is_rows(x, 1))
            case op if op in FUNCTIONS:
                return helper(frame, self.memory, index, node)
            case op:
                raise unsupported(f"`{op}` has no Triton form")

    def _exponent(self, node: Node) -> float | None:
        """The exponent of a power, when it is a number."""
        second = self.frame.node(node.args[1]) if node.attr == "pow" else None
        return number(second) if second is not None and second.op == "const" else None

    def _is_padding(self, node: Node) -> bool:
        """Does the node choose what padding tokens get?"""
        test, zero = (self.frame.node(i) for i in node.args[:2])
        if node.attr != "==" or zero.op != "const" or number(zero) != 0.0 or test.op != "input":
            return False
        return self.frame.program.port(test).kind is PortKind.VALID

    def _reduction(self, node: Node) -> Recipe:
        source, axis = node.args[0], integer(node)
        neutral, reduce = ("float('-inf')", "max") if node.op == "amax" else ("0.0", "sum")
        text = f"tl.{reduce}({self.frame.clear('{0}', source, axis, 'n', neutral)}, axis={axis}, keep_dims=True)"
        over_blocks = self.frame.loops and self.frame.is_rows(source, axis)
        return Recipe(((source, "n"),), text, accumulate=over_blocks, start=neutral)

    def _scan(self, node: Node) -> Recipe:
        decay, x = node.args
        if self.frame.size(x, 1) == "1":
            pair, whole = "tl.reshape({0}, (C,)), tl.reshape({1}, (C,))", "[1][:, None]"
        else:
            narrow = self.frame.node(decay).shape[1] == 1
            pair = f"tl.broadcast_to({{0}}, {self.frame.shape(x, 'n')}), {{1}}" if narrow else "{0}, {1}"
            whole = "[1]"
        text = f"tl.associative_scan(({pair}), 0, combine_scan, reverse={bool(node.attr)}){whole}"
        return Recipe(((decay, "n"), (x, "n")), text, helpers=("combine_scan",))

    def _cut(self, node: Node) -> Recipe:
        if node.shape[1] != 1 or not isinstance(node.attr, int):
            raise unsupported("taking several columns out of a tile has no Triton form")
        column = f"(tl.arange(0, {self.frame.size(node.args[0], 1)}) == {integer(node)})[None, :]"
        return Recipe(((node.args[0], "n"),), f"tl.sum(tl.where({column}, {{0}}, 0.0), axis=1, keep_dims=True)")

    def _cat(self, index: int, node: Node) -> Recipe:
        """Single columns side by side; wider parts only where they are zero."""
        at, text = 0, "0.0"
        columns: list[int] = []
        wide = self.frame.size(index, 1)
        for part in node.args:
            source = self.frame.node(part)
            extent = source.shape[1]
            if extent == 1:
                text = f"tl.where((tl.arange(0, {wide}) == {at})[None, :], {{{len(columns)}}}, {text})"
                columns.append(part)
            elif not is_zeros(source):
                raise unsupported("joining tiles of several columns has no Triton form")
            if not isinstance(extent, int):
                raise unsupported("joining tiles of open widths has no Triton form")
            at += extent
        return Recipe(tuple((part, "n") for part in columns), text)


def _log_gate(index: int, node: Node) -> Recipe:
    """From what its Gram matrices hand back, and from its edges."""
    parts, edges = logged(node)
    more = tuple((a, "n") for a in node.args[1 + 3 * parts :]) if edges else ()
    if not parts:
        return Recipe(more, "log_gate({0}, {1})", helpers=("log_gate",))
    sums = [f"{{0}}[{2 * parts + i}]" + f" + {{{1 + i}}}" * edges for i in range(2)]
    return Recipe(((index, "back"), *more), f"log_gate({', '.join(sums)})", helpers=("log_gate",))


def _triangle(node: Node, o: str) -> str:
    """Which pairs of tokens a mask keeps."""
    sign = (">" if o == "n" else "<") + ("=" if node.attr == "incl" else "")
    return f"row[:, None] {sign} row[None, :]"
