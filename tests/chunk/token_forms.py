"""Token forms made by hand, their recurrence token by token, and a chunk program run over a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ruledsl.algebra.verdict import Decay, MatrixForm, Read, Step, TokenForm
from ruledsl.chunk.differentiate import cotangent_port
from ruledsl.chunk.program import Port, PortKind, Program, ResultKind
from ruledsl.lang.source import Source
from ruledsl.lang.typed import Apply, Expr, Output, Ref, Role, Rule, Symbol, Type
from ruledsl.runtime.interpret import interpret

SIZES = {"K": 3, "V": 4}


def scalar(name: str) -> Ref:
    return Ref(name, Role.INPUT, Type())


def vector(name: str, size: str | int = "K") -> Ref:
    return Ref(name, Role.INPUT, Type(size, 1))


def plain(value: Expr) -> Decay:
    """Only products of it may be formed."""
    return Decay(value)


def logged(value: Expr) -> Decay:
    return Decay(value, Apply("log", (value,), value.type))


QUERY = vector("q")


def read(name: str, version: int = 1, vector: Expr = QUERY, left: bool = False) -> Read:
    return Read(name, "S", version, vector, left)


def token(steps: tuple[Step, ...], reads: tuple[Read, ...], rows: str | int = "V", cols: str | int = "K") -> TokenForm:
    """One state S and an output for every read."""
    outputs = tuple(
        Output(f"o{i}", Ref(r.name, Role.READ, Type(cols if r.left else rows, 1))) for i, r in enumerate(reads)
    )
    return TokenForm((), reads, (MatrixForm("S", rows, cols, False, steps),), outputs)


def rule_of(inputs: tuple[Ref, ...]) -> Rule:
    symbols = tuple(Symbol(r.name, r.role, r.type) for r in inputs)
    return Rule(Source(""), symbols, tuple(SIZES), ())


def inputs_of(form: TokenForm) -> dict[str, Ref]:
    found: dict[str, Ref] = {}

    def visit(e: object) -> None:
        if isinstance(e, Ref):
            if e.role is Role.INPUT:
                found.setdefault(e.name, e)
        elif isinstance(e, Apply):
            for a in e.args:
                visit(a)

    for r in form.reads:
        visit(r.vector)
    for m in form.forms:
        for s in m.steps:
            for d in (s.right, s.left):
                visit(d and d.value)
            for w in s.writes:
                for e in (w.key, w.value, w.gain, w.read, w.scale):
                    visit(e)
    return found


# ---------------------------------------------------------------------------------------------------- token by token


def recurrence(form: TokenForm, data: Mapping[str, Tensor], state: Tensor) -> tuple[list[Tensor], Tensor]:
    """Outputs [T, n] of every read and the final state, as `verdict` defines a step; all inputs [T, n]."""
    matrix = form.forms[0]
    outputs: list[list[Tensor]] = [[] for _ in form.reads]
    for t in range(len(next(iter(data.values())))):
        now = {name: x[t] for name, x in data.items()}

        def row(e: Expr | None, now: dict[str, Tensor] = now) -> Tensor:
            return torch.ones(1, dtype=torch.float64) if e is None else now[e.name]  # type: ignore[union-attr]

        versions = {0: state}
        for step in matrix.steps:
            decayed = state
            if step.right:
                decayed = decayed * row(step.right.value)
            if step.left:
                decayed = decayed * row(step.left.value)[:, None]
            total = decayed
            for w in step.writes:
                seen = decayed if w.after_decay else state
                z = torch.zeros(state.shape[0], dtype=state.dtype)
                if w.value is not None:
                    z = z + row(w.value)
                if w.read is not None:
                    z = z + row(w.gain) * (seen @ row(w.read))
                total = total + torch.outer(row(w.scale) * z, row(w.key).expand(state.shape[1]))
            state = versions[step.version] = total
        for out, r in zip(outputs, form.reads, strict=True):
            s = versions[r.version]
            out.append((s.T if r.left else s) @ row(r.vector))
    return [torch.stack(o) for o in outputs], state


# ---------------------------------------------------------------------------------------------------- chunk by chunk


def key(port: Port) -> str:
    """The name of a port's tensor: `k`, or `k[2]` for a member."""
    return port.name + "".join(f"[{m}]" for m in port.member)


