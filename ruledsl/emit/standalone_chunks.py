"""The part of a standalone module that runs its chunk form: tokens to tiles, the two passes, tiles to tokens."""

from __future__ import annotations

from collections.abc import Iterator

from ruledsl.algebra.verdict import TokenForm
from ruledsl.chunk.program import Port, PortKind, ResultKind
from ruledsl.chunk.token_program import frozen_name
from ruledsl.emit.names import quoted
from ruledsl.emit.standalone_tables import bind, type_of
from ruledsl.emit.token_text import Carried
from ruledsl.emit.torch_expression import Scope
from ruledsl.lang import typed
from ruledsl.lang.typed import Role
from ruledsl.schedule.keys import VALID, port_key
from ruledsl.schedule.plan import Schedule


def run_chunks(rule: typed.Rule, held: Carried, token: TokenForm, schedule: Schedule, scope: Scope) -> str:
    call = scope.call
    ports = {port_key(p): p for p in (*schedule.forward.program.ports, *schedule.backward.program.ports)}
    own = bool(held.frozen)  # the chunks are the rule's own, wherever the first token stands
    there = "(rows >= 0) & (rows < length)" if own else "rows < length"
    tiles = [f"{quoted(VALID)}: ({there}).to(like.dtype).view({_lead(own)}, {schedule.chunk}, 1),"]
    for key, port in sorted(ports.items()):
        if port.kind in (PortKind.INPUT, PortKind.PARAM, PortKind.POSITION, PortKind.HEAD, PortKind.HEADS):
            tiles.append(f"{quoted(key)}: {_tile(rule, port, schedule.chunk, scope, own)},")
    states = list(_states(held, token, schedule))
    outputs = rule.outputs
    lines = [
        "def run_chunks(inputs, fixed, state, sizes):",
        '    """Outputs [B, T, H, rows, columns] and the state after the last token."""',
        "    like = next(iter(inputs.values()))",
        "    batch, length, heads = like.shape[:3]",
        f'    rows = {call("own_chunks")}(state["t"], length, {schedule.chunk})'
        if own
        else f"    rows = torch.arange(-(-length // {schedule.chunk}) * {schedule.chunk}, device=like.device)",
        "    tiles = {",
        *(f"        {t}" for t in tiles),
        "    }",
        f"    states = {{{', '.join(f'{quoted(key)}: {text}{turn}' for key, _, turn, text in states)}}}",
        f"    found = {call('Chunked')}.apply((forward, backward), sizes, tuple(tiles), tuple(states), *tiles.values(), *states.values())",
    ]
    sizes = []
    for i, o in enumerate(outputs):
        shape = f"{scope.axis(o.value.type.rows)}, {scope.axis(o.value.type.cols)}"
        back = f"{call('untile_at')}(found[{i}], rows" if own else f"{call('untile')}(found[{i}]"
        sizes.append(f"{quoted(o.name)}: {back}, length, batch, heads, {shape})")
    after: dict[str, list[str]] = {}
    for i, (_, name, turn, _) in enumerate(states):
        after.setdefault(name, []).append(f"found[{len(outputs) + i}]{turn}")
    families = {n for s in rule.of(Role.STATE) if s.type.family for n in (s.name, f"frozen.{s.name}")}
    leaving = [
        f"{quoted(n)}: " + (f"torch.stack([{', '.join(parts)}], 2)" if n in families else parts[0])
        for n, parts in after.items()
    ]
    leaving += [
        f"{quoted(f'prev.{n}')}: {call('kept_values')}(inputs[{quoted(n)}], state[{quoted(f'prev.{n}')}])"
        for n in held.lags
    ]
    leaving += ['"t": state["t"] + length'] if held.position else []
    lines += [f"    {line}" for line in bind(scope, " ".join([*sizes]))]
    lines += [f"    outputs = {{{', '.join(sizes)}}}", f"    return outputs, {{**state, {', '.join(leaving)}}}"]
    return "\n".join(lines)


def _states(held: Carried, token: TokenForm, schedule: Schedule) -> Iterator[tuple[str, str, str, str]]:
    """For each carried tile: its key, the state that it is (a member of), how it is turned, and its text."""
    copies = {frozen_name(n, chunk): n for n, chunk in held.frozen.items()}
    for r in schedule.forward.program.results:
        if r.kind is ResultKind.STATE and r.port is not None:
            j = r.port.member[0] if r.port.member else None
            declared = copies.get(r.port.name, r.port.name)
            name = f"frozen.{declared}" if r.port.name in copies else declared
            text = f"state[{quoted(name)}]" + (f"[:, :, {j - 1}]" if j else "")
            yield port_key(r.port), name, ".mT" if token.transposed[declared, j] else "", text


def _lead(own: bool) -> str:
    """The axes in front of a chunk's rows: batch or 1, 1, chunks."""
    return "batch, 1, -1" if own else "1, 1, -1"


def _tile(rule: typed.Rule, port: Port, chunk: int, scope: Scope, own: bool) -> str:
    match port.kind:
        case PortKind.POSITION:
            return f'(state["t"][..., None] + rows.view({_lead(own)}, {chunk}, 1)).to(like.dtype)'
        case PortKind.HEAD:
            return "torch.arange(heads, dtype=like.dtype, device=like.device).view(1, -1, 1, 1, 1)"
        case PortKind.HEADS:
            return "like.new_full((1, 1, 1, 1, 1), heads)"
        case PortKind.PARAM:
            member = "".join(f"[:, :, {j - 1}]" for j in port.member)
            turn = "" if type_of(rule, port.name).is_matrix else ".mT"
            return f"fixed[{quoted(port.name)}]{member}{turn}[:, :, None]"
        case _:
            member = "".join(f"[:, :, :, {j - 1}]" for j in port.member)
            text = f"inputs[{quoted(port.name)}]{member}"
            past = f", {port.lag}, state[{quoted(f'prev.{port.name}')}]{member}" if port.lag else ""
            cut, table = ("tile_at", ", rows") if own else ("tile", "")
            return f"{scope.call(cut)}({text}{table}, {chunk}{past})"
