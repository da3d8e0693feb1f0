"""What a user is told: one record per mistake, collected and raised together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ruledsl.lang.source import Source, Span


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `code` is a row of the catalogue (`ruledsl explain CODE`); `label` stands under
    the caret; `notes` say why; `hint` is the fix, best as text the user can paste."""

    code: str
    headline: str
    span: Span
    label: str = ""
    notes: tuple[str, ...] = ()
    hint: str = ""
    severity: Severity = Severity.ERROR


class RuleError(Exception):
    """A rule text that is not a rule. Holds every diagnostic found, in text order."""

    def __init__(self, source: Source, diagnostics: Iterable[Diagnostic]) -> None:
        self.source = source
        self.diagnostics = tuple(sorted(diagnostics, key=lambda d: d.span.start))
        super().__init__(source, self.diagnostics)

    def __str__(self) -> str:
        line = [f"{self.source.name}:{':'.join(map(str, self.source.position(d.span.start)))}: {d.code} {d.headline}" for d in self.diagnostics]
        return "\n".join(line)
