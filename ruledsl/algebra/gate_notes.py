"""Decays whose logarithm may not be taken, as notes with their place.

A chunk turns products of decays into differences of logarithms where that is safe (`logarithm`). Elsewhere it multiplies
the decays themselves, which is right for 0 and for negative ones, and slower.
"""

from __future__ import annotations

from ruledsl.algebra.ranges import interval
from ruledsl.algebra.scope import Scope
from ruledsl.algebra.verdict import Decay, Verdict
from ruledsl.lang.diagnostic import Diagnostic, Severity
from ruledsl.lang.typed import Interval

CODE = "RD703"
NEAREST = 0.001  # what a gate in (0, 1] may be declared away from 0 by


def gate_notes(verdict: Verdict) -> tuple[Diagnostic, ...]:
    """One note per place in the text; none for a rule without a chunk form."""
    if verdict.token is None:
        return ()
    scope = Scope(verdict.rule)
    steps = [step for form in verdict.token.forms for step in form.steps]
    decays = [d for step in steps for d in (step.left, step.right) if d is not None and d.log is None]
    found = {d.value.span: _note(verdict, scope, d) for d in decays}
    return tuple(found.values())


def _note(verdict: Verdict, scope: Scope, decay: Decay) -> Diagnostic:
    at = interval(scope, decay.value)
    shown = " ".join(verdict.rule.source.slice(decay.value.span).split())
    label, hint = _why(at, shown if shown.isidentifier() else "")
    return Diagnostic(
        CODE,
        f"the logarithm of `{shown}` is not safe",
        decay.value.span,
        f"{label}: a chunk multiplies it out",
        hint=hint,
        severity=Severity.NOTE,
    )


def _why(at: Interval, name: str) -> tuple[str, str]:
    """What stands against the logarithm, and a promise that would allow it."""
    if at.low < 0:
        unbounded = at.low == -float("inf")
        fix = f"`{name} in [{NEAREST}, 1]` if it is a forgetting gate" if name and unbounded else ""
        return "nothing is declared about it" if unbounded else "it may be negative", fix
    fix = f"`{name} in [{NEAREST}, {at.high:g}{')' if at.high_open else ']'}` if it stays away from 0" if name else ""
    return "it comes near to 0" if at.low_open else "it may be 0", fix
