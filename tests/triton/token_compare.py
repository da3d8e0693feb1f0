"""Runs cases of the kernels for single tokens and of scan kernels against plain torch and prints the errors. A program of its
own: whether kernels are interpreted is decided when triton is imported. Fresh memory holds NaN.

    python token_compare.py < cases.json > errors.json

A case: {"rule": a name of the corpus or a text, and any of the fields of `Case`}. Its answer, by `kind`:
"gradients": largest relative errors of outputs, final state and gradients against the float64 recurrence;
"cut": of the outputs and final state of two calls, the second from where the first ended, against one call;
"step": of outputs and pool of steps with slots against steps in plain torch, and what a slot of -1 changed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "runtime"), str(Path(__file__).resolve().parents[2])]

import cases  # noqa: E402
from compare import forward_and_back  # noqa: E402

from ruledsl.emit import triton_token as text  # noqa: E402
from ruledsl.lang.typed import Role  # noqa: E402
from ruledsl.runtime import op, triton_backend, triton_token  # noqa: E402
from ruledsl.runtime.rule import Rule, load  # noqa: E402

text.SEGMENT = triton_token.SEGMENT = 4  # several segments with few tokens
op.BACKENDS["token"] = replace(
    op.BACKENDS["triton"],
    name="token",
    prepare=triton_token.prepare,
    run=lambda plan, token, call, carry, cu_seqlens: triton_token.run(plan, call, carry, cu_seqlens),
)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class Case:
    rule: str
    kind: str = "gradients"
    length: int = 6
    batch: int = 2
    heads: int = 2
    sizes: dict[str, int] = field(default_factory=dict)
    grouped: list[str] = field(default_factory=list)  # inputs with one head
    packed: list[int] = field(default_factory=list)  # lengths of sequences, instead of `length`
    tail: int = 0  # tokens after the last packed sequence
    backend: str = "token"  # or triton-scan
    chunk_size: int | None = None
    dtype: str = "float32"  # of vectors and matrices without a declared range


def main() -> None:
    torch.set_num_threads(1)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)  # fills fresh memory
    kinds = {"gradients": _gradients, "cut": _cut, "step": _step}
    print(json.dumps([kinds[case.kind](case) for case in (Case(**c) for c in json.load(sys.stdin))]))


def _setup(case: Case) -> tuple[Rule, dict[str, Tensor], dict[str, Tensor]]:
    """The rule, arguments and first values of every state, float64."""
    rule = load(cases.CORPUS / f"{case.rule}.rule") if case.rule.isidentifier() else load(case.rule)
    sized = cases.sizes(rule, **case.sizes)
    x = cases.arguments(
        rule, 1 if case.packed else case.batch, sum(case.packed) + case.tail or case.length, case.heads, sized
    )
    x = {n: v[:, :, :1] if n in case.grouped else v for n, v in x.items()}
    # states whose logarithm is taken start as declared, the others from something
    first = cases.states(rule, len(case.packed) or case.batch, case.heads, sized, every=True) or {}
    given = {s.name for s in rule.typed.of(Role.STATE) if s.init is not None}
    x = {n: v.to(getattr(torch, case.dtype)) if n in _narrow(rule) else v for n, v in x.items()}
    return rule, _on(x), _on({n: v for n, v in first.items() if n not in given})


def _narrow(rule: Rule) -> set[str]:
    return {e.name for e in rule.spec.inputs if not e.type.is_scalar and e.interval is None}


def _on(x: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {n: v.to(DEVICE, dtype) for n, v in x.items()}


def _gradients(case: Case) -> dict[str, float]:
    rule, x, first = _setup(case)
    call: dict[str, Tensor] = {}
    if case.packed:
        bounds = [sum(case.packed[:i]) for i in range(len(case.packed) + 1)]
        call["cu_seqlens"] = torch.tensor(bounds, dtype=torch.int32, device=DEVICE)
    wanted = forward_and_back(rule, x, first, True, backend="recurrent", **call)
    low = {n: v.to(getattr(torch, case.dtype)) if n in _narrow(rule) else v.float() for n, v in x.items()}
    own = {**call, "backend": case.backend, "chunk_size": case.chunk_size}
    found = forward_and_back(rule, low, _on(first, torch.float32), True, **own)
    named = {f"d {n}": cases.error(found[2][n], wanted[2][n]) for n in wanted[2]}
    return {"outputs": cases.error(found[0], wanted[0]), "state": cases.error(found[1], wanted[1]), **named}


def _cut(case: Case) -> dict[str, float]:
    rule, x, first = _setup(case)
    x, first = _on(x, torch.float32), _on(first, torch.float32)
    call = {"backend": case.backend, "chunk_size": case.chunk_size, "return_state": True}
    whole, last = rule(**x, initial_state=first or None, **call)
    at = case.length // 2
    head, state = rule(**cases.cut(rule, x, 0, at), initial_state=first or None, **call)
    none, state = rule(**cases.cut(rule, x, at, at), initial_state=state, **call)
    tail, end = rule(**cases.cut(rule, x, at, case.length), initial_state=state, **call)
    joined = {n: torch.cat([cases.parts(y)[n] for y in (head, none, tail)], 1) for n in cases.parts(whole)}
    return {"outputs": cases.error(joined, cases.parts(whole)), "state": cases.error(end, last)}


def _step(case: Case) -> dict[str, float]:
    rule, x, first = _setup(case)
    x, first = _on(x, torch.float32), _on(first, torch.float32)
    slots = torch.tensor([2, -1, 0, *range(3, case.batch)], dtype=torch.int32, device=DEVICE)[: case.batch]
    pools = []
    seen: list[list[Tensor]] = []
    for on in (lambda device: True, lambda device: False):
        triton_backend.steps_on = on
        op._NAMES.clear()
        state = _pool(rule, first, case)
        seen.append([])
        with torch.no_grad():
            for at in range(case.length):
                out, state = rule.step(state, slots=slots, **cases.token(rule, x, at))
                seen[-1] += [y[slots >= 0] for y in cases.parts(out).values()]
            if not any(e.learned for e in rule.spec.states):
                fresh, after = rule.step(None, **cases.token(rule, x, 0))
                seen[-1] += [*cases.parts(fresh).values(), *cases.parts(after).values()]
        pools.append(cases.parts(state))
    untouched = [s for s in range(case.batch + 1) if s not in slots.tolist()]
    begin = cases.parts(_pool(rule, first, case))
    found, wanted = ({str(i): y for i, y in enumerate(ys)} for ys in seen)
    return {
        "outputs": cases.error(found, wanted),
        "pool": cases.error(pools[0], pools[1]),
        "untouched": max(float((pools[0][n][untouched] - begin[n][untouched]).abs().max()) for n in begin),
    }


def _pool(rule: Rule, first: dict[str, Tensor], case: Case) -> object:
    """One more slot than rows, all alike."""
    own = {n: v[:1].expand(case.batch + 1, *v.shape[1:]) for n, v in first.items()}
    sized = cases.sizes(rule, **case.sizes)
    state = rule.init_state(case.batch + 1, case.heads, device=DEVICE, learned=own, **sized)
    return {n: v.clone() for n, v in state.items()} if isinstance(state, dict) else state.clone()


if __name__ == "__main__":
    main()
