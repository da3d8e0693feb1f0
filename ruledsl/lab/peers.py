"""Operators of fla (flash-linear-attention, fla-core 0.6.0) by the rule of the collection that they compute, as data.

An argument is what it holds; `lab/bench/peers.py` draws it. Decays are logarithms there, states lie [B, H, K, V]. A call gets
what a rule's declared ranges license: kernels that want a bound on the decay are given it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# One letter for each axis; K, V, M (slots), L (levels of ceil(log2 T) + 1), D = H*K. bf16 or fp16 unless it says float32.
Kind = Literal[
    "keys",  # [B, T, H, K]
    "values",  # [B, T, H, V]
    "unit keys",
    "small keys",  # entries around 0.1
    "slots",  # [B, T, H, M], in (0, 1)
    "log decay",  # [B, T, H] float32
    "log decays",  # [B, T, H, K], above -5
    "slot log decays",  # [B, T, H, M]
    "bounded log decays",  # [B, T, H, K], in (-exp(-1/2), 0)
    "rate",  # [B, T, H] in (0, 1)
    "float rate",  # the same in float32
    "level weights",  # [B, T, H, L]
    "channels",  # [B, T, D]
    "channel log decays",  # [B, T, D]
    "rate column",  # [B, T, H, 1] in (0, 1)
    "bonus",  # [H, K]
    "norm",  # [H, K], around 1
    "ridge",  # [H, K] float32, at least 0.25
]
PER_HEAD = frozenset({"bonus", "norm", "ridge"})  # arguments without tokens

Constants = dict[str, float | bool]
STATE: dict[str, tuple[str, ...]] = {"initial_state": ("HKV",)}


@dataclass(frozen=True, slots=True)
class Operator:
    """`arguments`: by the operator's own names. `renamed`: those with another name in the one-token operator. `constants`: of
    both, `chunk_constants` and `token_constants`: of one. `states`: arguments of the one-token operator by the axes of each
    tensor after B, float32; several: a tuple. `timeless`: the one-token operator takes no token axis. `omits`: what the rule
    computes and the operator leaves to others."""

    module: str
    chunk: str
    token: str  # "": none
    arguments: dict[str, Kind]
    constants: Constants = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    chunk_constants: Constants = field(default_factory=dict)
    token_constants: Constants = field(default_factory=lambda: {"output_final_state": True})
    states: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(STATE))
    timeless: bool = False
    omits: str = ""


_QKV: dict[str, Kind] = {"q": "keys", "k": "keys", "v": "values"}
_UNIT: dict[str, Kind] = {"q": "keys", "k": "unit keys", "v": "values"}
_R: dict[str, Kind] = {"r": "keys", "k": "keys", "v": "values"}
_LOW: dict[str, Kind] = {"a": "small keys", "b": "small keys"}


def _named(module: str, arguments: dict[str, Kind], name: str = "", token: bool = True, **more: object) -> Operator:
    name = name or module
    recurrent = f"fused_recurrent_{name}" if token else ""
    return Operator(f"fla.ops.{module}", f"chunk_{name}", recurrent, arguments, **more)  # type: ignore[arg-type]


_UNSCALED = {"scale": 1.0}  # where the rule does not divide by sqrt(K)
FLA: dict[str, Operator] = {
    "linear": _named("linear_attn", _QKV, constants={"normalize": False}),
    "retention": _named("retention", _QKV, omits="the rotation of q and k"),
    "lightning": _named("lightning_attn", _QKV, constants={"layer_idx": 0, "num_layers": 24}),
    "gated_linear": _named("simple_gla", {**_QKV, "g": "log decay"}),
    "ssd": _named("simple_gla", {**_QKV, "g": "log decay"}, constants=_UNSCALED, omits="the step size, D*x"),
    "gla": _named("gla", {**_QKV, "g": "log decays"}, renamed={"g": "gk"}, omits="logsigmoid(g)/16"),
    "hgrn2": _named("gla", {**_QKV, "g": "log decays"}, renamed={"g": "gk"}, constants=_UNSCALED, omits="1 - f, log f"),
    "rwkv6": _named("rwkv6", {**_R, "w": "log decays", "u": "bonus"}, constants=_UNSCALED, omits="-exp(x)"),
    "delta": _named("delta_rule", {**_UNIT, "beta": "rate"}),
    "gated_delta": _named("gated_delta_rule", {**_UNIT, "g": "log decay", "beta": "rate"}, omits="log a"),
    "comba": _named(
        "comba", {**_UNIT, "p": "unit keys", "g": "log decay", "beta": "rate"}, omits="c*k, q - d*p, log a"
    ),
    "kda": _named(
        "kda", {**_UNIT, "g": "log decays", "beta": "rate"}, chunk_constants={"safe_gate": True}, omits="log a"
    ),
    "rwkv7": _named(
        "rwkv7",
        {**_R, "w": "bounded log decays", **_LOW},
        constants=_UNSCALED,
        chunk_constants={"lower_bound": -0.6066},
        omits="the decay's sigmoid, unit keys, the bonus",
    ),
    "iplr": _named("generalized_delta_rule", {**_QKV, **_LOW}, "iplr_delta_rule", omits="the backward pass"),
    "dplr": _named("generalized_delta_rule", {**_QKV, **_LOW, "gk": "log decays"}, "dplr_delta_rule", omits="log w"),
    "mesa": Operator(
        "fla.ops.mesa_net",
        "chunk_mesa_net",
        "mesa_net_decoding_one_step",
        {**_UNIT, "g": "log decay", "beta": "float rate", "lamb": "ridge"},
        constants={"max_CG_iteration": 30},
        token_constants={},
        states={"prev_h_kk": ("HKK",), "prev_h_kv": ("HKV",)},
        timeless=True,
        omits="log g; wants K = V",
    ),
    "gsa": _named(
        "gsa",
        {**_QKV, "s": "slots", "g": "slot log decays"},
        states={"initial_state": ("HKM", "HMV")},
        omits="1 - f, log f",
    ),
    "hgrn": _named(
        "hgrn", {"x": "channels", "g": "channel log decays"}, states={"initial_state": ("D",)}, omits="(1 - f)*x, log f"
    ),
    "ttt_linear": _named(
        "ttt", {**_QKV, "w": "norm", "b": "bonus", "eta": "rate column"}, "ttt_linear", token=False, omits="lr beside eta"
    ),
    "log_linear": _named(
        "log_linear_attn", {**_QKV, "g": "log decay", "level_scales": "level weights"}, token=False, omits="log a"
    ),
}
