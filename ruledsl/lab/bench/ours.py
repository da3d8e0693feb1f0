"""A rule at a shape: random arguments inside its declared ranges, and the calls that are timed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ruledsl.lab.bench.shapes import Shape
from ruledsl.lab.bench.timing import Subject
from ruledsl.lang import typed
from ruledsl.lang.typed import Role
from ruledsl.runtime.rule import Rule
from ruledsl.runtime.sample import sample, sample_states


def kept(rule: Rule) -> set[str]:
    """Arguments that stay float32: scalars, inputs that are a decay as they stand, params and consts."""
    scalars = {s.name for s in rule.typed.of(Role.INPUT) if s.type.is_scalar}
    others = {s.name for s in rule.typed.symbols if s.role in (Role.PARAM, Role.CONST)}
    token = rule.verdict.token
    steps = [] if token is None else [s for form in token.forms for s in form.steps]
    decays = (d.value for s in steps for d in (s.right, s.left) if d is not None)
    return scalars | others | {d.name for d in decays if isinstance(d, typed.Ref) and d.role is Role.INPUT}


def arguments(
    rule: Rule, shape: Shape, dtype: torch.dtype, device: torch.device, all_states: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Arguments [B, T, H, ...], vectors in `dtype` and the rest float32, and first values [B, H, ...] of the learned
    states (or of all)."""
    generator, sizes = torch.Generator().manual_seed(0), shape.sizes(rule)
    given = sample(rule.typed, shape.batch, shape.length, shape.heads, sizes, generator, torch.float32)
    first = sample_states(rule.typed, shape.batch, shape.heads, sizes, generator, torch.float32, not all_states)
    wide = kept(rule)
    lowered = {n: x.to(device, torch.float32 if n in wide else dtype) for n, x in given.items()}
    return lowered, {n: x.to(device) for n, x in first.items()}


def subject(rule: Rule, shape: Shape, dtype: torch.dtype, device: torch.device, backend: str) -> Subject:
    """BackendError from its calls where the backend has no form for the rule."""
    given, first = arguments(rule, shape, dtype, device)
    leaves: dict[str, Any] = {n: x.requires_grad_() for n, x in given.items()}

    def forward() -> list[Tensor]:
        return listed(rule(**leaves, initial_state=first or None, backend=backend))

    inputs = {s.name for s in rule.typed.of(Role.INPUT)}
    one = {n: (x.detach()[:, 0].contiguous() if n in inputs else x.detach()) for n, x in given.items()}
    made: list[Any] = []  # the state that this many tokens lead to, and where outputs go

    @torch.no_grad()
    def token() -> None:
        if not made:
            _, state = rule(**leaves, initial_state=first or None, backend=backend, return_state=True)
            made.extend((state, rule.step(state, **one)[0]))
        rule.step(made[0], out=made[1], **one)

    def state_bytes() -> int:
        parts = made[0].values() if isinstance(made[0], dict) else [made[0]]
        return sum(x.numel() * x.element_size() for x in parts)

    return Subject(list(leaves.values()), forward, token, state_bytes)


def listed(x: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else list(x.values())
