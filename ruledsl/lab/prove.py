"""The checker against the probe on random rules: `python -m ruledsl.lab.prove --count 5000`.

Every rule is judged from its text and, independently, measured by running it. A contradiction is a fault of one of the
two: its seed and text are printed and the exit status is 1.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ruledsl.algebra.judge import judge
from ruledsl.algebra.verdict import Kind
from ruledsl.lab.probe import Conflict, Probed, compare, probe
from ruledsl.lab.random_rule import random_rule
from ruledsl.lang.check import check
from ruledsl.lang.parse import parse
from ruledsl.lang.source import Source

RESULTS = ("agrees", "agrees, others allowed", "nothing claimed", "no decision", "contradicts")


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of one random rule."""

    seed: int
    text: str
    kind: Kind
    probed: Probed
    conflicts: tuple[Conflict, ...]

    @property
    def result(self) -> str:
        """One of RESULTS."""
        if self.conflicts:
            return "contradicts"
        if self.probed.trouble or not self.probed.decided:
            return "no decision"
        if self.kind is Kind.UNDECIDED:
            return "nothing claimed"
        return "agrees" if self.probed.kinds == {self.kind} else "agrees, others allowed"


def prove(seed: int) -> Proof:
    text = random_rule(seed)
    rule = check(parse(Source(text, f"seed {seed}")))
    verdict = judge(rule)
    probed = probe(rule)
    return Proof(seed, text, verdict.kind, probed, compare(probed, verdict))


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m ruledsl.lab.prove", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=5000, help="how many random rules (default 5000)")
    parser.add_argument("--start", type=int, default=0, help="the first seed (default 0)")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the rules are small
    out = Console(highlight=False, markup=False)
    begin = time.perf_counter()
    table: Counter[tuple[Kind, str]] = Counter()
    failed: list[int] = []
    for proof in _proofs(asked.start, asked.count, out):
        table[proof.kind, proof.result] += 1
        if proof.conflicts:
            failed.append(proof.seed)
            out.print(f"seed {proof.seed}: the verdict and the probe contradict each other")
            out.print(*(f"  {c}" for c in proof.conflicts), proof.text, sep="\n")
    out.print(_summary(table))
    seconds = time.perf_counter() - begin
    seeds = f"seeds {asked.start} to {asked.start + asked.count - 1}"
    out.print(f"{asked.count} random rules, {seeds}, {seconds:.0f} s: {len(failed)} contradictions")
    if failed:
        out.print(f"contradictions at seeds {', '.join(map(str, failed))}")
    return 1 if failed else 0


def _proofs(start: int, count: int, out: Console) -> Iterator[Proof]:
    for seed in track(range(start, start + count), "proving", console=out, disable=not out.is_terminal):
        yield prove(seed)


def _summary(table: Counter[tuple[Kind, str]]) -> Table:
    shown = Table(title="verdict of the checker x answer of the probe")
    shown.add_column("verdict")
    for result in (*RESULTS, "all"):
        shown.add_column(result, justify="right")
    for kind in Kind:
        row = [table[kind, result] for result in RESULTS]
        shown.add_row(str(kind), *map(str, row), str(sum(row)))
    totals = [sum(table[kind, result] for kind in Kind) for result in RESULTS]
    shown.add_row("all", *map(str, totals), str(sum(totals)))
    return shown


if __name__ == "__main__":
    raise SystemExit(main())
