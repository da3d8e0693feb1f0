"""The chunk-parallel form on torch: generated text over all chunks at once, on any device.

The registered operator sees tiles; everything between the caller's tensors and tiles is plain torch (`layout`). Tiles
are [B or 1, H or 1, N or 1, rows, cols], states [B or sequences, H, rows, cols] in the form's orientation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ruledsl import pipeline
from ruledsl.chunk.program import Port, PortKind, Program, ResultKind
from ruledsl.chunk.token_program import frozen_name, prev_name
from ruledsl.lang import typed
from ruledsl.lang.systems import in_systems
from ruledsl.runtime import layout, registration
from ruledsl.runtime.bind import Call
from ruledsl.runtime.build import build
from ruledsl.runtime.chunkable import Chunkable
from ruledsl.runtime.errors import BackendError, StateError
from ruledsl.runtime.layout import Chunks
from ruledsl.runtime.recurrent import expand_heads
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.state import open_axes, tensors_of, with_tensors
from ruledsl.runtime.statics import carried
from ruledsl.runtime.token import Carry
from ruledsl.schedule.keys import VALID, port_key
from ruledsl.schedule.plan import Schedule

if TYPE_CHECKING:
    from ruledsl.runtime.rule import Rule

Marks = tuple[Tensor, Tensor] | None  # is the chunk its sequence's first (last)? [N]; sequence of the chunk [N]
_TILES = (PortKind.INPUT, PortKind.PARAM, PortKind.VALID, PortKind.POSITION, PortKind.HEAD, PortKind.HEADS)


@dataclass(frozen=True, slots=True)
class StateTile:
    """A state, or member `member` of a family, as the form has it."""

    key: str
    name: str
    member: int | None
    transposed: bool


class Passes(Protocol):
    """What a `TorchPlan` calls, see `emit.torch_text`."""

    def forward(self, tiles: Any, states: Any, starts: Marks, sizes: Any) -> tuple[Any, Any, Any]: ...

    def backward(
        self, tiles: Any, entering: Any, ends: Marks, douts: Any, dleaving: Any, sizes: Any
    ) -> tuple[Any, Any]: ...


class Held(Protocol):
    """A state among a plan's tensors."""

    @property
    def key(self) -> str: ...


class TorchForm(Protocol):
    """What a `TorchPlan` knows of a rule: keys of tiles, of states, of those whose entering values are kept, of those that
    have to be symmetric."""

    @property
    def ports(self) -> Mapping[str, Port]: ...
    @property
    def states(self) -> Sequence[Held]: ...
    @property
    def kept(self) -> tuple[str, ...]: ...
    @property
    def symmetric(self) -> tuple[str, ...]: ...
    @property
    def with_gradient(self) -> frozenset[str]: ...
    @property
    def passes(self) -> Passes: ...


@dataclass(frozen=True, slots=True)
class Form:
    """What is compiled once for a rule and a chunk length."""

    schedule: Schedule
    ports: Mapping[str, Port]  # tiles by key, the valid tile apart
    states: tuple[StateTile, ...]
    kept: tuple[str, ...]  # states whose entering values the backward pass reads
    symmetric: tuple[str, ...]  # states of systems that are solved
    with_gradient: frozenset[str]
    text: str
    key: str

    @property
    def passes(self) -> Passes:
        return build(self.text)


def form_of(rule: Rule, found: Chunkable, sizes: Mapping[str, int], chunk_size: int | None) -> Form:
    """From the chunk program to the text, for tiles of `sizes`."""
    schedule = pipeline.schedule(found.program, pipeline.gradient(found.program), sizes=sizes, chunk=chunk_size)
    text = pipeline.source(schedule, rule.source)
    forward, gradient = schedule.forward.program, schedule.backward.program
    ports = {
        port_key(p): p for p in (*forward.ports, *gradient.ports) if p.kind in _TILES and p.kind is not PortKind.VALID
    }
    states = state_tiles(found, forward)
    with_gradient = frozenset(
        port_key(r.port) for r in gradient.results if r.kind is ResultKind.GRADIENT and r.port is not None
    )
    systems = in_systems(found.unrolled) if found.token.solves else frozenset()
    symmetric = tuple(s.key for s in states if s.name in systems)
    key = hashlib.sha256(f"{rule.hash}\n{text}".encode()).hexdigest()[:24]
    return Form(schedule, ports, states, schedule.saved, symmetric, with_gradient, text, key)


