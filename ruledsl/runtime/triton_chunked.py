"""The chunk-parallel form on Triton: generated kernels that read the caller's layout.

The registered operator takes inputs [B, T, Hg, ...] as they come (bf16, fp16 or float32), params [1, H, ...], states
[B or sequences, H, rows, cols] float32 in the form's orientation, the position each sequence starts from and, packed,
cu_seqlens. Chunks are tables made on the device from shapes and cu_seqlens; nothing waits for the device. The first call chooses
tiles, the second of a signature is recorded, later ones are played (see `tape`).
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ruledsl.chunk.program import Port
from ruledsl.emit.triton_names import tensor_key
from ruledsl.lang import typed
from ruledsl.runtime import layout, registration, tape, tuned
from ruledsl.runtime.bind import Call
from ruledsl.runtime.chunked import carry_after, no_tokens, state_entering
from ruledsl.runtime.compile_ahead import compile_ahead
from ruledsl.runtime.errors import BackendError
from ruledsl.runtime.layout import inner
from ruledsl.runtime.recurrent import expand_heads
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.state import open_axes, position_of
from ruledsl.runtime.tables import most_chunks, packed_chunks, whole_bounds, whole_chunks
from ruledsl.runtime.tape import Recordings, Tables
from ruledsl.runtime.token import Carry
from ruledsl.runtime.triton_build import build
from ruledsl.runtime.triton_form import TritonForm, form_of, refusal
from ruledsl.schedule.cost import extent
from ruledsl.schedule.tiles import Tiles, narrowed
from ruledsl.schedule.unsupported import Unsupported

if TYPE_CHECKING:
    from ruledsl.runtime.rule import Rule

Arguments = Callable[[Tiles, SimpleNamespace], tuple[Any, ...]]  # of a launcher, for tiles and tables of chunks
Prepare = Callable[[list[Tensor], list[Tensor]], tuple[Tables, Arguments]]  # tensors as launchers take them, by name


def missing() -> str:
    """Why Triton cannot run here; "" if it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'ruledsl[triton]')"
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        return "there is no CUDA device (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"
    return ""


