"""The body of one kernel: what one chunk needs, in order.

The kernel's nodes are demanded from its targets backwards. Rows of the state come in blocks. A serial kernel has one
block per program, and its body is straight-line. A chunk kernel visits all blocks in loops: a value that contracts rows
of the state is complete only after a loop, so values have a level, the number of such loops behind them, and the text
is: values of level 0, loop, values of level 1, loop, ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ruledsl.chunk.program import Rows
from ruledsl.emit.triton_demand import Demand, Recipe
from ruledsl.emit.triton_frame import Frame
from ruledsl.emit.triton_memory import Memory, interleaved
from ruledsl.emit.triton_names import tensor_name
from ruledsl.emit.triton_recipes import Recipes
from ruledsl.schedule.kernels import Buffer
from ruledsl.schedule.slots import slots

Names = dict[Demand, str]
Store = tuple[Demand, Callable[[str], str]]  # what is stored, and the statement that stores the value of that name


@dataclass(slots=True)
class Body:
    """Statements of one kernel. `lines()` once; then the frame, the memory and `helpers` know what they use."""

    frame: Frame
    memory: Memory = field(init=False)
    recipes: Recipes = field(init=False)
    made: dict[Demand, Recipe] = field(default_factory=dict)
    helpers: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.memory = Memory(self.frame)
        self.recipes = Recipes(self.frame, self.memory)

    def lines(self) -> list[str]:
        """Everything for one chunk; what the kernel carries is updated by the caller, from `leaving`."""
        systems = [b for b in self.frame.kernel.writes if slots(self.frame.node(b.node).shape[0]) > 1]
        if systems:
            return [line for b in systems for line in self._system(b)]
        order = self._order()
        return self._in_loops(order) if self.frame.loops else self._straight(order)

    def leaving(self, enter: int, leave: int) -> str:
        """The value of a carried state after the chunk, as it is held."""
        o = self.recipes.orientation[enter]
        return self.frame.whole(leave, self.name((leave, o)), o)

    # ------------------------------------------------------------------------------------------- demand

    def _order(self) -> list[Demand]:
        """All that the targets need, arguments first."""
        kernel = self.frame.kernel
        order: list[Demand] = []
        for node in [b.node for b in kernel.writes] + [r.node for r in kernel.results]:
            self._visit((node, "n"), order)
        for carry in kernel.carries:
            self._visit((carry.leave, self.recipes.orientation[carry.enter]), order)
        return order

    def _visit(self, root: Demand, order: list[Demand]) -> None:
        stack = [(root, False)]
        while stack:
            demand, ready = stack.pop()
            if ready:
                order.append(demand)
            elif demand not in self.made:
                recipe = self.made[demand] = self.recipes.recipe(demand)
                stack.append((demand, True))
                stack += [(a, False) for a in reversed(recipe.args)]

    def _stores(self) -> list[Store]:
        kernel, memory = self.frame.kernel, self.memory

        def buffer(b: Buffer) -> Callable[[str], str]:
            return lambda value: memory.store_buffer(b.name, b.node, value)

        stores: list[Store] = [((b.node, "n"), buffer(b)) for b in kernel.writes]
        for result in kernel.results:
            stores.append(((result.node, "n"), lambda value, result=result: memory.store_result(result, value)))  # type: ignore[misc]
        return stores

    # ------------------------------------------------------------------------------------------- statements

    def name(self, demand: Demand) -> str:
        """The variable that holds a demand."""
        index, o = demand
        node = self.frame.node(index)
        stem = str(node.attr) if node.op == "map" else node.op
        if node.op == "input":
            stem = tensor_name(self.frame.program.port(node))
        return f"{stem}_{index}" + ("t" if o == "t" else "")

    def _text(self, demand: Demand, names: Names) -> str:
        recipe = self.made[demand]
        self.helpers |= set(recipe.helpers)
        return recipe.text.format(*(names[a] for a in recipe.args))

    def _emit(self, demand: Demand, names: Names, lines: list[str]) -> None:
        """Make a value: a statement, or its text in place of a name if it is a number."""
        text = self._text(demand, names)
        if self.frame.node(demand[0]).op == "const" and demand[0] not in self.recipes.buffers:
            names[demand] = text
            return
        names[demand] = self.name(demand)
        lines.append(f"{names[demand]} = {text}")

    def _straight(self, order: Sequence[Demand]) -> list[str]:
        names: Names = {}
        lines: list[str] = []
        for demand in order:
            self._emit(demand, names, lines)
        return lines + [store(names[demand]) for demand, store in self._stores()]

    # ------------------------------------------------------------------------------------------- loops over blocks

    def _in_loops(self, order: Sequence[Demand]) -> list[str]:
        """Values by level. Those with rows of the state live inside the loops, and are made again in each that needs
        them."""
        level: dict[Demand, int] = {}
        for d in order:
            level[d] = max((level[a] for a in self.made[d].args), default=0) + self.made[d].accumulate
        inside = {d for d in order if self.frame.owned(d[0]) and not self.made[d].accumulate}
        stores = self._stores()
        names: Names = {}
        lines: list[str] = []
        for step in range(max(level.values(), default=0) + 1):
            for d in order:
                if d not in inside and level[d] == step and not self.made[d].accumulate:
                    self._emit(d, names, lines)
            sums = [d for d in order if self.made[d].accumulate and level[d] == step + 1]
            out = [(d, store) for d, store in stores if d in inside and level[d] == step]
            if sums or out:
                lines += self._block_loop(order, inside, names, sums, out)
        return lines + [store(names[d]) for d, store in stores if d not in inside]

    def _block_loop(
        self, order: Sequence[Demand], inside: set[Demand], names: Names, sums: list[Demand], out: list[Store]
    ) -> list[str]:
        """One loop that completes `sums` and stores `out`."""
        need: set[Demand] = set()
        todo = [*sums, *(d for d, _ in out)]
        while todo:
            d = todo.pop()
            if d not in need and (d in inside or d in sums):
                need.add(d)
                todo += self.made[d].args
        lines = [
            f"{self.name(d)} = tl.full({self.frame.shape(*d)}, {self.made[d].start}, tl.float32)" for d in sums
        ]
        body: list[str] = []
        local = dict(names)
        for d in order:
            if d in need and d in sums:
                name, text = self.name(d), self._text(d, local)
                body.append(f"{name} = {name} + {text}" if self.made[d].start == "0.0" else f"{name} = tl.maximum({name}, {text})")
                names[d] = local[d] = name
            elif d in need:
                self._emit(d, local, body)
        body += [store(local[d]) for d, store in out]
        return [*lines, "for block in range(BLOCKS):", *("    " + line for line in [*block_lanes(), *body])]

    # ------------------------------------------------------------------------------------------- interleaved systems

    def _system(self, buffer: Buffer) -> list[str]:
        """The inverse of an interleaved system: its blocks meet in memory, the inverse takes their place."""
        node = self.frame.node(buffer.node)
        m = slots(node.shape[0])
        blocks = self.frame.node(node.args[0]).args
        order: list[Demand] = []
        names: Names = {}
        lines: list[str] = []
        for block in dict.fromkeys(blocks):
            self._visit((block, "n"), order)
        for demand in order:
            self._emit(demand, names, lines)
        lines.append(f"system = {self.memory.system(buffer)}")
        for at, block in enumerate(blocks):
            spread = interleaved(m, *divmod(at, m))
            lines.append(f"tl.store(system + {spread}, {self.frame.whole(block, names[block, 'n'], 'n')})")
        self.helpers.add("inverse")
        return [
            *lines,
            "tl.debug_barrier()",
            "line = tl.arange(0, WIDE)",
            f"inside = (line[:, None] < {m} * C) & (line[None, :] < {m} * C)",
            f"spread = line[:, None] * ({m} * C) + line[None, :]",
            "whole = inverse(tl.load(system + spread, mask=inside, other=0.0), WIDE, WIDE_LEVELS, IP_SOLVE)",
            "tl.debug_barrier()",
            "tl.store(system + spread, whole, mask=inside)",
        ]


def block_lanes() -> list[str]:
    """The lanes of the block of state rows at hand, clamped to real rows, and which of them are real."""
    return [
        "i_rows = tl.minimum(block * BLOCK + tl.arange(0, BLOCK), ROWS - 1)",
        "m_rows = block * BLOCK + tl.arange(0, BLOCK) < ROWS",
    ]


def wide(frame: Frame) -> int:
    """The most interleaved system that a kernel inverts, in chunks; 1: none."""
    found = [frame.node(b.node).shape[0] for b in frame.kernel.writes]
    return max((slots(axis) for axis in found if isinstance(axis, Rows)), default=1)
