"""The body of one kernel: what one chunk needs, in order.

The kernel's nodes are demanded from its targets backwards. Rows of the state come in blocks. A serial kernel has one
block per program, and its body is straight-line. A chunk kernel visits all blocks in loops: a value that contracts rows
of the state is complete only after a loop, so values have a level, the number of such loops behind them, and the text
is: values of level 0, loop, values of level 1, loop, ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ruledsl.chunk.program import Result
from ruledsl.chunk.systems import inside
from ruledsl.emit.triton_demand import Demand, Recipe
from ruledsl.emit.triton_expression import fill
from ruledsl.emit.triton_frame import Frame
from ruledsl.emit.triton_memory import Memory, TensorKind
from ruledsl.emit.triton_names import fits_name, pointer, port_name, result_name
from ruledsl.emit.triton_recipes import Recipes
from ruledsl.schedule.attributes import gathered, integer
from ruledsl.schedule.kernels import Buffer, Carry, Mode

Values = dict[Demand, str]  # the name or text of what is made
# residual of a system that is solved, of its right side: 8 roundings of float32; of products in tf32, half a rounding
SOLVED, SOLVED_TF32 = 8 * 2.0**-23, 2.0**-12
LONGEST = 100  # characters of a value that stands in the text of its user
Store = tuple[Demand, Callable[[str], str]]  # what is stored, and the statement that stores the value of that name


@dataclass(slots=True)
class Body:
    """Statements of one kernel. `lines()` once; then the frame, the memory and `helpers` know what they use."""

    frame: Frame
    memory: Memory = field(init=False)
    recipes: Recipes = field(init=False)
    made: dict[Demand, Recipe] = field(default_factory=dict)
    helpers: set[str] = field(default_factory=set)
    inline: set[Demand] = field(default_factory=set)  # values without a variable
    names: dict[Demand, str] = field(default_factory=dict)
    wanted: frozenset[Demand] = frozenset()  # what the kernel is for: never another name of something else

    def __post_init__(self) -> None:
        self.memory = Memory(self.frame)
        self.recipes = Recipes(self.frame, self.memory)

    def lines(self) -> list[str]:
        """Everything for one chunk; afterwards what leaves it is in the variables of `leaving`."""
        order = self._order()
        self._settle(order)
        if self.frame.kernel.mode is Mode.SYSTEM:
            return self._solution(order)
        lines = self._in_loops(order) if self.frame.loops else self._straight(order)
        if self.frame.kernel.twice:
            lines = ["fits = count > 0", *lines, "if FITS:", f"    tl.store({self._fits()}, fits.to(tl.int8))"]
        return lines

    def done(self) -> list[str]:
        """Nothing more for chunks that a kernel which runs twice is done with: first it runs for all, as if their decays fitted one
        product, and says of which that is so."""
        return ["if not FITS:", f"    if tl.load({self._fits()}) != 0:", "        return"] if self.frame.kernel.twice else []

    def _fits(self) -> str:
        name = self.memory.tensor(fits_name(self.frame.kernel.name), TensorKind.BUFFER)
        return f"{pointer(name)} + chunk * H + head"

    def leaving(self, carry: Carry) -> str:
        """The variable that holds a carried state after the chunk."""
        held = self.recipes.held(carry.enter)
        return f"{held.removesuffix('_t')}_next{'_t' if held.endswith('_t') else ''}"

    # ------------------------------------------------------------------------------------------- demand

    def _targets(self) -> dict[Demand, str]:
        """What the kernel is for, and what the rule calls it."""
        kernel, resolve = self.frame.kernel, self.recipes.resolve
        found = [(resolve(d), "") for b in kernel.writes for d in self._written(b)]
        found += [(resolve((r.node, "n")), result_name(r)) for r in kernel.results]
        found += [(self._leave(c), self.leaving(c)) for c in kernel.carries if c.leave != c.enter]
        names: dict[Demand, str] = {}
        for demand, name in found:
            names[demand] = names.get(demand) or name
        return names

    def _written(self, buffer: Buffer) -> list[Demand]:
        """What a buffer is made of: its node, the blocks of a system, or a gate's level products."""
        node = self.frame.node(buffer.node)
        if self.frame.kernel.mode is Mode.SYSTEM:
            return [(node.args[1], "n"), (node.args[2], "n")]
        if buffer.levels:
            parts, *_ = gathered(node)
            cotangents = [(a, "n") for a in node.args[1 + 3 * parts :]]
            return [(buffer.node, "back")] * (parts > 0) + cotangents
        if node.op == "blocks":
            return [(block, "n") for block in node.args]
        return [(buffer.node, "n")]

    def _leave(self, carry: Carry) -> Demand:
        return self.recipes.resolve((carry.leave, self.recipes.orientation[carry.enter]))

    def _order(self) -> list[Demand]:
        """All that the targets need, arguments first."""
        order: list[Demand] = []
        for target in self._targets():
            self._visit(target, order)
        both = frozenset(i for i, o in order if o == "n" and (i, "t") in self.made and self._is_tile(i))
        if both - self.recipes.once:
            self.recipes.once = both
            self.made = {}
            return self._order()
        return order

    def _is_tile(self, index: int) -> bool:
        """Is the node read from memory, and neither a row nor a column?"""
        in_memory = index in self.recipes.buffers or self.recipes.loaded(index) is not None
        return in_memory and index not in self.recipes.carried and self.frame.graph.large(index)

    def _visit(self, root: Demand, order: list[Demand]) -> None:
        stack = [(root, False)]
        while stack:
            demand, ready = stack.pop()
            if ready:
                order.append(demand)
            elif demand not in self.made:
                recipe = self.recipes.recipe(demand)
                recipe = replace(recipe, args=tuple(self.recipes.resolve(a) for a in recipe.args))
                self.made[demand] = recipe
                stack.append((demand, True))
                stack += [(a, False) for a in reversed(recipe.args)]

    def _settle(self, order: Sequence[Demand]) -> None:
        """Choose names, and what needs none: a short value with one user, in the same loop, stands in the user's text."""
        targets = self._targets()
        self.wanted = frozenset(targets)
        users: dict[Demand, list[Demand]] = {d: [] for d in order}
        for user in order:
            for place, arg in enumerate(self.made[user].args):
                users[arg] += [user] * self.made[user].text.count(f"{{{place}}}")
        for d in order:
            if not self.made[d].args and self.made[d].inline and not self._is_loop_variable(d, targets):
                self.inline.add(d)  # numbers and variables
            elif self.made[d].inline and d not in targets and len(users[d]) == 1:
                if self._in_loop(d) == self._in_loop(users[d][0]):
                    self.inline.add(d)
        taken: set[str] = set()
        for d in order:
            wish = targets.get(d) or self._wish(d)
            self.names[d] = wish if wish not in taken else f"{wish}_{d[0]}"
            taken.add(self.names[d])

    def _is_loop_variable(self, d: Demand, targets: Mapping[Demand, str]) -> bool:
        """A carried value that also leaves is copied before the variables are updated."""
        return d in targets and d[0] in self.recipes.carried

    def _in_loop(self, d: Demand) -> bool:
        """Is the value made, or added up, in a loop over the blocks of state rows?"""
        return self.frame.loops and (self.made[d].accumulate or self.frame.owned(d[0]))

    def _wish(self, demand: Demand) -> str:
        """A value is called after its port, or after its operation and its number in the program."""
        index, o = demand
        node = self.frame.node(index)
        if o not in ("n", "t"):
            return f"{o}_{index}"
        turned = "_t" if o == "t" else ""
        if (source := self.recipes.loaded(index)) is not None:
            return f"{port_name(self.frame.program.port(self.frame.node(source)))}{turned}"
        return f"{node.attr if node.op == 'map' else node.op}_{index}{turned}"

    def _stores(self) -> list[Store]:
        kernel, memory = self.frame.kernel, self.memory

        def buffer(b: Buffer, at: int) -> Callable[[str], str]:
            if self.frame.node(b.node).op == "blocks":
                return lambda value: memory.store_block(b, at, value)
            return lambda value: memory.store_buffer(b.name, b.node, value)

        def result(r: Result) -> Callable[[str], str]:
            mark = self.frame.mark(r.name if r.port is None else r.port.name)
            return lambda value: memory.store_result(r, value) + mark

        stores = [
            (self.recipes.resolve(d), buffer(b, at))
            for b in kernel.writes if not b.levels for at, d in enumerate(self._written(b))
        ]  # fmt: skip
        for b in kernel.writes:
            stores += self._gate_stores(b) if b.levels else []
        return stores + [(self.recipes.resolve((r.node, "n")), result(r)) for r in kernel.results]

    def _gate_stores(self, b: Buffer) -> list[Store]:
        """Parts are stored by what makes them; the cotangents of `before` and `after` are stored as they are."""
        parts, before, after = gathered(self.frame.node(b.node))
        demands = [self.recipes.resolve(d) for d in self._written(b)]

        def edge(place: str) -> Callable[[str], str]:
            return lambda value: self.memory.store_edge(b, place, value)

        places = ["(LEVELS - 1)"] * before + ["LEVELS"] * after
        back, edges = demands[: parts > 0], demands[parts > 0 :]
        return [(d, lambda value: "") for d in back] + [(d, edge(place)) for d, place in zip(edges, places, strict=True)]

    # ------------------------------------------------------------------------------------------- statements

    def _text(self, demand: Demand, values: Values) -> str:
        recipe = self.made[demand]
        self.helpers |= set(recipe.helpers)
        return fill(recipe.text, [values[a] for a in recipe.args])

    def _emit(self, demand: Demand, values: Values, lines: list[str]) -> None:
        """Make a value: a statement, or a text in place of a name."""
        text = self._text(demand, values)
        same = text.isidentifier() and bool(self.made[demand].args) and demand not in self.wanted
        if same or demand in self.inline and (len(text) <= LONGEST or not self.made[demand].args):
            values[demand] = text
            return
        values[demand] = self.names[demand]
        source = self.recipes.loaded(demand[0])
        mark = self.frame.mark(self.frame.program.port(self.frame.node(source)).name) if source is not None else ""
        lines.append(f"{values[demand]} = {text}{mark}")
        index, o = demand
        if self.frame.kernel.twice and o == "n" and self.frame.node(index).op == "running":
            lines.append(f"fits &= {values[demand]}[3]")

    def _straight(self, order: Sequence[Demand]) -> list[str]:
        values: Values = {}
        lines: list[str] = []
        for demand, store in self._stores():
            self._make([demand], order, values, lines)
            lines += [text] if (text := store(values[demand])) else []
        self._make([self._leave(c) for c in self.frame.kernel.carries if c.leave != c.enter], order, values, lines)
        for carry in self.frame.kernel.carries:
            if carry.leave != carry.enter:
                value, name = self.frame.whole(carry.leave, values[self._leave(carry)]), self.leaving(carry)
                if value != name:
                    lines.append(f"{name} = {value}")
                place = next((i for i, line in enumerate(lines) if line.startswith(f"{name} = ")), None)
                if place is not None:
                    lines[place] += self.frame.mark(carry.state)
        return lines

    def _solution(self, order: Sequence[Demand]) -> list[str]:
        """Conjugate gradients, all tokens at once: the matrix is applied to `direction` until every row's residual is
        small (`SOLVED`), or for the most steps. A row that is done stays as it is; NaN is never done."""
        frame, (buffer,) = self.frame, self.frame.kernel.writes
        node = frame.node(buffer.node)
        image, right = self._written(buffer)
        image, right = self.recipes.resolve(image), self.recipes.resolve(right)
        recipe = inside(frame.program)
        values: Values = {}
        lines: list[str] = []
        self._make([right, *(d for d in order if d[0] not in recipe)], order, values, lines)
        applied: list[str] = []
        self._make([image], order, values, applied)

        def total(text: str) -> str:
            return f"tl.sum({frame.clear(text, buffer.node, 1, 'n')}, axis=1, keep_dims=True)"

        steps = integer(node) or f"2 * {frame.count(node.shape[1])}"
        return [
            *lines,
            f"direction = tl.broadcast_to({values[right]}, {frame.shape(buffer.node, 'n')})",
            "residual = direction",
            "x = tl.zeros_like(direction)",
            f"norm = {total('residual * residual')}",
            f"enough = norm * ({SOLVED**2} if IP == 'tf32x3' else {SOLVED_TF32**2})",
            "step, left = 0, 1",
            f"while (step < {steps}) & (left > 0):",
            *(f"    {line}" for line in applied),
            f"    image = {values[image]}",
            f"    curvature = {total('direction * image')}",
            "    done = (norm <= enough) | (curvature <= 0.0)",
            "    length = tl.where(done, 0.0, norm / curvature)",
            "    x += length * direction",
            "    residual -= length * image",
            f"    rest = {total('residual * residual')}",
            "    direction = residual + tl.where(done, 0.0, rest / norm) * direction",
            "    norm = rest",
            "    left = tl.max(tl.where(norm <= enough, 0, 1))",
            "    step += 1",
            self.memory.store_buffer(buffer.name, buffer.node, "x"),
        ]

    # ------------------------------------------------------------------------------------------- loops over blocks

    def _in_loops(self, order: Sequence[Demand]) -> list[str]:
        """Values by level. Those with rows of the state live inside the loops, and are made again in each that needs
        them."""
        level: dict[Demand, int] = {}
        for d in order:
            level[d] = max((level[a] for a in self.made[d].args), default=0) + self.made[d].accumulate
        inside = {d for d in order if self.frame.owned(d[0]) and not self.made[d].accumulate}
        stores = self._stores()
        values: Values = {}
        lines: list[str] = []
        for step in range(max(level.values(), default=0) + 1):
            sums = [d for d in order if self.made[d].accumulate and level[d] == step + 1]
            out = [(d, store) for d, store in stores if d in inside and level[d] == step]
            if sums or out:
                within = inside | set(sums)
                loop = self._needed([*sums, *(d for d, _ in out)], within.__contains__)
                before = [a for d in loop for a in self.made[d].args if a not in within]
                self._make(before, order, values, lines)
                lines += self._block_loop([d for d in order if d in loop], values, set(sums), out)
        for d, store in stores:
            if d not in inside:
                self._make([d], order, values, lines)
                lines += [text] if (text := store(values[d])) else []
        return lines

    def _needed(self, targets: Sequence[Demand], through: Callable[[Demand], bool]) -> set[Demand]:
        """The targets and what they need, as far as `through` holds."""
        found: set[Demand] = set()
        todo = list(targets)
        while todo:
            d = todo.pop()
            if d not in found and through(d):
                found.add(d)
                todo += self.made[d].args
        return found

    def _make(self, targets: Sequence[Demand], order: Sequence[Demand], values: Values, lines: list[str]) -> None:
        """Statements for the targets, and for what they need and is not there yet."""
        needed = self._needed(targets, lambda d: d not in values)
        for d in order:
            if d in needed:
                self._emit(d, values, lines)

    def _block_loop(self, loop: Sequence[Demand], values: Values, sums: set[Demand], out: list[Store]) -> list[str]:
        """One loop over `loop`: it completes `sums` and stores `out`."""
        lines = [
            f"{self.names[d]} = tl.full({self.frame.shape(*d)}, {self.made[d].start}, tl.float32)"
            for d in loop
            if d in sums
        ]
        body: list[str] = []
        local = dict(values)
        for d in loop:
            if d in sums:
                name, text = self.names[d], self._text(d, local)
                summed = self.made[d].start == "0.0"
                body.append(f"{name} += {text}" if summed else f"{name} = tl.maximum({name}, {text})")
                values[d] = local[d] = name
            else:
                self._emit(d, local, body)
        body += [text for d, store in out if (text := store(local[d]))]
        return [*lines, "for block in tl.range(BLOCKS, num_stages=STAGES):", *("    " + line for line in [*block_lanes(self.frame), *body])]


def block_lanes(frame: Frame) -> list[str]:
    """The lanes of the block of state rows at hand; where some are padding, clamped to real rows, and which are real."""
    lanes = "block * BLOCK + tl.arange(0, BLOCK)"
    if frame.row_size not in frame.padded:
        return [f"i_rows = {lanes}"]
    return [f"i_rows = tl.minimum({lanes}, ROWS - 1)", f"m_rows = {lanes} < ROWS"]
