"""How the tokens of a judged rule are run in training."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ruledsl import pipeline
from ruledsl.algebra.verdict import Verdict
from ruledsl.runtime.chunkable import chunkable
from ruledsl.runtime.scannable import larger, scannable


class Form(StrEnum):
    CHUNK = "chunk"
    SCAN = "scan"
    TOKENS = "tokens"


SAID = {
    Form.CHUNK: "a chunk of tokens at once",
    Form.SCAN: "runs as a scan over tokens",
    Form.TOKENS: "runs on the recurrent backend",
}


@dataclass(frozen=True, slots=True)
class Runs:
    """The form that the torch backend has for a rule, and whether there are chunk kernels for it."""

    form: Form
    kernels: bool = False


def runs(verdict: Verdict) -> Runs:
    """Scans with loops at twice the sizes at which they were judged."""
    rule = pipeline.check(pipeline.parse(verdict.rule.source))  # a family is unrolled once only
    found = chunkable(rule, verdict.sizes)
    if not isinstance(found, str):
        return Runs(Form.CHUNK, found.kernels)
    return Runs(Form.TOKENS if isinstance(scannable(rule, larger(verdict.sizes)), str) else Form.SCAN)
