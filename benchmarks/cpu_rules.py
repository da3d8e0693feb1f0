"""Every rule of the collection on the CPU against the recurrence in float64:

    python benchmarks/cpu_rules.py [RULE ...] [-o benchmarks/results/cpu_rules.json]

Forward, gradients (of every input, param and first state) and decode (token after token through `step`) in float32 on
the backend that a call would use; sizes of 8 to 16, 45 tokens. Rules that are not named keep their results. `ruledsl rules`
reads the file.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ruledsl
from ruledsl.cli.marks import text_hash
from ruledsl.runtime.rule import Rule
from ruledsl.runtime.sample import sample, sample_states

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks/results/cpu_rules.json"
BATCH, LENGTH, HEADS = 2, 45, 2
SMALL = {"n": 2, "L": 6, "N": 8}
ERROR = "RMS(error) / RMS(reference), the largest of the tensors; those below 1e-3 of the largest RMS count against that"
Tensors = dict[str, Tensor]


def parts(x: Any, name: str) -> Tensors:
    return {name: x} if isinstance(x, Tensor) else {f"{name}.{k}": v for k, v in x.items()}


def error(found: Tensors, expected: Tensors) -> float:
    """The worst tensor; infinite for a NaN."""
    size = {n: float(x.double().square().mean().sqrt()) for n, x in expected.items()}
    least = 1e-3 * max(size.values(), default=0.0) or 1.0
    off = {n: float((found[n].double() - x.double()).square().mean().sqrt()) / max(size[n], least) for n, x in expected.items()}
    return max((e if e == e else float("inf") for e in off.values()), default=0.0)


def run(rule: Rule, x: Tensors, first: Tensors, backend: str | None) -> tuple[Tensors, Tensors]:
    """Outputs and final states; gradients of a random projection of them."""
    leaves = {n: v.detach().clone().requires_grad_() for n, v in x.items()}
    begin = {n: v.detach().clone().requires_grad_() for n, v in first.items()}
    out, last = rule(**leaves, initial_state=begin or None, return_state=True, backend=backend)
    results = {**parts(out, "o"), **parts(last, "state")}
    generator = torch.Generator().manual_seed(7)
    loss = torch.zeros((), dtype=torch.float64)
    for y in results.values():
        if y.requires_grad:
            loss = loss + (y.double() * torch.randn(y.shape, generator=generator, dtype=torch.float64)).sum()
    named = {**leaves, **{f"first {n}": v for n, v in begin.items()}}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    grads = {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(named.items(), found, strict=True)}
    return {n: y.detach() for n, y in results.items()}, grads


def decode(rule: Rule, x: Tensors, first: Tensors) -> Tensors:
    """The same tokens one after the other through `step`."""
    inputs = {e.name for e in rule.spec.inputs}
    state: Any = first or None
    rows = []
    for t in range(LENGTH):
        y, state = rule.step(state, **{n: v[:, t] if n in inputs else v for n, v in x.items()})
        rows.append(parts(y, "o"))
    return {n: torch.stack([r[n] for r in rows], 1) for n in rows[0]} | parts(state, "state")


def judged(path: Path) -> dict[str, Any]:
    """One rule's row."""
    rule = ruledsl.load(path)
    sizes = {s: SMALL.get(s, 8 + 8 * (i % 2)) for i, s in enumerate(rule.typed.sizes)}
    generator = torch.Generator().manual_seed(0)
    exact = sample(rule.typed, BATCH, LENGTH, HEADS, sizes, generator, torch.float64)
    begin = sample_states(rule.typed, BATCH, HEADS, sizes, generator, torch.float64, only_learned=True)
    x, first = ({n: v.float() for n, v in given.items()} for given in (exact, begin))
    exact, begin = ({n: v.double() for n, v in given.items()} for given in (x, first))
    expected, gradients = run(rule, exact, begin, "recurrent")
    row: dict[str, Any] = {"backend": rule.backend_for("cpu"), "sizes": sizes}
    try:
        found, own = run(rule, x, first, None)
        with torch.no_grad():
            steps = decode(rule, x, first)
        errors = {"forward": error(found, expected), "gradient": error(own, gradients), "decode": error(steps, expected)}
        return row | {k: float(f"{e:.2e}") for k, e in errors.items()}
    except Exception as e:  # a crash is a result here
        return row | {"failure": f"{type(e).__name__}: {e}"[:300]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="*")
    parser.add_argument("-o", "--out", type=Path, default=OUT)
    options = parser.parse_args()
    paths = {p.stem: p for p in sorted((ROOT / "rules").glob("*.rule"))}
    before = json.loads(options.out.read_text()) if options.rules and options.out.is_file() else {"texts": {}, "rules": {}}
    for name in options.rules or paths:
        before["rules"][name] = judged(paths[name])
        before["texts"][name] = text_hash(paths[name].read_text(encoding="utf-8"))
        print(name, json.dumps(before["rules"][name]), flush=True)
    about = {"what": " ".join((__doc__ or "").split("\n\n")[2].split()), "machine": platform.machine(), "torch": torch.__version__, "error": ERROR}
    texts, rules = (dict(sorted(before[k].items())) for k in ("texts", "rules"))
    options.out.write_text(json.dumps(about | {"texts": texts, "rules": rules}, indent=1) + "\n")


if __name__ == "__main__":
    main()
