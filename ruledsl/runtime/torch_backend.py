"""The torch backend: the chunk form of a rule that has one, else scans over tokens if its states go entry by entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ruledsl.runtime import chunked, scanned
from ruledsl.runtime.bind import Call
from ruledsl.runtime.errors import BackendError
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.token import Carry

if TYPE_CHECKING:
    from ruledsl.runtime.rule import Rule

Compiled = chunked.Compiled | scanned.Compiled


def is_default(rule: Rule, device: str, sizes: Mapping[str, int] | None) -> bool:
    return not isinstance(rule.chunkable(sizes), str) or not isinstance(rule.scannable(sizes), str)


def prepare(rule: Rule, setting: Setting) -> Compiled:
    """Compile and register the rule at these sizes. BackendError: it has neither form."""
    found = rule.chunkable(dict(setting.sizes))
    if not isinstance(found, str):
        return chunked.prepare(rule, setting)
    if isinstance(why := rule.scannable(dict(setting.sizes)), str):
        raise BackendError(f"backend 'torch': {found}, and {why}")
    return scanned.prepare(rule, setting)


def run(plan: Compiled, call: Call, carry: Carry, cu_seqlens: Tensor | None) -> tuple[dict[str, Tensor], Carry]:
    if isinstance(plan, chunked.Compiled):
        return chunked.run(plan, call, carry, cu_seqlens)
    return scanned.run(plan, call, carry, cu_seqlens)
