"""A verdict, and a rule with its verdict, for notebooks: a formula (LaTeX) and a page (Markdown with formulas)."""

from __future__ import annotations

from ruledsl.algebra.explain.render import escaped
from ruledsl.algebra.verdict import Verdict


def latex(verdict: Verdict) -> str:
    """The kind and the transition, between $$."""
    name = verdict.rule.source.name
    said = escaped(verdict.headline.removeprefix(f"{name}: "))
    rows = [
        rf"& \text{{{said}}}",
        *(r.replace(r"\leftarrow", r"&\leftarrow", 1) for r in verdict.latex.split(r" \\ ") if r),
    ]
    return "$$\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}$$"


def markdown(verdict: Verdict) -> str:
    """The rule's text, then the formula and the reason."""
    text = verdict.rule.source.text.strip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in _runs(text)), default=0))
    return f"{fence}\n{text}\n{fence}\n\n{latex(verdict)}\n\n{_quoted(verdict.reason)}\n"


def _runs(text: str) -> list[str]:
    """Stretches of back-ticks."""
    return [part for part in "".join(c if c == "`" else " " for c in text).split() if part]


def _quoted(reason: str) -> str:
    """Words that are no Markdown: a reason may quote the rule."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()<>#+-.!|$~^" else c for c in " ".join(reason.split()))
