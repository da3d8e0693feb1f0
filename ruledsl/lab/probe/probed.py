"""What the probe measured of a rule.

    Probed   = Probed(sizes, parts, kinds, account)
    Measured = Measured(states, kinds, facts...)     -- one strongly connected component of the states, as seen numerically

`kinds` are the verdicts that the numbers are consistent with; `undecided`, which claims nothing, is never in the set
and never contradicts it. Kind is data here: nothing that decides a verdict is imported.
"""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.algebra.verdict import Kind

AFFINE = frozenset({Kind.CLOSED, Kind.CHUNKWISE, Kind.DENSE})
ANY = frozenset(Kind) - {Kind.UNDECIDED}


@dataclass(frozen=True, slots=True)
class Measured:
    """`states`: those of the component, or the readers of one that is made of lagged lets alone. `residual`: of affinity, relative to the values; `terms`: numbers of independent L (x) R terms of one and of two
    tokens; `rank`: of the off-diagonal blocks of the sides after one and after two tokens; `composition`: how far two
    composed maps are from two steps, relative."""

    states: tuple[str, ...]
    kinds: frozenset[Kind]
    account: str
    residual: float | None = None
    composition: float | None = None
    terms: tuple[int, int] | None = None
    rank: tuple[int, int] | None = None
    monoid: str = ""
    lagged: tuple[str, ...] = ()  # the lets, if the component is made of lagged lets alone

    @property
    def decided(self) -> bool:
        return self.kinds != ANY


@dataclass(frozen=True, slots=True)
class Probed:
    """`sizes`: the numbers that the rule was run at. `gauge`: states whose shift scales others and leaves the outputs."""

    sizes: dict[str, int]
    parts: tuple[Measured, ...]
    kinds: frozenset[Kind]
    gauge: tuple[str, ...] = ()
    trouble: str = ""  # why nothing was measured

    @property
    def decided(self) -> bool:
        """Whether some verdict is excluded."""
        return self.kinds != ANY
