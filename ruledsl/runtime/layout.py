"""Sequences as chunks: the user's tokens to tiles [B, H, N, C, n] and back.

`Chunks` is the table of one call: which token stands in which row of which chunk. Padding rows repeat a token of their
sequence (finite values, whatever the rule computes from them) and are marked invalid. Packed sequences lie in one row of
chunks; each has at least one chunk, so N = T // C + sequences bounds their number, and the table is built on the device
without reading a value. Everything is plain torch, so its adjoint is torch's.

`shift` [B or sequences] puts the first token of a sequence into that row (0 to C - 1) of its first chunk: a sequence that
goes on inside a chunk of its rule keeps that rule's chunks. Each row of the batch then has a table of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Packing:
    """Where packed sequences lie among the chunks."""

    first: Tensor  # [N] bool: the chunk begins a sequence
    sequence: Tensor  # [N]: which sequence the chunk belongs to
    last: Tensor  # [N] bool: the chunk ends a sequence


@dataclass(frozen=True, slots=True)
class Chunks:
    """Rows of chunks by token, and tokens by row of chunk."""

    length: int  # C
    token: Tensor  # [(B,) N, C]: index of the token in each row
    position: Tensor  # [(B,) N, C]: of the token in its sequence, without the position it starts from
    valid: Tensor  # [(B,) N, C] bool
    chunk: Tensor  # [(B,) T]: the chunk in which each token stands
    row: Tensor  # [(B,) T]: and its row there
    inside: Tensor | None  # [T] bool: the token belongs to a sequence; None: all do
    packing: Packing | None
    starts: Tensor | None  # [sequences], packed only
    lengths: Tensor | None


def whole(length: int, chunk: int, device: torch.device, shift: Tensor | None = None) -> Chunks:
    """Every batch row is one sequence of `length` >= 1 tokens."""
    count = (length + chunk - 1 + (0 if shift is None else chunk - 1)) // chunk
    row = torch.arange(count, device=device)[:, None] * chunk + torch.arange(chunk, device=device)
    at = torch.arange(length, device=device)
    if shift is not None:
        row, at = row - shift[:, None, None], at + shift[:, None]
    token = row.clamp(min=0, max=length - 1)
    return Chunks(chunk, token, token, row == token, at // chunk, at % chunk, None, None, None, None)


def packed(length: int, chunk: int, cu_seqlens: Tensor, shift: Tensor | None = None) -> Chunks:
    """One batch row of `length` >= 1 tokens holds the sequences cu_seqlens[i] : cu_seqlens[i+1]."""
    bounds = cu_seqlens.to(torch.int64)
    starts, lengths = bounds[:-1], bounds[1:] - bounds[:-1]
    sequences = starts.shape[0]
    count = length // chunk + sequences * (1 if shift is None else 2)
    skipped = torch.zeros_like(starts) if shift is None else shift
    used = ((lengths + skipped + chunk - 1) // chunk).clamp(min=1)
    end = used.cumsum(0)
    begin = end - used

    index = torch.arange(count, device=bounds.device)
    sequence = torch.searchsorted(end, index, right=True).clamp(max=sequences - 1)
    inside = index - begin[sequence]
    packing = Packing(inside == 0, sequence, index == end[sequence] - 1)

    row = inside[:, None] * chunk + torch.arange(chunk, device=bounds.device) - skipped[sequence][:, None]
    own_length = lengths[sequence][:, None]
    valid = (row >= 0) & (row < own_length)
    position = torch.minimum(row, own_length - 1).clamp(min=0)
    token = (starts[sequence][:, None] + position).clamp(max=length - 1)

    at = torch.arange(length, device=bounds.device)
    owner = torch.searchsorted(bounds[1:].contiguous(), at, right=True).clamp(max=sequences - 1)
    offset = at - starts[owner]
    belongs = (offset >= 0) & (offset < lengths[owner])
    offset = offset + skipped[owner]
    at_chunk = (begin[owner] + offset // chunk).clamp(0, count - 1)
    return Chunks(chunk, token, position, valid, at_chunk, offset % chunk, belongs, packing, starts, lengths)


def _sliced(chunks: Chunks) -> bool:
    """Whole sequences are cut by slices, whose adjoints are far cheaper than an index's; but a traced length stays free
    only under an index."""
    return chunks.packing is None and chunks.token.dim() == 2 and not torch.compiler.is_compiling()


def to_tile(x: Tensor, chunks: Chunks, lag: int = 0, ring: Tensor | None = None) -> Tensor:
    """Tokens [B, T, H, n] as [B, H, N, C, n]; with `lag`, each row holds the value that many tokens before.

    `ring` [B or sequences, H, L, n] are the L values before the first token, oldest first.
    """
    if _sliced(chunks):
        if lag:
            assert ring is not None
            x = lagged(x, lag, ring, None)
        count = chunks.token.shape[0]
        spare = count * chunks.length - x.shape[1]
        rows = torch.cat([x, x[:, -1:].expand(-1, spare, -1, -1)], 1)
        return rows.unflatten(1, (count, chunks.length)).permute(0, 3, 1, 2, 4)
    token = chunks.token
    if lag:
        assert ring is not None
        x, token = _behind(x, chunks, lag, ring)
    return (x[:, token] if token.dim() == 2 else _of_rows(x, token)).permute(0, 3, 1, 2, 4)


def _of_rows(x: Tensor, index: Tensor) -> Tensor:
    """x [B, n, ...] at index [B, m...]: [B, m..., ...]."""
    batch = torch.arange(index.shape[0], device=x.device).reshape(-1, *[1] * (index.dim() - 1))
    return x[batch, index]


def _behind(x: Tensor, chunks: Chunks, lag: int, ring: Tensor) -> tuple[Tensor, Tensor]:
    """The rings in front of the tokens, and for each row the index there of the token `lag` back."""
    kept = ring.shape[2]
    before = ring.movedim(2, 1)
    if chunks.packing is None:
        return torch.cat([before, x], 1), chunks.token - lag + kept
    sequence = chunks.packing.sequence[:, None]
    before = before.flatten(0, 1)[None]  # [1, sequences*L, H, n]
    in_ring = sequence * kept + kept + chunks.position - lag
    in_tokens = before.shape[1] + chunks.token - lag
    return torch.cat([before, x], 1), torch.where(chunks.position < lag, in_ring, in_tokens)


def from_tile(y: Tensor, chunks: Chunks) -> Tensor:
    """[B, H, N, C, n] as tokens [B, T, H, n]; tokens outside every sequence get 0."""
    if _sliced(chunks):
        return y.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, : chunks.row.shape[0]]
    if chunks.chunk.dim() == 2:
        return _of_rows(y.permute(0, 2, 3, 1, 4).flatten(1, 2), chunks.chunk * chunks.length + chunks.row)
    tokens = y[:, :, chunks.chunk, chunks.row].transpose(1, 2)
    return tokens if chunks.inside is None else torch.where(chunks.inside[None, :, None, None], tokens, 0.0)


def next_ring(x: Tensor, chunks: Chunks, ring: Tensor) -> Tensor:
    """The last L values of every sequence, its old ring in front: [B or sequences, H, L, n], oldest first."""
    kept = ring.shape[2]
    if chunks.packing is None:
        seen = torch.cat([ring.movedim(2, 1), x], 1)
        return seen[:, seen.shape[1] - kept :].movedim(1, 2)
    assert chunks.lengths is not None and chunks.starts is not None
    before = ring.movedim(2, 1).flatten(0, 1)[None]
    slot = torch.arange(kept, device=x.device)
    position = chunks.lengths[:, None] - kept + slot  # in the sequence; negative: still in the old ring
    in_ring = torch.arange(ring.shape[0], device=x.device)[:, None] * kept + kept + position
    in_tokens = before.shape[1] + chunks.starts[:, None] + position
    index = torch.where(position < 0, in_ring, in_tokens)
    return torch.cat([before, x], 1).index_select(1, index.flatten())[0].unflatten(0, (-1, kept)).movedim(1, 2)


def position_tile(chunks: Chunks, t: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Position of every row in its sequence, [B or 1, 1, N, C, 1]; `t` [B or sequences] is where the sequences start."""
    position = chunks.position
    if t is None:
        whole_position = position[None]
    elif chunks.packing is None:
        whole_position = position + t[:, None, None]
    else:
        whole_position = (position + t[chunks.packing.sequence][:, None])[None]
    return whole_position[:, None, :, :, None].to(dtype)


