"""Every rule on Triton, token by token: generated kernels that hold the states in registers.

The registered operator takes inputs [B, T, Hg, ...] as they come, params [1, H, ...], everything that one token hands
to the next [B or sequences, H, ...] in float32, the position each sequence starts from and, packed, cu_seqlens. Nothing
waits for the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ruledsl.chunk.token_program import prev_name
from ruledsl.emit.triton_token import SEGMENT, TokenText
from ruledsl.lang import typed
from ruledsl.runtime import registration, tape
from ruledsl.runtime.bind import Call
from ruledsl.runtime.chunked import no_tokens
from ruledsl.runtime.errors import BackendError
from ruledsl.runtime.layout import inner
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.state import position_of, tensors_of, with_tensors
from ruledsl.runtime.tables import whole_bounds
from ruledsl.runtime.tape import Recorder, Recordings, Tables
from ruledsl.runtime.token import Carry
from ruledsl.runtime.token_form import form_of
from ruledsl.runtime.triton_build import build

if TYPE_CHECKING:
    from ruledsl.runtime.rule import Rule

Tensors = dict[str, Tensor]
Make = Callable[[tuple[int, ...], torch.dtype], Tensor]

_WARPS = ((256, 1), (1_024, 2), (4_096, 4), (8_192, 8))  # by entries of the largest tile; 16 above
_STEP_WARPS = ((1_024, 1), *_WARPS[2:])  # the same in a step


@dataclass(frozen=True)
class Given:
    """The tensors of a call by name, as launchers take them; vectors of tokens are [tokens, Hg, ...]."""

    x: Tensors  # inputs and params
    states: Tensors
    kept: Tensor | None  # and cotangents, in a backward pass
    d_outputs: Tensors
    d_final: Tensors
    at: list[Tensor]  # tables: position and bounds of the sequences, and what a plan adds

    def tensors(self) -> list[Tensor]:
        """In the order of the plan's tensors, then the tables."""
        kept = [] if self.kept is None else [self.kept]
        named = (x for table in (self.d_outputs, self.d_final) for x in table.values())
        return [*self.x.values(), *self.states.values(), *kept, *named, *self.at]


