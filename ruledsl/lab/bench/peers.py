"""A peer's operator at the same shape, in the same process."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from ruledsl.lab.bench.shapes import Shape
from ruledsl.lab.bench.timing import FIRST, WARMED, Subject, Times, Watch, measure
from ruledsl.lab.peers import FLA, Kind, Operator
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


def time_peer(
    rule: Rule, peer: str, shape: Shape, dtype: torch.dtype, watch: Watch
) -> tuple[str, str, Times | None, list[str]]:
    """Its operator, "measured" or why not, its times, and what failed of it."""
    package = peer.partition(":")[0]
    called, operator = operator_for(rule, peer)
    if operator is None:
        return "", called, None, []
    if importlib.util.find_spec(package) is None:
        return called, "not installed", None, []
    sizes = shape.sizes(rule)
    keys, values = (next((sizes[n] for n in names if n in sizes), shape.size) for names in ("KN", "VP"))
    try:
        timed = subject(operator, shape, keys, values, dtype, watch.device)
    except Exception as fault:  # of another's code: whatever it raises is a finding
        return called, "failed", None, [f"import: {type(fault).__name__}: {str(fault)[:200]}"]
    found, failures = measure(timed, watch, (*FIRST, *WARMED), (Exception,))
    return called, "measured" if found else "failed", Times(**found), failures


def subject(
    operator: Operator, shape: Shape, keys: int, values: int, dtype: torch.dtype, device: torch.device
) -> Subject:
    """ImportError and AttributeError for a version of the peer without the operator."""
    module: Any = importlib.import_module(operator.module)
    chunk = getattr(module, operator.chunk)
    dice = torch.Generator(device).manual_seed(0)
    lead = (shape.batch, shape.length, shape.heads)
    drawn = {n: _draw(kind, lead, keys, values, dtype, dice) for n, kind in operator.arguments.items()}
    given = {n: x.requires_grad_() for n, x in drawn.items()}

    def forward() -> list[Tensor]:
        return [_first(chunk(**given, **operator.constants))]

    if not operator.token:
        return Subject(list(given.values()), forward, None)
    one = getattr(module, operator.token)
    held = {n for n, kind in operator.arguments.items() if kind in ("bonus", "ridge")}
    now = {operator.renamed.get(n, n): (x if n in held else x[:, :1]).detach().contiguous() for n, x in given.items()}
    state = torch.randn(shape.batch, shape.heads, keys, values, device=device, generator=dice)

    def token() -> object:
        return one(**now, **operator.constants, initial_state=state, output_final_state=True)

    return Subject(list(given.values()), forward, token)


def _first(x: Any) -> Tensor:
    return x[0] if isinstance(x, tuple) else x


def _draw(
    kind: Kind, lead: tuple[int, int, int], keys: int, values: int, dtype: torch.dtype, dice: torch.Generator
) -> Tensor:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=dice.device, generator=dice)

    match kind:
        case "keys":
            return normal(*lead, keys).to(dtype)
        case "values":
            return normal(*lead, values).to(dtype)
        case "unit keys":
            return normalize(normal(*lead, keys), dim=-1).to(dtype)
        case "small keys":
            return (0.1 * normal(*lead, keys)).to(dtype)
        case "log decay":
            return logsigmoid(normal(*lead) + 3)
        case "log decays":
            return logsigmoid(normal(*lead, keys) + 3).to(dtype)
        case "bounded log decays":
            return (-0.6065 * normal(*lead, keys).sigmoid()).to(dtype)
        case "rate":
            return normal(*lead).sigmoid().to(dtype)
        case "bonus":
            return normal(lead[2], keys).to(dtype)
        case "ridge":
            return normal(lead[2], keys).abs() + 0.25
