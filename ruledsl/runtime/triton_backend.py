"""The Triton backend: chunk kernels for rules that have a chunk form, scan kernels where states go entry by entry, kernels for
single tokens for all others. States that are vectors have nothing for a product of tiles to do: there scan kernels go first.
Measured: benchmarks/results/h200_scans.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ruledsl.runtime import token_form, triton_chunked, triton_form, triton_scan, triton_step, triton_token
from ruledsl.runtime.bind import Call
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.statics import only_vectors
from ruledsl.runtime.token import Carry

if TYPE_CHECKING:
    from ruledsl.runtime.rule import Rule

Compiled = triton_chunked.Compiled | triton_scan.Compiled | triton_token.Compiled


def is_default(rule: Rule, device: str, sizes: Mapping[str, int] | None) -> bool:
    if device != "cuda" or triton_chunked.missing() or rule.in_double:
        return False
    found = rule.chunkable()
    return (not isinstance(found, str) and found.kernels) or token_form.has_form(rule)


def prepare(rule: Rule, setting: Setting) -> Compiled:
    """Generate kernels and register them. BackendError: the rule has no form, or not here."""
    sizes = dict(setting.sizes)
    if takes_chunks(rule, setting):
        return triton_chunked.prepare(rule, setting)
    if triton_scan.has_form(rule, sizes):
        return triton_scan.prepare(rule, setting)
    return triton_token.prepare(rule, setting)


def run(plan: Compiled, call: Call, carry: Carry, cu_seqlens: Tensor | None) -> tuple[dict[str, Tensor], Carry]:
    if isinstance(plan, triton_chunked.Compiled):
        return triton_chunked.run(plan, call, carry, cu_seqlens)
    return triton_token.run(plan, call, carry, cu_seqlens)


def takes_chunks(rule: Rule, setting: Setting) -> bool:
    """Is a rule run by chunk kernels?"""
    sizes = dict(setting.sizes)
    found = rule.chunkable(sizes)
    if isinstance(found, str) or not found.kernels or (only_vectors(rule.typed) and triton_scan.has_form(rule, sizes)):
        return False
    return found.program.chunk is None or triton_form.holds_frozen(found.program, setting)


def prepare_step(rule: Rule, setting: Setting) -> triton_step.StepPlan | None:
    """The kernels for one token, None where a step is plain torch."""
    return triton_step.prepare_step(rule, setting) if steps_on(setting.device) else None


def steps_on(device: torch.device) -> bool:
    """Whether single tokens are taken by kernels on this device."""
    return device.type == "cuda" and not triton_chunked.missing()
