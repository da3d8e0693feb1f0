"""`ruledsl check --probe`: the verdict against numbers from running the rule. Loads torch."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from ruledsl.cli.exits import Exit

if TYPE_CHECKING:
    from ruledsl.algebra.verdict import Verdict
    from ruledsl.lab.probe import Conflict, Probed


def probe(verdict: Verdict, quiet: bool) -> Exit:
    """Prints a short block (unless `quiet`), and every contradiction on standard error: that is a fault of ours."""
    from ruledsl.cli import say
    from ruledsl.lab.probe import compare
    from ruledsl.lab.probe import probe as measure
    from ruledsl.lang.check import check
    from ruledsl.lang.parse import parse

    probed = measure(check(parse(verdict.rule.source)))
    conflicts = compare(probed, verdict)
    if not quiet:
        out = say.console()
        for line in _block(verdict, probed, conflicts, out.width):
            out.print(line, soft_wrap=True)
    for conflict in conflicts:
        say.error(f"{verdict.rule.source.name}: the probe contradicts the verdict, a fault of ruledsl: {conflict}")
    return Exit.FAULT if conflicts else Exit.FINE


def _block(verdict: Verdict, probed: Probed, conflicts: tuple[Conflict, ...], width: int) -> list[str]:
    name = verdict.rule.source.name
    if probed.trouble:
        return [f"{name}: probe: no decision: {probed.trouble}"]
    sizes = ", ".join(f"{k} = {v}" for k, v in probed.sizes.items())
    if conflicts:
        answer = "CONTRADICTS the verdict"
    elif verdict.kind not in probed.kinds:
        answer = f"nothing is claimed; the numbers allow {_names(probed)}"
    elif len(probed.kinds) == 1:
        answer = "agrees"
    elif probed.decided:
        answer = f"agrees; the numbers alone allow {_names(probed)}"
    else:
        answer = "no decision"
    lines = [f"{name}: probe: {verdict.kind}: {answer}" + (f" (at {sizes})" if sizes else "")]
    for m in probed.parts:
        text = f"{', '.join(m.states)}: {m.account}"
        if m.composition is not None:
            text += f"; two composed maps are two steps to {m.composition:.0e}"
        lines += textwrap.wrap(text, max(width - 2, 20), initial_indent="  ", subsequent_indent="    ")
    if probed.gauge:
        lines.append(f"  gauge: shifting {', '.join(probed.gauge)} and scaling what reads it changes no output")
    return lines


def _names(probed: Probed) -> str:
    return " or ".join(str(k) for k in sorted(probed.kinds, key=lambda k: k.number))