def state_tiles(found: Chunkable, forward: Program) -> tuple[StateTile, ...]:
    """The states that leave the chunk, in the order of the program's results."""
    transposed = found.token.transposed
    copies = {frozen_name(n, chunk): n for n, chunk in carried(found.unrolled, found.sizes).frozen}
    ports = [
        r.port if r.port is not None else Port(r.name, PortKind.STATE)
        for r in forward.results
        if r.kind is ResultKind.STATE
    ]
    members = [p.member[0] if p.member else None for p in ports]
    declared = [copies.get(p.name, p.name) for p in ports]
    found_tiles = zip(ports, declared, members, strict=True)
    return tuple(StateTile(port_key(p), p.name, j, transposed[n, j]) for p, n, j in found_tiles)


# ------------------------------------------------------------------------------------------------ the plan


def _fresh(results: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Contiguous results that share memory neither with an input nor with each other."""
    seen = {x.untyped_storage().data_ptr() for x in inputs}
    fresh = []
    for x in results:
        taken = x.untyped_storage().data_ptr() in seen
        x = x.clone(memory_format=torch.contiguous_format) if taken else x.contiguous()
        seen.add(x.untyped_storage().data_ptr())
        fresh.append(x)
    return fresh


@dataclass(frozen=True)
class TorchPlan:
    """`registration.Plan` of two passes over tiles. Tensors: valid, tiles, states, then first, last, sequence if packed."""

    form: TorchForm
    sizes: Mapping[str, int]
    outputs: tuple[tuple[str, int], ...]  # name and columns
    packed: bool

    @property
    def results(self) -> int:
        return len(self.outputs) + len(self.form.states)

    @property
    def differentiable(self) -> tuple[bool, ...]:
        names = [VALID, *self.form.ports, *(s.key for s in self.form.states)]
        return tuple(n in self.form.with_gradient for n in names) + (False,) * (3 if self.packed else 0)

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        tiles, states, first, _ = self._named(tensors)
        for key in self.form.symmetric:
            _check_symmetric(key, states[key])
        outputs, entering, leaving = self.form.passes.forward(tiles, states, first, self.sizes)
        batch, heads, count, length = self._extent(tensors)
        public = [outputs[name].expand(batch, heads, count, length, columns) for name, columns in self.outputs]
        kept = [entering[k].expand(batch, heads, count, *states[k].shape[-2:]) for k in self.form.kept]
        return _fresh([*public, *(leaving[s.key].expand_as(states[s.key]) for s in self.form.states), *kept], tensors)

    def backward(self, tensors: list[Tensor], kept: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        tiles, states, _, last = self._named(tensors)
        douts = {name: g for (name, _), g in zip(self.outputs, grads, strict=False)}
        dleaving = {s.key: g for s, g in zip(self.form.states, grads[len(self.outputs) :], strict=True)}
        entering = dict(zip(self.form.kept, kept, strict=True))
        dtiles, dstates = self.form.passes.backward(tiles, entering, last, douts, dleaving, self.sizes)
        found = {**dtiles, **dstates}
        names = {**tiles, **states}
        results = [found[n].expand_as(names[n]) for n, wanted in zip(names, self.differentiable, strict=False) if wanted]
        return _fresh(results, [*tensors, *kept, *grads])

    def instead(self, given: list[bool]) -> str | None:
        return None

    def like(self, tensors: list[Tensor]) -> list[Tensor]:
        batch, heads, count, length = self._extent(tensors)
        _, states, _, _ = self._named(tensors)
        public = [tensors[0].new_empty(batch, heads, count, length, columns) for _, columns in self.outputs]
        leaving = [states[s.key].new_empty(states[s.key].shape) for s in self.form.states]
        kept = [states[k].new_empty(batch, heads, count, *states[k].shape[-2:]) for k in self.form.kept]
        return [*public, *leaving, *kept]

    def batched(self, tensors: list[Tensor]) -> bool:
        return not self.packed

    def _named(self, tensors: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], Marks, Marks]:
        names = [VALID, *self.form.ports]
        tiles = dict(zip(names, tensors, strict=False))
        end = len(names) + len(self.form.states)
        states = {s.key: x for s, x in zip(self.form.states, tensors[len(names) : end], strict=True)}
        if not self.packed:
            return tiles, states, None, None
        first, last, sequence = tensors[end:]
        return tiles, states, (first, sequence), (last, sequence)

    def _extent(self, tensors: list[Tensor]) -> tuple[int, int, int, int]:
        """B, H, N, C, from a tile that varies by token."""
        token = next(x for x, p in zip(tensors[1:], self.form.ports.values(), strict=False) if p.kind is PortKind.INPUT)
        return token.shape[0], token.shape[1], token.shape[2], token.shape[3]


def _check_symmetric(key: str, x: Tensor) -> None:
    """StateError on a CPU; elsewhere a look would wait for the device."""
    if x.device.type == "cpu" and x.numel() and bool((x - x.mT).abs().amax() > 1e-3 * x.abs().amax()):
        raise StateError(
            f"initial_state `{key}`: the rule solves a system with it, in chunks by conjugate gradients: it has to be symmetric,"
            " with eigenvalues of 0 or more; backend 'recurrent' takes any"
        )


# ------------------------------------------------------------------------------------------------ a call


@dataclass(frozen=True, slots=True)
class Compiled:
    rule: typed.Rule
    form: Form
    key: str  # of the registered plan


def prepare(rule: Rule, setting: Setting) -> Compiled:
    """Compile and register the rule at these sizes. BackendError: it has no chunk form."""
    sizes = dict(setting.sizes)
    found = rule.chunkable(sizes)
    if isinstance(found, str):
        raise BackendError(f"backend 'torch': {found}")
    form = rule.form(sizes, setting.chunk_size)
    key = "-".join([form.key, "packed" if setting.packed else "whole", *(f"{k}{v}" for k, v in setting.sizes)])
    if registration.registered(key) is None:
        outputs = tuple(
            (o.name, typed.dim_value(o.value.type.rows, sizes) * typed.dim_value(o.value.type.cols, sizes))
            for o in rule.typed.outputs
        )
        registration.register(key, TorchPlan(form, sizes, outputs, setting.packed))
    return Compiled(rule.typed, form, key)


def run(compiled: Compiled, call: Call, carry: Carry, cu_seqlens: Tensor | None) -> tuple[dict[str, Tensor], Carry]:
    """Outputs [B, T, H, (family...), rows, cols] and the carry after the last token."""
    rule, form = compiled.rule, compiled.form
    if call.length == 0:
        return {o.name: no_tokens(call, o.value.type) for o in rule.outputs}, carry
    states = [state_entering(carry, s) for s in form.states]
    chunks, tokens, outputs, found = run_tiles(
        compiled, form.schedule.chunk, states, call, carry, cu_seqlens, form.schedule.forward.program.chunk is not None
    )
    return outputs, carry_after(carry, dict(zip(form.states, found, strict=True)), tokens, chunks, call)


class OnTiles(Protocol):
    """A rule, its ports of tiles in the plan's order, and the key of a `TorchPlan`."""

    @property
    def rule(self) -> typed.Rule: ...
    @property
    def form(self) -> TorchForm: ...
    @property
    def key(self) -> str: ...


def run_tiles(
    compiled: OnTiles, length: int, states: list[Tensor], call: Call, carry: Carry, cu_seqlens: Tensor | None,
    aligned: bool = False,
) -> tuple[Chunks, dict[str, Tensor], dict[str, Tensor], list[Tensor]]:
    """Run a plan on chunks of `length` tokens: the chunks, the inputs with axes opened, outputs [B, T, H, (family...), rows,
    cols], leaving states as `states` is. `aligned`: the chunks are those at positions 0, `length`, 2 * `length` ..."""
    rule = compiled.rule
    shift = None if carry.t is None or carry.begins or not aligned else carry.t % length
    chunks = (
        layout.whole(call.length, length, call.device, shift)
        if cu_seqlens is None
        else layout.packed(call.length, length, cu_seqlens, shift)
    )
    types = {s.name: s.type for s in rule.symbols}
    tokens = {n: open_axes(expand_heads(x, 2, call.heads).to(call.dtype), types[n]) for n, x in call.inputs.items()}
    tiles = [tile_of(port, tokens, call, types, chunks, carry) for port in compiled.form.ports.values()]
    packing = [] if chunks.packing is None else [chunks.packing.first, chunks.packing.last, chunks.packing.sequence]

    found = registration.run(compiled.key, [layout.valid_tile(chunks, call.dtype), *tiles, *states, *packing])
    outputs = {o.name: _output(x, chunks, call, o.value.type) for o, x in zip(rule.outputs, found, strict=False)}
    return chunks, tokens, outputs, found[len(outputs) :]


def tile_of(
    port: Port, tokens: Mapping[str, Tensor], call: Call, types: Mapping[str, typed.Type], chunks: Chunks, carry: Carry
) -> Tensor:
    like: dict[str, Any] = {"dtype": call.dtype, "device": call.device}
    match port.kind:
        case PortKind.INPUT:
            x, ring = tokens[port.name], carry.prev.get(port.name)
            for j in port.member:
                x, ring = x[:, :, :, j - 1], None if ring is None else ring[:, :, :, j - 1]
            return layout.to_tile(x.flatten(-2), chunks, port.lag, None if ring is None else ring.flatten(-2))
        case PortKind.PARAM:
            p = open_axes(call.params[port.name].to(call.dtype), types[port.name])
            for j in port.member:
                p = p[:, j - 1]
            return (p if types[port.name].is_matrix else p.mT)[None, :, None]
        case PortKind.POSITION:
            return layout.position_tile(chunks, carry.t, call.dtype)
        case PortKind.HEAD:
            return torch.arange(call.heads, **like).reshape(1, -1, 1, 1, 1)
        case PortKind.HEADS:
            return torch.full((1, 1, 1, 1, 1), float(call.heads), **like)
        case _:
            raise AssertionError(f"no tile for {port}")


def state_entering(carry: Carry, state: StateTile) -> Tensor:
    """[B or sequences, H, rows, cols] in the form's orientation."""
    x = tensors_of(carry)[state.name]
    x = x if state.member is None else x[:, :, state.member - 1]
    return x.mT if state.transposed else x


def carry_after(
    carry: Carry, leaving: Mapping[StateTile, Tensor], tokens: Mapping[str, Tensor], chunks: Chunks | None, call: Call
) -> Carry:
    """The carry after the last token. `leaving`: states in the form's orientation; `tokens`: inputs with axes opened; `chunks`: None
    where nothing is looked back at and sequences are whole."""
    states = tensors_of(carry)
    members: dict[str, dict[int, Tensor]] = {}
    for tile, x in leaving.items():
        x = x.mT if tile.transposed else x
        if tile.member is None:
            states[tile.name] = x
        else:
            members.setdefault(tile.name, {})[tile.member] = x
    states |= {name: torch.stack([parts[j] for j in sorted(parts)], 2) for name, parts in members.items()}
    if chunks is None:
        return with_tensors(carry, states, call.length)
    for name, ring in carry.prev.items():
        flat = layout.next_ring(tokens[name].flatten(3), chunks, ring.flatten(3))
        states[prev_name(name)] = flat.unflatten(3, ring.shape[3:])
    return with_tensors(carry, states, call.length if chunks.lengths is None else chunks.lengths)


def _output(x: Tensor, chunks: Chunks, call: Call, type_: typed.Type) -> Tensor:
    shape = [typed.dim_value(d, call.sizes) for d in (*type_.family, type_.rows, type_.cols)]
    return layout.from_tile(x, chunks).unflatten(-1, shape)


def no_tokens(call: Call, type_: typed.Type) -> Tensor:
    """The output of an empty sequence."""
    dims = (typed.dim_value(d, call.sizes) for d in (*type_.family, type_.rows, type_.cols))
    return torch.zeros(call.batch, 0, call.heads, *dims, dtype=call.dtype, device=call.device)
