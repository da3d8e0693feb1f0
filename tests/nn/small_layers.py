"""The rules that every test of a layer goes through, and what their layers need besides dim and heads."""

from __future__ import annotations

from typing import Any

import torch

import ruledsl
from ruledsl.nn.layer import RuleLayer
from ruledsl.resources import data_dir

PARALLEL = (
    "linear", "retention", "lightning", "ssd", "gated_linear", "gla", "gla_two_sided", "hgrn2", "rwkv5", "rwkv6", "mission",
    "delta", "gated_delta", "delta_product", "gated_delta_product", "kda", "comba", "iplr", "dplr", "rwkv7", "longhorn_exact",
)  # fmt: skip
SEQUENTIAL = ("gru",)
ALL_NAMES = PARALLEL + SEQUENTIAL

DIM, HEADS, HEAD_DIM = 12, 2, 4
EXTRA: dict[str, dict[str, Any]] = {
    "retention": {"consts": {"w": torch.tensor([[1.0, 0.1]] * HEADS)}},
    "lightning": {"consts": {"s": 0.05}},
    "delta_product": {"sizes": {"n": 2}},
    "gated_delta_product": {"sizes": {"n": 2}},
    "log_linear": {"sizes": {"L": 5}},
}

OTHERS = tuple(sorted({p.stem for p in data_dir("rules").glob("*.rule")} - set(ALL_NAMES)))

_loaded: dict[str, Any] = {}


def load(name: str) -> Any:
    if name not in _loaded:
        _loaded[name] = ruledsl.load(data_dir("rules") / f"{name}.rule")
    return _loaded[name]


def layer(name: str, seed: int = 0, **options: Any) -> RuleLayer:
    """A small layer of the named rule with V != K."""
    torch.manual_seed(seed)
    rule = load(name)
    wide = {"value_dim": 3} if "V" in rule.spec.sizes else {}
    return rule.layer(**({"dim": DIM, "heads": HEADS, "head_dim": HEAD_DIM} | wide | EXTRA.get(name, {}) | options))
