"""Tables of chunks and sequences, and numbers, that kernels read: made on the device; nothing waits for it.

Those that follow from numbers alone are kept, but not what a CUDA graph that is being captured makes: that memory is the
graph's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Make = TypeVar("Make", bound=Callable[..., Any])


def _kept(make: Make) -> Make:
    kept = lru_cache(maxsize=256)(make)

    @wraps(make)
    def found(*given: Any) -> Any:
        captured = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        return make(*given) if captured else kept(*given)

    return cast(Make, found)


@_kept
def whole_chunks(batch: int, length: int, chunk: int, device: torch.device) -> SimpleNamespace:
    """Of sequences of one length: first token, tokens, position in its sequence of each chunk; first chunk and end, first token
    and end of each sequence."""
    per = -(-length // chunk)
    index = torch.arange(batch * per, device=device)
    row, inside = index // per, index % per * chunk
    begins = torch.arange(batch, device=device) * per
    firsts = torch.arange(batch, device=device) * length
    starts, counts = row * length + inside, (length - inside).clamp(max=chunk)
    return SimpleNamespace(
        starts=starts, counts=counts, places=inside, begins=begins, ends=begins + per, firsts=firsts, lasts=firsts + length
    )


def most_chunks(length: int, chunk: int, sequences: int, aligned: bool) -> int:
    """How many chunks `packed_chunks` has room for; those that are not used are empty."""
    return length // chunk + sequences * (2 if aligned else 1)


def packed_chunks(length: int, chunk: int, cu_seqlens: Tensor, position: Tensor, aligned: bool = False) -> SimpleNamespace:
    """The same of packed sequences, which start from `position`. `aligned`: the chunks are those at positions 0, `chunk`,
    2 * `chunk` ..., so that the first one of a sequence that goes on may be short."""
    bounds = cu_seqlens.to(torch.int64)
    starts, lengths = bounds[:-1], bounds.diff()
    missed = torch.where(lengths > 0, position % chunk, 0) if aligned else torch.zeros_like(starts)  # of the first chunk
    used = (missed + lengths + chunk - 1) // chunk
    ends = used.cumsum(0)
    begins = ends - used
    index = torch.arange(most_chunks(length, chunk, starts.shape[0], aligned), device=bounds.device)
    owner = torch.searchsorted(ends, index, right=True).clamp(max=starts.shape[0] - 1)
    after = (index - begins[owner] + 1) * chunk - missed[owner]  # tokens of the sequence at the chunk's end
    inside = (after - chunk).clamp(min=0)
    counts = torch.where(index < ends[-1], torch.minimum(after, lengths[owner]) - inside, 0).clamp(min=0)
    return SimpleNamespace(
        starts=starts[owner] + inside, counts=counts, places=inside + position[owner], begins=begins, ends=ends,
        firsts=starts, lasts=starts + lengths,
    )  # fmt: skip


@_kept
def whole_bounds(batch: int, length: int, device: torch.device) -> Tensor:
    """First tokens of sequences of one length [B + 1]."""
    return torch.arange(batch + 1, device=device) * length


@_kept
def whole_pieces(batch: int, length: int, tokens: int, count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`pieces` of sequences of one length."""
    return pieces(whole_bounds(batch, length, device), tokens, count)


def pieces(bounds: Tensor, tokens: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`count` pieces of at most `tokens` tokens of sequences with these bounds, in the order of their tokens; those after the
    last one are empty. First tokens [count + 1]; first piece of each sequence [sequences + 1]; of each piece: its sequence
    and how many tokens that had before it [count]."""
    each = (bounds.diff() + tokens - 1) // tokens
    of = torch.cat([each.new_zeros(1), each.cumsum(0)])
    index = torch.arange(count + 1, device=bounds.device)
    sequence = (torch.searchsorted(of, index, right=True) - 1).clamp(max=each.shape[0] - 1)
    begin = torch.minimum(bounds[sequence] + (index - of[sequence]) * tokens, bounds[sequence + 1])
    return begin, of, sequence[:-1], (begin - bounds[sequence])[:-1]


@_kept
def filled(value: float, heads: int, device: torch.device) -> Tensor:
    """A number for every head, float64 [H]."""
    return torch.full((heads,), value, dtype=torch.float64, device=device)