@dataclass(frozen=True)
class TritonPlan:
    """`registration.Plan` of generated kernels. Tensors: inputs, params, states, position, cu_seqlens if packed."""

    form: TritonForm
    sizes: Mapping[str, int]
    heads: int
    dtype: torch.dtype  # of the dots' operands, and of outputs
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    packed: bool
    candidates: Mapping[str, tuple[Tiles, ...]]  # by direction, best first
    shipped: tuple[Tiles, ...]  # those of the candidates that nobody measured for this device
    fixed: int | None = None  # the chunk length, where the rule or the call sets it
    later: Callable[[], Compiled] | None = None  # for sequences that go on, where these are only for those that begin
    recordings: Recordings = field(default_factory=Recordings)

    @property
    def results(self) -> int:
        return len(self.outputs) + len(self.form.states)

    @cached_property
    def differentiable(self) -> tuple[bool, ...]:
        return tuple(k in self.form.with_gradient for k in self._keys) + (False,) * (2 if self.packed else 1)

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        batch, length = tensors[0].shape[:2]
        outputs, final, kept = self._launched("forward", tensors, [], self._forward)
        public = [self._inside(outputs[n].view(batch, length, self.heads, *shape), tensors) for n, shape in self.outputs]
        return [*public, *(final[s.key] for s in self.form.states), *self._handed(tensors, kept)]

    def _handed(self, tensors: list[Tensor], kept: dict[str, Tensor]) -> list[Tensor]:
        """What backward takes over, each [B, numbers]: room for the longest chunks, whichever ran."""
        if not self.form.kept:
            return []
        found = []
        for (name, _), shape in zip(self.form.kept, self._room(tensors), strict=True):
            own = kept[name].view(shape[0], -1)
            if own.shape != shape:
                room = own.new_zeros(shape)
                room.view(-1)[: own.numel()] = own.flatten()
                own = room
            found.append(own)
        return found

    def _room(self, tensors: list[Tensor]) -> list[tuple[int, int]]:
        """The shapes of what `_handed` gives: known without running."""
        batch, length = tensors[0].shape[:2]
        c = self._longest
        sequences = tensors[len(self._keys)].shape[0]
        several = self.packed or self.form.aligned
        count = most_chunks(batch * length, c, sequences, self.form.aligned) if several else batch * -(-length // c)
        each = (math.prod(extent(axis, c, self.sizes) for axis in shape) for _, shape in self.form.kept)
        return [(batch, -(-count // batch) * self.heads * numbers) for numbers in each]

    @cached_property
    def _longest(self) -> int:
        """Tokens of the longest chunks that may run."""
        return max(t.chunk for t in self.candidates["forward"])

    @cached_property
    def _keys(self) -> tuple[str, ...]:
        """What launchers call inputs, params and states, in the order of the tensors."""
        return (*(tensor_key(p) for p in (*self.form.inputs, *self.form.params)), *(s.key for s in self.form.states))

    def _forward(self, tensors: list[Tensor], rest: list[Tensor]) -> tuple[Tables, Arguments]:
        x, states = self._named(tensors)
        tokens = tensors[0].shape[:2].numel()
        return (x, states), lambda t, chunks: (x, states, chunks, self.heads, self.sizes, self._plan(t, states, tokens, {}))

    def _backward(self, tensors: list[Tensor], rest: list[Tensor]) -> tuple[Tables, Arguments]:
        x, states = self._named(tensors)
        tokens = tensors[0].shape[:2].numel()
        given = iter(rest)
        handed = len(rest) > len(self.outputs) + len(self.form.states)
        kept = {name: next(given).contiguous() for name, _ in self.form.kept if handed}
        d_outputs = {n: _flat(next(given).reshape(*tensors[0].shape[:2], self.heads, -1), tokens) for n, _ in self.outputs}
        d_final = {s.key: next(given).float().contiguous() for s in self.form.states}
        own = (x[tensor_key(p)] for p in self.form.inputs)
        dtypes = {tensor_key(p): v.dtype if v.shape[1] == self.heads else torch.float32 for p, v in zip(self.form.inputs, own, strict=True)}
        ran = self._ran()
        return (x, states, kept, d_outputs, d_final), lambda t, chunks: (
            x, states, chunks, self.heads, self.sizes, self._plan(t, states, tokens, dtypes), kept if handed and t.chunk == ran else None, d_outputs, d_final,
        )  # fmt: skip

    def backward(self, tensors: list[Tensor], kept: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        batch, length = tensors[0].shape[:2]
        found, initial = self._launched("backward", tensors, [*kept, *grads], self._backward)
        inputs = self._keys[: len(self.form.inputs)]
        results = []
        for key, tensor, wanted in zip(self._keys, tensors, self.differentiable, strict=False):
            if not wanted:
                continue
            if key in inputs:
                own = self._inside(found[key].view(batch, length, self.heads, *tensor.shape[3:]), tensors)
                if tensor.shape[2] != self.heads:
                    own = own.unflatten(2, (tensor.shape[2], -1)).sum(3).to(tensor.dtype)
                results.append(own)
            elif key in found:
                results.append(found[key].sum(0).to(tensor.dtype).view(tensor.shape))
            else:
                results.append(initial[key] if key in initial else torch.zeros_like(tensor))
        return results

    def instead(self, given: list[bool]) -> str | None:
        lost = any(g and s.key in self.form.anew for g, s in zip(given[len(self.outputs) :], self.form.states, strict=True))
        return self.later().key if self.later is not None and lost else None

    def _inside(self, x: Tensor, tensors: list[Tensor]) -> Tensor:
        """[B, T, ...] with 0 at tokens that belong to no sequence: no kernel writes them."""
        if not self.packed:
            return x
        bounds, at = tensors[-1], torch.arange(x.shape[1], device=x.device)
        kept = (at >= bounds[0]) & (at < bounds[-1])
        return torch.where(kept.view(1, -1, *[1] * (x.dim() - 2)), x, 0)

    def like(self, tensors: list[Tensor]) -> list[Tensor]:
        batch, length = tensors[0].shape[:2]
        made = [tensors[0].new_empty(batch, length, self.heads, *shape, dtype=self.dtype) for _, shape in self.outputs]
        made += [s.new_empty(s.shape) for s in self._states(tensors)]
        return made + [tensors[0].new_empty(shape, dtype=self._operands) for shape in self._room(tensors)]

    def batched(self, tensors: list[Tensor]) -> bool:
        return not self.packed and not self.form.params

    def _states(self, tensors: list[Tensor]) -> list[Tensor]:
        start = len(self.form.inputs) + len(self.form.params)
        return tensors[start : start + len(self.form.states)]

    def _named(self, tensors: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        tokens, inputs = tensors[0].shape[:2].numel(), len(self.form.inputs)
        x = {tensor_key(p): _flat(t, tokens) for p, t in zip(self.form.inputs, tensors, strict=False)}
        x |= {tensor_key(p): t[0].contiguous() for p, t in zip(self.form.params, tensors[inputs:], strict=False)}
        return x, {s.key: t.contiguous() for s, t in zip(self.form.states, self._states(tensors), strict=True)}

    def _chunks(self, tensors: list[Tensor], c: int) -> SimpleNamespace:
        """Tables of chunks: first token, tokens, position in its sequence; first chunk and end of each sequence."""
        position = tensors[len(self._keys)]
        batch, length = tensors[0].shape[:2]
        if self.packed or self.form.aligned:
            bounds = tensors[-1] if self.packed else whole_bounds(batch, length, position.device)
            return packed_chunks(batch * length, c, bounds, position, self.form.aligned)
        whole = whole_chunks(batch, length, c, tensors[0].device)
        if not self.form.positions:
            return whole
        places = (whole.places.view(batch, -1) + position[:, None]).flatten()
        return SimpleNamespace(**{**vars(whole), "places": places})

    def _plan(self, choice: Tiles, states: dict[str, Tensor], tokens: int, dtypes: dict[str, torch.dtype]) -> dict[str, Any]:
        first = next(iter(states.values()))
        if choice in self.shipped and first.is_cuda:
            choice = narrowed(choice, first.shape[0], tokens, self.heads, first.shape[2], _units(first.device))
        exact = self.dtype == torch.float32
        operands = self._operands
        return {
            **choice.plan(),
            "tokens": tokens,
            "dtype": operands,
            "precision": "tf32x3" if exact else "tf32" if operands == torch.float32 else "ieee",
            "dtypes": {n: self.dtype for n, _ in self.outputs} | dtypes,
        }

    def _ran(self) -> int:
        """Tokens of a chunk in the last forward pass."""
        return _FITTING.get(self._place("forward"), self.candidates["forward"][0]).chunk

    def _place(self, direction: str) -> Place:
        return self.form.key, self._sizes, self.dtype, self.fixed, direction

    @cached_property
    def _sizes(self) -> tuple[tuple[str, int], ...]:
        return tuple(sorted(self.sizes.items()))

    @property
    def _operands(self) -> torch.dtype:
        """Of the products."""
        return torch.float32 if self.form.wide else self.dtype

    def _launched(self, direction: str, tensors: list[Tensor], rest: list[Tensor], prepare: Prepare) -> Tables:
        """What the launcher returns, with the tiles that fit the device."""
        choice = _FITTING.get(self._place(direction))
        if choice not in self.candidates[direction]:
            return self._first(direction, tensors, prepare(tensors, rest)[1])
        chunks = self._chunks(tensors, choice.chunk)
        tables = list(vars(chunks).values())

        def prepared() -> tuple[list[Tensor], tape.Body]:
            named, arguments = prepare(tensors, rest)
            module = build(self.form.text)
            body: tape.Body = lambda recorder: recorder.launch(module, direction, *arguments(choice, chunks))  # noqa: E731
            return [x for t in named for x in t.values()] + tables, body

        signature = direction, choice.chunk, *tape.signature([*tensors, *rest])
        return self.recordings.run(signature, [*tensors[: len(self._keys)], *rest, *tables], prepared)

    def _first(self, direction: str, tensors: list[Tensor], arguments: Arguments) -> Tables:
        """The first call finds the first tiles that fit."""
        from triton.runtime.errors import OutOfResources

        module = build(self.form.text)
        candidates = self.candidates[direction]
        if direction == "backward" and self.form.kept:  # chunks of the forward pass first: what it made is there
            candidates = tuple(sorted(candidates, key=lambda t: t.chunk != self._ran()))
        for choice in candidates:
            given = arguments(choice, self._chunks(tensors, choice.chunk))
            compile_ahead(module, direction, given)
            try:
                found: Tables = getattr(module, direction)(*given)
            except OutOfResources as e:
                last = e
                continue
            _FITTING[self._place(direction)] = choice
            return found
        raise BackendError(f"backend 'triton': no tiles fit this device at {dict(self.sizes)} ({last}); backend 'torch' runs it")


@lru_cache
def _units(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


Place = tuple[str, tuple[tuple[str, int], ...], torch.dtype, int | None, str]  # kernels, sizes, dtype, fixed chunk, direction
_FITTING: dict[Place, Tiles] = {}


def fitting(key: str, sizes: Mapping[str, int], dtype: torch.dtype, direction: str) -> Tiles | None:
    """The tiles that ran for the form of that key; None before its first call."""
    return _FITTING.get((key, tuple(sorted(sizes.items())), dtype, None, direction))


def _flat(x: Tensor, tokens: int) -> Tensor:
    """[tokens, Hg, ...] with contiguous trailing axes; offsets inside a chunk fit 32 bits."""
    x = inner(x.reshape(tokens, *x.shape[2:]))
    return x if x.stride(0) < 2**24 else x.contiguous()


@dataclass(frozen=True, slots=True)
class Compiled:
    rule: typed.Rule
    form: TritonForm
    key: str  # of the registered plan
    later: Callable[[], Compiled] | None = None  # for sequences that go on, where this one is only for those that begin


def prepare(rule: Rule, setting: Setting, begins: bool = True) -> Compiled:
    """Generate kernels and register them. `begins`: of a rule that freezes states, only for sequences from their first token on.
    BackendError: the rule has no form, or not here."""
    sizes = dict(setting.sizes)
    found = rule.chunkable(sizes)
    if isinstance(found, str):
        raise BackendError(f"backend 'triton': {found}; backend 'recurrent' runs it")
    if why := missing() or refusal(found, setting):
        raise BackendError(f"backend 'triton': {why}")
    try:
        form = form_of(rule, found, setting, begins)
    except Unsupported as e:
        raise BackendError(f"backend 'triton': {e}") from None
    later = cache(partial(prepare, rule, setting, begins=False)) if begins and found.program.chunk else None
    fixed = found.program.chunk or setting.chunk_size
    own = ("packed" if setting.packed else "whole", setting.heads, setting.out_dtype, fixed, setting.device.type)
    key = "-".join([form.key, *map(str, own), *(f"{k}{v}" for k, v in setting.sizes)])
    if registration.registered(key) is None:
        outputs = tuple((o.name, tuple(typed.dim_value(d, sizes) for d in o.value.type.dims)) for o in rule.typed.outputs)
        choices = tuple(dict.fromkeys(replace(t, chunk=fixed) for t in form.candidates)) if fixed else form.candidates
        place = tuned.Place(form.key, setting.sizes, setting.out_dtype, setting.device)
        ordered = tuned.before(choices, place, fixed)
        registration.register(key, TritonPlan(form, sizes, setting.heads, setting.out_dtype, outputs, setting.packed, ordered, choices, fixed, later))
    return Compiled(rule.typed, form, key, later)


def run(compiled: Compiled, call: Call, carry: Carry, cu_seqlens: Tensor | None) -> tuple[dict[str, Tensor], Carry]:
    """Outputs [B, T, H, rows, cols] and the carry after the last token."""
    if compiled.later is not None and not carry.begins:
        compiled = compiled.later()
    rule, form = compiled.rule, compiled.form
    if call.length == 0:
        return {o.name: no_tokens(call, o.value.type) for o in rule.outputs}, carry
    inputs = [_input(port, call, carry, cu_seqlens) for port in form.inputs]
    params = [call.params[p.name].float()[None] for p in form.params]
    states = [state_entering(carry, s).float() for s in form.states]
    sequences = call.batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    position = position_of(carry, sequences, call.device)
    packing = [] if cu_seqlens is None else [cu_seqlens]
    found = registration.run(compiled.key, [*inputs, *params, *states, position, *packing])
    outputs = {}
    for o, x in zip(rule.outputs, found, strict=False):
        shape = tuple(typed.dim_value(d, call.sizes) for d in (o.value.type.rows, o.value.type.cols))
        outputs[o.name] = x.reshape(call.batch, call.length, call.heads, *shape)
    leaving = dict(zip(form.states, found[len(outputs) :], strict=True))
    own = {s.name: call.inputs[s.name] for s in rule.symbols if s.name in carry.prev}
    tokens = {n: open_axes(expand_heads(x, 2, call.heads).to(call.dtype), rule.symbol(n).type) for n, x in own.items()}
    rows = None
    if tokens or (carry.t is not None and cu_seqlens is not None):
        rows = layout.whole(call.length, 16, call.device) if cu_seqlens is None else layout.packed(call.length, 16, cu_seqlens)
    return outputs, carry_after(carry, leaving, tokens, rows, call)


def _input(port: Port, call: Call, carry: Carry, cu_seqlens: Tensor | None) -> Tensor:
    x = call.inputs[port.name]
    if not port.lag:
        return x
    ring = carry.prev[port.name].to(x.dtype)
    wide = x if x.shape[2] == call.heads else x.repeat_interleave(call.heads // x.shape[2], 2)
    return layout.lagged(wide, port.lag, ring.reshape(*ring.shape[:3], *x.shape[3:]), cu_seqlens)
