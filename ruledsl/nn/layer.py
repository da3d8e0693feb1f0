"""A rule as a torch module: projections that keep the rule's promises, the op, a norm and a way out.

    x [B, T, dim] -> one Linear per input -> (short convolution) -> range or unit length -> op -> RMS norm per head
                  -> (times silu(gate)) -> Linear -> y [B, T, dim]

Every projection is an `nn.Linear` of its own, called through `forward`, so that adapters and hooks see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ruledsl.lang import typed
from ruledsl.lang.typed import Role
from ruledsl.nn.activation import activate, unit
from ruledsl.nn.assume import Plan, assume, decays, names_in
from ruledsl.nn.conv import ShortConv
from ruledsl.nn.decay import start
from ruledsl.nn.norm import HeadNorm
from ruledsl.nn.sizes import const_values, layer_sizes
from ruledsl.runtime.spec import Entry
from ruledsl.runtime.state import State

if TYPE_CHECKING:
    from ruledsl.runtime.rule import Rule


class LayerState(NamedTuple):
    """What a layer carries from one segment to the next."""

    memory: State  # the op's state
    taps: dict[str, Tensor]  # by input: the last tokens of its short convolution


class RuleLayer(nn.Module):
    """The rule over `heads` heads. Sizes: K is `head_dim` (default dim // heads), V is `value_dim` (default head_dim),
    families come from `sizes`, as may any other (default head_dim). `conv`: width of a short causal convolution on
    the vectors that are not coefficients, 0 for none. `out_norm`: RMS norm over each head's output. `out_gate`: its
    product with silu of a projection. `consts`: values of consts without one, a number or [heads, ...].
    `assumptions` says what the layer promises beyond the rule's text. Raises ValueError for sizes that do not fit."""

    def __init__(
        self,
        rule: Rule,
        dim: int,
        heads: int,
        *,
        head_dim: int | None = None,
        value_dim: int | None = None,
        sizes: Mapping[str, int] | None = None,
        consts: Mapping[str, float | Tensor] | None = None,
        conv: int = 0,
        out_norm: bool | str = True,
        out_gate: bool = False,
        chunk_size: int | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if out_norm not in (True, False, "rms"):
            raise ValueError(f"out_norm: True, False or 'rms', not {out_norm!r}")
        spec = rule.spec
        self.rule, self.dim, self.heads = rule, dim, heads
        self.chunk_size, self.backend = chunk_size, backend
        self.sizes = layer_sizes(spec, dim, heads, head_dim, value_dim, sizes)
        self.plans: dict[str, Plan] = {plan.name: plan for plan in assume(rule.verdict)}
        self.assumptions = tuple(plan.assumed for plan in self.plans.values() if plan.assumed)

        permuted = [e.name for e in spec.inputs if e.perm]
        if permuted:
            raise ValueError(
                f"a layer cannot project tokens to permutations: input `{permuted[0]}` is promised `perm`; call the rule itself"
            )
        self.projections = nn.ModuleDict(
            {
                f"{e.name}_proj": nn.Linear(dim, heads * self._width(e), bias=self.plans[e.name].gate)
                for e in spec.inputs
            }
        )
        convolved = [
            e for e in spec.inputs if conv and not self.plans[e.name].gate and (e.type.is_vector or e.type.is_row)
        ]
        self.convolutions = nn.ModuleDict(
            {f"{e.name}_conv": ShortConv(heads * self._width(e), conv) for e in convolved}
        )
        for e in spec.params:
            self.register_parameter(f"param_{e.name}", nn.Parameter(torch.empty(heads, *self._dims(e))))
        for e in spec.states:
            if e.learned:
                self.register_parameter(f"initial_{e.name}", nn.Parameter(torch.empty(heads, *self._dims(e))))
        for name, value in const_values(spec, heads, self.sizes, consts).items():
            self.register_buffer(f"const_{name}", value)

        width = sum(self._width(e) for e in spec.outputs)
        # the norm of a single number would leave only its sign
        self.norm = HeadNorm(heads, width) if out_norm and width > 1 else None
        self.gate_proj = nn.Linear(dim, heads * width, bias=False) if out_gate else None
        self.out_proj = nn.Linear(heads * width, dim, bias=False)
        self._start()

    def forward(
        self, x: Tensor, state: LayerState | None = None, return_state: bool = False, cu_seqlens: Tensor | None = None
    ) -> Tensor | tuple[Tensor, LayerState]:
        """x [B, T, dim] to y [B, T, dim]; `(y, state)` with `return_state`. With `cu_seqlens` [N + 1] (B = 1) every
        packed sequence has its own state, batch N."""
        batch = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        given, taps = self._inputs(x, state, cu_seqlens)
        out, memory = self.rule(
            **given,
            initial_state=self._first(batch) if state is None else state.memory,
            return_state=True,
            cu_seqlens=cu_seqlens,
            backend=self.backend,
            chunk_size=self.chunk_size,
        )
        y = self._leave(out, x, 3)
        return (y, LayerState(memory, taps)) if return_state else y

    def step(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """One token, x [B, dim] or [B, 1, dim]; y has x's shape. Equal to `forward` on that token."""
        token = x if x.dim() == 3 else x[:, None]
        given, taps = self._inputs(token, state, None)
        vary = {e.name for e in self.rule.spec.inputs}
        out, memory = self.rule.step(
            state.memory, **{name: value[:, 0] if name in vary else value for name, value in given.items()}
        )
        return self._leave(out, token[:, 0], 2).view_as(x), LayerState(memory, taps)

    def init_state(self, batch: int) -> LayerState:
        """The state before the first token, on the layer's device."""
        like = self.out_proj.weight
        dtype = torch.float64 if like.dtype is torch.float64 else torch.float32
        learned = {e.name: getattr(self, f"initial_{e.name}") for e in self.rule.spec.states if e.learned}
        memory = self.rule.init_state(batch, self.heads, dtype=dtype, device=like.device, learned=learned, **self.sizes)
        taps = {
            e.name: conv.init_state(batch)
            for e in self.rule.spec.inputs
            if (conv := self._convolution(e.name)) is not None
        }
        return LayerState(memory, taps)

    def _inputs(
        self, x: Tensor, state: LayerState | None, cu_seqlens: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The op's arguments by name, and the convolutions' next states."""
        spec = self.rule.spec
        given: dict[str, Tensor] = {}
        taps: dict[str, Tensor] = {}
        for e in spec.inputs:
            value = self.projections[f"{e.name}_proj"](x)
            conv = self._convolution(e.name)
            if conv is not None:
                value, taps[e.name] = conv(value, state.taps[e.name] if state else None, cu_seqlens)
            value = activate(value.unflatten(-1, (self.heads, *self._dims(e))), self.plans[e.name].interval)
            given[e.name] = unit(value) if self.plans[e.name].unit else value
        for e in spec.params:
            given[e.name] = activate(getattr(self, f"param_{e.name}"), e.interval)
        for e in spec.consts:
            given[e.name] = getattr(self, f"const_{e.name}")
        return given, taps

    def _first(self, batch: int) -> dict[str, Tensor] | None:
        learned = [e for e in self.rule.spec.states if e.learned]
        return {
            e.name: getattr(self, f"initial_{e.name}").expand(batch, self.heads, *self._dims(e)) for e in learned
        } or None

    def _leave(self, out: Tensor | dict[str, Tensor], x: Tensor, leading: int) -> Tensor:
        """From the op's outputs [..., heads, ...] with `leading` axes up to the heads to y; several are joined."""
        outputs = self.rule.spec.outputs
        parts = [out] if isinstance(out, Tensor) else [out[e.name] for e in outputs]
        joined = torch.cat(
            [p.reshape(*p.shape[:leading], self._width(e)) for p, e in zip(parts, outputs, strict=True)], -1
        )
        normed = self.norm(joined) if self.norm is not None else joined
        flat = normed.flatten(-2).to(x.dtype)
        return self.out_proj(flat if self.gate_proj is None else flat * silu(self.gate_proj(x)))

    def _convolution(self, name: str) -> ShortConv | None:
        found = self.convolutions[f"{name}_conv"] if f"{name}_conv" in self.convolutions else None
        assert found is None or isinstance(found, ShortConv)
        return found

    def _bias(self, name: str) -> Tensor:
        bias = self.projections[f"{name}_proj"].bias
        assert isinstance(bias, Tensor)
        return bias

    def _dims(self, entry: Entry) -> list[int]:
        return [typed.dim_value(d, self.sizes) for d in entry.type.dims]

    def _width(self, entry: Entry) -> int:
        return prod(self._dims(entry))

    @torch.no_grad()
    def _start(self) -> None:
        """First values: decays near 1, matrices as a Linear's, other params 1, or 0 inside a decay or a range."""
        spec, factors = self.rule.spec, list(decays(self.rule.verdict))
        slow = {name for factor in factors for name in names_in(factor, Role.PARAM)}
        for e in spec.params:
            param = getattr(self, f"param_{e.name}")
            if e.type.is_matrix:
                nn.init.uniform_(param, -(param.shape[-1] ** -0.5), param.shape[-1] ** -0.5)
            else:
                nn.init.constant_(param, 0.0 if e.interval or e.name in slow else 1.0)
        for e in spec.states:
            if e.learned:
                nn.init.normal_(getattr(self, f"initial_{e.name}"), std=0.02)
        for e in spec.inputs:
            if self.plans[e.name].gate:
                nn.init.zeros_(self._bias(e.name))
        ranges = {e.name: e.interval for e in spec.params} | {name: plan.interval for name, plan in self.plans.items()}
        for factor in factors:
            name = next(chain(names_in(factor, Role.INPUT), names_in(factor, Role.PARAM)), None)
            for e in (e for e in spec.arguments if e.name == name):
                value = start(factor, e.name, ranges, self.heads, self._dims(e))
                if value is not None:
                    target = self._bias(e.name) if e.role is Role.INPUT else getattr(self, f"param_{name}")
                    target.copy_(value.view_as(target))

    def extra_repr(self) -> str:
        sizes = ", ".join(f"{name}={n}" for name, n in self.sizes.items())
        return f"dim={self.dim}, heads={self.heads}, {sizes}"
