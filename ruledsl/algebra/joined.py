"""Strata whose states are added to one another as whole matrices, taken together.

`M = m*M + v k^T; S = S - M`: M is an input to S, but no vector or outer product, so that S alone has no matmul form. Both
together are states that a token maps jointly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ruledsl.algebra.affine import TooLarge
from ruledsl.algebra.analysis import Part
from ruledsl.algebra.circles import circles
from ruledsl.algebra.linear import Linear, NotAffine
from ruledsl.algebra.scope import Scope, State


def joined(scope: Scope, parts: Sequence[Part]) -> list[Part]:
    """The parts in order, those that belong together as one at the place of the last."""
    number = {s: i for i, p in enumerate(parts) for s in p.states}
    linear = Linear(scope, frozenset(number))
    pairs = {(number[s], number[t]) for s in number for t in _added(linear, s) if t in number}
    together = circles(len(parts), pairs | {(j, i) for i, j in pairs})
    found: list[Part] = []
    for group in sorted(together, key=max):
        states = tuple(s for i in group for s in parts[i].states)
        one = parts[group[0]]
        found.append(one if len(group) == 1 else replace(one, states=states, linear=Linear(scope, frozenset(states))))
    return found


def _added(linear: Linear, state: State) -> set[State]:
    """The matrix states that are added to this one, up to scalars."""
    found: set[State] = set()
    for assign in linear.scope.assigns.get(state, []):
        try:
            value = linear.of(assign.value)
        except (NotAffine, TooLarge):
            continue
        found |= {t.marker.state for t in value.terms if t.marker.type.is_matrix and not (t.left or t.right or t.opaque)}
    return found
