"""One pass of a schedule as the body of a Python function over tiles [B, H, N, rows, columns].

Free and after nodes are computed for all N chunks at once. Serial nodes stand in a loop over the chunks, on slices
[B, H, rows, columns]. A node that is used once, in its own phase, is written inside its user while that reads well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ruledsl.chunk.program import Port, PortKind, ResultKind
from ruledsl.chunk.systems import body, inside
from ruledsl.emit.names import Names, identifier, quoted
from ruledsl.emit.release import release
from ruledsl.emit.torch_expression import ATOM, Scope, Text, expression, tensor
from ruledsl.schedule.keys import VALID, port_key
from ruledsl.schedule.labels import Carry, Label, port_of
from ruledsl.schedule.plan import Pass

LONGEST_INSIDE = 48  # characters of an expression that is written inside another
_STEMS = {
    "gram": "pairs",
    "chain_gram": "pairs",
    "inverse": "inv",
    "mexp": "decay",
    "spans": "decay",
    "eye": "eye",
    "full": "fill",
    "unknown": "x",
    "conjugate": "x",
}
_PREFIXES = {
    "cumsum": "sum_",
    "cumprod": "prod_",
    "sum": "sum_",
    "amax": "top_",
    "mask": "",
    "shift": "prev_",
    "last": "last_",
}
_SHARED = (PortKind.PARAM, PortKind.HEAD, PortKind.HEADS)
_INLINE = frozenset({"map", "select", "transpose", "expand", "sum", "cut", "const"})


class PassText:
    """Writes one pass. `states`, `packed`: the names of the argument with what enters the first chunk, and of the marks."""

    def __init__(self, own: Pass, scope: Scope, taken: frozenset[str], states: str, packed: str, reverse: bool) -> None:
        self.own = own
        self.program = own.program
        self.scope = scope
        self.names = Names(taken | set(scope.sizes.values()))
        self.states, self.packed, self.reverse = states, packed, reverse
        self.users: dict[int, list[int]] = {}
        for i, node in enumerate(self.program.nodes):
            for a in node.args:
                self.users.setdefault(a, []).append(i)
        self.enters = {c.enter: c for c in own.carries if c.enter is not None}
        self.leaves = {c.leave for c in own.carries}
        self.recipes = inside(self.program)
        self.wishes = self._wishes()
        self.texts: dict[int, Text] = {}  # free and after values, all chunks
        self.steps: dict[int, Text] = {}  # serial values of one chunk
        self.chunked = self._chunked()
        self.carried: dict[str, str] = {}  # state -> the variable that holds it in the loop
        self.stacked: dict[str, str] = {}  # state -> what entered each chunk
        self.left: dict[str, str] = {}

    # ------------------------------------------------------------------------------------------------ names

    def _wishes(self) -> dict[int, str]:
        wishes: dict[int, str] = {}
        for r in self.program.results:
            if r.kind is ResultKind.OUTPUT:
                wishes.setdefault(r.node, identifier(r.name))
            elif r.kind is ResultKind.GRADIENT and r.node not in self.leaves and r.port is not None:
                wishes.setdefault(r.node, "d_" + _port_name(r.port))
        return wishes

    def _wish(self, index: int) -> str:
        """A name for a node after what it is made of."""
        if index in self.wishes:
            return self.wishes[index]
        node = self.program.nodes[index]
        port = port_of(self.program, index)
        if port is not None:
            wish = ("d_" if port.kind is PortKind.COTANGENT else "") + _port_name(port)
        elif node.op in _STEMS:
            wish = _STEMS[node.op]
        elif node.op == "dot":
            wish = "_".join(self._stem(a) for a in node.args)
            wish = wish if len(wish) <= 12 else "m"
        elif node.args:
            values = node.args[2:] if node.op == "select" else node.args
            main = next((a for a in values if self._is_main(a, index)), values[0])
            wish = _PREFIXES.get(node.op, "") + self._stem(main)
        else:
            wish = "x"
        self.wishes[index] = wish[:16]
        return self.wishes[index]

    def _is_main(self, argument: int, index: int) -> bool:
        node = self.program.nodes[argument]
        return node.op != "const" and node.shape == self.program.nodes[index].shape

    def _stem(self, index: int) -> str:
        return self._wish(index).rstrip("0123456789_") or "x"

    # ------------------------------------------------------------------------------------------------ values

    def _chunked(self) -> dict[int, bool | None]:
        """Per node: True, one value per chunk; False, one for all chunks ([., ., 1, r, c]); None, without batch axes."""
        kinds: dict[int, bool | None] = {}
        for i, node in enumerate(self.program.nodes):
            port = port_of(self.program, i)
            if port is not None:
                kinds[i] = None if port.kind is PortKind.SIZE else port.kind not in _SHARED
            else:
                of = [kinds[a] for a in node.args]
                kinds[i] = True if True in of else False if False in of else None
        return kinds

    def _read(self, index: int, phase: Label) -> Text:
        """The text of a node where a node of that phase uses it."""
        if phase is not Label.SERIAL:
            return self.texts[index]
        if index in self.steps:
            return self.steps[index]
        text = self.texts[index]
        kind = self.chunked[index]
        if kind is None or text.number:
            return text
        return Text(f"{text.code}[:, :, {'n' if kind else '0'}]", ATOM)

    def _inside(self, index: int, text: Text, phase: Label) -> bool:
        """Is the node written inside its user?"""
        node = self.program.nodes[index]
        if text.number or (node.op == "transpose" and text.code.removesuffix(".mT").isidentifier()):
            return True
        users = self.users.get(index, [])
        if index in self.leaves and not users and index not in self.own.kept:
            return True  # stands where the carried value is assigned
        named = index in self.own.kept or index in self.leaves or any(r.node == index for r in self.program.results)
        if named or len(users) != 1 or node.op not in _INLINE or self.own.labels[users[0]] is not phase:
            return False
        if users[0] in self.recipes:  # made once, and read each time that the system's matrix is applied
            return False
        user = self.program.nodes[users[0]]
        repeated = user.op == "map" and user.args.count(index) > 1
        return not repeated and len(text.code) <= LONGEST_INSIDE

    def _statements(self, phase: Label, done: frozenset[int] = frozenset()) -> Iterator[str]:
        table = self.steps if phase is Label.SERIAL else self.texts
        for i in self.own.phase(phase):
            node = self.program.nodes[i]
            if i in table or i in done or i in self.recipes:
                continue
            if node.op == "conjugate":
                yield from self._system(i, phase)
                continue
            if node.op == "input":
                yield from self._load(i)
                continue
            text = expression(self.program, node, [self._read(a, phase) for a in node.args], self.scope)
            if self._inside(i, text, phase):
                table[i] = text
            else:
                table[i] = Text(self.names.new(self._wish(i)))
                yield f"{table[i].code} = {text.code}"

    def _system(self, index: int, phase: Label) -> Iterator[str]:
        """The product with a system's matrix as a function, and its solution."""
        node, call = self.program.nodes[index], self.scope.call
        unknown, image, right = node.args
        inner = body(self.program, index)
        apply, x = self.names.new("apply"), self.names.new("x")
        texts = {unknown: Text(x)}
        lines = []
        for i in inner:
            own = self.program.nodes[i]
            text = expression(self.program, own, [texts.get(a) or self._read(a, phase) for a in own.args], self.scope)
            users = [u for u in self.users[i] if u in inner]
            once = len(users) <= 1 and own.op in _INLINE and len(text.code) <= LONGEST_INSIDE
            texts[i] = text if once else Text(self.names.new(self._wish(i)))
            lines += [] if once else [f"    {texts[i].code} = {text.code}"]
        yield f"def {apply}({x}):"
        yield from lines
        yield f"    return {texts[image].code}"
        table = self.steps if phase is Label.SERIAL else self.texts
        table[index] = Text(self.names.new(self._wish(index)))
        yield f"{table[index].code} = {call('conjugate')}({apply}, {self._read(right, phase).code}, {node.attr!r})"

    def _load(self, index: int) -> Iterator[str]:
        port = port_of(self.program, index)
        assert port is not None
        if port.kind is PortKind.SIZE:
            self.texts[index] = Text(f"float({self.scope.sizes[port.name]})", ATOM, True)
            return
        if port.kind is PortKind.VALID:
            self.texts[index] = Text("valid")
            return
        source = {PortKind.STATE: "entering", PortKind.COTANGENT: "douts"}.get(port.kind, "tiles")
        self.texts[index] = Text(self.names.new(self._wish(index)))
        yield f"{self.texts[index].code} = {source}[{quoted(port_key(port))}]"

    def result(self, index: int) -> str:
        """A tensor, after all phases."""
        return tensor(self.texts[index], self.scope).code

    # ------------------------------------------------------------------------------------------------ phases

    def body(self) -> Iterator[str]:
        """The statements, without the return."""
        lines = list(self._phases())
        returned = " ".join(
            [
                *(self.result(r.node) for r in self.program.results if r.node in self.texts),
                *self.stacked.values(),
                *self.left.values(),
            ]
        )
        lines = release(lines, re.findall(r"\w+", returned))
        words = {word for line in lines for word in re.findall(r"\w+", line)}
        yield f"valid = tiles[{quoted(VALID)}]"
        yield "N, C = valid.shape[2], valid.shape[3]"
        for size, name in self.scope.sizes.items():
            if name in words:
                yield f"{name} = sizes[{quoted(size)}]"
        yield from lines

    def _phases(self) -> Iterator[str]:
        loads = [
            line for i in self.own.phase(Label.FREE) if self.program.nodes[i].op == "input" for line in self._load(i)
        ]
        yield from loads
        free = list(self._statements(Label.FREE))
        if free:
            yield ""
            yield "# all chunks at once: what does not depend on the " + self._what()
            yield from free
        if self.own.carries:
            yield ""
            yield f"# chunk by chunk{', from the last' if self.reverse else ''}: the {self._what()}"
            yield from self._loop()
        after = list(self._statements(Label.AFTER))
        if after:
            yield ""
            yield f"# all chunks at once: what reads the {self._what()}"
            yield from after

    def _what(self) -> str:
        return "state's cotangent" if self.reverse else "state"

    def _loop(self) -> Iterator[str]:
        call = self.scope.call
        for c in self.own.carries:
            name = self.carried[c.key] = self.names.new(("d_" if self.reverse else "") + identifier(c.key))
            self.stacked[c.key], self.left[c.key] = self.names.new(f"{name}_in"), self.names.new(f"{name}_out")
            source = f"{self.states}[{quoted(c.key)}]"
            yield f"{name}, {self.left[c.key]} = {call('begin')}({source}, {self.packed}), {source}.clone()"
            if self._stacks(c):
                yield f"{self.stacked[c.key]} = []"
            if c.enter is not None:
                self.steps[c.enter] = Text(name)
        lists = {i: self.names.new(self._wish(i)) for i in self.own.kept}
        for name in lists.values():
            yield f"{name} = []"
        yield f"for n in {'reversed(range(N))' if self.reverse else 'range(N)'}:"
        yield from ("    " + line for line in self._step(lists))
        turn = "[::-1]" if self.reverse else ""
        for c in self.own.carries:
            if self._stacks(c):
                yield f"{self.stacked[c.key]} = torch.stack({self.stacked[c.key]}{turn}, 2)"
            if c.enter is not None:
                self.texts[c.enter] = Text(self.stacked[c.key])
        for i, name in lists.items():
            yield f"{name} = torch.stack({name}{turn}, 2)"
            self.texts[i] = Text(name)

    def _stacks(self, c: Carry) -> bool:
        """Is what enters each chunk read after the loop? The states are, by the backward pass."""
        return not self.reverse or any(
            self.own.labels[u] is Label.AFTER for u in self.users.get(-1 if c.enter is None else c.enter, [])
        )

    def _step(self, lists: dict[int, str]) -> Iterator[str]:
        call = self.scope.call
        for c in self.own.carries:
            name = self.carried[c.key]
            yield f"{name} = {call('enter')}({name}, {self.states}[{quoted(c.key)}], {self.packed}, n)"
            if self._stacks(c):
                yield f"{self.stacked[c.key]}.append({name})"
        yield from self._statements(Label.SERIAL)
        for i, name in lists.items():
            yield f"{name}.append({self.steps[i].code})"
        targets = ", ".join(self.carried[c.key] for c in self.own.carries)
        values = ", ".join(self._leaving(c.leave) for c in self.own.carries)
        yield f"{targets} = {values}"
        for c in self.own.carries:
            name = self.carried[c.key]
            yield f"{self.left[c.key]} = {call('leave')}({self.left[c.key]}, {name}, {self.packed}, n)"

    def _leaving(self, index: int) -> str:
        text = self._read(index, Label.SERIAL)
        return tensor(text, self.scope).code


def _port_name(port: Port) -> str:
    return identifier(port.name) + "".join(f"_{j}" for j in port.member) + (f"_lag{port.lag}" if port.lag else "")
