"""Which of n numbered things take from each other in a circle."""

from __future__ import annotations

from collections.abc import Iterable


def circles(n: int, entries: Iterable[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Those that take from each other together, in order of dependence; i takes from j for an entry (i, j)."""
    reach = {i: {i} for i in range(n)}  # what one takes from, sooner or later
    for i, j in entries:
        reach[i].add(j)
    for k in range(n):  # Warshall
        for i in range(n):
            if k in reach[i]:
                reach[i] |= reach[k]
    groups = {tuple(j for j in range(n) if j in reach[i] and i in reach[j]) for i in range(n)}
    return sorted(groups, key=lambda group: (len(reach[group[0]]), group))
