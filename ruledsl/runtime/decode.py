"""One token of every sequence in a batch, and states held in a pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ruledsl.runtime.bind import Call
from ruledsl.runtime.errors import DtypeError, ShapeError, StateError
from ruledsl.runtime.recurrent import head_values, token_values
from ruledsl.runtime.token import Carry, Token


def one(token: Token, call: Call, carry: Carry) -> tuple[dict[str, Tensor], Carry]:
    """Outputs [B, H, (family...), rows, cols] and the next carry."""
    inputs = {name: x[:, 0] for name, x in token_values(token, call).items()}
    return token.step({**head_values(token, call), **inputs}, carry)


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
