"""Rules whose states go entry by entry or are multiplied by matrices, on torch: scans over the tokens of a chunk, chunk after
chunk, on any device.

Tiles as in `chunked`; the states are all that one token hands to the next, as a token program has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ruledsl.chunk.program import Port, PortKind, Program, ResultKind
from ruledsl.chunk.scan import Scan
from ruledsl.lang import typed
from ruledsl.lang.typed import Dim, dim_value
from ruledsl.runtime import registration
from ruledsl.runtime.bind import Call
from ruledsl.runtime.chunked import TorchPlan, no_tokens, run_tiles
from ruledsl.runtime.errors import BackendError
from ruledsl.runtime.scan_pass import ScanPasses
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.state import tensors_of, with_tensors
from ruledsl.runtime.token import Carry
from ruledsl.schedule.keys import port_key

if TYPE_CHECKING:
    from ruledsl.runtime.rule import Rule

SHORTEST, LONGEST = 16, 256  # tokens of a chunk
ENTRIES = 1 << 19  # of a state times tokens of a chunk times heads, aimed at
_TILES = (PortKind.INPUT, PortKind.PARAM, PortKind.POSITION, PortKind.HEAD, PortKind.HEADS)


@dataclass(frozen=True, slots=True)
class StateTile:
    """A state of the token program, or a member of a family: its extents there, [rows, columns]."""

    key: str
    port: Port
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ScanForm:
    """What is made once for a rule at some sizes; a `TorchForm`."""

    ports: Mapping[str, Port]
    states: tuple[StateTile, ...]
    with_gradient: frozenset[str]
    passes: ScanPasses
    largest: int  # entries of a state, or of a matrix that it is multiplied by

    @property
    def symmetric(self) -> tuple[str, ...]:
        return ()

    @property
    def kept(self) -> tuple[str, ...]:
        return tuple(s.key for s in self.states)


def form_of(found: tuple[Scan, Scan], rule: typed.Rule, sizes: Mapping[str, int]) -> ScanForm:
    forward, gradient = found

    def extents(shape: tuple[object, object]) -> tuple[int, int]:
        rows, columns = (dim_value(d, sizes) for d in shape)  # type: ignore[arg-type]
        return rows, columns

    shapes = {**_ports(gradient.program), **_ports(forward.program)}
    ports = {port_key(p): p for p in shapes if p.kind in _TILES}
    tiles = {port_key(p): (p, extents(s)) for p, s in shapes.items() if p.kind in (*_TILES, PortKind.VALID)}
    states = tuple(StateTile(port_key(p), p, extents(s)) for p, s in zip(forward.states, forward.shapes, strict=True))
    outputs = {o.name: _extents(o.value.type, sizes) for o in rule.outputs}
    gradients = [r.port for r in gradient.program.results if r.kind is ResultKind.GRADIENT and r.port is not None]
    return ScanForm(
        ports, states, frozenset(port_key(p) for p in (*gradients, *forward.states)),
        ScanPasses(forward, gradient, outputs, tiles),
        max(math.prod(extents(shape)) for shape in (*forward.shapes, *forward.matrices)),
    )  # fmt: skip


def _ports(program: Program) -> dict[Port, tuple[object, object]]:
    return {program.port(n): n.shape for n in program.nodes if n.op == "input"}


def _extents(type_: typed.Type, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Rows and columns of a member as a tile, then the extents of the family."""
    own: tuple[Dim, Dim] = (type_.rows, type_.cols) if type_.is_matrix else (1, type_.rows if type_.cols == 1 else type_.cols)
    return tuple(dim_value(d, sizes) for d in (*own, *type_.family))


# ------------------------------------------------------------------------------------------------ a call


@dataclass(frozen=True, slots=True)
class Compiled:
    rule: typed.Rule
    form: ScanForm
    chunk: int
    key: str  # of the registered plan


def prepare(rule: Rule, setting: Setting) -> Compiled:
    """Find the scans and register them. BackendError: the rule has none."""
    sizes = dict(setting.sizes)
    found = rule.scannable(sizes)
    if isinstance(found, str):
        raise BackendError(f"backend 'torch': the rule has no chunk form, and {found}")
    form = form_of(found, rule.typed, sizes)
    packing = "packed" if setting.packed else "whole"
    key = "-".join([rule.hash[:24], "scan", packing, *(f"{k}{v}" for k, v in setting.sizes)])
    if registration.registered(key) is None:
        widths = {o.name: _extents(o.value.type, sizes) for o in rule.typed.outputs}
        outputs = tuple((n, int(torch.Size(w).numel())) for n, w in widths.items())
        registration.register(key, TorchPlan(form, sizes, outputs, setting.packed))
    return Compiled(rule.typed, form, setting.chunk_size or _length(form, setting.heads), key)


def _length(form: ScanForm, heads: int) -> int:
    """Tokens of a chunk: few where states are large, which bounds memory."""
    entries = heads * form.largest
    wanted = max(1, ENTRIES // max(entries, 1))
    return min(max(1 << (wanted.bit_length() - 1), SHORTEST), LONGEST)


def run(compiled: Compiled, call: Call, carry: Carry, cu_seqlens: Tensor | None) -> tuple[dict[str, Tensor], Carry]:
    """Outputs [B, T, H, (family...), rows, cols] and the carry after the last token."""
    rule, form = compiled.rule, compiled.form
    if call.length == 0:
        return {o.name: no_tokens(call, o.value.type) for o in rule.outputs}, carry
    before = tensors_of(carry)
    states = [_member(before[s.port.name], s) for s in form.states]
    length = min(compiled.chunk, call.length)
    chunks, _, outputs, found = run_tiles(compiled, length, states, call, carry, cu_seqlens)
    members: dict[str, list[Tensor]] = {}
    for s, x in zip(form.states, found, strict=True):
        members.setdefault(s.port.name, []).append(x)
    after = {n: torch.stack(xs, 2).reshape(before[n].shape) for n, xs in members.items()}
    return outputs, with_tensors(carry, after, call.length if chunks.lengths is None else chunks.lengths)


def _member(x: Tensor, state: StateTile) -> Tensor:
    """[B or sequences, H, (family...), rows, cols] as the tile of one member [B or sequences, H, rows, columns]."""
    for j in state.port.member:
        x = x[:, :, j - 1]
    return x.reshape(*x.shape[:2], *state.shape)
