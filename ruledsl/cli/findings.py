"""Everything about one text that has a place in it, for every format: mistakes, the blame, unsafe logarithms."""

from __future__ import annotations

from dataclasses import replace

from ruledsl.algebra.gate_notes import gate_notes
from ruledsl.algebra.verdict import Verdict
from ruledsl.cli.remedy import remedy
from ruledsl.lang.diagnostic import Diagnostic, RuleError, Severity


def blame_note(verdict: Verdict) -> Diagnostic | None:
    """The sub-expression that a "no" points at; None for a rule that a chunk can compute, or without a place."""
    if verdict.blame is None or verdict.kind.parallel:
        return None
    label = f"{verdict.kind} because of this"
    return Diagnostic("RD701", verdict.reason, verdict.blame, label, hint=remedy(verdict), severity=Severity.NOTE)


def findings(answer: Verdict | RuleError, unmet: bool = False) -> RuleError:
    """`unmet`: the verdict is not what `--require` asks for; the blame is an error then."""
    if isinstance(answer, RuleError):
        return answer
    blame = blame_note(answer)
    if blame is not None and unmet:
        blame = replace(blame, severity=Severity.ERROR)
    return RuleError(answer.rule.source, [*([] if blame is None else [blame]), *gate_notes(answer)])