@dataclass
class Run:
    """What a sequence gives: outputs and states by name, and gradients by port."""

    outputs: dict[str, Tensor]
    states: dict[str, Tensor]
    gradients: dict[Port, Tensor]


def _tile(x: Tensor, start: int, chunk: int, lag: int = 0) -> Tensor:
    """Rows start - lag .. of [..., T, n]: zero before the sequence, the last token repeated after it."""
    index = torch.arange(start - lag, start - lag + chunk)
    picked = x[..., index.clamp(0, x.shape[-2] - 1), :]
    return picked * (index >= 0).to(x.dtype)[:, None]


def run(program: Program, gradient: Program | None, data: Mapping[str, Tensor], states: Mapping[str, Tensor], chunk: int, cotangents: Mapping[str, Tensor],
        sizes: Mapping[str, int] = SIZES, params: Mapping[str, Tensor] | None = None, scalars: Mapping[str, float] | None = None) -> Run:  # fmt: skip
    """A chunk program over a sequence of T tokens, state carried; then its gradient in reverse order."""
    length = next(iter(data.values())).shape[-2]
    like = next(iter(data.values()))
    params, scalars = params or {}, scalars or {}

    def tiles(ports: tuple[Port, ...], start: int, state: Mapping[str, Tensor]) -> dict[Port, Tensor]:
        index = torch.arange(start, start + chunk, dtype=like.dtype)[:, None]
        found = {}
        for p in ports:
            match p.kind:
                case PortKind.INPUT:
                    found[p] = _tile(data[key(p)], start, chunk, p.lag)
                case PortKind.PARAM:
                    found[p] = params[key(p)]
                case PortKind.STATE:
                    found[p] = state[key(p)]
                case PortKind.VALID:
                    found[p] = (index < length).to(like.dtype)
                case PortKind.POSITION:
                    found[p] = index
                case PortKind.HEAD | PortKind.HEADS:
                    found[p] = like.new_full((1, 1), scalars[p.name])
        return found

    starts = range(0, length, chunk)
    history = [dict(states)]
    outputs: dict[str, list[Tensor]] = {}
    for start in starts:
        done = interpret(program, tiles(program.ports, start, history[-1]), sizes, chunk)
        nxt = dict(history[-1])
        for result, value in done.items():
            if result.kind is ResultKind.OUTPUT:
                outputs.setdefault(result.name, []).append(value)
            else:
                assert result.port is not None
                nxt[key(result.port)] = value
        history.append(nxt)
    final = Run({n: torch.cat(o, -2)[..., :length, :] for n, o in outputs.items()}, history[-1], {})
    if gradient is None:
        return final

    carried = {key(p): cotangents[key(p)] for p in program.ports if p.kind is PortKind.STATE}
    named = {r: cotangent_port(r) for r in program.results}
    for start, state in reversed(list(zip(starts, history, strict=False))):
        found = tiles(gradient.ports, start, state)
        for result, port in named.items():
            if result.kind is ResultKind.STATE:
                found[port] = carried[key(port)]
            else:
                padded = torch.zeros_like(_tile(cotangents[result.name], start, chunk))
                part = cotangents[result.name][..., start : start + chunk, :]
                padded[..., : part.shape[-2], :] = part
                found[port] = padded
        for result, value in interpret(gradient, found, sizes, chunk).items():
            p = result.port
            assert p is not None
            if p.kind is PortKind.STATE:
                carried[key(p)] = final.gradients[p] = value
            elif p.kind is PortKind.PARAM:
                final.gradients[p] = final.gradients.get(p, 0) + value
            else:
                base = Port(p.name, p.kind, p.member)
                whole = final.gradients.setdefault(base, torch.zeros_like(data[key(p)]))
                for row in range(chunk):
                    if 0 <= start + row - p.lag < length and start + row < length:
                        whole[..., start + row - p.lag, :] += value[..., row, :]
    return final
