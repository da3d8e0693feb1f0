"""What would give a rule a better verdict, in one line; `ruledsl explain` has the whole texts."""

from __future__ import annotations

from ruledsl.algebra.explain.remedies import remedies
from ruledsl.algebra.verdict import Verdict


def remedy(verdict: Verdict) -> str:
    """The first of the remedies, tried; "" if there is none."""
    for found in remedies(verdict, most=1):
        return f"{found.says}{f', `{found.changed}`,' if found.changed else ','} the rule is {found.kind}"
    return ""
