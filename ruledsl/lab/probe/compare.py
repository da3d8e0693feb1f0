"""Where the probe contradicts a verdict. `undecided` claims nothing; a set of kinds excludes only what is not in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ruledsl.algebra.verdict import Kind, Verdict
from ruledsl.lab.probe.probed import Measured, Probed


@dataclass(frozen=True, slots=True)
class Conflict:
    states: tuple[str, ...]  # of a stratum
    claimed: Kind | None  # None: the strata are at odds, not a kind
    measured: tuple[Measured, ...]

    def __str__(self) -> str:
        names = ", ".join(self.states)
        seen = "; ".join(f"{', '.join(m.states)}: {m.account}" for m in self.measured)
        if self.claimed is None:
            return f"{names}: states were seen to depend on each other that the verdict keeps apart ({seen})"
        kinds = " or ".join(sorted({str(k) for m in self.measured for k in m.kinds}))
        return f"{names}: the verdict says {self.claimed}, the numbers say {kinds} ({seen})"


def compare(probed: Probed, verdict: Verdict) -> tuple[Conflict, ...]:
    """One conflict per stratum that the numbers exclude. Strata that share a name are taken together."""
    if probed.trouble or all(s.kind is Kind.UNDECIDED for s in verdict.strata):
        return ()
    return tuple(_conflicts(probed, verdict))


def _conflicts(probed: Probed, verdict: Verdict) -> Iterator[Conflict]:
    strata = _joined(verdict)
    known = {name for names, _ in strata for name in names}
    about = [(m, set(m.lagged) & known or set(m.states)) for m in probed.parts]  # a let may be judged as a state
    for m, names in about:
        if not m.lagged and not any(names <= set(states) for states, _ in strata):
            yield Conflict(m.states, None, (m,))
    for states, kinds in strata:
        inside = tuple(m for m, names in about if names & set(states))
        claimed = max(kinds, key=lambda k: k.number)
        if Kind.UNDECIDED not in kinds and inside and claimed not in _together(inside):
            yield Conflict(states, claimed, inside)


def _joined(verdict: Verdict) -> list[tuple[tuple[str, ...], tuple[Kind, ...]]]:
    out: list[tuple[tuple[str, ...], tuple[Kind, ...]]] = []
    for s in verdict.strata:
        names: tuple[str, ...] = s.states
        kinds: tuple[Kind, ...] = (s.kind,)
        for other in [o for o in out if set(o[0]) & set(names)]:
            out.remove(other)
            names, kinds = tuple(dict.fromkeys((*other[0], *names))), (*other[1], *kinds)
        out.append((names, kinds))
    return out


def _together(parts: Iterable[Measured]) -> set[Kind]:
    """The largest kind of several components, each of which has one of a set."""
    kinds: set[Kind] = {Kind.CLOSED}
    for m in parts:
        kinds = {max(a, b, key=lambda k: k.number) for a in kinds for b in m.kinds}
    return kinds
