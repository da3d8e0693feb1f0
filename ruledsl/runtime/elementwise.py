"""Element-wise rows of the function table, as functions on tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ruledsl.lang.functions import TABLE, Function
from ruledsl.runtime.tile_ops import ctz


def _compiled(row: Function) -> Callable[..., Tensor]:
    """The row's spelling as a function; the text is the table's own, never a user's."""
    names = [f"a{i}" for i in range(row.low)]
    body = row.torch.format(*names)
    return eval(f"lambda {', '.join(names)}: {body}", {"torch": torch, "F": functional, "ctz": ctz})  # type: ignore[no-any-return]


_ROWS: dict[str, Callable[..., Tensor]] = {name: _compiled(row) for name, row in TABLE.items() if row.torch}


def elementwise(name: str) -> Callable[..., Tensor]:
    """The row `name` as a function. Rows of two to nine arguments have been folded to two."""
    return _ROWS[name]
