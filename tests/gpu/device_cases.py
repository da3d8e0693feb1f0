"""Cases for the kernels on a CUDA device, every pair of values at least once, and how a case is judged."""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from random_rules import text
from torch import Tensor

import ruledsl
from ruledsl.algebra.verdict import Kind
from ruledsl.cli.exits import Stop
from ruledsl.lang import typed
from ruledsl.lang.diagnostic import RuleError
from ruledsl.lang.typed import Role
from ruledsl.runtime.sample import sample, sample_states

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RULES = Path(__file__).resolve().parents[2] / "rules"
CHUNKED = (
    "linear retention lightning ssd gated_linear gla gla_two_sided hgrn2 rwkv5 rwkv6 mission delta gated_delta "
    "delta_product gated_delta_product kda comba iplr dplr rwkv7 longhorn_exact "
    "momentum_delta titans_linear linear_normalised gsa hgrn qrnn omega_linear mesa ttt_linear titans"
).split()
SCANNED = "rwkv4 mamba1 lru s4d hgrn qrnn mlstm abc mamba3".split()  # with scan kernels: backend "triton-scan"

ZOO = sorted(p.stem for p in RULES.glob("*.rule"))  # with what the device takes by default: backend "default"

FACTORS: dict[str, tuple[Any, ...]] = {
    "length": (1, 17, 63, 64, 65, 200, 1000, 4096),
    "keys": (16, 64, 80, 128, 160, 256),
    "values": (16, 64, 80, 128, 160, 256),
    "gates": ("declared", "strong", "mixed", "none", "signed"),
    "layout": ("plain", "packed", "grouped"),
    "dtype": ("bfloat16", "float16", "float32"),
}
# RMS(error) / max(RMS(reference), 1e-3 RMS(dv)): outputs and states; gradients of vectors and states; gradients of gates
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


def pairwise(seed: int = 6, tries: int = 20) -> list[Case]:
    """A list of cases in which every two values of different factors meet, greedily short: 50, where 48 is the least."""
    generator = random.Random(seed)
    names = list(FACTORS)
    missing = {((a, x), (b, y)) for a, b in itertools.combinations(names, 2) for x in FACTORS[a] for y in FACTORS[b]}

    def gain(row: dict[str, Any]) -> int:
        return sum(p in missing for p in itertools.combinations([(n, row[n]) for n in names if n in row], 2))

    cases = []
    while missing:
        open_ = sorted(missing, key=repr)
        rows = []
        for _ in range(tries):  # from a pair that is missing, one factor after the other
            row = dict(generator.choice(open_))
            for name in generator.sample(names, len(names)):
                if name not in row:
                    values = generator.sample(FACTORS[name], len(FACTORS[name]))
                    row[name] = max(values, key=lambda x, name=name, row=row: gain(row | {name: x}))
            rows.append(row)
        best = max(rows, key=gain)
        missing -= set(itertools.combinations([(n, best[n]) for n in names], 2))
        cases.append(Case(**best))
    return cases


def small() -> list[Case]:
    """Cases that rules with large states and without kernels take too."""
    return [
        Case(65, 16, 16, "declared", "plain", "float32"),
        Case(130, 8, 16, "declared", "packed", "float32"),
        Case(200, 8, 16, "declared", "packed", "bfloat16"),
        Case(45, 16, 8, "declared", "grouped", "bfloat16"),
        Case(63, 16, 32, "declared", "grouped", "float32"),
    ]


def cases_of(backend: str) -> list[Case]:
    return small() if backend == "default" else pairwise()


def kernels_hash(name: str) -> str:
    """Of the rule's generated kernels, as `ruledsl compile --backend triton` writes them; "" where it writes none."""
    from ruledsl.cli.options import Backend
    from ruledsl.cli.stages import Walk

    try:
        module = Walk(rule_named(name).source, Backend.TRITON).module
    except (RuleError, Stop):
        return ""
    return hashlib.sha256(module.encode()).hexdigest()[:16]


def rule_named(name: str) -> Any:
    """A rule of the collection, or `seed_N`: a random one."""
    return ruledsl.load(text(int(name[5:])) if name.startswith("seed_") else RULES / f"{name}.rule")


