"""Training of a byte model within a time budget, and its test."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ruledsl.lab.text import batch


@dataclass(frozen=True, slots=True)
class Recipe:
    """AdamW, a linear warm-up and a cosine down to a tenth. The budget is `seconds`, or `steps` when given (then the
    run does not depend on the machine's speed)."""

    seconds: float = 120.0
    steps: int | None = None
    batch: int = 8
    context: int = 128
    rate: float = 3e-3
    warmup: int = 20  # steps
    decay: float = 0.01  # of matrices
    clip: float = 1.0  # gradient norm
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """One step: its training loss in bits per byte, and the fraction of the budget that is used."""

    step: int
    bits: float
    used: float


def train(
    model: nn.Module, data: Tensor, recipe: Recipe, report: Callable[[Progress], None] | None = None
) -> list[Progress]:
    """Train in place; one Progress per step. Raises FloatingPointError when the loss stops being finite."""
    generator = torch.Generator().manual_seed(recipe.seed)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.rate,
        betas=(0.9, 0.98),
    )
    model.train()
    curve: list[Progress] = []
    begin = time.monotonic()
    while (used := _used(recipe, len(curve), begin)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * _schedule(len(curve), recipe.warmup, used)
        tokens, following = batch(data, recipe.batch, recipe.context, generator)
        loss = cross_entropy(model(tokens).flatten(0, 1), following.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        bits = float(loss.detach()) / math.log(2)
        if not math.isfinite(bits):
            raise FloatingPointError(f"the loss is {bits} at step {len(curve)}")
        curve.append(Progress(len(curve) + 1, bits, used))
        if report is not None:
            report(curve[-1])
    return curve


def _used(recipe: Recipe, step: int, begin: float) -> float:
    if recipe.steps is not None:
        return step / recipe.steps if recipe.steps else 1.0
    # at least one step, so that there is a curve
    return min((time.monotonic() - begin) / recipe.seconds, 1.0) if step else 0.0


def _schedule(step: int, warmup: int, used: float) -> float:
    return min(1.0, (step + 1) / warmup) * (0.55 + 0.45 * math.cos(math.pi * used))


@torch.no_grad()
def held_out_bits(model: nn.Module, data: Tensor, context: int, size: int = 32) -> float:
    """Bits per byte over `data` cut into windows of `context` bytes; each byte but a window's first is predicted from
    the bytes before it in its window, so that every model sees the same."""
    model.eval()
    count = len(data) // context
    windows = data[: count * context].view(count, context)
    total = 0.0
    for part in windows.split(size):
        total += float(cross_entropy(model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten(), reduction="sum"))
    return total / math.log(2) / (count * (context - 1))
