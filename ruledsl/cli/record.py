"""Findings as plain data: what `--format json` prints. Keys are only ever added."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ruledsl.algebra.verdict import Stratum, Verdict, Witness
from ruledsl.cli.findings import findings
from ruledsl.lang.diagnostic import RuleError
from ruledsl.lang.render import to_json
from ruledsl.lang.source import Source, Span


def judged(verdict: Verdict) -> dict[str, Any]:
    source = verdict.rule.source
    return {
        "file": source.name,
        "kind": str(verdict.kind),
        "number": verdict.kind.number,
        "parallel": verdict.kind.parallel,
        "reason": verdict.reason,
        "transition": verdict.transition,
        "latex": verdict.latex,
        "blame": _place(source, verdict.blame),
        "strata": [_stratum(source, s) for s in verdict.strata],
        "chunk_form": verdict.token is not None,
        "no_chunk_form": verdict.no_form,
        "stability": {
            "claim": verdict.stability.claim,
            "bound": verdict.stability.bound,
            "proof": verdict.stability.proof,
            "assumptions": list(verdict.stability.assumptions),
            "rate": verdict.stability.rate,
            "memory": verdict.stability.memory,
            "growth": verdict.stability.growth,
            "witness": _witness(verdict.stability.witness),
        },
        "price": {
            "state_bytes": verdict.price.state_bytes,
            "train_flops": verdict.price.train_flops,
            "decode_flops": verdict.price.decode_flops,
            "train_bytes": verdict.price.train_bytes,
            "decode_bytes": verdict.price.decode_bytes,
            "note": verdict.price.note,
        },
        "notes": list(dict.fromkeys((*verdict.rule.notes, *verdict.notes))),
        "diagnostics": to_json(findings(verdict)),
    }


def refused(error: RuleError) -> dict[str, Any]:
    return {
        "file": error.source.name,
        "kind": None,
        "diagnostics": to_json(error),
    }


def _stratum(source: Source, stratum: Stratum) -> dict[str, Any]:
    return {
        "states": list(stratum.states),
        "kind": str(stratum.kind),
        "structure": stratum.structure,
        "rank": stratum.rank,
        "reason": stratum.reason,
        "blame": _place(source, stratum.blame),
    }


def _witness(found: Witness | None) -> dict[str, Any] | None:
    """Tokens in the order of their repetition; values as lists of rows, families as lists of such."""
    return None if found is None else asdict(found)


def _place(source: Source, span: Span | None) -> dict[str, Any] | None:
    """Lines and columns from 1, in characters; the end is exclusive."""
    if span is None:
        return None
    line, column = source.position(span.start)
    end_line, end_column = source.position(span.end)
    return {"line": line, "column": column, "end_line": end_line, "end_column": end_column, "text": source.slice(span)}