def random_cases(seed: int, at_most: int = 128) -> list[int]:
    """Three of the pairwise cases: 16-bit, float32, 16-bit; up to 1000 tokens and sizes up to `at_most`."""
    cases = list(enumerate(pairwise()))
    generator = random.Random(seed)
    small = [(i, c) for i, c in cases if c.length <= 1000 and max(c.keys, c.values) <= at_most]
    left = {d: generator.sample([i for i, c in small if c.dtype == d], 2) for d in ("bfloat16", "float32")}
    return [left["bfloat16"][0], left["float32"][0], left["bfloat16"][1]]


def decays(rule: Any) -> set[str]:
    """Inputs that are a decay as they stand."""
    token = rule.verdict.token
    if token is None:
        return set()
    found = (d.value for f in token.forms for s in f.steps for d in (s.right, s.left) if d is not None)
    return {d.name for d in found if isinstance(d, typed.Ref) and d.role is Role.INPUT}


def arguments(rule: Any, case: Case, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]:
    """Arguments and first states in float64 on the device, and cu_seqlens."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"K": case.keys, "V": case.values, "N": case.keys, "M": case.keys, "D": case.keys, "P": case.values, "n": 2}
    sizes = {"L": case.length.bit_length()} | sizes
    sizes = {name: sizes[name] for name in rule.typed.sizes}
    heads = 4 if case.layout == "grouped" else 2
    given = sample(rule.typed, 1 if case.layout == "packed" else 2, case.length, heads, sizes, generator)
    if case.length > 500 and rule.verdict.stability.claim == "can grow":  # so many such tokens would leave fp16
        free = (s for s in rule.typed.of(Role.INPUT) if s.type.is_vector and not s.unit and s.interval is None)
        given |= {s.name: given[s.name] / 4 for s in free}
    for name in decays(rule):
        given[name] = _gates(rule.typed.symbol(name), given[name], case.gates, generator)
    if case.layout == "grouped":
        inputs = rule.typed.of(Role.INPUT)
        shared = [s.name for s in inputs if s.type.is_vector and not s.type.family][: len(inputs) > 1]  # another says how many
        given |= {name: given[name][:, :, :2].contiguous() for name in shared}
    bounds = None
    if case.layout == "packed":
        cuts = sorted({0, 1, case.length // 3, case.length // 3, case.length * 2 // 3, case.length})
        bounds = torch.tensor([0, *cuts], dtype=torch.int64, device=DEVICE)  # with one empty sequence
    sequences = 2 if bounds is None else len(bounds) - 1
    first = sample_states(rule.typed, sequences, heads, sizes, generator, only_learned=False)
    return _on_device(given), _on_device(first), bounds


def _on_device(given: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(x).to(DEVICE) for name, x in given.items()}


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


def errors(name: str, case: Case, seed: int = 0, backend: str = "triton") -> dict[str, tuple[float, float]]:
    """Error and bar of `fwd.` outputs and final states, `bwd.` gradients, and outputs and states of single `step.`s. Scan
    kernels run once as they choose and once in pieces of 64 tokens: `fwd.pieces.`, `bwd.pieces.` Rules that freeze states have other
    kernels for the gradients of outputs alone: `bwd.alone.`"""
    rule = rule_named(name)
    given, first, bounds = arguments(rule, case, seed)
    low, first = lowered(rule, given, case.dtype), {n: x.float() for n, x in first.items()}
    exact, exact_first = ({n: x.double() for n, x in values.items()} for values in (low, first))
    reference = "recurrent" if case.length <= 200 else "torch"
    wanted = run(rule, exact, exact_first, bounds, reference) | steps(rule, exact, exact_first)
    found = run(rule, low, first, bounds, backend) | steps(rule, low, first)
    rated = judged(rule, found, wanted, case.dtype)
    if backend == "triton-scan" and case.length > 64:
        pieces = run(rule, low, first, bounds, backend, chunk_size=64)
        again = judged(rule, pieces, {n: x for n, x in wanted.items() if n[:5] != "step."}, case.dtype)
        rated |= {f"{n[:4]}pieces.{n[4:]}": e for n, e in again.items()}
    if rule.verdict.kind is Kind.FROZEN:
        apart = [run(rule, *given, bounds, by, final=False) for given, by in (((low, first), backend), ((exact, exact_first), reference))]
        rated |= {f"bwd.alone.{n[4:]}": e for n, e in judged(rule, *apart, case.dtype).items() if n[:4] == "bwd."}
    return rated


def gates(rule: Any) -> set[str]:
    """Arguments that stay float32: scalars, decays, params and consts."""
    inputs = rule.typed.of(Role.INPUT)
    others = {s.name for s in rule.typed.symbols if s.role in (Role.PARAM, Role.CONST)}
    return {s.name for s in inputs if s.type.is_scalar} | decays(rule) | others


def lowered(rule: Any, given: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Vectors in `dtype`, gates in float32."""
    return {n: x.to(torch.float32 if n in gates(rule) else getattr(torch, dtype)) for n, x in given.items()}


