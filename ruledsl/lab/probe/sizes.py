"""Numbers for a rule's sizes: few members and turns, wide states."""

from __future__ import annotations

from collections.abc import Iterator

from ruledsl.lang import typed
from ruledsl.lang.diagnostic import RuleError
from ruledsl.lang.dims import names_in
from ruledsl.lang.typed import Role
from ruledsl.lang.unroll import loop_sizes, unroll

FEW = (2, 3, 4, 6, 8, 12, 16, 32, 48)
WIDE = (
    (12, 16, 20, 24, 28, 32),
    (12, 28, 16, 20, 24, 32),  # one wide side at a time
    (28, 12, 16, 20, 24, 32),
    (12, 40, 16, 20, 24, 32),
    (40, 12, 16, 20, 24, 32),
    (12, 24, 36, 48, 60, 72),
)


def choices(rule: typed.Rule) -> Iterator[dict[str, int]]:
    """Bindings of all sizes, small ones first; later ones have room for a higher rank, or other divisors."""
    counted = loop_sizes(rule)
    stated = {n for s in rule.of(Role.STATE) for d in (s.type.rows, s.type.cols) for n in names_in(d)}
    given: list[dict[str, int]] = []
    for numbers in WIDE:
        names = [n for n in rule.sizes if n not in counted]
        if len(names) > len(numbers):
            return
        wide = dict(zip(names, numbers, strict=False))
        for few in FEW:
            bound = {n: max(few, 12) if n in stated else few for n in counted}
            if wide | bound in given:
                break
            if _fits(rule, bound):
                given.append(wide | bound)
                yield given[-1]
                break


def _fits(rule: typed.Rule, bound: dict[str, int]) -> bool:
    try:
        unroll(rule, bound)
    except RuleError:
        return False
    return True
