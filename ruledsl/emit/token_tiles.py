"""The nodes of a token program as lines of Triton, for one token.

Every value is a tile of two axes. A vector is held along the columns ("n", as the program has it) or along the rows
("t"), whichever its users need, so that a product with a matrix is a product of tiles and a sum; loads and
element-wise operations are made in either orientation, the rest is transposed. Lanes past a size repeat the last real
one, so that every value is finite; contractions mask them. One axis class may be cut into blocks (`Marked`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ruledsl.chunk.program import Axis, Node, Port, PortKind, Program, Rows
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.emit.names import size_text
from ruledsl.emit.token_space import Space, name_of
from ruledsl.emit.triton_spelling import literal, spell
from ruledsl.lang.typed import Dim, DimOp
from ruledsl.schedule.token_split import Marked

Demand = tuple[int, str]  # node, "n" or "t"
_ELEMENTWISE = ("map", "select", "expand")
_FIXED = (PortKind.PARAM, PortKind.HEAD, PortKind.HEADS, PortKind.SIZE)  # the same for all tokens
CHANGING = (PortKind.INPUT, PortKind.COTANGENT)  # with every token
_HOISTED = 16_384  # entries of matrices that are made before the loop over the tokens and kept


def _gather(value: str, entries: str, places: str, rows: str, columns: str) -> str:
    """A tile of entries of another, given by their places there. With one axis: with two, Triton 3.6 ends the process
    when there are more places than entries."""
    flat = f"tl.gather(tl.reshape({value}, ({entries},)), tl.reshape({places}, ({rows} * {columns},)), 0)"
    return f"tl.reshape({flat}, ({rows}, {columns}))"


def flip(orientation: str) -> str:
    return "t" if orientation == "n" else "n"


class Body:
    """Writes the nodes that targets need. `lines` belong into the loop over tokens, `ahead` before it.

    `load` writes what comes from memory: the load, and what is made of it, "{}" standing for what was loaded. `held`
    are the names and orientations of states in registers. What comes from ports of the kinds `early` is loaded before its
    token, see `fetched`: names and loads. `still` is the prefix of what stands ahead, for several tokens alike.
    """

    def __init__(
        self,
        marked: Marked,
        space: Space,
        prefix: str,
        held: Mapping[int, tuple[str, str]],
        load: Callable[[Body, int, Port, str], tuple[str, str]],
        early: tuple[PortKind, ...] = (),
        still: str = "",
    ) -> None:
        self.program: Program = marked.program
        self.cut = marked.cut
        self.space, self.prefix, self.held, self._load = space, prefix, held, load
        self.names: dict[Demand, str] = {}
        self.early = early
        self.still = still or prefix
        self.fetched: list[tuple[str, str]] = []
        self.lines: list[str] = []
        self.ahead: list[str] = []
        self._needed: dict[int, set[str]] = {}
        self._costs: dict[Demand, int] = {}
        for node in self.program.nodes:
            if node.op == "dot":
                for i in node.args:
                    space.wide.update(d for d in self.program.nodes[i].shape if not isinstance(d, Rows))

    # ------------------------------------------------------------------------------------------------ shapes

    def shape(self, index: int) -> tuple[Axis, Axis]:
        return self.program.nodes[index].shape

    def is_matrix(self, index: int) -> bool:
        return 1 not in self.shape(index)

    def _dim(self, index: int, axis: int) -> Dim:
        extent = self.shape(index)[axis]
        assert not isinstance(extent, Rows)
        return extent

    def length(self, index: int, axis: int) -> str:
        """Lanes of an axis as text."""
        dim = self._dim(index, axis)
        if dim == 1:
            return "1"
        return "BLOCK" if self.cut[index] == axis else f"B{self.space.label(dim)}"

    def tile(self, index: int, o: str) -> str:
        """The shape of a tile as text."""
        r, c = self.length(index, 0), self.length(index, 1)
        return f"({r}, {c})" if o == "n" else f"({c}, {r})"

    def entries(self, index: int) -> int:
        found = 1
        for axis in (0, 1):
            dim = self._dim(index, axis)
            found *= 1 if dim == 1 else self.space.block if self.cut[index] == axis else self.space.lanes(dim)
        return found

    def _lane(self, index: int, axis: int) -> tuple[str, str]:
        """The index vector of an axis and its mask, "" if no lane is padded."""
        dim = self._dim(index, axis)
        own = self.cut[index] == axis
        stem = "row" if own else self.space.label(dim)
        return f"i{stem}", f"m{stem}" if self.space.padded(dim, own) else ""

    def offsets(self, index: int, o: str) -> str:
        """Where the entries of a tile are, rows one after another."""
        places = ("[:, None]", "[None, :]") if o == "n" else ("[None, :]", "[:, None]")
        parts = []
        for axis in (0, 1):
            dim = self._dim(index, axis)
            if dim != 1:
                step = f" * n{self.space.label(self._dim(index, 1))}" if axis == 0 and self._dim(index, 1) != 1 else ""
                parts.append(f"{self._lane(index, axis)[0]}{places[axis]}{step}")
        return " + ".join(parts) or "one"

    def mask(self, index: int, o: str) -> str:
        """The real entries of a tile, "" if all are."""
        places = ("[:, None]", "[None, :]") if o == "n" else ("[None, :]", "[:, None]")
        found = [
            f"{m}{places[axis]}" for axis in (0, 1) if self._dim(index, axis) != 1 and (m := self._lane(index, axis)[1])
        ]
        return " & ".join(found)

    def _clear(self, text: str, index: int, axis: int, o: str, value: str = "0.0") -> str:
        """`text` with the padded lanes of an axis set to `value`."""
        if self._dim(index, axis) == 1 or not (m := self._lane(index, axis)[1]):
            return text
        place = axis if o == "n" else 1 - axis
        return f"tl.where({m}{'[:, None]' if place == 0 else '[None, :]'}, {text}, {value})"

    # ------------------------------------------------------------------------------------------------ demand

    def _fit(self, index: int, o: str) -> Demand:
        return (index, "n" if self.shape(index) == (1, 1) else o)

    def cost(self, index: int, o: str) -> int:
        """Transpositions on the way to a vector in an orientation."""
        if self.shape(index) == (1, 1):
            return 0
        if (index, o) not in self._costs:
            self._costs[index, o] = 0 if o == "n" else 1
            node = self.program.nodes[index]
            if index in self.held:
                own = 0 if self.held[index][1] == o else 1
            elif node.op in ("input", "const", "full"):
                own = 0
            elif node.op == "transpose":
                own = self.cost(node.args[0], flip(o))
            elif node.op in _ELEMENTWISE and not self.is_matrix(index):
                own = min(sum(self.cost(a, o) for a in node.args), 9)
            else:
                own = 0 if o == "n" else 1
            self._costs[index, o] = own
        return self._costs[index, o]

    def best(self, index: int) -> str:
        """The orientation in which a node is had most cheaply."""
        return "t" if not self.is_matrix(index) and self.cost(index, "t") < self.cost(index, "n") else "n"

    def want(self, index: int, o: str) -> Demand:
        """Ask for a node; `write` makes everything that was asked for."""
        demand = self._fit(index, o)
        self._needed.setdefault(index, set()).add(demand[1])
        return demand

    def write(self) -> None:
        """Make all that was asked for, in the order of the program."""
        for i in range(len(self.program.nodes) - 1, -1, -1):
            wanted = self._needed.get(i, set())
            for o in ("t", "n"):  # transposing needs the other orientation
                if o in wanted:
                    for a, oa in self._recipe(i, o)[0]:
                        self._needed.setdefault(a, set()).add(oa)
        ahead = self._ahead()
        for i in sorted(self._needed):
            for o in ("n", "t"):
                if o in self._needed[i]:
                    self._emit(i, o, self.ahead if i in ahead else self.lines)

    def _ahead(self) -> frozenset[int]:
        """The needed nodes that no token changes, vectors always, matrices while they are few."""
        fixed: set[int] = set()
        room = _HOISTED
        for i in sorted(self._needed):
            node = self.program.nodes[i]
            same = (
                self.program.port(node).kind in _FIXED
                if node.op == "input"
                else all(a in fixed or self.program.nodes[a].op == "const" for a in node.args)
            )
            if i in self.held or not same or (self.is_matrix(i) and self.entries(i) > room):
                continue
            room -= self.entries(i) if self.is_matrix(i) else 0
            fixed.add(i)
        return frozenset(fixed)

    def _emit(self, index: int, o: str, lines: list[str]) -> None:
        node = self.program.nodes[index]
        args, text = self._recipe(index, o)
        given = [self.names[a] for a in args]
        if node.op == "map" and args and all(self.program.nodes[a].op == "const" for a, _ in args):
            given = [f"tl.full((1, 1), {g}, tl.float32)" for g in given]
        made = text(given)
        if node.op in ("const", "transpose") or index in self.held and made == self.held[index][0]:
            self.names[index, o] = made
            return
        stem = str(node.attr) if node.op == "map" else node.op
        if node.op == "input":
            stem = name_of("x", self.program.port(node).name)
        prefix = self.still if lines is self.ahead else self.prefix
        name = self.names[index, o] = f"{prefix}_{stem}_{index}{'t' if o == 't' else ''}"
        if (
            node.op == "input"
            and (port := self.program.port(node)).kind in self.early
            and index not in self.held
        ):
            loaded, form = self._load(self, index, port, o)
            self.fetched.append((f"raw{name}", loaded))
            made = form.format(f"raw{name}")
        lines.append(f"{name} = {made}")

    def full(self, index: int, o: str) -> str:
        """A wanted node as a whole tile: constants stand as numbers elsewhere."""
        demand = self._fit(index, o)
        node = self.program.nodes[index]
        if node.op == "const":
            return f"tl.full({self.tile(index, o)}, {self.names[demand]}, tl.float32)"
        return self.names[demand]

    # ------------------------------------------------------------------------------------------------ operations

    def _recipe(self, index: int, o: str) -> tuple[tuple[Demand, ...], Callable[[list[str]], str]]:
        """What a node is made of, and how."""
        node = self.program.nodes[index]
        if index in self.held:
            name, own = self.held[index]
            return (), lambda a: name if o == own or node.shape == (1, 1) else f"tl.trans({name})"
        same = tuple(self._fit(a, o) for a in node.args)
        match node.op:
            case "input":
                port = self.program.port(node)
                return (), lambda a: self._loaded(index, port, o)
            case "const":
                return (), lambda a: literal(float(node.attr))  # type: ignore[arg-type]
            case "full":
                return (), lambda a: f"tl.full({self.tile(index, o)}, {literal(float(node.attr))}, tl.float32)"  # type: ignore[arg-type]
            case "transpose":
                return (self._fit(node.args[0], flip(o)),), lambda a: a[0]
            case "dot":
                return self._dot(node, o)
            case _ if o == "t" and (self.is_matrix(index) or node.op not in _ELEMENTWISE):
                return ((index, "n"),), lambda a: f"tl.trans({a[0]})"
            case "map":
                return same, lambda a: self._map(node, a)
            case "select":
                return same, lambda a: f"tl.where({a[0]} {node.attr} {a[1]}, {a[2]}, {a[3]})"
            case "expand":
                return same, lambda a: f"tl.broadcast_to({a[0]}, {self.tile(index, o)})"
            case "eye":
                r, c = self._lane(index, 0)[0], self._lane(index, 1)[0]
                return (), lambda a: f"tl.where({r}[:, None] == {c}[None, :], 1.0, 0.0)"
            case "sum" | "amax":
                return self._reduce(node)
            case _:
                return self._along(index, node)

    def _loaded(self, index: int, port: Port, o: str) -> str:
        found, form = self._load(self, index, port, o)
        return form.format(found)

    def _map(self, node: Node, args: list[str]) -> str:
        if node.attr == "ctz":
            n = f"{args[0]}.to(tl.int32)"
            return f"tl.where({args[0]} != 0.0, tl.floor(tl.log2(({n} & -{n}).to(tl.float32)) + 0.5), 0.0)"
        exponent = None
        if node.attr == "pow" and (e := self.program.nodes[node.args[1]]).op == "const":
            exponent = float(e.attr)  # type: ignore[arg-type]
            if float(exponent).is_integer() and 3 < abs(exponent) <= 16:
                product = " * ".join([args[0]] * abs(int(exponent)))
                return product if exponent > 0 else f"1.0 / ({product})"
        return spell(str(node.attr), args, exponent)

    def _reduce(self, node: Node) -> tuple[tuple[Demand, ...], Callable[[list[str]], str]]:
        (x,), axis = node.args, int(node.attr)  # type: ignore[arg-type]
        o = self.best(x) if node.shape == (1, 1) else "n"
        place = axis if o == "n" else 1 - axis
        word, low = ("max", "float('-inf')") if node.op == "amax" else ("sum", "0.0")
        return ((x, o),), lambda a: f"tl.{word}({self._clear(a[0], x, axis, o, low)}, axis={place}, keep_dims=True)"

    def _dot(self, node: Node, o: str) -> tuple[tuple[Demand, ...], Callable[[list[str]], str]]:
        assert isinstance(node.attr, tuple)
        (x, y), (ta, tb) = node.args, map(bool, node.attr)
        if o == "t":  # (X Y)^T = Y^T X^T
            x, y, ta, tb = y, x, not tb, not ta
        ox, oy = "t" if ta else "n", "t" if tb else "n"
        k = 0 if ta else 1
        return ((x, ox), (y, oy)), lambda a: f'tl.dot({self._clear(a[0], x, k, ox)}, {a[1]}, input_precision="ieee")'

    def _along(self, index: int, node: Node) -> tuple[tuple[Demand, ...], Callable[[list[str]], str]]:
        """Operations that move columns: each column says where it comes from."""
        same = tuple(self._fit(a, "n") for a in node.args)
        i = "one" if node.shape[1] == 1 else f"{self._lane(index, 1)[0]}[None, :]"

        def take(value: str, source: int, column: str) -> str:
            lanes = self.length(source, 1)
            r, c = self.length(index, 0), self.length(index, 1)
            if self.program.nodes[source].op == "const":
                return value
            if lanes == "1":
                return f"tl.broadcast_to({value}, ({r}, {c}))"
            whole = f"tl.broadcast_to({value}, ({r}, {lanes}))"
            if c == "1":  # one column out of many
                return f"tl.sum(tl.where({self._lane(source, 1)[0]}[None, :] == {column}, {self._clear(whole, source, 1, 'n')}, 0.0), axis=1, keep_dims=True)"
            if r == "1":
                return _gather(whole, lanes, column, r, c)
            return _gather(whole, f"{r} * {lanes}", f"tl.arange(0, {r})[:, None] * {lanes} + {column}", r, c)

        match node.op:
            case "cut":
                return same, lambda a: take(a[0], node.args[0], f"({i} + {self._number(node.attr)})")  # type: ignore[arg-type]
            case "pairs":
                return same, lambda a: take(a[0], node.args[0], f"(2 * {i} + {node.attr})")
            case "unpairs":
                return (
                    same,
                    lambda a: (
                        f"tl.where({i} % 2 == 0, {take(a[0], node.args[0], f'({i} // 2)')}, {take(a[1], node.args[1], f'({i} // 2)')})"
                    ),
                )
            case "kron":
                q = self._number(self._dim(node.args[1], 1))
                return (
                    same,
                    lambda a: (
                        f"{take(a[0], node.args[0], f'({i} // {q})')} * {take(a[1], node.args[1], f'({i} % {q})')}"
                    ),
                )
            case "cat":
                return same, lambda a: self._cat(index, node, a, i, take)
            case "unkron" if node.shape[0] == 1:
                return self._unkron(index, node)
            case "diagonal":
                r, c = self._lane(index, 0)[0], self._lane(index, 1)[0]
                return same, lambda a: f"tl.where({r}[:, None] == {c}[None, :], {a[0]}, 0.0)"
            case "topk" if node.shape[0] == 1:
                x = node.args[0]
                lane, _ = self._lane(x, 1)
                # entries before this one in descending order; of equal ones the earlier comes first
                return (
                    ((x, "n"), (x, "t")),
                    lambda a: (
                        f"tl.where(tl.sum({self._clear(f'tl.where(({a[1]} > {a[0]}) | (({a[1]} == {a[0]}) & ({lane}[:, None] < {lane}[None, :])), 1.0, 0.0)', x, 1, 't')}, axis=0, keep_dims=True) < {node.attr}, 1.0, 0.0)"
                    ),
                )
            case _:
                raise UnsupportedForm(f"`{node.op}` has no form in a kernel for single tokens")

    def _cat(self, index: int, node: Node, args: list[str], i: str, take: Callable[[str, int, str], str]) -> str:
        starts: list[Dim] = [0]
        for part in node.args[:-1]:
            width = self._dim(part, 1)
            starts.append(width if starts[-1] == 0 else DimOp("+", starts[-1], width))
        *rest, last = list(zip(starts, node.args, args, strict=True))
        out = take(last[2], last[1], f"tl.maximum({i} - {self._number(last[0])}, 0)")
        for (start, part, value), end in zip(reversed(rest), reversed(starts[1:]), strict=True):
            low = f"tl.maximum({i} - {self._number(start)}, 0)"
            width = self._number(self._dim(part, 1))
            out = f"tl.where({i} < {self._number(end)}, {take(value, part, f'tl.minimum({low}, {width} - 1)')}, {out})"
        return out

    def _unkron(self, index: int, node: Node) -> tuple[tuple[Demand, ...], Callable[[list[str]], str]]:
        """side 0: ct[i*q+j] other[j] summed over j; side 1: ct[i*q+j] other[i] summed over i."""
        ct, other = node.args
        first = node.attr == 0
        rows = self._lane(index, 1)[0] if self.shape(index)[1] != 1 else "one"
        columns = self._lane(other, 1)[0] if self.shape(other)[1] != 1 else "one"
        q = self._number(self._dim(other if first else index, 1))
        place = (
            f"({rows}[:, None] * {q} + {columns}[None, :])"
            if first
            else f"({columns}[None, :] * {q} + {rows}[:, None])"
        )
        r, c, lanes = self.length(index, 1), self.length(other, 1), self.length(ct, 1)
        assert "one" not in (rows, columns), "kron with a scalar is a product"
        return (
            (self._fit(ct, "n"), self._fit(other, "n")),
            lambda a: (
                f"tl.trans(tl.sum({self._clear(f'{_gather(a[0], lanes, place, r, c)} * {a[1]}', other, 1, 'n')}, axis=1, keep_dims=True))"
            ),
        )

    def _number(self, dim: Dim) -> str:
        """A size as an expression."""
        return size_text(dim, lambda name: f"n{self.space.label(name)}")
