"""A small language model over bytes, to judge a rule by: embedding, blocks, head. It decodes with constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from ruledsl.nn.layer import LayerState, RuleLayer
from ruledsl.nn.norm import rms_normalise

if TYPE_CHECKING:
    from ruledsl.runtime.rule import Rule

BYTES = 256

ModelState = tuple[LayerState, ...]  # one per block


class RMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_normalise(x) * self.weight.to(x.dtype)


class GatedMLP(nn.Module):
    """silu(W x) * (U x), back to dim."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """x + memory(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, memory: RuleLayer, hidden: int) -> None:
        super().__init__()
        self.memory_norm, self.memory = RMSNorm(memory.dim), memory
        self.mlp_norm, self.mlp = RMSNorm(memory.dim), GatedMLP(memory.dim, hidden)

    def forward(
        self, x: Tensor, state: LayerState | None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, LayerState]:
        y, state = self.memory(self.memory_norm(x), state, return_state=True, cu_seqlens=cu_seqlens)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), state

    def step(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        y, state = self.memory.step(self.memory_norm(x), state)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), state


class LanguageModel(nn.Module):
    """`layers` blocks of the rule over bytes. Keyword arguments that are not its own go to every RuleLayer."""

    def __init__(
        self,
        rule: Rule,
        *,
        dim: int = 128,
        layers: int = 2,
        heads: int = 4,
        hidden: int | None = None,
        tied: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        hidden = 32 * round(dim / 12) if hidden is None else hidden  # 8/3 dim, in multiples of 32
        self.embedding = nn.Embedding(BYTES, dim)
        self.blocks = nn.ModuleList([Block(RuleLayer(rule, dim, heads, **options), hidden) for _ in range(layers)])
        self.norm = RMSNorm(dim)
        self.head = None if tied else nn.Linear(dim, BYTES, bias=False)

    def forward(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        return_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ModelState]:
        """tokens [B, T] to logits [B, T, 256]; `(logits, state)` with `return_state`."""
        x = self.embedding(tokens)
        states: list[LayerState] = []
        for i, block in enumerate(self.blocks):
            x, after = block(x, None if state is None else state[i], cu_seqlens)
            states.append(after)
        logits = self._logits(x)
        return (logits, tuple(states)) if return_state else logits

    def step(self, token: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """token [B] to the logits [B, 256] of the next one. Equal to `forward` on that token."""
        x = self.embedding(token)
        states: list[LayerState] = []
        for block, before in zip(self._blocks(), state, strict=True):
            x, after = block.step(x, before)
            states.append(after)
        return self._logits(x), tuple(states)

    def init_state(self, batch: int) -> ModelState:
        return tuple(memory.init_state(batch) for memory in self.memories)

    @torch.no_grad()
    def generate(
        self, prompt: bytes, n: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> bytes:
        """`n` bytes after the prompt: the prompt in one call, then one step per byte. Temperature 0 takes the likeliest."""
        if not prompt:
            raise ValueError("the prompt must have at least one byte")
        if temperature < 0:
            raise ValueError(f"temperature must not be negative: {temperature}")
        device = self.embedding.weight.device
        logits, state = self(torch.tensor([list(prompt)], device=device), return_state=True)
        last, found = logits[:, -1], bytearray()
        for left in reversed(range(n)):
            if temperature == 0:
                token = last.argmax(-1)
            else:
                token = torch.multinomial((last.float() / temperature).softmax(-1), 1, generator=generator)[:, 0]
            found.append(int(token))
            if left:
                last, state = self.step(token, state)
        return bytes(found)

    @property
    def memories(self) -> tuple[RuleLayer, ...]:
        """The rule's layers, first to last."""
        return tuple(block.memory for block in self._blocks())

    def _blocks(self) -> Iterator[Block]:
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block

    def _logits(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        # entries of the embedding have unit variance, a head's 1/dim
        return linear(x, self.embedding.weight) * x.shape[-1] ** -0.5 if self.head is None else self.head(x)