@dataclass(frozen=True)
class TokenPlan:
    """`registration.Plan` of generated kernels. Tensors: inputs, params, states, position, cu_seqlens if packed."""

    form: TokenText
    sizes: Mapping[str, int]
    heads: int
    dtype: torch.dtype  # of outputs
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    families: frozenset[str]  # names whose gradient is written member by member
    packed: bool
    recordings: Recordings = field(default_factory=Recordings, kw_only=True)

    @property
    def results(self) -> int:
        return len(self.outputs) + len(self.form.states)

    @cached_property
    def differentiable(self) -> tuple[bool, ...]:
        return tuple(n in self.form.with_gradient for n in self._names) + (False,) * (2 if self.packed else 1)

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        found = self._run("forward", tensors, [], self._forward)
        return [x for table in found for x in table.values()]

    def backward(self, tensors: list[Tensor], kept: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        found, initial = self._run("backward", tensors, [*kept, *grads], self._backward)
        named = zip(self._names, tensors, strict=False)
        return [initial[n].to(x.dtype) if n in initial else self._gradient(n, found[n], x) for n, x in named if n in found]

    def _run(self, direction: str, tensors: list[Tensor], rest: list[Tensor], body: Callable[[Recorder, Given, list[Tensor]], Tables]) -> Tables:
        at = self._tables(tensors)

        def prepare() -> tuple[list[Tensor], tape.Body]:
            given = self._given(tensors, rest, at)
            return given.tensors(), lambda recorder: body(recorder, given, tensors)

        signature = direction, *tape.signature([*tensors, *rest])
        return self.recordings.run(signature, [*tensors[: len(self._names)], *rest, *at], prepare)

    def _forward(self, run: Recorder, given: Given, tensors: list[Tensor]) -> Tables:
        outputs, final, kept = made = self._made(tensors, run.empty, run.zeros)
        launch(run, self.form, "forward", given.x, given.states, final, *given.at, kept["kept"], outputs, self.heads, self.sizes)
        return made

    def _backward(self, run: Recorder, given: Given, tensors: list[Tensor]) -> Tables:
        sequences, tokens = given.at[1].shape[0] - 1, tensors[0].shape[:2].numel()
        found = self._gradients(run, tensors, sequences)
        scratch = run.empty((sequences * self.heads * self.form.blocks * SEGMENT * self.form.span,), torch.float32)
        launch(
            run, self.form, "backward", given.x, given.kept, *given.at, scratch, given.d_outputs, given.d_final, found, tokens,
            self.heads, self.sizes,
        )  # fmt: skip
        return found, {}

    def instead(self, given: list[bool]) -> str | None:
        return None

    def like(self, tensors: list[Tensor]) -> list[Tensor]:
        def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return tensors[0].new_empty(shape, dtype=dtype)

        return [x for table in self._made(tensors, empty, empty) for x in table.values()]

    def batched(self, tensors: list[Tensor]) -> bool:
        return False  # the checkpoints that are kept are not laid out by batch row

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return (*self.form.inputs, *self.form.params, *self.form.states)

    def _tables(self, tensors: list[Tensor]) -> list[Tensor]:
        """Position and bounds of the sequences."""
        batch, length = tensors[0].shape[:2]
        bounds = tensors[-1].to(torch.int64) if self.packed else whole_bounds(batch, length, tensors[0].device)
        return [tensors[len(self._names)], bounds]

    def _given(self, tensors: list[Tensor], rest: list[Tensor], at: list[Tensor]) -> Given:
        tokens = tensors[0].shape[:2].numel()
        named = dict(zip(self._names, tensors, strict=False))
        x = {n: inner(named[n].reshape(tokens, *named[n].shape[2:])) for n in self.form.inputs}
        x |= {n: named[n][0].contiguous() for n in self.form.params}
        states = {n: named[n].contiguous() for n in self.form.states}
        if not rest:
            return Given(x, states, None, {}, {}, at)
        kept, *grads = rest
        d_outputs = {n: g.contiguous() for (n, _), g in zip(self.outputs, grads, strict=False)}
        finals = zip(self.form.states, grads[len(self.outputs) :], strict=True)
        return Given(x, states, kept, d_outputs, {n: g.float().contiguous() for n, g in finals}, at)

    def _made(self, tensors: list[Tensor], empty: Make, zeros: Make) -> tuple[Tensors, Tensors, Tensors]:
        """Outputs, final states and kept states; packed outputs 0, since tokens after the last sequence belong to none."""
        batch, length = tensors[0].shape[:2]
        states = dict(zip(self._names, tensors, strict=False))
        make = zeros if self.packed else empty
        outputs = {n: make((batch, length, self.heads, *shape), self.dtype) for n, shape in self.outputs}
        final = {n: empty(tuple(states[n].shape), states[n].dtype) for n in self.form.states}
        rows = self._segments(batch * length, tensors[-1].shape[0] - 1 if self.packed else batch)
        return outputs, final, {"kept": empty((rows, self.heads, self._kept_width(states)), torch.float32)}

    def _segments(self, tokens: int, sequences: int) -> int:
        """At most so many kept states."""
        return tokens // SEGMENT + sequences

    def _kept_width(self, given: Mapping[str, Tensor]) -> int:
        """Numbers of a head in a kept state."""
        return self.form.blocks * self.form.span

    def _gradients(self, run: Recorder, tensors: list[Tensor], sequences: int) -> Tensors:
        """Where the kernel writes gradients, see the launcher. `sequences`: that it knows of."""
        tokens, found = tensors[0].shape[:2].numel(), {}
        for name, like in zip(self._names, tensors, strict=False):
            if name not in self.form.with_gradient:
                continue
            partial, own = name in self.form.partial, name in self.form.inputs
            shape = (tokens, self.heads, *like.shape[3:]) if own else (sequences, self.heads, *like.shape[2:])
            same = own and not partial and like.shape[2] == self.heads
            make = run.zeros if self.packed or name in self.families else run.empty
            found[name] = make((*((self.form.blocks,) if partial else ()), *shape), like.dtype if same else torch.float32)
        return found

    def _gradient(self, name: str, found: Tensor, like: Tensor) -> Tensor:
        if name in self.form.partial:
            found = found.sum(0)
        if name in self.form.inputs:
            found = found.unflatten(0, like.shape[:2])
            if like.shape[2] != self.heads:
                found = found.unflatten(2, (like.shape[2], -1)).sum(3)
        elif name in self.form.params:
            found = found.sum(0, keepdim=True)
        return found.to(like.dtype).reshape(like.shape)


def warps(form: TokenText, name: str) -> int:
    """Of a launcher of the module."""
    table, largest = (_STEP_WARPS, form.step_largest) if name == "step" else (_WARPS, form.largest)
    return next((w for most, w in table if largest <= most), 16)


def launch(run: Recorder, form: TokenText, name: str, *arguments: Any) -> None:
    """Run one of the module's launchers; `arguments` but the last, the number of warps."""
    from triton.runtime.errors import OutOfResources

    try:
        run.launch(build(form.text), name, *arguments, warps(form, name))
    except OutOfResources as e:
        raise BackendError(
            f"backend 'triton': values of {form.largest} entries are too large for this device ({e}); "
            "backend 'recurrent' runs the rule"
        ) from None


# ------------------------------------------------------------------------------------------------ a call


@dataclass(frozen=True, slots=True)
class Compiled:
    rule: typed.Rule
    form: TokenText
    key: str  # of the registered plan


class Registered(Protocol):
    """What a call needs of what was prepared."""

    @property
    def rule(self) -> typed.Rule: ...
    @property
    def form(self) -> Named: ...
    @property
    def key(self) -> str: ...


class Named(Protocol):
    """Names of a plan's tensors, in their order."""

    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def params(self) -> tuple[str, ...]: ...
    @property
    def states(self) -> tuple[str, ...]: ...


def prepare(rule: Rule, setting: Setting) -> Compiled:
    """Generate kernels and register them. BackendError: the rule has no form, or not here."""
    form = form_of(rule, setting)
    sizes = dict(setting.sizes)
    own = ("token", "packed" if setting.packed else "whole", setting.heads, setting.out_dtype, setting.device.type)
    text = hashlib.sha256(f"{rule.hash}\n{form.text}".encode()).hexdigest()[:24]
    key = "-".join([text, *map(str, own), *(f"{k}{v}" for k, v in setting.sizes)])
    if registration.registered(key) is None:
        outputs, own_families = output_shapes(rule.typed, sizes), families(rule.typed, form.states)
        registration.register(
            key, TokenPlan(form, sizes, setting.heads, setting.out_dtype, outputs, own_families, setting.packed)
        )
    return Compiled(rule.typed, form, key)


def output_shapes(rule: typed.Rule, sizes: Mapping[str, int]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Outputs and their trailing axes."""
    return tuple((o.name, tuple(typed.dim_value(d, sizes) for d in o.value.type.dims)) for o in rule.outputs)


def families(rule: typed.Rule, states: Iterable[str]) -> frozenset[str]:
    """Names whose gradient is written member by member."""
    looked_back = (n for n in states if n.startswith(prev_name("")))
    return frozenset(s.name for s in rule.symbols if s.type.family).union(looked_back)


def run(compiled: Registered, call: Call, carry: Carry, cu_seqlens: Tensor | None) -> tuple[dict[str, Tensor], Carry]:
    """Outputs [B, T, H, (family...), rows, cols] and the carry after the last token."""
    rule, form = compiled.rule, compiled.form
    if call.length == 0:
        return {o.name: no_tokens(call, o.value.type) for o in rule.outputs}, carry
    inputs = [call.inputs[n] for n in form.inputs]
    params = [call.params[n][None] for n in form.params]
    entering = tensors_of(carry)
    states = [entering[n].float() for n in form.states]
    sequences = call.batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    position = position_of(carry, sequences, call.device)
    packing = [] if cu_seqlens is None else [cu_seqlens]
    found = registration.run(compiled.key, [*inputs, *params, *states, position, *packing])
    outputs = {}
    for o, y in zip(rule.outputs, found, strict=False):
        dims = (typed.dim_value(d, call.sizes) for d in (*o.value.type.family, o.value.type.rows, o.value.type.cols))
        outputs[o.name] = y.reshape(call.batch, call.length, call.heads, *dims)
    leaving = dict(zip(form.states, found[len(outputs) :], strict=True))
    lengths = call.length if cu_seqlens is None else cu_seqlens.diff().to(torch.int64)
    return outputs, with_tensors(carry, leaving, lengths)
