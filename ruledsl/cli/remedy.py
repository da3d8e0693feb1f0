"""What would make a sequential rule parallel, tried before it is said."""

from __future__ import annotations

import re

from ruledsl.algebra.verdict import Kind, Verdict
from ruledsl.cli.read import judge
from ruledsl.lang.diagnostic import RuleError
from ruledsl.lang.source import Source

CHUNK = 16


def remedy(verdict: Verdict) -> str:
    """The blamed sub-expression with the states in it frozen at the start of a chunk, if the rule that this gives is
    judged better; "" otherwise."""
    span, source = verdict.blame, verdict.rule.source
    if verdict.kind not in (Kind.SEQUENTIAL, Kind.UNDECIDED) or span is None:
        return ""
    states = sorted({name for stratum in verdict.strata for name in stratum.states}, key=len, reverse=True)
    blamed = source.slice(span)
    word = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, states))})(?![\w\[])")
    frozen = word.sub(lambda m: f"frozen({m[1]}, {CHUNK})", blamed)
    if frozen == blamed or "frozen(" in blamed or "\n" in blamed:
        return ""
    try:
        better = judge(Source(source.text[: span.start] + frozen + source.text[span.end :], source.name))
    except RuleError:
        return ""
    if not better.kind.parallel:
        return ""
    return f"with the state of the chunk's start, `{frozen}`, the rule is {better.kind}"
