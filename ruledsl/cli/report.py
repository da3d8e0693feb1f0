"""A verdict for people: the verdict line first, then what it rests on, then what is to blame."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator

from rich.text import Text

from ruledsl.algebra.gate_notes import gate_notes
from ruledsl.algebra.verdict import Kind, Verdict
from ruledsl.algebra.witness import shown
from ruledsl.cli import priced
from ruledsl.cli.findings import blame_note
from ruledsl.cli.forms import SAID, runs
from ruledsl.cli.priced import Priced
from ruledsl.cli.say import console, diagnostics
from ruledsl.lang.diagnostic import RuleError

COLOUR = {Kind.DENSE: "bold yellow", Kind.SEQUENTIAL: "bold red", Kind.UNDECIDED: "bold yellow"}
LABEL = 14  # columns before the text of a fact


def report(verdict: Verdict, price: Priced | None = None) -> None:
    """Everything that `check` says about a rule that is one, in the order: what, why, how stable, at what price."""
    out = console()
    out.print(_headline(verdict), soft_wrap=True)
    for label, text in [*_facts(verdict), *([] if price is None else priced.lines(price)), *_notes(verdict)]:
        for i, line in enumerate(_wrapped(text, out.width - LABEL)):
            out.print(f"  {label if i == 0 else '':{LABEL - 2}}{line}", soft_wrap=True)
    if (blame := blame_note(verdict)) is not None:
        print()
        diagnostics(RuleError(verdict.rule.source, [blame]), sys.stdout)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width`, or of 20 where that is less."""
    return [part for line in text.split("\n") for part in textwrap.wrap(line, max(width, 20), break_on_hyphens=False)]


def colour(kind: Kind) -> str:
    """The style of a verdict's name."""
    return COLOUR.get(kind, "bold green")


def _headline(verdict: Verdict) -> Text:
    """The verdict's headline with its kind in colour."""
    line, start = Text(verdict.headline), len(verdict.rule.source.name) + 2
    line.stylize(colour(verdict.kind), start, start + len(verdict.kind))
    return line


def _facts(verdict: Verdict) -> Iterator[tuple[str, str]]:
    stability, price = verdict.stability, verdict.price
    if verdict.transition:
        yield "transition", verdict.transition
    yield "why", verdict.reason
    if len(verdict.strata) > 1:
        for stratum in verdict.strata:
            yield ", ".join(stratum.states), f"{stratum.kind}, {stratum.structure}: {stratum.reason}"
    yield "stability", f"{stability.claim}: {stability.bound}" if stability.bound else stability.claim
    if stability.proof:
        yield "", stability.proof
    for promise in stability.assumptions:
        yield "", f"given {promise}"
    if stability.witness is not None:
        yield "", shown(stability.witness)
    if stability.memory:
        yield "memory", stability.memory
        yield "growth", stability.growth
    if price.state_bytes:
        yield "state", f"{price.state_bytes} bytes per head, whatever the length"
        yield "training", f"{price.train_flops} flops, {price.train_bytes} bytes per token and head"
        yield "decoding", f"{price.decode_flops} flops, {price.decode_bytes} bytes per token and head"
    if price.note:
        yield "" if price.state_bytes else "price", price.note
    if verdict.token is None and verdict.no_form:
        yield "chunk form", f"none: {verdict.no_form}; {SAID[runs(verdict).form]}"


def _notes(verdict: Verdict) -> Iterator[tuple[str, str]]:
    for note in dict.fromkeys((*verdict.rule.notes, *verdict.notes)):
        yield "note", note
    for found in gate_notes(verdict):
        hint = f"; {found.hint}" if found.hint else ""
        yield "note", f"{found.code}: {found.headline}; {found.label}{hint}"
