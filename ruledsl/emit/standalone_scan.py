"""The part of a standalone module that scans the tokens of a rule whose states go entry by entry, in torch.

Values are tiles [B, H, T, rows, columns], with 1 on axes along which they do not vary. A run of tokens at a time is scanned;
its values are made again in the backward pass.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from ruledsl.chunk.order import bottom_up
from ruledsl.chunk.program import Port, PortKind, Program, ResultKind
from ruledsl.chunk.scan import Scan
from ruledsl.emit.names import Names, identifier, quoted
from ruledsl.emit.standalone_tables import bind, type_of
from ruledsl.emit.torch_expression import Scope, Text, expression, tensor
from ruledsl.lang import typed

IMPORTS = "import torch.utils.checkpoint"
RUN = 128  # tokens
_LONGEST = 70  # characters of a value that stands where it is used


@dataclass(frozen=True, slots=True)
class ScanForm:
    """The forward scan of an unrolled rule; its gradient is torch's own, but for the scan itself."""

    scan: Scan


def run_scan(rule: typed.Rule, form: ScanForm, scope: Scope, taken: frozenset[str]) -> list[str]:
    """`run_chunks`, in front of it what it is made of."""
    lines = _Writer(rule, form.scan, scope, taken).lines()
    whole = [
        "def run_chunks(inputs, fixed, state, sizes):",
        '    """Outputs [B, T, H, rows, columns] and the state after the last token, a run of tokens at a time."""',
        "    found, length = [], next(iter(inputs.values())).shape[1]",
        f"    for first in range(0, length, {RUN}):",
        f"        own = {{name: x[:, first : first + {RUN}] for name, x in inputs.items()}}",
        "        outputs, state = torch.utils.checkpoint.checkpoint(scan_tokens, own, fixed, state, sizes, use_reentrant=False)",
        "        found.append(outputs)",
        "    return {name: torch.cat([outputs[name] for outputs in found], 1) for name in found[0]}, state",
    ]
    return ["\n".join(lines), "\n".join(whole)]


def held(name: str) -> tuple[str, str]:
    """The key of a token program's state in the caller's dict, and the name that its type goes by."""
    kind, _, rest = name.partition(".")
    if not rest:
        return name, name
    own = rest.rpartition(".")[0] if kind == "frozen" else rest
    return f"{kind}.{own}", own


