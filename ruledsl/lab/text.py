"""Real text that every Python installation has, and what a model without memory makes of it."""

from __future__ import annotations

import torch
from torch import Tensor

UNIFORM_BITS = 8.0  # per byte, of a model that knows nothing


def python_help() -> bytes:
    """The topics of Python's `help()`, in the order of their names: about 0.5 MB of English and code."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics)).encode()


def split(data: bytes, held_out: float = 0.1) -> tuple[Tensor, Tensor]:
    """The first bytes to train on, the last `held_out` of them to test on; int64."""
    values = torch.frombuffer(bytearray(data), dtype=torch.uint8).long()
    cut = len(data) - round(len(data) * held_out)
    return values[:cut], values[cut:]


def unigram_bits(train: Tensor, held_out: Tensor) -> float:
    """Bits per held-out byte under the byte frequencies of `train`, each count raised by one."""
    counts = torch.bincount(train, minlength=256).double() + 1
    return float(-(counts / counts.sum()).log2()[held_out].mean())


def batch(data: Tensor, size: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random windows [size, context] and the bytes that follow each of theirs."""
    starts = torch.randint(len(data) - context, (size, 1), generator=generator)
    window = data[starts + torch.arange(context + 1)]
    return window[:, :-1], window[:, 1:]