def valid_tile(chunks: Chunks, dtype: torch.dtype) -> Tensor:
    """[1 or B, 1, N, C, 1]: 1 for tokens, 0 for padding."""
    return chunks.valid.reshape(-1, 1, *chunks.valid.shape[-2:], 1).to(dtype)


def lagged(x: Tensor, lag: int, ring: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Tokens [B, T, H, ...]: the value `lag` tokens before, from `ring` [B or sequences, H, L, ...] at the beginning."""
    kept, length = ring.shape[2], x.shape[1]
    before = ring.movedim(2, 1)
    if cu_seqlens is None:
        return torch.cat([before, x], 1)[:, kept - lag : kept - lag + length]
    bounds = cu_seqlens.to(torch.int64)
    before = before.flatten(0, 1)[None]
    at = torch.arange(length, device=x.device)
    owner = torch.searchsorted(bounds[1:].contiguous(), at, right=True).clamp(max=bounds.shape[0] - 2)
    position = at - bounds[owner]
    index = torch.where(position < lag, owner * kept + kept + position - lag, before.shape[1] + at - lag)
    return torch.cat([before, x], 1).index_select(1, index)


def inner(x: Tensor) -> Tensor:
    """[B or tokens, Hg, ...] with contiguous trailing axes: the tensor itself, or a copy."""
    expected = 1
    for size, stride in zip(reversed(x.shape[2:]), reversed(x.stride()[2:]), strict=True):
        if size != 1 and stride != expected:
            return x.contiguous()
        expected *= size
    return x
