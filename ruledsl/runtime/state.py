"""The state a caller holds: everything that a continuation needs, and nothing else.

A rule that carries one declared state and nothing besides uses a plain tensor [B, H, ...]. Every other rule uses a
dict: declared states by name [B, H, ...]; `t` [B], int64, when the rule reads its position; `prev.NAME`
[B, H, lag, ...], oldest first; `frozen.NAME` [B, H, ...]. All floats are float32, or float64 with float64 inputs
and for rules that compute in float64 (`Rule.in_double`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ruledsl.chunk.token_program import frozen_name, prev_name
from ruledsl.lang import typed
from ruledsl.lang.typed import Role
from ruledsl.runtime.errors import DeviceError, MissingInput, StateError, did_you_mean
from ruledsl.runtime.statics import Carried
from ruledsl.runtime.token import Carry, Token

State = Tensor | dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a state. `lag`: how many past values it holds, for `prev`."""

    key: str
    kind: str  # "state" "prev" "frozen" "t"
    name: str = ""
    type: typed.Type = typed.SCALAR
    lag: int = 0
    chunk: int = 0

    def shape(self, batch: int, heads: int, sizes: Mapping[str, int]) -> tuple[int, ...]:
        if self.kind == "t":
            return (batch,)
        lead = (batch, heads, self.lag) if self.kind == "prev" else (batch, heads)
        return (*lead, *(typed.dim_value(d, sizes) for d in self.type.dims))


def state_parts(rule: typed.Rule, carries: Carried) -> tuple[Part, ...]:
    """The tensors of the rule's state, in the order in which they are passed on."""
    types = {s.name: s.type for s in rule.symbols} | {
        s.name: s.value.type for s in rule.body if isinstance(s, typed.Let | typed.Output)
    }
    lengths: dict[str, set[int]] = {}
    for name, chunk in carries.frozen:
        lengths.setdefault(name, set()).add(chunk)
    parts = [Part(s.name, "state", s.name, s.type) for s in rule.of(Role.STATE)]
    parts += [Part(f"prev.{name}", "prev", name, types[name], lag=lag) for name, lag in carries.lags.items()]
    for name, chunk in carries.frozen:
        key = f"frozen.{name}" if len(lengths[name]) == 1 else f"frozen.{name}.{chunk}"
        parts.append(Part(key, "frozen", name, types[name], chunk=chunk))
    if carries.position:
        parts.append(Part("t", "t"))
    return tuple(parts)


def is_plain(parts: tuple[Part, ...]) -> bool:
    return len(parts) == 1 and parts[0].kind == "state"


def as_dict(rule: typed.Rule, given: object, what: str = "initial_state") -> dict[str, Tensor]:
    """The given state by key, names and kinds checked; {} for None."""
    states = [s.name for s in rule.of(Role.STATE)]
    if given is None:
        return {}
    if isinstance(given, Tensor):
        if len(states) != 1:
            raise StateError(
                f"{what}: a tensor, but the rule has the states {', '.join(states) or '(none)'}: give a dict by name"
            )
        return {states[0]: given}
    if not isinstance(given, Mapping):
        raise StateError(f"{what}: expected a tensor or a dict by name, got {type(given).__name__}")
    for key, value in given.items():
        if not isinstance(value, Tensor):
            raise StateError(f"{what} `{key}`: expected a tensor, got {type(value).__name__}")
    return dict(given)


