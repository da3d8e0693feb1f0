"""The numbers behind a layer's size names and consts, or an error that names what is missing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ruledsl.lang import typed
from ruledsl.runtime.bind import symbols
from ruledsl.runtime.errors import did_you_mean
from ruledsl.runtime.spec import RuleSpec


def layer_sizes(
    spec: RuleSpec, dim: int, heads: int, head_dim: int | None, value_dim: int | None, given: Mapping[str, int] | None
) -> dict[str, int]:
    """Every free size of the rule. Raises ValueError for one that is unknown, missing or not positive."""
    given = dict(given or {})
    if dim < 1 or heads < 1:
        raise ValueError(f"dim and heads must be positive, not {dim} and {heads}")
    if head_dim is None and dim % heads:
        raise ValueError(f"dim = {dim} is not a multiple of heads = {heads}: give head_dim")
    head_dim = dim // heads if head_dim is None else head_dim
    known = {"K": head_dim, "V": head_dim if value_dim is None else value_dim} | given
    for name in given:
        if name not in spec.sizes:
            raise ValueError(
                f"sizes: the rule has no size `{name}`{did_you_mean(name, spec.sizes)}; it has {', '.join(spec.sizes) or 'none'}"
            )
    families = {s for e in (*spec.arguments, *spec.states, *spec.outputs) for d in e.type.family for s in symbols(d)}
    missing = [s for s in spec.sizes if s in families and s not in given]
    if missing:
        raise ValueError(f"sizes: the rule's family size `{missing[0]}` is open: give sizes={{{missing[0]!r}: ...}}")
    found = {name: known.get(name, head_dim) for name in spec.sizes}
    for name, n in found.items():
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"sizes: {name} must be a positive whole number, not {n!r}")
    return found


def const_values(
    spec: RuleSpec, heads: int, sizes: Mapping[str, int], given: Mapping[str, float | Tensor] | None
) -> dict[str, Tensor]:
    """Consts without a value of their own, as [heads, ...]. Raises ValueError for one that is missing or does not fit."""
    given = dict(given or {})
    names = [e.name for e in spec.consts]
    for name in given:
        if name not in names:
            raise ValueError(
                f"consts: the rule has no open const `{name}`{did_you_mean(name, names)}; it has {', '.join(names) or 'none'}"
            )
    missing = [e for e in spec.consts if e.name not in given]
    if missing:
        listed = ", ".join(f"{e.name!r}: ..." for e in missing)
        raise ValueError(
            f"consts: no value for {', '.join(f'`{e.name}` {e.shape}' for e in missing)}: give consts={{{listed}}}"
        )
    found: dict[str, Tensor] = {}
    for e in spec.consts:
        shape = (heads, *(typed.dim_value(d, sizes) for d in e.type.dims))
        value = torch.as_tensor(given[e.name], dtype=torch.get_default_dtype())
        if tuple(value.shape) not in ((), shape):
            raise ValueError(f"const `{e.name}`: declared {list(shape)}, got {list(value.shape)}")
        found[e.name] = value.expand(shape).clone()
    return found
