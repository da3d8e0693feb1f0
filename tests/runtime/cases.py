"""Rules of the corpus with sampled arguments, and two runs of one rule compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
import torch.utils.checkpoint
from torch import Tensor

from ruledsl.runtime.rule import Rule, load
from ruledsl.runtime.sample import sample, sample_states
from ruledsl.runtime.state import State

CORPUS = Path(__file__).resolve().parent.parent / "corpus"
ACCEPTED = sorted(p.stem for p in CORPUS.glob("*.rule") if "# expect: refused" not in p.read_text())
CHUNKED = (
    "linear retention lightning ssd gated_linear gla gla_two_sided hgrn2 rwkv5 rwkv6 mission delta gated_delta delta_product "
    "gated_delta_product kda comba iplr dplr rwkv7 longhorn_exact momentum_delta titans_linear case_35 mesa case_41 log_linear case_34 case_62"
).split()
SMALL = {"n": 2, "L": 6}


@cache
def rule(name: str) -> Rule:
    return load(CORPUS / f"{name}.rule")


def sizes(r: Rule, **given: int) -> dict[str, int]:
    """A size for every symbol; those that are not given differ, so that mixed-up axes show."""
    return {s: given.get(s, SMALL.get(s, 4 + 2 * (i % 2))) for i, s in enumerate(r.typed.sizes)}


def arguments(
    r: Rule,
    batch: int,
    length: int,
    heads: int,
    sized: Mapping[str, int],
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    return sample(r.typed, batch, length, heads, sized, torch.Generator().manual_seed(seed), dtype)


def states(
    r: Rule,
    batch: int,
    heads: int,
    sized: Mapping[str, int],
    seed: int = 1,
    every: bool = False,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor] | None:
    """First values of the learned states (or of every state); None if there are none."""
    return (
        sample_states(r.typed, batch, heads, sized, torch.Generator().manual_seed(seed), dtype, only_learned=not every)
        or None
    )


def cut(r: Rule, x: Mapping[str, Tensor], start: int, end: int) -> dict[str, Tensor]:
    """The tokens start : end of every input."""
    inputs = {e.name for e in r.spec.inputs}
    return {n: v[:, start:end] if n in inputs else v for n, v in x.items()}


def token(r: Rule, x: Mapping[str, Tensor], at: int) -> dict[str, Tensor]:
    inputs = {e.name for e in r.spec.inputs}
    return {n: v[:, at] if n in inputs else v for n, v in x.items()}


def parts(x: State, name: str = "") -> dict[str, Tensor]:
    return {name: x} if isinstance(x, Tensor) else dict(x)


def error(found: State, expected: State) -> float:
    """Largest difference relative to the largest entry; infinite for a NaN."""
    a, b = parts(found), parts(expected)
    assert a.keys() == b.keys()
    worst = 0.0
    for key in a:
        assert a[key].shape == b[key].shape, (key, a[key].shape, b[key].shape)
        if b[key].numel():
            u, v = a[key].detach().double(), b[key].detach().double()
            e = float((u - v).abs().max() / (1e-3 + v.abs().max()))
            worst = max(worst, e if e == e else float("inf"))
    return worst


def gradients(
    r: Rule, x: Mapping[str, Tensor], first: Mapping[str, Tensor] | None, **call: object
) -> tuple[State, State, dict[str, Tensor]]:
    """Outputs, final state and the gradient of a random projection of both, for every argument and first state."""
    leaves = {n: v.detach().clone().requires_grad_() for n, v in x.items()}
    begin = {n: v.detach().clone().requires_grad_() for n, v in (first or {}).items()}
    out, last = r(**leaves, initial_state=begin or None, return_state=True, **call)
    generator = torch.Generator().manual_seed(7)
    seen = [y for y in (*parts(out).values(), *parts(last).values()) if y.requires_grad]
    loss = sum(((y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum() for y in seen), torch.zeros(()))
    named = {**leaves, **{f"first {n}": v for n, v in begin.items()}}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return (
        out,
        last,
        {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(named.items(), found, strict=True)},
    )


def as_eager(loss: Callable[..., Tensor], given: Sequence[Tensor]) -> None:
    """torch.func.grad, vmap over sequences and params alike, checkpointing, torch.compile: all as eager."""
    every = tuple(range(len(given)))
    wanted = torch.func.grad(loss, every)(*given)
    mapped = torch.func.vmap(torch.func.grad(loss, every))(*(torch.stack([v, 0.5 * v]) for v in given))
    halves = torch.func.grad(loss, every)(*(0.5 * v for v in given))
    leaves = [v.clone().requires_grad_() for v in given]
    again = torch.autograd.grad(torch.utils.checkpoint.checkpoint(loss, *leaves, use_reentrant=False), leaves)
    torch._dynamo.reset()  # another rule number in the same code would be taken as a dynamic one
    traced = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(*leaves), leaves)
    for w, h, m, a, t in zip(wanted, halves, mapped, again, traced, strict=True):
        assert torch.allclose(m[0], w, atol=1e-4) and torch.allclose(m[1], h, atol=1e-4)
        assert torch.allclose(a, w, atol=1e-4) and torch.allclose(t, w, atol=1e-4)
