"""The kernels of a token program and its gradient: the lines of their bodies.

    step      one token for every row of a batch; states stay in a pool, row by row or by slot (slot -1: nothing happens)
    forward   the tokens of a sequence in a loop, states in registers; every C-th entering state is kept
    backward  segments of C tokens from the last: the entering states are made again from the kept one and laid out in
              memory, then the tokens are gone through from the last, cotangents of the states in registers

One kernel program for a sequence (a row) and head, and for a block of lanes where an axis may be cut. Entering states
in memory are tiles with all their lanes. Gradients of what blocks share come with an axis of blocks, of params with an
axis of sequences; both are summed at the end, so no result depends on the order in which programs run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ruledsl.chunk.program import Port, PortKind, Program, Result, ResultKind
from ruledsl.emit.token_space import Space, name_of
from ruledsl.emit.token_tiles import CHANGING, Body
from ruledsl.lang.typed import Type
from ruledsl.schedule.token_split import Marked, Split

Load = Callable[[Body, int, Port, str], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Held:
    """A state in registers: its port, the node that leaves, its name and orientation."""

    port: Port
    leave: int
    name: str
    o: str


def member(prefix: str, port: Port) -> str:
    return name_of(prefix + "m".join(map(str, port.member)), port.name)


class Module:
    """The lines of the three kernels, and what they hold. `split`: which axis is cut; `ragged`: any lane may be padding."""

    def __init__(self, split: Split, sizes: Mapping[str, int], block: int, ragged: bool = False) -> None:
        f = split.forward.program
        self.split = split
        self.cut = split.dim is not None
        self.space = Space(sizes, split.dim, block, ragged)
        self.types: dict[str, Type] = dict(f.types) | dict(split.gradient.program.types)
        for marked in (split.forward, split.gradient):  # sizes of products are known before anything is written
            Body(marked, self.space, "", {}, self._load_at("", ""))
        self.states = self._states(split.forward, "S", [r for r in f.results if r.kind is ResultKind.STATE])
        found = [r for r in split.gradient.program.results if r.kind is ResultKind.GRADIENT]
        zero = {r.port for r in found if split.gradient.program.nodes[r.node].op in ("full", "const")}
        self.gradients = [r for r in found if r.port not in zero and r.port and r.port.kind is not PortKind.STATE]
        back = {r.port: r for r in found if r.port}
        self.cotangents = self._states(split.gradient, "D", [back[h.port] for h in self.states if h.port in back])
        carried = {h.port for h in self.cotangents}
        self.dropped = [  # cotangents of states that no token reads: only the last token's counts
            Held(port, i, member("D", port), "n")
            for i, node in enumerate(split.gradient.program.nodes)
            if node.op == "input" and (own := split.gradient.program.port(node)).kind is PortKind.COTANGENT
            if (port := Port(own.name, PortKind.STATE, own.member)) in {h.port for h in self.states} - carried
        ]
        self.partial = frozenset(
            r.port.name for r in found if self.cut and r.port and split.gradient.cut[r.node] is None
        )
        self.with_gradient = frozenset(r.port.name for r in found if r.port and r.port not in zero)

    # ------------------------------------------------------------------------------------------------ states

    def _states(self, marked: Marked, prefix: str, results: Iterable[Result]) -> list[Held]:
        trial = Body(marked, self.space, "", {}, self._load_at("", ""))
        return [Held(r.port, r.node, member(prefix, r.port), trial.best(r.node)) for r in results if r.port]

    def _nodes(self, program: Program, kinds: tuple[PortKind, ...], held: list[Held]) -> dict[int, tuple[str, str]]:
        """The input nodes of states (or their cotangents) with the names that hold them."""
        by_port = {(h.port.name, h.port.member): (h.name, h.o) for h in held}
        found = {}
        for i, node in enumerate(program.nodes):
            if node.op == "input" and (port := program.port(node)).kind in kinds:
                if (port.name, port.member) in by_port:
                    found[i] = by_port[port.name, port.member]
        return found

    # ------------------------------------------------------------------------------------------------ memory

    def _load_at(self, token: str, place: str) -> Load:
        def load(body: Body, index: int, port: Port, o: str) -> tuple[str, str]:
            match port.kind:
                case PortKind.POSITION:
                    return "", f"({place} + one).to(tl.float32)"
                case PortKind.HEAD:
                    return "", "(h + one).to(tl.float32)"
                case PortKind.HEADS:
                    return "", "(H + one).to(tl.float32)"
                case PortKind.SIZE:
                    return "", f"tl.full((1, 1), n{self.space.label(port.name)}, tl.float32)"
                case PortKind.PARAM:
                    base = f"{name_of('p', port.name)} + h * ({self._width(port)})"
                    return f"tl.load({self._at(base, body, index, port, o)})", "{}.to(tl.float32)"
                case PortKind.INPUT:
                    n = port.name
                    base = f"{name_of('x', n)} + {token} * {name_of('xt', n)} + h // {name_of('xg', n)} * {name_of('xh', n)}"
                    return f"tl.load({self._at(base, body, index, port, o)})", "{}.to(tl.float32)"
                case PortKind.COTANGENT:
                    base = f"{name_of('c', port.name)} + ({token} * H + h) * ({self._width(port)})"
                    shared = self.cut and body.cut[index] is None
                    form = "tl.where(block == 0, {}.to(tl.float32), 0.0)" if shared else "{}.to(tl.float32)"
                    return f"tl.load({self._at(base, body, index, port, o)})", form
                case _:
                    raise AssertionError(f"{port} is not in registers")

        return load

    def _width(self, port: Port) -> str:
        return self.space.width(self.types[port.name])

    def _at(self, base: str, body: Body, index: int, port: Port, o: str) -> str:
        start = self.space.start(port, self.types[port.name])
        return " + ".join(p for p in (base, start, body.offsets(index, o)) if p)

    def _store(self, base: str, body: Body, index: int, port: Port, o: str, value: str, live: str = "") -> str:
        mask = " & ".join(m for m in (live, body.mask(index, o)) if m)
        return f"tl.store({self._at(base, body, index, port, o)}, {value}{f', mask={mask}' if mask else ''})"

    def _tile_places(self, body: Body, held: list[Held]) -> list[tuple[Held, str]]:
        """Where the whole tiles of the states lie in a span."""
        found, before = [], list[str]()
        for h in held:
            r, c = body.length(h.leave, 0), body.length(h.leave, 1)
            r, c = (r, c) if h.o == "n" else (c, r)
            inner = f"tl.arange(0, {r})[:, None] * {c} + tl.arange(0, {c})[None, :]"
            found.append((h, " + ".join([*before, inner])))
            before.append(f"{r} * {c}")
        return found

    def _span(self, body: Body) -> str:
        return " + ".join(f"{body.length(h.leave, 0)} * {body.length(h.leave, 1)}" for h in self.states)

    # ------------------------------------------------------------------------------------------------ pieces

    def forward_body(self, token: str, place: str, prefix: str, early: bool = False) -> Body:
        marked = self.split.forward
        held = self._nodes(marked.program, (PortKind.STATE,), self.states)
        return Body(marked, self.space, prefix, held, self._load_at(token, place), CHANGING if early else ())

    def _loop(self, body: Body, count: str, first: str, token: str, ahead: str, lines: list[str]) -> list[str]:
        """Turns over tokens; what they load was loaded in the turn before. `ahead` is the next turn's token."""
        inner = [
            token,
            f"ahead = {ahead}",
            *(f"next{n} = {_moved(x, 'ahead')}" for n, x in body.fetched),
            *lines,
            *(f"{n} = next{n}" for n, _ in body.fetched),
        ]
        return [
            f"first = {first}",
            *(f"{n} = {_moved(x, 'first')}" for n, x in body.fetched),
            f"for turn in range(0, {count}):",
            *("    " + line for line in inner),
        ]

    def _enter(self, body: Body, held: list[Held], prefix: str, row: str, once: bool = False) -> list[str]:
        """Load states from the caller's tensors."""
        lines = []
        for h in held:
            base = f"{name_of(prefix, h.port.name)} + ({row} * H + h) * ({self._width(h.port)})"
            found = f"tl.load({self._at(base, body, h.leave, h.port, h.o)}).to(tl.float32)"
            if once and self.cut and body.cut[h.leave] is None:
                found = f"tl.where(block == 0, {found}, 0.0)"
            lines.append(f"{h.name} = {found}")
        return lines

    def _update(self, body: Body, held: list[Held]) -> list[str]:
        """What was held becomes what leaves, all at once."""
        names = {h.name for h in held}
        pairs = [(h.name, body.full(h.leave, h.o)) for h in held]
        first = [f"next{name} = {value}" for name, value in pairs if value in names and value != name]
        later = [f"{name} = {f'next{name}' if value in names else value}" for name, value in pairs if value != name]
        return first + later

    def _outputs(self, body: Body, token: str, live: str = "") -> list[str]:
        lines = []
        for r in body.program.results:
            if r.kind is ResultKind.OUTPUT:
                port = r.port or Port(r.name, PortKind.COTANGENT)
                o = body.best(r.node)
                base = f"{name_of('o', r.name)} + ({token} * H + h) * ({self._width(port)})"
                lines.append(self._store(base, body, r.node, port, o, body.full(r.node, o), live))
        return lines

    def _want(self, body: Body, held: list[Held], outputs: bool) -> None:
        for h in held:
            body.want(h.leave, h.o)
        for r in body.program.results:
            if outputs and r.kind is ResultKind.OUTPUT:
                body.want(r.node, body.best(r.node))
        body.write()

    def _leave(self, body: Body, held: list[Held], prefix: str, row: str) -> list[str]:
        return [
            self._store(
                f"{name_of(prefix, h.port.name)} + ({row} * H + h) * ({self._width(h.port)})",
                body,
                h.leave,
                h.port,
                h.o,
                h.name,
            )
            for h in held
        ]

    # ------------------------------------------------------------------------------------------------ kernels

    def step(self) -> list[str]:
        body = self.forward_body("b", "place", "v")
        self._want(body, self.states, outputs=True)
        values = {h.name: body.full(h.leave, h.o) for h in self.states}
        stores = []
        for h in self.states:
            base = f"{name_of('f', h.port.name)} + (slot * H + h) * ({self._width(h.port)})"
            stores.append(self._store(base, body, h.leave, h.port, h.o, values[h.name]))
        return [
            "b = tl.program_id(0).to(tl.int64) // H",
            "h = tl.program_id(0).to(tl.int64) % H",
            "slot = b",
            "if POOLED:",
            "    slot = tl.load(slots + b).to(tl.int64)",
            "    if slot < 0:",
            "        return",
            *self._index_lines(),
            "place = tl.load(position + slot)",
            *self._enter(body, self.states, "s", "slot"),
            *body.ahead,
            *body.lines,
            *self._outputs(body, "b"),
            *stores,
        ]

    def _index_lines(self) -> list[str]:
        return ["block = tl.program_id(1)", "one = tl.zeros((1, 1), tl.int32)", *self._lanes()]

    def _sequence(self) -> list[str]:
        return [
            "sequence = tl.program_id(0).to(tl.int64) // H",
            "h = tl.program_id(0).to(tl.int64) % H",
            *self._index_lines(),
            "begin = tl.load(bounds + sequence)",
            "end = tl.load(bounds + sequence + 1)",
            "place = tl.load(position + sequence)",
            "row = begin // C + sequence",
        ]

    def _spot(self, segment: str) -> str:
        return f"(({segment} * H + h) * BLOCKS + block)" if self.cut else f"({segment} * H + h)"

    def forward(self) -> list[str]:
        body = self.forward_body("token", "place + turn", "v", early=True)
        self._want(body, self.states, outputs=True)
        keep = [f"    tl.store(spot + {at}, {h.name})" for h, at in self._tile_places(body, self.states)]
        inner = [
            "if turn % C == 0:",
            f"    spot = kept + {self._spot('(row + turn // C)')} * ({self._span(body)})",
            *keep,
            *body.lines,
            *self._outputs(body, "token"),
            *self._update(body, self.states),
        ]
        first = "tl.maximum(tl.minimum(begin, end - 1), 0)"  # a token that exists, of an empty sequence too
        return [
            *self._sequence(),
            *self._enter(body, self.states, "s", "sequence"),
            *body.ahead,
            *self._loop(body, "end - begin", first, "token = begin + turn", "tl.minimum(token + 1, end - 1)", inner),
            *self._leave(body, self.states, "f", "sequence"),
        ]

    def backward(self) -> list[str]:
        again = self.forward_body("token", "place + token - begin", "a", early=True)
        self._want(again, self.states, outputs=False)
        marked = self.split.gradient
        held = self._nodes(marked.program, (PortKind.STATE,), self.states)
        cotangents = self._nodes(marked.program, (PortKind.COTANGENT,), [*self.cotangents, *self.dropped])
        body = Body(marked, self.space, "v", held | cotangents, self._load_at("token", "place + token - begin"), CHANGING)
        for r in self.gradients:
            body.want(r.node, body.best(r.node))
        self._want(body, self.cotangents, outputs=False)
        span = self._span(again)
        places = self._tile_places(again, self.states)
        load = [f"{h.name} = tl.load(spot + {at})" for h, at in places]
        store = [f"tl.store(spot + {at}, {h.name})" for h, at in places]
        scratch = f"spot = scratch + ({'(tl.program_id(0).to(tl.int64) * BLOCKS + block)' if self.cut else 'tl.program_id(0).to(tl.int64)'} * C + "
        sums = [r for r in self.gradients if r.port and r.port.kind is PortKind.PARAM]
        start, add, finish = [], [], []
        for r in sums:
            assert r.port is not None
            name, o = member("G", r.port), body.best(r.node)
            start.append(f"{name} = tl.zeros({body.tile(r.node, o)}, tl.float32)")
            add.append(f"{name} += {body.full(r.node, o)}")
            finish.append(self._gradient(body, r.node, r.port, o, "sequence", "S", name))
        stores = [
            self._gradient(body, r.node, r.port, o, "token", "N", body.full(r.node, o))
            for r in self.gradients
            if r.port and r.port.kind is PortKind.INPUT and (o := body.best(r.node))
        ]
        replay = [
            f"{scratch}turn) * ({span})",
            *store,
            *again.lines,
            *self._update(again, self.states),
        ]
        reverse = [
            f"{scratch}count - 1 - turn) * ({span})",
            *load,
            *body.lines,
            *stores,
            *add,
            *self._update(body, self.cotangents),
            *(f"{h.name} = tl.zeros({body.tile(h.leave, h.o)}, tl.float32)" for h in self.dropped),
        ]
        inner = [
            "segment = segments - 1 - back",
            "start = begin + segment * C",
            "count = tl.minimum(end - start, C)",
            f"spot = kept + {self._spot('(row + segment)')} * ({span})",
            *load,
            *self._loop(again, "count", "start", "token = start + turn", "tl.minimum(token + 1, end - 1)", replay),
            "tl.debug_barrier()  # what was laid out is read by other threads",
            *self._loop(
                body,
                "count",
                "start + count - 1",
                "token = start + count - 1 - turn",
                "tl.maximum(token - 1, start)",
                reverse,
            ),
            "tl.debug_barrier()",
        ]
        return [
            *self._sequence(),
            "segments = (end - begin + C - 1) // C",
            *self._enter(body, [*self.cotangents, *self.dropped], "df", "sequence", once=True),
            *start,
            *again.ahead,
            *body.ahead,
            "for back in range(0, segments):",
            *("    " + line for line in inner),
            *finish,
            *(self._gradient(body, h.leave, h.port, h.o, "sequence", "S", h.name) for h in self.cotangents),
        ]

    def _gradient(
        self, body: Body, index: int, port: Port, o: str, row: str, rows: str, value: str, live: str = ""
    ) -> str:
        """Store a gradient; what all blocks have is stored for each of them."""
        if self.cut and body.cut[index] is None:
            row = f"(block * {rows} + {row})"
        base = f"{name_of('g', port.name)} + ({row} * H + h) * ({self._width(port)})"
        return self._store(base, body, index, port, o, value, live)

    # ------------------------------------------------------------------------------------------------ text

    def _lanes(self) -> list[str]:
        """Index vectors, clamped to real lanes only where there are others: a clamp hides that memory is contiguous."""
        axes = [(dim, label, f"tl.arange(0, B{label})", False) for dim, label in self.space.labels.items()]
        if self.cut:
            axes.insert(0, (self.space.cut, "row", "block * BLOCK + tl.arange(0, BLOCK)", True))  # type: ignore[arg-type]
        lines = []
        for dim, label, lanes, cut in axes:
            if self.space.padded(dim, cut):
                n = f"n{self.space.label(dim)}"
                lines += [f"i{label} = tl.minimum({lanes}, {n} - 1)", f"m{label} = {lanes} < {n}"]
            else:
                lines.append(f"i{label} = {lanes}")
        return lines


def _moved(load: str, token: str) -> str:
    """A load of another token."""
    return re.sub(r"\btoken\b", token, load)
