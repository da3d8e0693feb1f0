"""A short causal depthwise convolution whose last tokens are its state."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu


class ShortConv(nn.Module):
    """y[t] = silu(sum_j w[j] x[t - j]) for j < width, channel by channel.

    x is [B, T, channels]; the state [B, width - 1, channels] holds the tokens before the first, oldest first (None:
    zeros). With `cu_seqlens` [N + 1], B is 1 and the state is [N, width - 1, channels]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        if width < 2:
            raise ValueError(f"a convolution has a width of at least 2, not {width}")
        self.width = width
        self.weight = nn.Parameter(torch.empty(width, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -(self.width**-0.5), self.width**-0.5)

    def init_state(self, batch: int) -> Tensor:
        """What stands before the first token: zeros, in the weight's dtype and on its device."""
        return self.weight.new_zeros(batch, self.width - 1, self.weight.shape[1])

    def forward(
        self, x: Tensor, state: Tensor | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if cu_seqlens is not None:
            return self._packed(x, state, cu_seqlens)
        history = x.new_zeros(x.shape[0], self.width - 1, x.shape[2]) if state is None else state.to(x.dtype)
        tape = torch.cat((history, x), 1)
        last, tokens = self.width - 1, x.shape[1]
        return self._mix([tape[:, last - j : last - j + tokens] for j in range(self.width)]), tape[:, tokens:]

    def _packed(self, x: Tensor, state: Tensor | None, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
        """Gathers on the device: how the sequences lie is not read by the host."""
        flat, last = x[0], self.width - 1
        count, starts = cu_seqlens.shape[0] - 1, cu_seqlens[:-1].long()
        history = flat.new_zeros(count, last, flat.shape[1]) if state is None else state.to(x.dtype)
        # tape: the histories of all sequences, then all tokens
        tape = torch.cat((history.reshape(count * last, -1), flat))
        tokens = torch.arange(flat.shape[0], device=x.device)
        sequence = torch.searchsorted(cu_seqlens[1:].long(), tokens, right=True).clamp(max=count - 1)
        place = tokens - starts[sequence]

        def at(seq: Tensor, local: Tensor) -> Tensor:
            return torch.where(local >= 0, count * last + starts[seq] + local, seq * last + last + local)

        y = self._mix([tape[at(sequence, place - j)] for j in range(self.width)])
        every = torch.arange(count, device=x.device)[:, None].expand(count, last)
        ends = (cu_seqlens[1:] - cu_seqlens[:-1]).long()[:, None] - last + torch.arange(last, device=x.device)
        return y[None], tape[at(every, ends)]

    def _mix(self, shifted: list[Tensor]) -> Tensor:
        """`shifted[j]`: every token's j-th predecessor."""
        weight = self.weight.to(shifted[0].dtype)
        y = weight[0] * shifted[0]
        for j in range(1, self.width):
            y = torch.addcmul(y, weight[j], shifted[j])
        return silu(y)

    def extra_repr(self) -> str:
        return f"channels={self.weight.shape[1]}, width={self.width}"
