"""Operators of fla (flash-linear-attention, fla-core 0.6.0) by the rule of the collection that they compute, as data.

An argument is what it holds; `lab/bench/peers.py` draws it. Decays are logarithms there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "keys",  # [B, T, H, K]
    "values",  # [B, T, H, V]
    "unit keys",
    "small keys",  # entries around 0.1
    "log decay",  # [B, T, H] float32
    "log decays",  # [B, T, H, K]
    "bounded log decays",  # in (-exp(-1/2), 0)
    "rate",  # [B, T, H] in (0, 1)
    "bonus",  # [H, K]
    "ridge",  # [H, K] float32, at least 0.25
]


@dataclass(frozen=True, slots=True)
class Operator:
    """`arguments`: by the operator's own names. `renamed`: those with another name in the one-token operator."""

    module: str
    chunk: str
    token: str  # "": none
    arguments: dict[str, Kind]
    constants: dict[str, float | bool] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)


_QKV: dict[str, Kind] = {"q": "keys", "k": "keys", "v": "values"}
_UNIT: dict[str, Kind] = {"q": "keys", "k": "unit keys", "v": "values"}
_R: dict[str, Kind] = {"r": "keys", "k": "keys", "v": "values"}


def _named(module: str, arguments: dict[str, Kind], name: str = "", token: bool = True, **more: dict) -> Operator:  # type: ignore[type-arg]
    name = name or module
    recurrent = f"fused_recurrent_{name}" if token else ""
    return Operator(f"fla.ops.{module}", f"chunk_{name}", recurrent, arguments, **more)


FLA: dict[str, Operator] = {
    "linear": _named("linear_attn", _QKV, constants={"normalize": False}),
    "retention": _named("retention", _QKV),
    "lightning": _named("lightning_attn", _QKV, constants={"layer_idx": 0, "num_layers": 24}),
    "gated_linear": _named("simple_gla", {**_QKV, "g": "log decay"}),
    "ssd": _named("simple_gla", {**_QKV, "g": "log decay"}),
    "gla": _named("gla", {**_QKV, "g": "log decays"}, renamed={"g": "gk"}),
    "hgrn2": _named("gla", {**_QKV, "g": "log decays"}, renamed={"g": "gk"}),
    "rwkv6": _named("rwkv6", {**_R, "w": "log decays", "u": "bonus"}),
    "delta": _named("delta_rule", {**_UNIT, "beta": "rate"}),
    "gated_delta": _named("gated_delta_rule", {**_UNIT, "g": "log decay", "beta": "rate"}),
    "comba": _named("comba", {**_UNIT, "p": "unit keys", "g": "log decay", "beta": "rate"}),
    "kda": _named("kda", {**_UNIT, "g": "log decays", "beta": "rate"}),
    "rwkv7": _named("rwkv7", {**_R, "w": "bounded log decays", "a": "small keys", "b": "small keys"}),
    "mesa": _named(
        "mesa_net",
        {**_UNIT, "g": "log decay", "beta": "rate", "lamb": "ridge"},
        token=False,
        constants={"max_CG_iteration": 30},
    ),
}
