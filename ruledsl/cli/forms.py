"""How the tokens of a judged rule are run in training."""

from __future__ import annotations

from enum import StrEnum

from ruledsl.algebra.verdict import Verdict
from ruledsl.runtime.scannable import scannable


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
    """A rule with linear reads and writes counts as `chunk`; its program may still refuse at some sizes."""
    if verdict.token is not None:
        return Form.CHUNK
    return Form.TOKENS if isinstance(scannable(verdict.rule, verdict.sizes), str) else Form.SCAN
