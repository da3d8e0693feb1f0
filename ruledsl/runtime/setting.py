"""What a backend may compile for: the facts of a call that are no tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Setting:
    sizes: tuple[tuple[str, int], ...]  # every size of the rule, by name
    heads: int
    dtype: torch.dtype  # of arithmetic and states
    out_dtype: torch.dtype  # of outputs: the narrowest input
    device: torch.device
    chunk_size: int | None = None  # None: the schedule's choice
    packed: bool = False