class _Writer:
    def __init__(self, rule: typed.Rule, scan: Scan, scope: Scope, taken: frozenset[str]) -> None:
        self.rule, self.scan, self.scope = rule, scan, scope
        self.program: Program = scan.program
        self.names = Names(taken | set(scope.sizes.values()) | {"inputs", "fixed", "state", "sizes", "head"})
        self.uses = Counter(a for node in self.program.nodes for a in node.args)
        self.uses.update(r.node for r in self.program.results)
        self.body: list[str] = []
        self.texts: dict[int, Text] = {}
        self.tokens = [  # values with all five axes
            node.op == "input" and self.program.port(node).kind is not PortKind.SIZE for node in self.program.nodes
        ]
        for i, node in enumerate(self.program.nodes):
            self.tokens[i] = self.tokens[i] or any(self.tokens[a] for a in node.args)

    def lines(self) -> list[str]:
        scan, leaving = self.scan, dict[Port, str]()
        for stratum in scan.strata:
            maps = [f"[{', '.join(self._part(i) for i in row)}]" for row in stratum.parts]
            entering, after, starts = [], [], []
            for i in stratum.states:
                stem = identifier(scan.states[i].name.replace(".", "_")) + "".join(f"_{j}" for j in scan.states[i].member)
                entering.append(self.names.new(f"entering_{stem}"))
                after.append(self.names.new(f"leaving_{stem}"))
                starts.append(self._state(scan.states[i]))
            self.body.append(
                f"{', '.join([*entering, *after])} = {self.scope.call('scanned')}"
                f'("{stratum.monoid.value}", [{", ".join(maps)}], [{", ".join(starts)}], length)'
            )
            for i, name, end in zip(stratum.states, entering, after, strict=True):
                leaving[scan.states[i]] = end
                for n, node in enumerate(self.program.nodes):
                    if node.op == "input" and self.program.port(node) == scan.states[i]:
                        self.texts[n] = Text(name)
        outputs = [f"{quoted(n)}: {text}" for n, text in self._outputs().items()]
        states = [f"{quoted(n)}: {text}" for n, text in self._leaving(leaving).items()]
        if any(self.program.port(n).kind is PortKind.POSITION for n in self.program.nodes if n.op == "input"):
            states.append('"t": state["t"] + length')
        body = [*self.body, f"return {{{', '.join(outputs)}}}, {{**state, {', '.join(states)}}}"]
        head = ["like = next(iter(inputs.values()))", "batch, length, heads = like.shape[:3]"]
        return [
            "def scan_tokens(inputs, fixed, state, sizes):",
            '    """Outputs [B, T, H, rows, columns] of all these tokens at once, and the state after them."""',
            *(f"    {line}" for line in [*head, *bind(self.scope, " ".join(body)), *body]),
        ]

    # ------------------------------------------------------------------------------------------------ values

    def _text(self, index: int) -> Text:
        for own in bottom_up(index, self._needs, self.texts):
            self.texts[own] = self._made(own)
        return self.texts[index]

    def _contracts(self, index: int) -> bool:
        """A sum of products of two values with all axes, used nowhere else."""
        node = self.program.nodes[index]
        if node.op != "sum":
            return False
        inner = self.program.nodes[node.args[0]]
        return (inner.op, inner.attr) == ("map", "mul") and all(self.tokens[a] for a in inner.args)

    def _needs(self, index: int) -> tuple[int, ...]:
        node = self.program.nodes[index]
        return self.program.nodes[node.args[0]].args if self._contracts(index) else node.args

    def _made(self, index: int) -> Text:
        node = self.program.nodes[index]
        if node.op == "input":
            text = self._port(self.program.port(node))
        elif self._contracts(index):
            x, y = (self.texts[a].code for a in self._needs(index))
            text = Text(f"{self.scope.call('contracted')}({x}, {y}, {-2 if node.attr == 0 else -1})")
        elif node.op == "dot" and all(self.tokens[a] for a in node.args):
            x, y = (self.texts[a].code + (".mT" if t else "") for a, t in zip(node.args, node.attr, strict=True))  # type: ignore[arg-type]
            text = Text(f"{self.scope.call('dotted')}({x}, {y})")
        else:
            text = expression(self.program, node, [self.texts[a] for a in node.args], self.scope)
        if text.number or (self.uses[index] < 2 and len(text.code) < _LONGEST):
            return text
        stem = self.program.port(node).name.replace(".", "_") if node.op == "input" else f"x{index}"
        name = self.names.new(identifier(stem))
        self.body.append(f"{name} = {text.code}")
        return Text(name)

    def _part(self, index: int) -> str:
        node = self.program.nodes[index]
        if node.op in ("const", "full") and node.attr == 0.0:
            return "None"
        return tensor(self._text(index), self.scope).code

    def _row(self, name: str) -> str:
        """A vector is a row of a tile."""
        own = next((o.value.type for o in self.rule.outputs if o.name == name), None) or type_of(self.rule, name)
        return "" if own.is_matrix or own.is_row else ".mT"

    def _port(self, port: Port) -> Text:
        member = "".join(f"[:, :, :, {j - 1}]" for j in port.member)
        match port.kind:
            case PortKind.INPUT:
                return Text(f"inputs[{quoted(port.name)}]{member}.movedim(1, 2){self._row(port.name)}")
            case PortKind.PARAM:
                fixed = "".join(f"[:, :, {j - 1}]" for j in port.member)
                return Text(f"fixed[{quoted(port.name)}]{fixed}{self._row(port.name)}[:, :, None]")
            case PortKind.POSITION:
                arange = "torch.arange(length, device=like.device).view(1, 1, -1, 1, 1)"
                return Text(f'(state["t"][:, :, None] + {arange}).to(like.dtype)')
            case PortKind.HEAD:
                return Text("torch.arange(heads, dtype=like.dtype, device=like.device).view(1, -1, 1, 1, 1)")
            case PortKind.HEADS:
                return Text("heads", number=True)
            case PortKind.SIZE:
                return Text(self.scope.dim(port.name), number=True)
            case _:
                raise AssertionError(f"{port} is found by a scan")

    # ------------------------------------------------------------------------------------------------ states

    def _state(self, port: Port) -> str:
        key, name = held(port.name)
        return f"state[{quoted(key)}]" + "".join(f"[:, :, {j - 1}]" for j in port.member) + self._row(name)

    def _leaving(self, found: dict[Port, str]) -> dict[str, str]:
        after: dict[str, dict[tuple[int, ...], str]] = {}
        for port, text in found.items():
            key, name = held(port.name)
            after.setdefault(key, {})[port.member] = text + self._row(name)
        return {
            key: f"torch.stack([{', '.join(parts[m] for m in sorted(parts))}], 2).reshape(state[{quoted(key)}].shape)"
            if () not in parts
            else parts[()]
            for key, parts in after.items()
        }

    def _outputs(self) -> dict[str, str]:
        parts: dict[str, list[str]] = {}
        for r in self.program.results:
            if r.kind is ResultKind.OUTPUT:
                text = tensor(self._text(r.node), self.scope).code
                own = next(o.value.type for o in self.rule.outputs if o.name == r.name)
                extent = f"{self.scope.axis(own.rows)}, {self.scope.axis(own.cols)}"
                value = f"({text}){self._row(r.name)}" if not re.fullmatch(r"\w+", text) else f"{text}{self._row(r.name)}"
                parts.setdefault(r.name, []).append(f"{value}.expand(batch, heads, length, {extent}).movedim(2, 1)")
        return {n: xs[0] if len(xs) == 1 else f"torch.stack([{', '.join(xs)}], 3)" for n, xs in parts.items()}
