"""How the tokens of a judged rule are run in training."""

from __future__ import annotations

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
    Form.SCAN: "runs as a scan over tokens, entry by entry",
    Form.TOKENS: "runs on the recurrent backend",
}


def form(verdict: Verdict) -> Form:
    """The form that the torch backend has for the rule; loops at twice the sizes at which they were judged."""
    rule = pipeline.check(pipeline.parse(verdict.rule.source))  # a family is unrolled once only
    if not isinstance(chunkable(rule, verdict.sizes), str):
        return Form.CHUNK
    return Form.TOKENS if isinstance(scannable(rule, larger(verdict.sizes)), str) else Form.SCAN