def unpack(
    token: Token, parts: tuple[Part, ...], given: Mapping[str, Tensor], batch: int, what: str = "initial_state"
) -> Carry:
    """A caller's state as a carry, every part checked; what is not given starts as declared.

    A dict with only declared states starts at position 0. One that has any other part must have all of them.
    """
    keys = [p.key for p in parts]
    for key in given:
        if key not in keys:
            raise StateError(
                f"{what}: the rule's state has no `{key}`{did_you_mean(key, keys)}; it has {', '.join(keys)}"
            )
    for p in parts:
        if p.key in given:
            check_part(p, given[p.key], token, batch, what)
    carried_keys = [p.key for p in parts if p.kind != "state"]
    lost = [k for k in carried_keys if k not in given]
    if lost and len(lost) < len(carried_keys):
        raise StateError(f"{what}: {', '.join(lost)} missing; a continuation needs all of {', '.join(carried_keys)}")
    unset = [s.name for s in token.rule.of(Role.STATE) if s.learned and s.name not in given]
    if unset:
        raise MissingInput(f"the first value of {', '.join(f'`{n}`' for n in unset)} is learned: give it in {what}")

    opened = {
        p.key: given[p.key] if p.kind == "t" else open_axes(given[p.key], p.type).to(**token.like)
        for p in parts
        if p.key in given
    }
    first = token.first_carry(batch, {p.name: opened[p.key] for p in parts if p.kind == "state" and p.key in opened})
    if lost or not carried_keys:
        return first
    return Carry(
        first.states,
        {p.name: opened[p.key] for p in parts if p.kind == "prev"},
        {(p.name, p.chunk): opened[p.key] for p in parts if p.kind == "frozen"},
        opened.get("t"),
    )


def pack(parts: tuple[Part, ...], carry: Carry) -> State:
    """A carry in the caller's form."""
    state = {p.key: close_axes(_part(p, carry), p.type) if p.kind != "t" else _part(p, carry) for p in parts}
    return state[parts[0].key] if is_plain(parts) else state


def _part(part: Part, carry: Carry) -> Tensor:
    match part.kind:
        case "state":
            return carry.states[part.name]
        case "prev":
            return carry.prev[part.name]
        case "frozen":
            return carry.frozen[part.name, part.chunk]
        case _:
            assert carry.t is not None
            return carry.t


def tensors_of(carry: Carry) -> dict[str, Tensor]:
    """All tensors but the position, by the names that a token program has for them."""
    return {
        **carry.states,
        **{prev_name(n): x for n, x in carry.prev.items()},
        **{frozen_name(n, c): x for (n, c), x in carry.frozen.items()},
    }


def position_of(carry: Carry, sequences: int, device: torch.device) -> Tensor:
    """How many tokens each sequence has had, int64; any numbers where the rule does not ask, and nothing reads them."""
    return carry.t if carry.t is not None else torch.empty(sequences, dtype=torch.int64, device=device)


def with_tensors(carry: Carry, tensors: Mapping[str, Tensor], tokens: int | Tensor) -> Carry:
    """The inverse of `tensors_of`, `tokens` (a number, or for each sequence) later."""
    return Carry(
        {n: tensors[n] for n in carry.states},
        {n: tensors[prev_name(n)] for n in carry.prev},
        {(n, c): tensors[frozen_name(n, c)] for n, c in carry.frozen},
        None if carry.t is None else carry.t + tokens,
    )


def check_part(part: Part, value: Tensor, token: Token, batch: int, what: str) -> None:
    """Shape, device and dtype of one tensor of a state."""
    want = part.shape(batch, token.heads, token.sizes)
    if tuple(value.shape) != want:
        raise StateError(f"{what} `{part.key}`: expected {list(want)}, got {list(value.shape)}")
    if value.device != token.like["device"]:
        raise DeviceError(f"{what} `{part.key}` is on {value.device}, the inputs on {token.like['device']}")
    if part.kind == "t":
        if value.dtype is not torch.int64:
            raise StateError(f"{what} `t`: expected torch.int64, got {value.dtype}")
    elif not value.is_floating_point() or value.dtype.itemsize > token.like["dtype"].itemsize:
        raise StateError(f"{what} `{part.key}`: expected {token.like['dtype']}, got {value.dtype}")


def open_axes(x: Tensor, type_: typed.Type) -> Tensor:
    """A caller's tensor [..., dims] as [..., (family...), rows, cols]."""
    return x[..., None, None] if type_.is_scalar else x[..., None] if type_.is_vector else x


def close_axes(x: Tensor, type_: typed.Type) -> Tensor:
    """The inverse of `open_axes`."""
    # not by an index, whose gradient is a tensor of zeros and a copy
    return x.flatten(-3) if type_.is_scalar else x.flatten(-2) if type_.is_vector else x
