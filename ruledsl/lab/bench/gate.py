"""Whether a backend computes the rule at all: against the token by token recurrence in float64, at few tokens.

The sizes are those that will be timed, since kernels differ by them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ruledsl.lab.bench.ours import arguments, kept, listed
from ruledsl.lab.bench.shapes import Shape
from ruledsl.lang.typed import Role
from ruledsl.runtime.rule import Rule

# RMS(error) / RMS(reference): outputs and states; gradients of vectors and states; gradients of what stays float32
BARS = {"bfloat16": (0.005, 0.008, 0.02), "float16": (0.005, 0.008, 0.02), "float32": (1e-5, 1e-4, 1e-4)}
BATCH, LENGTH, HEADS = 2, 130, 2  # two chunks of 64 and a rest
STEPS = 4  # single tokens


@dataclass(frozen=True, slots=True)
class Passed:
    """The quantity that is nearest to its bar."""

    quantity: str
    error: float
    bar: float


class Wrong(Exception):
    """A backend that does not compute the rule."""

    def __init__(self, rule: str, backend: str, missed: list[Passed]) -> None:
        found = ", ".join(f"{m.quantity} off by {m.error:.2g} (bar {m.bar:.2g})" for m in missed)
        super().__init__(f"{rule}: not timed: the {backend} backend is wrong against float64: {found}")


def gate(
    rule: Rule, name: str, shape: Shape, dtype: torch.dtype, device: torch.device, backend: str,
    reference: str = "recurrent", steps: int = STEPS,
) -> Passed:  # fmt: skip
    """Outputs, final states, gradients of all arguments, and the first tokens one at a time, against the backend
    `reference` in float64. Raises Wrong."""
    small = replace(shape, batch=BATCH, length=LENGTH, heads=HEADS)
    low, first = arguments(rule, small, dtype, device, all_states=True)
    exact, begin = ({n: x.double() for n, x in values.items()} for values in (low, first))
    wanted = _run(rule, exact, begin, reference)
    found = _run(rule, low, first, backend)
    if steps:
        wanted |= {f"step {n}": x[:, :steps] for n, x in wanted.items() if n in {o.name for o in rule.spec.outputs}}
        found |= _steps(rule, low, first, steps)
    judged = _judged(rule, found, wanted, str(dtype).removeprefix("torch."))
    missed = [p for p in judged if not p.error <= p.bar]
    if missed:
        raise Wrong(name, backend, missed)
    return max(judged, key=lambda p: p.error / p.bar)


def _judged(rule: Rule, found: dict[str, Tensor], wanted: dict[str, Tensor], dtype: str) -> list[Passed]:
    outputs, vectors, scalars = BARS[dtype]
    wide = {f"d {n}" for n in kept(rule)}
    narrow = {f"d {s.name}" for s in rule.typed.of(Role.INPUT)} - wide
    floor = 1e-3 * max((_rms(g) for n, g in wanted.items() if n in narrow), default=1.0)
    judged = []
    for quantity, value in wanted.items():
        bar = outputs if quantity[:2] != "d " else scalars if quantity in wide else vectors
        difference = found.get(quantity, torch.zeros_like(value)).double() - value  # no gradient: zero
        judged.append(Passed(quantity, _rms(difference) / max(_rms(value), floor, 1e-30), bar))
    return judged


def _run(rule: Rule, given: dict[str, Tensor], first: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
    """Outputs and final states by name, and as `d NAME` the gradients of a fixed random functional of them."""
    leaves: dict[str, Any] = {n: x.clone().requires_grad_() for n, x in (given | first).items()}
    begin = {n: leaves[n] for n in first}
    output, state = rule(
        **{n: leaves[n] for n in given}, initial_state=begin or None, backend=backend, return_state=True
    )
    names = [e.name for e in rule.spec.outputs]
    found = dict(zip(names, listed(output), strict=True))
    found |= state if isinstance(state, dict) else {rule.spec.states[0].name: state}
    seen = {n: x for n, x in found.items() if x.is_floating_point()}
    dice = torch.Generator().manual_seed(1)
    total = sum((x.double() * _weights(x, dice)).sum() for x in seen.values())
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)  # type: ignore[arg-type]
    seen |= {f"d {n}": g for n, g in zip(leaves, gradients, strict=True) if g is not None}
    return {n: x.detach() for n, x in seen.items()}


@torch.no_grad()
def _steps(rule: Rule, given: dict[str, Tensor], first: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
    """Outputs of the first tokens, taken one at a time."""
    inputs = {s.name for s in rule.typed.of(Role.INPUT)}
    names = [e.name for e in rule.spec.outputs]
    seen: list[list[Tensor]] = []
    state: Any = dict(first) or None
    for at in range(steps):
        output, state = rule.step(state, **{n: x[:, at] if n in inputs else x for n, x in given.items()})
        seen.append(listed(output))
    return {f"step {n}": torch.stack([s[i] for s in seen], 1) for i, n in enumerate(names)}


def _weights(x: Tensor, dice: torch.Generator) -> Tensor:
    """Exactly representable in every dtype, so that rounding the cotangent is no error."""
    return (torch.randint(-4, 5, x.shape, generator=dice) / 4).double().to(x.device)


def _rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item() if x.numel() else 0.0
