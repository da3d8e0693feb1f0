"""A peer's operator at the same shape, in the same process."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, assert_never

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from ruledsl.lab.bench.shapes import Shape
from ruledsl.lab.bench.timing import FIRST, WARMED, Decoded, Subject, Times, Watch, decoded, measure
from ruledsl.lab.peers import FLA, PER_HEAD, Kind, Operator
from ruledsl.resources import data_dir
from ruledsl.runtime.rule import Rule, load

PEERS: dict[str, Mapping[str, Operator]] = {"fla": FLA}


def operator_for(rule: Rule, peer: str) -> tuple[str, Operator | None]:
    """The operator that computes this rule, and how it is called; or why there is none. A rule is known by its meaning,
    not by its name: it equals the one of the collection. A peer `fla:NAME` names the collection's rule itself."""
    name, _, chosen = peer.partition(":")
    for known, operator in PEERS[name].items():
        if known == chosen or (not chosen and load(data_dir("rules") / f"{known}.rule").hash == rule.hash):
            return f"{operator.module}.{operator.chunk}", operator
    return "no operator", None


def omitted(rule: Rule, peer: str) -> str:
    """What the rule computes and its operator leaves to others; "" without one."""
    operator = operator_for(rule, peer)[1]
    return "" if operator is None else operator.omits


def time_peer(
    rule: Rule, peer: str, shape: Shape, dtype: torch.dtype, watch: Watch, batches: Sequence[int] = ()
) -> tuple[str, str, Times | None, tuple[Decoded, ...], list[str]]:
    """Its operator, "measured" or why not, its times, one token at these batch sizes, and what failed of it."""
    package = peer.partition(":")[0]
    called, operator = operator_for(rule, peer)
    if operator is None:
        return "", called, None, (), []
    if importlib.util.find_spec(package) is None:
        return called, "not installed", None, (), []
    sizes = shape.sizes(rule)
    try:
        timed = subject(operator, shape, sizes, dtype, watch.device)
    except Exception as fault:  # of another's code: whatever it raises is a finding
        return called, "failed", None, (), [f"import: {type(fault).__name__}: {str(fault)[:200]}"]
    found, failures = measure(timed, watch, (*FIRST, *WARMED), (Exception,))
    steps = []
    for batch in batches if timed.token is not None else ():
        try:
            one = subject(operator, replace(shape, batch=batch, length=1), sizes, dtype, watch.device)
            steps.append(decoded(one, batch, watch))
        except Exception as fault:
            failures.append(f"one token, B={batch}: {type(fault).__name__}: {str(fault)[:200]}")
    return called, "measured" if found else "failed", Times(**found), tuple(steps), failures


def subject(
    operator: Operator, shape: Shape, sizes: Mapping[str, int], dtype: torch.dtype, device: torch.device
) -> Subject:
    """ImportError and AttributeError for a version of the peer without the operator."""
    module: Any = importlib.import_module(operator.module)
    chunk = getattr(module, operator.chunk)
    dice = torch.Generator(device).manual_seed(0)
    extents = _extents(shape, sizes)
    drawn = {n: _draw(kind, shape, extents, dtype, dice) for n, kind in operator.arguments.items()}
    given = {n: x.requires_grad_() for n, x in drawn.items()}

    def forward() -> list[Tensor]:
        return [_first(chunk(**given, **operator.constants, **operator.chunk_constants))]

    if not operator.token:
        return Subject(list(given.values()), forward, None)
    one = getattr(module, operator.token)
    first = 0 if operator.timeless else slice(0, 1)
    now = {
        operator.renamed.get(n, n): (x if operator.arguments[n] in PER_HEAD else x[:, first]).detach().contiguous()
        for n, x in given.items()
    }
    states = {n: [_state(axes, shape, extents, dice) for axes in each] for n, each in operator.states.items()}
    before = {n: tuple(each) if len(each) > 1 else each[0] for n, each in states.items()}

    def token() -> object:
        return one(**now, **operator.constants, **before, **operator.token_constants)

    size = sum(x.numel() * x.element_size() for each in states.values() for x in each)
    return Subject(list(given.values()), forward, token, lambda: size)


def _first(x: Any) -> Tensor:
    return x[0] if isinstance(x, tuple) else x


def _extents(shape: Shape, sizes: Mapping[str, int]) -> dict[str, int]:
    """An operator's axes, by the names that rules give theirs; without a size for values they are as wide as keys."""
    names = {"K": "KN", "V": "VPK", "M": "M"}
    found = {axis: next((sizes[n] for n in own if n in sizes), shape.size) for axis, own in names.items()}
    levels = (shape.length - 1).bit_length() + 1
    return {**found, "H": shape.heads, "L": levels, "D": shape.heads * found["K"]}


def _state(axes: str, shape: Shape, extents: Mapping[str, int], dice: torch.Generator) -> Tensor:
    return torch.randn(shape.batch, *(extents[a] for a in axes), device=dice.device, generator=dice)


def _draw(kind: Kind, shape: Shape, extents: Mapping[str, int], dtype: torch.dtype, dice: torch.Generator) -> Tensor:
    def normal(axes: str) -> Tensor:
        own = dict(extents) | {"B": shape.batch, "T": shape.length}
        return torch.randn([own[a] for a in axes], device=dice.device, generator=dice)

    match kind:
        case "keys":
            return normal("BTHK").to(dtype)
        case "values":
            return normal("BTHV").to(dtype)
        case "unit keys":
            return normalize(normal("BTHK"), dim=-1).to(dtype)
        case "small keys":
            return (0.1 * normal("BTHK")).to(dtype)
        case "slots":
            return normal("BTHM").sigmoid().to(dtype)
        case "log decay":
            return logsigmoid(normal("BTH") + 3)
        case "log decays":
            return logsigmoid(normal("BTHK") + 3).clamp(min=-5).to(dtype)
        case "slot log decays":
            return logsigmoid(normal("BTHM") + 3).to(dtype)
        case "bounded log decays":
            return (-0.6065 * normal("BTHK").sigmoid()).to(dtype).clamp(min=-0.6065)
        case "rate":
            return normal("BTH").sigmoid().to(dtype)
        case "float rate":
            return normal("BTH").sigmoid()
        case "level weights":
            return normal("BTHL").sigmoid().to(dtype)
        case "channels":
            return normal("BTD").to(dtype)
        case "channel log decays":
            return logsigmoid(normal("BTD") + 3).to(dtype)
        case "rate column":
            return normal("BTH")[..., None].sigmoid().to(dtype)
        case "bonus":
            return normal("HK").to(dtype)
        case "norm":
            return (1 + 0.1 * normal("HK")).to(dtype)
        case "ridge":
            return normal("HK").abs() + 0.25
        case _:
            assert_never(kind)
