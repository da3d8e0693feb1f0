"""Why a rule has no chunk program."""

from __future__ import annotations

from ruledsl.lang.source import NOWHERE, Span


class UnsupportedForm(Exception):
    """The token form asks for something that tiles cannot hold; `reason` is a sentence for the user."""

    def __init__(self, reason: str, span: Span = NOWHERE) -> None:
        self.reason = reason
        self.span = span
        super().__init__(reason)
