"""Small numbers for the sizes that loops, families and indices run over, to judge a rule at."""

from __future__ import annotations

from ruledsl.lang import typed
from ruledsl.lang.diagnostic import RuleError
from ruledsl.lang.unroll import loop_sizes, unroll

TRIED = (3, 2, 4, 6, 8, 12, 16, 32, 48)


def unrolled(rule: typed.Rule) -> tuple[typed.Rule, dict[str, int]]:
    """The rule written out at the first small number for all its loop sizes that fits its indices, and that binding."""
    names = loop_sizes(rule)
    error: RuleError | None = None
    for number in TRIED:
        sizes = dict.fromkeys(names, number)
        try:
            return unroll(rule, sizes), sizes
        except RuleError as e:
            error = error or e
            if not names:
                break
    assert error is not None
    raise error
