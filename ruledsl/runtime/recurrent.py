"""The whole sequence token by token: the backend that every other backend is held to.

It runs on any device, for every rule, and is differentiable any number of times. Packed sequences are run one by one
(their bounds are read on the host: this backend alone does that).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ruledsl.lang import typed
from ruledsl.runtime.bind import Call
from ruledsl.runtime.state import open_axes
from ruledsl.runtime.token import Carry, Token


def recurrent(token: Token, call: Call, carry: Carry, cu_seqlens: Tensor | None) -> tuple[dict[str, Tensor], Carry]:
    """Outputs [B, T, H, (family...), rows, cols] by name and the carry after the last token of every sequence."""
    inputs = token_values(token, call)
    params = head_values(token, call)
    if cu_seqlens is None:
        return _run(token, inputs, params, carry, call.length)
    bounds = cu_seqlens.tolist()
    outputs: list[dict[str, Tensor]] = []
    carries: list[Carry] = []
    for i, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        own = {name: x[:, start:end] for name, x in inputs.items()}
        out, last = _run(token, own, params, _rows(carry, i), end - start)
        outputs.append(out)
        carries.append(last)
    joined = {name: torch.cat([o[name] for o in outputs], 1) for name in outputs[0]}
    outside = bounds[0], call.length - bounds[-1]  # tokens before the first and after the last sequence belong to none
    return {name: _surrounded(x, *outside) for name, x in joined.items()}, _join(carries)


def _surrounded(x: Tensor, before: int, after: int) -> Tensor:
    """[1, before + T + after, ...]: zeros around [1, T, ...]."""
    first, last = (x.new_zeros(1, n, *x.shape[2:]) for n in (before, after))
    return torch.cat([first, x, last], 1) if before or after else x


def token_values(token: Token, call: Call) -> dict[str, Tensor]:
    """Inputs as [B, T, heads, (family...), rows, cols] in the arithmetic dtype."""
    types = {s.name: s.type for s in token.rule.symbols}
    return {
        name: open_axes(expand_heads(x, 2, token.heads).to(token.like["dtype"]), types[name])
        for name, x in call.inputs.items()
    }


def head_values(token: Token, call: Call) -> dict[str, Tensor]:
    """Params and given consts as [1, heads, (family...), rows, cols]."""
    types = {s.name: s.type for s in token.rule.symbols}
    return {name: open_axes(x.to(token.like["dtype"]), types[name])[None] for name, x in call.params.items()}


def expand_heads(x: Tensor, axis: int, heads: int) -> Tensor:
    """Grouped heads: head h uses h // (heads / own)."""
    own = x.shape[axis]
    return x if own == heads else x.repeat_interleave(heads // own, axis)


def _run(
    token: Token, inputs: Mapping[str, Tensor], params: Mapping[str, Tensor], carry: Carry, length: int
) -> tuple[dict[str, Tensor], Carry]:
    outputs: dict[str, list[Tensor]] = {o.name: [] for o in token.rule.outputs}
    for i in range(length):
        out, carry = token.step({**params, **{name: x[:, i] for name, x in inputs.items()}}, carry)
        for name, x in out.items():
            outputs[name].append(x)
    if length:
        return {name: torch.stack(xs, 1) for name, xs in outputs.items()}, carry
    batch = next(iter(inputs.values())).shape[0]
    return {o.name: _no_tokens(token, o.value.type, batch) for o in token.rule.outputs}, carry


def _no_tokens(token: Token, type_: typed.Type, batch: int) -> Tensor:
    dims = (typed.dim_value(d, token.sizes) for d in (*type_.family, type_.rows, type_.cols))
    return torch.zeros(batch, 0, token.heads, *dims, **token.like)


def _rows(carry: Carry, i: int) -> Carry:
    """The carry of one sequence."""
    states = {k: x[i : i + 1] for k, x in carry.states.items()}
    prev = {k: x[i : i + 1] for k, x in carry.prev.items()}
    frozen = {k: x[i : i + 1] for k, x in carry.frozen.items()}
    return Carry(states, prev, frozen, None if carry.t is None else carry.t[i : i + 1])


def _join(carries: list[Carry]) -> Carry:
    first = carries[0]
    states = {k: torch.cat([c.states[k] for c in carries]) for k in first.states}
    prev = {k: torch.cat([c.prev[k] for c in carries]) for k in first.prev}
    frozen = {k: torch.cat([c.frozen[k] for c in carries]) for k in first.frozen}
    return Carry(states, prev, frozen, None if first.t is None else torch.cat([c.t for c in carries if c.t is not None]))
