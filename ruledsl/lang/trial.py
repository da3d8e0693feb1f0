"""A trial expansion of a checked rule: mistakes that show only when loops are unrolled."""

from __future__ import annotations

from ruledsl.lang import typed
from ruledsl.lang.diagnostic import Diagnostic, RuleError
from ruledsl.lang.unroll import loop_sizes, unroll

SMALL, LARGE = 4, 60


def trial(rule: typed.Rule) -> tuple[Diagnostic, ...]:
    """The mistakes that unrolling finds whatever the sizes are: those that a small and a larger size share."""
    names = loop_sizes(rule)
    found = _at(rule, dict.fromkeys(names, SMALL))
    if not found or not names:
        return found
    again = {(d.code, d.span) for d in _at(rule, dict.fromkeys(names, LARGE))}
    return tuple(d for d in found if (d.code, d.span) in again or d.code.startswith("RD5"))


def _at(rule: typed.Rule, sizes: dict[str, int]) -> tuple[Diagnostic, ...]:
    try:
        unroll(rule, sizes)
    except RuleError as error:
        return error.diagnostics
    return ()
