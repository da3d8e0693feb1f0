"""One token of every sequence in a batch, and states held in a pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ruledsl.lang import typed
from ruledsl.runtime import registration, triton_step
from ruledsl.runtime.bind import Call
from ruledsl.runtime.errors import DtypeError, ShapeError, StateError
from ruledsl.runtime.recurrent import head_values, token_values
from ruledsl.runtime.state import Part, as_dict, check_part, pack, unpack
from ruledsl.runtime.tape import Signature, Tape, keep, signature
from ruledsl.runtime.token import Carry, Token


def one(token: Token, call: Call, carry: Carry) -> tuple[dict[str, Tensor], Carry]:
    """Outputs [B, H, (family...), rows, cols] and the next carry."""
    inputs = {name: x[:, 0] for name, x in token_values(token, call).items()}
    return token.step({**head_values(token, call), **inputs}, carry)


@dataclass(frozen=True, slots=True)
class Replay:
    """A step by a kernel, done again with tensors that are alike: nothing is checked or looked up."""

    tape: Tape
    parts: tuple[Part, ...]
    arguments: tuple[str, ...]  # inputs and params
    states: tuple[str, ...]  # keys of those that the kernel works on: all but the position
    outputs: tuple[tuple[str, tuple[int, ...], torch.dtype], ...]

    def __call__(self, given: Mapping[str, Tensor], pool: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Outputs by name, the new state by key."""
        new = {key: torch.empty_like(x) for key, x in pool.items()}
        outputs = {name: torch.empty(shape, dtype=dtype, device=self.tape.device) for name, shape, dtype in self.outputs}
        values = [given[n] for n in self.arguments]
        values += [table[key] for table in (pool, new) for key in self.states]
        values += outputs.values()
        values += [pool["t"]] if "t" in pool else []
        with registration.on_device_of(values[0]):
            self.tape.play(values)
            if "t" in pool:
                _advance(pool["t"], new["t"], None)
        return outputs, new


class Replays:
    """Replays of one rule, by what they depend on."""

    def __init__(self) -> None:
        self._known: dict[Signature, Replay] = {}

    def __reduce__(self) -> tuple[type[Replays], tuple[()]]:
        """Copied and pickled without its replays: compiled kernels stay in their process."""
        return Replays, ()

    def find(self, given: Mapping[str, Any], pool: Mapping[str, Tensor]) -> tuple[Replay | None, Signature | None]:
        """The replay for these arguments and states, and the key for a new one; no key where a replay never serves."""
        values = [*given.values(), *pool.values()]
        if not pool or not registration.alone(values) or torch.is_autocast_enabled(values[0].device.type):
            return None, None
        key = [*given, *pool, torch.is_grad_enabled(), *signature(values)]
        for x in values:
            key += x.device, x.requires_grad
        found = tuple(key)
        return self._known.get(found), found

    def add(self, key: Signature, replay: Replay, call: Call, given: Mapping[str, Tensor]) -> None:
        """Not if the call works on copies of its arguments."""
        own = {**call.inputs, **call.params}
        if all(own[n].data_ptr() == given[n].data_ptr() for n in replay.arguments):
            keep(self._known, key, replay)


def fused(
    plan: triton_step.StepPlan,
    token: Token,
    parts: tuple[Part, ...],
    call: Call,
    pool: dict[str, Tensor],
    slots: Tensor | None,
    out: Any,
    in_place: bool,
) -> tuple[dict[str, Tensor], dict[str, Tensor], Replay | None] | None:
    """One token by a kernel: outputs [B, H, ...] by name, the new state by key, and how to do it again; or None where only plain
    torch serves: gradients, tracing, tensors that a kernel cannot work in."""
    given = [*call.inputs.values(), *call.params.values(), *pool.values()]
    if torch.is_grad_enabled() and any(x.requires_grad for x in given):
        return None
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None or call.batch == 0:
        return None
    fresh = not in_place
    if len(pool) < len(parts):  # a part that is not given starts as declared
        if in_place:
            return None
        start = as_dict(token.rule, pack(parts, unpack(token, parts, pool, call.batch, "state")))
        states = {key: x.clone(memory_format=torch.contiguous_format) for key, x in start.items()}
        fresh = False
    else:
        states = pool
    rows = call.batch if slots is None else next(iter(states.values())).shape[0]
    for p in parts:
        if p.key not in states:
            return None
        check_part(p, states[p.key], token, rows, "state")
    if not all(x.is_contiguous() and x.dtype in (torch.float32, torch.int64) for x in states.values()):
        return None
    new = {key: torch.empty_like(x) for key, x in states.items()} if fresh else states
    types = {o.name: o.value.type for o in token.rule.outputs}
    outputs = {n: _result(out, n, len(types), t, call, slots) for n, t in types.items()}
    named = {triton_step.state_name(p): p.key for p in parts if p.kind != "t"}
    old, final = ({n: x[key] for n, key in named.items()} for x in (states, new))
    recorded = triton_step.step(plan, call, old, final, states.get("t"), slots, outputs)
    if "t" in states:
        _advance(states["t"], new["t"], slots)
    if out is not None:
        for name, x in outputs.items():
            target = out if isinstance(out, Tensor) else out.get(name)
            if target is not x:
                write(out, x if isinstance(out, Tensor) else {name: x})
    if recorded is None or not fresh or out is not None:
        return outputs, new, None
    made = tuple((n, tuple(x.shape), x.dtype) for n, x in outputs.items())
    return outputs, new, Replay(recorded, parts, (*plan.form.inputs, *plan.form.params), tuple(named.values()), made)


