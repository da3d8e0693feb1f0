"""Scans over tokens as Triton kernels: walks over pieces of sequences, several tokens in a turn.

    run, sum, join      forward: outputs; the composed maps of a piece; what enters each piece (`chunk.pieces`)
    back, dsum, djoin   backward: gradients; the same for cotangents, the join from the last piece

One kernel program for a piece (a sequence of pieces, for the joins), a head and a block of lanes. A turn takes `turn` tokens,
written out one after the other: they are loaded together, and their states stay in registers. Of the states that enter
tokens only the first of each segment is kept; the backward kernels make the others again, in registers for a turn, in scratch
memory for the turns of a segment if it has several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ruledsl.chunk.program import Port, PortKind, ResultKind
from ruledsl.emit.kernel_text import kernel, used_lines
from ruledsl.emit.token_kernels import Held, Module, member
from ruledsl.emit.token_tiles import CHANGING, Body
from ruledsl.emit.triton_spelling import literal
from ruledsl.emit.triton_token import kernel_arguments, size_lines
from ruledsl.schedule.token_split import Split


@dataclass(frozen=True, slots=True)
class Walk:
    """A kernel to be written. `starts`: what is carried from a number instead of from memory; if there is any, nothing else
    leaves. `from_last`: tokens are taken from the last (a join)."""

    name: str
    split: Split
    block: int
    turn: int  # tokens, a power of two
    segment: int  # tokens between kept states, a multiple of a turn
    back: bool = False
    starts: tuple[tuple[Port, float], ...] = ()
    keeps: bool = False  # what enters every segment is written for the backward kernels
    from_last: bool = False
    ragged: bool = False  # for any sizes, those of the call are an example


@dataclass(frozen=True, slots=True)
class WalkText:
    """A kernel, the function that launches it, and what its caller has to know."""

    name: str
    text: str
    inputs: tuple[str, ...]
    params: tuple[str, ...]
    blocks: int
    span: int  # entries that one kernel program holds of the states
    with_gradient: frozenset[str]
    partial: frozenset[str]  # every block gives a part of these


def walk_text(walk: Walk, sizes: Mapping[str, int]) -> WalkText:
    """Raises UnsupportedForm."""
    module = _Scan(walk, sizes)
    for _ in range(2):  # every size has its label before the kernel is written
        lines = used_lines(module.back() if walk.back else module.forward())
    arguments, constants = kernel_arguments(module, lines)
    text = f"{kernel(walk.name, arguments, constants, lines)}\n\n\n{module.launcher(arguments, constants)}"
    space, programs = module.space, (walk.split.forward.program, walk.split.gradient.program)
    n = space.number(space.cut) if space.cut is not None else 1
    ports = [p for program in programs for p in program.ports]
    body = module.body("v", "", "")
    return WalkText(
        walk.name,
        text,
        tuple(dict.fromkeys(p.name for p in ports if p.kind is PortKind.INPUT)),
        tuple(dict.fromkeys(p.name for p in ports if p.kind is PortKind.PARAM)),
        -(-n // space.block) if module.cut else 1,
        sum(body.entries(h.leave) for h in module.states),
        module.with_gradient,
        module.partial,
    )


class _Scan(Module):
    def __init__(self, walk: Walk, sizes: Mapping[str, int]) -> None:
        super().__init__(walk.split, sizes, walk.block, walk.ragged)
        self.walk = walk
        self.starts = dict(walk.starts)
        gradient = walk.split.gradient
        carried = [r for r in gradient.program.results if r.kind is ResultKind.STATE]
        self.maps = self._states(gradient, "M", carried) if walk.back else []

    # ------------------------------------------------------------------------------------------------ one token

    def body(
        self, prefix: str, token: str, place: str, held: Sequence[Held] = (), early: tuple[PortKind, ...] = ()
    ) -> Body:
        """The forward program at a token."""
        marked = self.split.forward
        nodes = self._nodes(marked.program, (PortKind.STATE,), list(held))
        return Body(marked, self.space, prefix, nodes, self._load_at(token, place), early, "c")

    def _turn(self) -> list[str]:
        """Where the tokens of a turn are, and which there are."""
        lines = ["token0 = end - 1 - turn" if self.walk.from_last else "token0 = begin + turn"]
        for j in range(1, self.walk.turn):
            own = f"tl.maximum(token0 - {j}, begin)" if self.walk.from_last else f"tl.minimum(token0 + {j}, end - 1)"
            lines += [f"token{j} = {own}", f"live{j} = one + (turn + {j}) < end - begin"]
        return lines

    def _live(self, j: int) -> str:
        return f"live{j}" if j else ""

    def _if_live(self, j: int, value: str, other: str) -> str:
        return f"tl.where(live{j}, {value}, {other})" if j and value != other else value

    def _kept(self, body: Body, segment: str) -> list[tuple[Held, str]]:
        """Where the states that enter a segment are kept."""
        names = list(dict.fromkeys(h.port.name for h in self.states))
        width = {h.port.name: f"({self._width(h.port)})" for h in self.states}
        base = f"kept + ((row + {segment}) * H + h) * ({' + '.join(width.values())})"
        found = []
        for h in self.states:
            before = [width[n] for n in names[: names.index(h.port.name)]]
            found.append((h, " + ".join([base, *before])))
        return found

    def _replayed(self, prefix: str, tokens: int, outputs: bool) -> tuple[list[str], list[str], list[str]]:
        """Lines ahead, loads and lines of the first tokens of a turn; what enters token j is called `_entering(h, j)`."""
        ahead, loads, lines = list[str](), list[str](), list[str]()
        for j in range(tokens):
            held = [Held(h.port, h.leave, _entering(h, j), h.o) for h in self.states]
            body = self.body(f"{prefix}{j}", f"token{j}", f"place + turn + {j}", held, CHANGING if outputs else ())
            self._want(body, self.states, outputs)
            ahead += body.ahead
            loads += [f"{n} = {x}" for n, x in body.fetched]
            lines += body.lines
            if outputs:
                lines += self._outputs(body, f"token{j}", self._live(j))
            for h in self.states:
                value = self._if_live(j, body.full(h.leave, h.o), _entering(h, j))
                lines.append(f"{_entering(h, j + 1)} = {value}")
        return ahead, loads, lines

    # ------------------------------------------------------------------------------------------------ kernels

    def forward(self) -> list[str]:
        body = self.body("v", "", "")
        ahead, loads, lines = self._replayed("v", self.walk.turn, True)
        keep = [self._store(at, body, h.leave, h.port, h.o, h.name) for h, at in self._kept(body, "turn // C")]
        if self.walk.segment != self.walk.turn:
            keep = ["if turn % C == 0:", *("    " + line for line in keep)]
        last = [f"{h.name} = {_entering(h, self.walk.turn)}" for h in self.states]
        inner = [*self._turn(), *loads, *(keep if self.walk.keeps else []), *lines, *last]
        leaving = [h for h in self.states if not self.starts or h.port in self.starts]
        return [
            *self._sequence(),
            *self._begin(body, self.states, "s", once=False),
            *dict.fromkeys(ahead),
            f"for turn in range(0, end - begin, {self.walk.turn}):",
            *("    " + line for line in inner),
            *self._leave(body, leaving, "f", "sequence"),
        ]

    def back(self) -> list[str]:
        """From the last turn: what enters its tokens is made again, then the tokens are taken from the last."""
        turn, marked = self.walk.turn, self.split.gradient
        forward = self.body("a", "", "")
        ahead, loads, lines = self._replayed("a", turn - 1, False)
        moving = [*self.cotangents, *self.dropped]
        sums = [r for r in self.gradients if r.port and r.port.kind is PortKind.PARAM]
        inputs = [r for r in self.gradients if r not in sums]
        zeros: dict[str, str] = {}
        body = forward
        for j in reversed(range(turn)):
            held = self._nodes(
                marked.program, (PortKind.STATE,), [Held(h.port, h.leave, _entering(h, j), h.o) for h in self.states]
            )
            held |= self._nodes(
                marked.program, (PortKind.STATE,), [Held(h.port, h.leave, self._leaving(h, j), h.o) for h in self.maps]
            )
            held |= self._nodes(
                marked.program, (PortKind.COTANGENT,), [Held(h.port, h.leave, self._leaving(h, j), h.o) for h in moving]
            )
            body = Body(
                marked,
                self.space,
                f"v{j}",
                held,
                self._load_at(f"token{j}", f"place + turn + {j}"),
                (PortKind.COTANGENT,),
                "k",
            )
            for r in self.gradients:
                body.want(r.node, body.best(r.node))
            self._want(body, [*self.cotangents, *self.maps], outputs=False)
            ahead += body.ahead
            loads += [f"{n} = {x}" for n, x in body.fetched]
            lines += body.lines
            for r in inputs:
                o = body.best(r.node)
                assert r.port is not None
                lines.append(
                    self._gradient(body, r.node, r.port, o, f"token{j}", "N", body.full(r.node, o), self._live(j))
                )
            for r in sums:
                assert r.port is not None
                name, o = member("G", r.port), body.best(r.node)
                zeros[name] = f"{name} = tl.zeros({body.tile(r.node, o)}, tl.float32)"
                lines.append(f"{name} += {self._if_live(j, body.full(r.node, o), '0.0')}")
            for h in [*self.cotangents, *self.maps]:
                lines.append(
                    f"{self._leaving(h, j - 1)} = {self._if_live(j, body.full(h.leave, h.o), self._leaving(h, j))}"
                )
            for h in self.dropped:
                zero = f"tl.zeros({body.tile(h.leave, h.o)}, tl.float32)"
                lines.append(f"{self._leaving(h, j - 1)} = {self._if_live(j, zero, self._leaving(h, j))}")
        last = [f"{h.name} = {self._leaving(h, -1)}" for h in [*moving, *self.maps]]
        reverse = [*self._turn(), *loads, *lines, *last]
        finish = [
            self._gradient(body, r.node, r.port, body.best(r.node), "sequence", "S", member("G", r.port))
            for r in sums
            if r.port is not None
        ]
        for h in self.cotangents:
            if not self.starts or h.port in self.starts:
                finish.append(self._gradient(body, h.leave, h.port, h.o, "sequence", "S", h.name))
        return [
            *self._sequence(),
            "segments = (end - begin + C - 1) // C",
            *self._begin(body, [*moving, *self.maps], "df", once=True),
            *zeros.values(),
            *dict.fromkeys([*self._replayed("a", turn, False)[0], *ahead]),
            "for done in range(0, segments):",
            *("    " + line for line in self._segment(forward, reverse)),
            *finish,
            *self._leave(body, self.maps, "g", "sequence"),
        ]

    def _segment(self, body: Body, reverse: list[str]) -> list[str]:
        """A segment, given the lines of a turn that is gone through from its last token."""
        first = [
            f"{h.name} = tl.load({self._at(at, body, h.leave, h.port, h.o)})" for h, at in self._kept(body, "segment")
        ]
        head = ["segment = segments - 1 - done", *first]
        if self.walk.segment == self.walk.turn:
            return [*head, "turn = segment * C", *reverse]
        program = "tl.program_id(0).to(tl.int64)" + (" * BLOCKS + block" if self.cut else "")
        spot = f"spot = scratch + (({program}) * TURNS + at) * ({self._span(body)})"
        places = self._places(body)
        store = [spot, *(f"tl.store({at}, {h.name}{mask})" for h, at, mask in places)]
        load = [spot, *(f"{h.name} = tl.load({at})" for h, at, _ in places)]
        _, loads, lines = self._replayed("a", self.walk.turn, False)
        last = [f"{h.name} = {_entering(h, self.walk.turn)}" for h in self.states]
        where = f"turn = segment * C + at * {self.walk.turn}"
        again = [*store, where, *self._turn(), *loads, *lines, *last]
        return [
            *head,
            f"turns = tl.cdiv(tl.minimum(end - begin - segment * C, C), {self.walk.turn})",
            "for at in range(0, turns):",
            *("    " + line for line in again),
            "tl.debug_barrier()  # what was laid out is read by other threads",
            "for left in range(0, turns):",
            *("    " + line for line in ["at = turns - 1 - left", *load, where, *reverse]),
            "tl.debug_barrier()",
        ]

    def _places(self, body: Body) -> list[tuple[Held, str, str]]:
        """Where the blocks of the states lie in scratch memory, and masks: with offsets as in the tensors of whole states."""
        found, base = [], "spot"
        for h in self.states:
            own, (rows, columns) = base, (body.length(h.leave, axis) for axis in (0, 1))
            if (axis := body.cut[h.leave]) is not None:
                step = body.shape(h.leave)[1] if axis == 0 else 1
                own += " - block * BLOCK" + (f" * n{self.space.label(step)}" if step != 1 else "")  # type: ignore[arg-type]
            mask = body.mask(h.leave, h.o)
            found.append((h, f"{own} + {body.offsets(h.leave, h.o)}", f", mask={mask}" if mask else ""))
            base += f" + {rows} * {columns}"
        return found

    def _leaving(self, h: Held, j: int) -> str:
        """The cotangent of what leaves token j."""
        return h.name if j == self.walk.turn - 1 else f"w{j + 1}{h.name}"

    def _begin(self, body: Body, held: Sequence[Held], prefix: str, once: bool) -> list[str]:
        """What is carried, before the first token that is taken."""
        lines = []
        for h in held:
            if h.port in self.starts:
                lines.append(
                    f"{h.name} = tl.full({body.tile(h.leave, h.o)}, {literal(self.starts[h.port])}, tl.float32)"
                )
            else:
                lines += self._enter(body, [h], prefix, "sequence", once)
        return lines

    # ------------------------------------------------------------------------------------------------ text

    def launcher(self, arguments: list[tuple[str, str]], constants: list[str]) -> str:
        name = self.walk.name
        if self.walk.back:
            head = f"{name}(x, kept, scratch, position, bounds, d_outputs, d_final, found, N, H, sizes, warps)"
        else:
            head = f"{name}(x, states, final, position, bounds, kept, outputs, H, sizes, warps)"
        walk = self.walk
        special = {"C": walk.segment, "TURNS": walk.segment // walk.turn}
        known = "".join(f"{c}={special.get(c, c)}, " for c in constants)
        lines = [
            f'"""{_SAID[self.walk.back]}"""',
            *size_lines(self),
            "S = bounds.shape[0] - 1",
            f"{name}_kernel[(S * H, {'BLOCKS' if self.cut else '1'})](",
            f"    {', '.join(e for _, e in arguments)},",
            f"    {known}num_warps=warps,",
            ")",
        ]
        return "\n".join([f"def {head}:", *("    " + line for line in lines)])


def _entering(h: Held, j: int) -> str:
    """What enters token j of a turn."""
    return h.name if j == 0 else f"t{j}{h.name}"


_SAID = {
    False: "x [tokens, Hg, ...] by name, params [H, ...]; states and final [pieces, H, ...]; outputs [tokens, H, ...].",
    True: "Gradients into found: of inputs [(blocks,) tokens, H, ...], of params and states [(blocks,) pieces, H, ...].",
}
