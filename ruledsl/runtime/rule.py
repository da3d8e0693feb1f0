"""A loaded rule: checked, explained, and callable.

rule = load("rules/gated_delta.rule")            a path, or the text itself
o = rule(q=q, k=k, v=v, a=a, b=b)                inputs [B, T, H, ...]; differentiable
o, state = rule(..., initial_state=s, return_state=True)
o, state = rule.step(state, q=..., k=..., ...)   one token, inputs [B, H, ...]
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ruledsl import pipeline
from ruledsl.algebra.verdict import Verdict
from ruledsl.chunk.scan import Scan
from ruledsl.lang import typed
from ruledsl.lang.source import Source
from ruledsl.runtime import chunked, decode, state_file
from ruledsl.runtime.bind import Binder, Call
from ruledsl.runtime.chunkable import Chunkable, chunkable
from ruledsl.runtime.errors import DeviceError, DtypeError, ShapeError
from ruledsl.runtime.op import default_backend, prepare_sequence, prepare_step, prepared, remember
from ruledsl.runtime.scannable import larger, scannable
from ruledsl.runtime.spec import RuleSpec, spec_of
from ruledsl.runtime.state import Part, State, as_dict, close_axes, is_plain, pack, state_parts, unpack
from ruledsl.runtime.token import Token

if TYPE_CHECKING:
    from torch.nn import Module

Outputs = Tensor | dict[str, Tensor]


def load(path_or_text: str | os.PathLike[str]) -> Rule:
    """Read and check a rule. RuleError lists every mistake in it."""
    return Rule(pipeline.read(path_or_text))


class Rule:
    """One rule. Compiled forms are kept per sizes, backend and chunk length.

    `in_double`: arithmetic and states are float64 whatever the inputs are, see `algebra.precision`. Kernels compute in
    float32: such a rule takes them only where the backend is named.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.typed: typed.Rule = pipeline.check(pipeline.parse(source))
        self.spec: RuleSpec = spec_of(self.typed)
        self.hash: str = _hash(self.typed)
        self.in_double: bool = pipeline.in_double(self.typed)
        self._chunkable: dict[tuple[tuple[str, int], ...], Chunkable | str] = {}
        self._scannable: dict[tuple[tuple[str, int], ...], tuple[Scan, Scan] | str] = {}
        self._bind = Binder(self.spec)
        one = tuple(replace(e, leading=("B", "H")) for e in self.spec.inputs)
        self._bind_token = Binder(replace(self.spec, inputs=one))
        self._replays = decode.Replays()
        self._id = remember(self)
        self._tokens: dict[tuple[Any, ...], Token] = {}
        self._forms: dict[tuple[Any, ...], chunked.Form] = {}

    def __repr__(self) -> str:
        return f"<Rule {self.source.name}>\n{self.spec}"

    def _repr_latex_(self) -> str:
        """In notebooks: the kind and the transition."""
        return self.verdict._repr_latex_()

    def _repr_markdown_(self) -> str:
        """In notebooks: the text, the kind and the transition."""
        return self.verdict._repr_markdown_()

    @cached_property
    def verdict(self) -> Verdict:
        """What the algebra finds; loops are judged at small sizes."""
        return pipeline.verdict(self.typed)

    # ------------------------------------------------------------------------------------------- sequences

    def __call__(
        self,
        *,
        initial_state: State | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
        backend: str | None = None,
        chunk_size: int | None = None,
        **tensors: Tensor | float,
    ) -> Any:
        """All tokens. Vectors [B, T, H, dim], scalars [B, T, H], families [B, T, H, n, dim], params [H, ...].

        Returns the output (a dict by name if the rule has several), with `return_state` also the final state.
        `cu_seqlens` [N+1]: B = 1 holds N sequences one after another; states are [N, H, ...]. Its values are not
        checked: that would wait for the device.
        """
        given = as_dict(self.typed, initial_state)
        call = self._bind(_autocast(self.spec, tensors), self._declared(given))
        if self.in_double and backend != "triton":
            call = replace(call, dtype=torch.float64)
        _check_packing(cu_seqlens, call)
        if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
            raise ShapeError(f"chunk_size: expected a positive number, got {chunk_size!r}")
        sequences = call.batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        sizes = tuple(sorted(call.sizes.items()))
        dtypes = call.dtype, call.out_dtype
        ready = prepared(
            prepare_sequence(
                self._id, sizes, call.heads, dtypes, call.device, backend, chunk_size, cu_seqlens is not None
            )
        )
        carry = unpack(ready.token, ready.parts, given, sequences)
        assert ready.backend is not None
        with _no_autocast(call.device):
            outputs, carry = ready.backend.run(ready.plan, ready.token, call, carry, cu_seqlens)
        result = self._outputs({name: x.to(call.out_dtype) for name, x in outputs.items()})
        return (result, pack(ready.parts, carry)) if return_state else result

    def backend_for(self, device: torch.device | str) -> str:
        """The backend that a call on this device uses when none is named."""
        return default_backend(self, torch.device(device).type)

    # ------------------------------------------------------------------------------------------- one token

    def step(
        self, state: State | None, *, out: Outputs | None = None, slots: Tensor | None = None, **tensors: Tensor | float
    ) -> tuple[Any, State]:
        """One token, inputs [B, H, ...]; returns (outputs, state). `state` None: the first token.

        With `slots` [B], `state` is a pool [P, H, ...] of which row slots[i] belongs to batch row i; it is updated in
        place, and a slot of -1 is padding: its row computes something and changes nothing. With `out`, outputs are
        written there and the state is updated in place as well.
        """
        pool = as_dict(self.typed, state, "state")
        replay, key = self._replays.find(tensors, pool) if slots is None and out is None else (None, None)
        if replay is not None:
            return self._stepped(replay.parts, *replay(tensors, pool))  # type: ignore[arg-type]
        if slots is not None:
            decode.check_slots(slots, pool)
        call = self._bind_token(_autocast(self.spec, tensors), self._declared(pool), "state")
        if self.in_double:
            call = replace(call, dtype=torch.float64)
        ready = prepared(prepare_step(self._id, tuple(sorted(call.sizes.items())), call.heads, call.dtype, call.device))
        in_place = slots is not None or (out is not None and state is not None)
        if ready.plan is not None:
            done = decode.fused(ready.plan, ready.token, ready.parts, call, pool, slots, out, in_place)
            if done is not None:
                outputs, new_pool, replay = done
                if key is not None and replay is not None:
                    self._replays.add(key, replay, call, tensors)  # type: ignore[arg-type]
                found, new_state = self._stepped(ready.parts, outputs, new_pool)
                return (found if out is None else out), (state if in_place else new_state)  # type: ignore[return-value]
        given = pool if slots is None else decode.gather(pool, slots)
        carry = unpack(ready.token, ready.parts, given, call.batch, "state")
        with _no_autocast(call.device):
            outputs, carry = decode.one(ready.token, call, carry)
        result = self._outputs({name: x.to(call.out_dtype) for name, x in outputs.items()})
        new = pack(ready.parts, carry)
        if in_place:
            decode.store(pool, as_dict(self.typed, new), slots)
            new = state  # type: ignore[assignment]
        if out is not None:
            result = decode.write(out, result)
        return result, new

    @staticmethod
    def _stepped(parts: tuple[Part, ...], outputs: dict[str, Tensor], pool: dict[str, Tensor]) -> tuple[Any, State]:
        """What a kernel made of a token, as the caller sees it."""
        found = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        return found, pool[parts[0].key] if is_plain(parts) else pool

    def init_state(
        self,
        batch: int,
        heads: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        learned: Mapping[str, Tensor] | None = None,
        **sizes: int,
    ) -> State:
        """The state before the first token. `learned`: values [heads, ...] or [batch, heads, ...] of learned states."""
        place = torch.empty(0, device=device).device  # "cuda" is the current one by number
        dtype = torch.float64 if self.in_double else dtype
        token = self.token(tuple(sorted(sizes.items())), heads, dtype, place)
        parts = state_parts(self.typed, token.carried)
        types = {s.name: s.type for s in self.typed.of(typed.Role.STATE)}
        given = {
            n: x.to(dtype).expand(batch, heads, *x.shape[x.dim() - len(types[n].dims) :])
            for n, x in (learned or {}).items()
        }
        return pack(parts, unpack(token, parts, given, batch, "learned"))

    # ------------------------------------------------------------------------------------------- files and layers

    def save_state(self, path: str | os.PathLike[str], state: State) -> None:
        """Write a state as safetensors, with this rule's hash and layout."""
        state_file.save(path, as_dict(self.typed, state, "state"), self.hash, str(self.spec))

    def load_state(self, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> State:
        """Read a state of this rule; StateError if another rule wrote it."""
        parts = state_file.load(path, self.hash, device)
        plain = len(parts) == 1 and next(iter(parts)) in {s.name for s in self.spec.states}
        return next(iter(parts.values())) if plain else parts

    def layer(self, **options: Any) -> Module:
        """This rule as an nn.Module; see `ruledsl.nn`."""
        from ruledsl.nn.layer import RuleLayer

        return RuleLayer(self, **options)

    # ------------------------------------------------------------------------------------------- inside

    def token(self, sizes: tuple[tuple[str, int], ...], heads: int, dtype: torch.dtype, device: torch.device) -> Token:
        """The step at these sizes."""
        key = (sizes, heads, dtype, device)
        if key not in self._tokens:
            self._tokens[key] = Token(self.typed, dict(sizes), heads, dtype, device)
        return self._tokens[key]

    def chunkable(self, sizes: Mapping[str, int] | None = None) -> Chunkable | str:
        """The chunk program at the sizes of families and loops (None: small ones), or why there is none."""
        names = pipeline.unroll_sizes(self.typed)
        own = {n: self.verdict.sizes[n] if sizes is None else sizes[n] for n in names}
        key = tuple(own.items())
        if key not in self._chunkable:
            self._chunkable[key] = chunkable(self.typed, own)
        return self._chunkable[key]

    def scannable(self, sizes: Mapping[str, int] | None = None) -> tuple[Scan, Scan] | str:
        """The scans over tokens at the sizes of families and loops (None: small ones), or why there are none."""
        names = pipeline.unroll_sizes(self.typed)
        own = larger({n: self.verdict.sizes[n] for n in names}) if sizes is None else {n: sizes[n] for n in names}
        key = tuple(own.items())
        if key not in self._scannable:
            self._scannable[key] = scannable(self.typed, own)
        return self._scannable[key]

    def form(self, sizes: Mapping[str, int], chunk_size: int | None = None) -> chunked.Form:
        """The compiled chunk form; the rule must have one."""
        key = (tuple(sorted(sizes.items())), chunk_size)
        if key not in self._forms:
            found = self.chunkable(sizes)
            assert isinstance(found, Chunkable), found
            self._forms[key] = chunked.form_of(self, found, sizes, chunk_size)
        return self._forms[key]

    def _declared(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {e.name: given[e.name] for e in self.spec.states if e.name in given}

    def _outputs(self, tensors: Mapping[str, Tensor]) -> Outputs:
        """Internal outputs [..., (family...), rows, cols] as the caller sees them."""
        closed = {e.name: close_axes(tensors[e.name], e.type) for e in self.spec.outputs}
        return next(iter(closed.values())) if len(closed) == 1 else closed


def _hash(rule: typed.Rule) -> str:
    """Of the meaning: comments, blank lines and the file's name do not count."""
    return hashlib.sha256(repr((rule.symbols, rule.sizes, rule.body)).encode()).hexdigest()


def _autocast(spec: RuleSpec, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Under autocast, vectors without a declared range go to its dtype; gates (scalars, ranged vectors) stay."""
    if not any(map(_casts, {x.device.type for x in tensors.values() if isinstance(x, Tensor)})):
        return dict(tensors)
    cast = {e.name for e in spec.inputs if not e.type.is_scalar and e.interval is None}
    return {name: _autocast_one(x) if name in cast and isinstance(x, Tensor) else x for name, x in tensors.items()}


@torch.compiler.assume_constant_result  # type: ignore[misc]
def _has_autocast(device: str) -> bool:
    """Torch 2.11 cannot trace the question."""
    return torch.amp.is_autocast_available(device)


def _autocast_one(x: Tensor) -> Tensor:
    device = x.device.type
    eligible = x.dtype in (torch.float32, torch.float16, torch.bfloat16) and _casts(device)
    return x.to(torch.get_autocast_dtype(device)) if eligible else x


def _casts(device: str) -> bool:
    return _has_autocast(device) and torch.is_autocast_enabled(device)


def _no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, enabled=False) if _casts(device.type) else nullcontext()


def _check_packing(cu_seqlens: Tensor | None, call: Call) -> None:
    if cu_seqlens is None:
        return
    if not isinstance(cu_seqlens, Tensor) or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise DtypeError(
            f"cu_seqlens: expected an int32 or int64 tensor [N+1], got {getattr(cu_seqlens, 'dtype', type(cu_seqlens).__name__)}"
        )
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2:
        raise ShapeError(f"cu_seqlens: expected [N+1] with N >= 1, got {list(cu_seqlens.shape)}")
    if call.batch != 1:
        raise ShapeError(f"cu_seqlens: packed sequences want B = 1, got B = {call.batch}")
    if cu_seqlens.device != call.device:
        raise DeviceError(f"cu_seqlens is on {cu_seqlens.device}, the inputs on {call.device}")