def _result(out: Any, name: str, count: int, type_: typed.Type, call: Call, slots: Tensor | None) -> Tensor:
    """Where the kernel writes an output: the caller's tensor if it fits, else one of our own."""
    shape = (call.batch, call.heads, *(typed.dim_value(d, call.sizes) for d in type_.dims))
    target = out if isinstance(out, Tensor) and count == 1 else out.get(name) if isinstance(out, Mapping) else None
    if isinstance(target, Tensor) and target.shape == shape and target.is_contiguous() and not target.requires_grad:
        return target
    make = torch.empty if slots is None else torch.zeros
    return make(shape, dtype=call.out_dtype, device=call.device)


def _advance(old: Tensor, new: Tensor, slots: Tensor | None) -> None:
    """The position of every row that had a token."""
    if slots is not None:
        old.index_add_(0, slots.to(torch.int64).clamp(min=0), (slots >= 0).to(torch.int64))
    else:
        torch.add(old, 1, out=new)


def check_slots(slots: Tensor, pool: Mapping[str, Tensor]) -> None:
    if not pool:
        raise StateError("slots: there is no pool; give the pooled state")
    if slots.dtype not in (torch.int32, torch.int64):
        raise DtypeError(f"slots: expected an int32 or int64 tensor [B], got {slots.dtype}")
    if slots.dim() != 1:
        raise ShapeError(f"slots: expected [B], got {list(slots.shape)}")


def gather(pool: Mapping[str, Tensor], slots: Tensor) -> dict[str, Tensor]:
    """The batch's rows of the pool; padding reads row 0."""
    rows = slots.to(torch.int64).clamp(min=0)
    return {key: x.index_select(0, rows) for key, x in pool.items()}


def store(pool: Mapping[str, Tensor], new: Mapping[str, Tensor], slots: Tensor | None) -> None:
    """Write the batch's rows back in place, without reading a slot on the host.

    Padding writes what a valid row writes, to the same place; with no valid row, row 0 is written over itself.
    """
    if slots is None:
        for key, x in pool.items():
            x.detach().copy_(new[key].detach())
        return
    valid = slots >= 0
    twin = valid.to(torch.int32).argmax()  # a valid row if there is one, else row 0, which then is padding too
    row = torch.where(valid, torch.arange(slots.shape[0], device=slots.device), twin)
    target = slots.to(torch.int64)[row].clamp(min=0)
    for key, x in pool.items():
        old = x.index_select(0, target)
        keep = valid[row].reshape(-1, *[1] * (x.dim() - 1))
        x.detach().index_copy_(0, target, torch.where(keep, new[key].detach()[row].to(x.dtype), old))


def write(out: Any, result: Any) -> Any:
    """Copy results into the caller's tensors."""
    if isinstance(result, Tensor):
        _copy(out, result, "out")
    else:
        for name, x in result.items():
            if name not in out:
                raise ShapeError(f"out: no tensor for output `{name}`")
            _copy(out[name], x, f"out[{name!r}]")
    return out


def _copy(out: Tensor, x: Tensor, what: str) -> None:
    if not isinstance(out, Tensor) or out.shape != x.shape:
        raise ShapeError(f"{what}: expected {list(x.shape)}, got {list(getattr(out, 'shape', []))}")
    out.detach().copy_(x.detach())
