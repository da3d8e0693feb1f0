"""Runs cases of `backend="triton"` against `backend="recurrent"` in float64 and prints the errors. A program of its own:
whether kernels are interpreted is decided when triton is imported.

    python compare.py < cases.json > errors.json

A case: {"rule": a name of the corpus or a text, and any of the fields of `Case`}. Its answer: {"outputs": error, "state":
error, "gradients": {name: error}} with largest differences relative to largest entries, or {"refused": message}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "runtime"), str(Path(__file__).resolve().parents[2])]

from cases import CORPUS, arguments, cut, error, parts, sizes, states  # noqa: E402

from ruledsl.runtime import tuned  # noqa: E402
from ruledsl.runtime.errors import BackendError  # noqa: E402
from ruledsl.runtime.rule import Rule, load  # noqa: E402
from ruledsl.schedule.tiles import Loop, alike  # noqa: E402


@dataclass
class Case:
    rule: str
    length: int = 20
    batch: int = 1
    heads: int = 2
    sizes: dict[str, int] = field(default_factory=dict)
    grouped: list[str] = field(default_factory=list)  # inputs with one head
    packed: list[int] = field(default_factory=list)  # lengths of sequences, instead of `length`
    tail: int = 0  # tokens after the last packed sequence
    strided: bool = False  # inputs are views: time and heads swapped, every second column
    cuts: list[int] = field(default_factory=list)  # the kernels take the sequence in pieces, which begin at these tokens too
    chunk_size: int | None = None
    chunks: list[int] = field(default_factory=list)  # tokens of a chunk, forward and backward, where they are tuned apart
    between: int | None = None  # tokens of a chunk in another call, before the backward pass
    dtype: str = "float32"  # of vectors and matrices without a declared range
    scale: dict[str, float] = field(default_factory=dict)  # of inputs
    first: bool = True  # every state starts from something
    final: bool = True  # final states are in the loss
    backward: bool = True
    seed: int = 0


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    torch.set_num_threads(1)
    print(json.dumps([run(Case(**case)) for case in json.load(sys.stdin)]))


def run(case: Case) -> dict[str, object]:
    rule = load(CORPUS / f"{case.rule}.rule") if case.rule.isidentifier() else load(case.rule)
    length = sum(case.packed) + case.tail or case.length
    sequences = len(case.packed) or case.batch
    sized = sizes(
        rule, **{s: case.sizes.get(s, case.sizes.get("*", 16)) for s in rule.typed.sizes if s not in ("n", "L")}
    )
    x = arguments(rule, case.batch, length, case.heads, sized, case.seed)
    x = {n: case.scale.get(n, 1.0) * (v[:, :, :1] if n in case.grouped else v) for n, v in x.items()}
    first = states(rule, sequences, case.heads, sized, every=case.first) or {}
    call: dict[str, object] = {}
    if case.packed:
        bounds = [sum(case.packed[:i]) for i in range(len(case.packed) + 1)]
        call["cu_seqlens"] = torch.tensor(bounds, dtype=torch.int32, device=DEVICE)
    if case.chunk_size:
        call["chunk_size"] = case.chunk_size
    x, first = ({n: v.float().to(DEVICE) for n, v in given.items()} for given in (x, first))
    narrow = {e.name for e in rule.spec.inputs if not e.type.is_scalar and e.interval is None}
    x = {n: v.to(getattr(torch, case.dtype)) if n in narrow else v for n, v in x.items()}
    exact = {n: v.double() for n, v in x.items()}, {n: v.double() for n, v in first.items()}
    inputs = {e.name for e in rule.spec.inputs}
    mine = {n: _strided(v) if case.strided and n in inputs else v for n, v in x.items()}
    try:
        with ExitStack() as stack:
            for name in ("empty", "empty_like"):
                stack.enter_context(patch.object(torch, name, _poisoned(getattr(torch, name))))
            if case.chunks:
                ahead, back = (alike(c, Loop(4, 16, 1)) for c in case.chunks)
                stack.enter_context(tuned.only(tuned.Choice(ahead, back)))
            found = forward_and_back(rule, mine, first, case.backward, case.final, case.between, case.cuts, backend="triton", **call)
    except BackendError as e:
        return {"refused": str(e)}
    wanted = forward_and_back(rule, *exact, case.backward, case.final, backend="recurrent", **{**call, **({"chunk_size": None} if case.chunk_size else {})})
    return {
        "outputs": error(found[0], wanted[0]),
        "state": error(found[1], wanted[1]),
        "gradients": {n: error(found[2][n], wanted[2][n]) for n in wanted[2]},
    }


def _poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Fresh memory holds NaN: what no kernel writes is seen."""

    def made(*args: object, **options: object) -> Tensor:
        x = make(*args, **options)
        return x.fill_(float("nan")) if x.is_floating_point() else x

    return made


def _strided(x: Tensor) -> Tensor:
    if x.dim() > 3:
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), float("nan"), dtype=x.dtype, device=x.device)
        wide[..., ::2] = x
        x = wide[..., ::2]
    return x.transpose(1, 2).contiguous().transpose(1, 2) if x.dim() == 3 else x


def forward_and_back(
    rule: Rule,
    x: dict[str, Tensor],
    first: dict[str, Tensor],
    backward: bool,
    final: bool = True,
    between: int | None = None,
    cuts: Sequence[int] = (),
    **call: object,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Outputs, final states, and the gradients of a random projection of both, or of the outputs."""
    leaves = {n: v.detach().requires_grad_(backward) for n, v in x.items()}
    begin = {n: v.detach().requires_grad_(backward) for n, v in first.items()}
    pieces: list[dict[str, Tensor]] = []
    last: object = begin or None
    for at, end in pairwise([0, *cuts, next(iter(x.values())).shape[1]]):
        piece = cut(rule, leaves, at, end) if cuts else leaves
        out, last = rule(**piece, initial_state=last, return_state=True, **call)
        pieces.append(parts(out))
    out = {n: torch.cat([p[n] for p in pieces], 1) if cuts else v for n, v in pieces[0].items()}
    if between:
        rule(**x, initial_state=first or None, **{**call, "chunk_size": between})
    named = {**leaves, **{f"first {n}": v for n, v in begin.items()}}
    seen = [y for y in (*out.values(), *(parts(last).values() if final else ())) if y.requires_grad]
    if not backward or not seen:
        return out, parts(last), {}
    generator = torch.Generator().manual_seed(7)
    loss = sum((y * torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)).sum() for y in seen)
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)  # type: ignore[arg-type]
    return (
        out,
        parts(last),
        {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(named.items(), grads, strict=True)},
    )


if __name__ == "__main__":
    main()