def judged(
    rule: Any, found: dict[str, Tensor], wanted: dict[str, Tensor], dtype: str
) -> dict[str, tuple[float, float]]:
    """Error and bar of everything in `wanted`."""
    outputs, vectors, scalars = BARS[dtype]
    narrow = {s.name for s in rule.typed.of(Role.INPUT)} - gates(rule)
    floor = 1e-3 * max((rms(g) for n, g in wanted.items() if n[:4] == "bwd." and n[4:] in narrow), default=1.0)
    errors = {}
    for key, value in wanted.items():
        bar = outputs if key[:4] != "bwd." else scalars if key[4:] in gates(rule) else vectors
        difference = found.get(key, torch.zeros_like(value)).double() - value  # no gradient: zero
        errors[key] = rms(difference) / max(rms(value), floor, 1e-30), bar
    return errors


def missed(errors: dict[str, tuple[float, float]]) -> dict[str, float]:
    """What is above its bar, or no number."""
    return {key: error for key, (error, bar) in errors.items() if not error <= bar}


def run(
    rule: Any, given: dict[str, Tensor], first: dict[str, Tensor], bounds: Tensor | None, backend: str, final: bool = True, **call: Any
) -> dict[str, Tensor]:
    """`fwd.` outputs and final states, `bwd.` gradients of a fixed random functional of all of them, or (`final` false) of outputs."""
    leaves = {n: x.clone().requires_grad_() for n, x in (given | first).items()}
    own, begin = {n: leaves[n] for n in given}, {n: leaves[n] for n in first}
    call |= {"cu_seqlens": bounds, "backend": None if backend == "default" else backend, "return_state": True}
    output, state = rule(**own, initial_state=begin or None, **call)
    generator = torch.Generator().manual_seed(1)
    found = {f"fwd.{n}": x for n, x in (named(rule, output) | named(rule, state, Role.STATE)).items()}
    rated = found if final else {n: x for n, x in found.items() if n[4:] in named(rule, output)}
    seen = [x for x in rated.values() if x.is_floating_point()]
    total = sum((x.double() * _like(x, generator)).sum() for x in seen)
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    found |= {f"bwd.{n}": g for n, g in zip(leaves, gradients, strict=True) if g is not None}
    return {n: x.detach() for n, x in found.items()}


def steps(rule: Any, given: dict[str, Tensor], first: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs and states of the first four tokens, one at a time, from the first rows of `first`."""
    inputs = {s.name for s in rule.typed.of(Role.INPUT)}
    batch, length = next(given[n] for n in sorted(inputs)).shape[:2]
    state: Any = {n: x[:batch] for n, x in first.items()} or None
    seen: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for at in range(min(length, 4)):
            token = {n: x[:, at] if n in inputs else x for n, x in given.items()}
            output, state = rule.step(state, **token)
            seen.append(named(rule, output))
    outputs = {n: torch.stack([s[n] for s in seen], 1) for n in seen[0]}
    return {f"step.{n}": x for n, x in (outputs | named(rule, state, Role.STATE)).items()}


def named(rule: Any, x: Tensor | dict[str, Tensor], role: Role = Role.OUTPUT) -> dict[str, Tensor]:
    """Outputs or states by name."""
    if not isinstance(x, Tensor):
        return dict(x)
    symbols = rule.spec.outputs if role is Role.OUTPUT else rule.spec.states
    return {symbols[0].name: x}


def _like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Exactly representable in every dtype, so that rounding the cotangent is no error."""
    return (torch.randint(-4, 5, x.shape, generator=generator) / 4).double().to(x.device)


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item() if x.numel() else 0.0
