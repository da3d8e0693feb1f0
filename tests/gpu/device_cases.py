"""Cases for the kernels on a CUDA device, every pair of values at least once, and how a case is judged."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ruledsl
from ruledsl.lang import typed
from ruledsl.lang.typed import Role
from ruledsl.runtime.sample import sample

RULES = Path(__file__).resolve().parents[2] / "rules"
CHUNKED = (
    "linear retention lightning ssd gated_linear gla gla_two_sided hgrn2 rwkv5 rwkv6 mission delta gated_delta "
    "delta_product gated_delta_product kda comba iplr dplr rwkv7 longhorn_exact"
).split()

FACTORS: dict[str, tuple[Any, ...]] = {
    "length": (1, 17, 63, 64, 65, 200, 1000, 4096),
    "keys": (16, 64, 80, 128, 160, 256),
    "values": (16, 64, 80, 128, 160, 256),
    "gates": ("declared", "strong", "mixed", "none", "signed"),
    "layout": ("plain", "packed", "grouped"),
    "dtype": ("bfloat16", "float16", "float32"),
}
# RMS(error) / max(RMS(reference), 1e-3 RMS(dv)): outputs and states; vectors' gradients; gates' gradients
BARS = {"bfloat16": (0.005, 0.008, 0.02), "float16": (0.005, 0.008, 0.02), "float32": (1e-5, 1e-4, 1e-4)}


@dataclass(frozen=True, slots=True)
class Case:
    length: int
    keys: int
    values: int
    gates: str
    layout: str
    dtype: str

    def __str__(self) -> str:
        return f"T{self.length}-K{self.keys}-V{self.values}-{self.gates}-{self.layout}-{self.dtype}"


def pairwise(seed: int) -> list[Case]:
    """A list of cases in which every two values of different factors meet, greedily short."""
    generator = random.Random(seed)
    names = list(FACTORS)
    missing = {
        ((a, x), (b, y)) for a, b in itertools.combinations(names, 2) for x in FACTORS[a] for y in FACTORS[b]
    }
    cases = []
    while missing:
        best: dict[str, Any] = {}
        covered = -1
        for _ in range(60):
            pair = generator.choice(sorted(missing, key=repr))
            row = {n: generator.choice(FACTORS[n]) for n in names} | dict(pair)
            gain = sum(p in missing for p in itertools.combinations(row.items(), 2))
            if gain > covered:
                best, covered = row, gain
        missing -= set(itertools.combinations(best.items(), 2))
        cases.append(Case(**best))
    return cases


def decays(rule: Any) -> set[str]:
    """Inputs that are a decay as they stand."""
    token = rule.verdict.token
    found = (d.value for f in token.forms for s in f.steps for d in (s.right, s.left) if d is not None)
    return {d.name for d in found if isinstance(d, typed.Ref) and d.role is Role.INPUT}


def arguments(rule: Any, case: Case, seed: int) -> tuple[dict[str, Tensor], Tensor | None, int]:
    """Arguments in float64 on the device, cu_seqlens and the number of heads."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"K": case.keys, "V": case.values, "N": case.keys, "P": case.values, "n": 2}
    sizes = {name: sizes[name] for name in rule.typed.sizes}
    heads = 4 if case.layout == "grouped" else 2
    given = sample(rule.typed, 1 if case.layout == "packed" else 2, case.length, heads, sizes, generator)
    for name in decays(rule):
        given[name] = _gates(rule.typed.symbol(name), given[name], case.gates, generator)
    if case.layout == "grouped":
        shared = [s.name for s in rule.typed.of(Role.INPUT) if s.type.is_vector and not s.type.family][:1]
        given |= {name: given[name][:, :, :2].contiguous() for name in shared}
    bounds = None
    if case.layout == "packed":
        cuts = sorted({0, 1, case.length // 3, case.length // 3, case.length * 2 // 3, case.length})
        bounds = torch.tensor([0, *cuts], dtype=torch.int64, device="cuda")  # with one empty sequence
    return {k: torch.as_tensor(v).cuda() for k, v in given.items()}, bounds, heads


def _gates(symbol: typed.Symbol, x: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Decays: down to e^-20 a token, half of them so, all 1, or (where nothing forbids it) zero and negative."""
    u = torch.rand(x.shape, generator=generator, dtype=x.dtype)
    low = symbol.interval.low if symbol.interval is not None else float("-inf")
    match kind:
        case "strong":
            return torch.exp(-20 * u).clamp(min=low if low > 0 else 0.0)
        case "mixed":
            return torch.where(u < 0.5, 1 - 0.05 * u, torch.exp(-20 * u)).clamp(min=low if low > 0 else 0.0)
        case "none":
            return torch.ones_like(x)
        case "signed" if low < 0:
            return (2 * u - 1) * (u > 0.1)
        case _:
            return x


def errors(name: str, case: Case, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Error and bar of the outputs, the final state and every gradient."""
    rule = ruledsl.load(RULES / f"{name}.rule")
    given, bounds, _ = arguments(rule, case, seed)
    dtype = getattr(torch, case.dtype)
    inputs = {s.name: s for s in rule.typed.of(Role.INPUT)}
    gates = {n for n in given if n not in inputs or inputs[n].type.is_scalar or n in decays(rule)}
    low = {n: x.to(torch.float32 if n in gates else dtype) for n, x in given.items()}
    exact = {n: x.double() for n, x in low.items()}
    reference = "recurrent" if case.length <= 200 else "torch"
    wanted = run(rule, exact, bounds, reference)
    got = run(rule, low, bounds, "triton")
    outputs, vectors, scalars = BARS[case.dtype]
    floor = 1e-3 * max((rms(g) for n, g in wanted.items() if n[1:] in inputs and n[1:] not in gates), default=1.0)
    found = {}
    for key, reference_value in wanted.items():
        bar = outputs if key in ("o", "S") else scalars if key[1:] in gates else vectors
        found[key] = rms(got[key].double() - reference_value) / max(rms(reference_value), floor, 1e-30), bar
    return found


def run(rule: Any, given: dict[str, Tensor], bounds: Tensor | None, backend: str) -> dict[str, Tensor]:
    """Output `o`, final state `S`, and the gradients `dNAME` of a fixed random functional of both."""
    leaves = {n: x.clone().requires_grad_() for n, x in given.items()}
    output, state = rule(**leaves, cu_seqlens=bounds, backend=backend, return_state=True)
    first = rule.typed.of(Role.STATE)[0].name
    state = state if isinstance(state, Tensor) else state[first]
    generator = torch.Generator().manual_seed(1)
    total = sum((x.double() * _like(x, generator)).sum() for x in (output, 0.1 * state))
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    found = {"o": output.detach(), "S": state.detach()}
    return found | {f"d{n}": g for n, g in zip(leaves, gradients, strict=True) if g is not None}


def _like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Exactly representable in every dtype, so that rounding the cotangent is no error."""
    return (torch.randint(-4, 5, x.shape, generator=generator) / 4).double().to(x.device)


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item() if x.numel() else 0.0
