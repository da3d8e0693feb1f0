"""An oracle for verdicts that knows no algebra: it runs the rule in float64 and measures.

    probe     typed.Rule -> Probed: per component of states, what was measured and which verdicts that allows
    compare   Probed, Verdict -> where they contradict each other

    strata        who depends on whom, by changing one state at a time
    points        affinity along random lines; frozen copies are held, then let go
    linear_part   the matrices of an affine map; composing two of them against taking two steps
    structure     independent L (x) R terms of one and two tokens; the sides: plain, low rank added, dense
    families      maps that are not affine: a monoid's few parameters fitted to one token and to two
    gauge         shifts of a state that leave the outputs alone

What numbers cannot tell stays a set of verdicts, and "no decision" is the whole set. Nothing that decides the symbolic
verdict is imported: of the algebra only the names of the kinds.
"""

from __future__ import annotations

from ruledsl.lab.probe.compare import Conflict, compare
from ruledsl.lab.probe.probe import probe
from ruledsl.lab.probe.probed import Measured, Probed

__all__ = ["Conflict", "Measured", "Probed", "compare", "probe"]
