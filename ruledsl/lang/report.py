"""Collects what is wrong with one rule text."""

from __future__ import annotations

from ruledsl.lang.diagnostic import Diagnostic
from ruledsl.lang.source import Source, Span

MOST_SHOWN = 20  # diagnostics of one text


class Report:
    """Diagnostics in the order found; the same code at the same place is told once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found: list[Diagnostic] = []

    def add(
        self, code: str, headline: str, span: Span, label: str = "", *, notes: tuple[str, ...] = (), hint: str = ""
    ) -> None:
        if not any(d.code == code and d.span == span for d in self.found):
            self.found.append(Diagnostic(code, headline, span, label, notes, hint))

    def text(self, span: Span) -> str:
        """The user's own words, on one line."""
        return " ".join(self.source.slice(span).split())
