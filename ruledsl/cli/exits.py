"""What the exit status means."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    FINE = 0
    REFUSED = 1  # diagnostics, or a verdict that --require does not accept
    USAGE = 2  # wrong arguments, or a file that cannot be read
    FAULT = 3  # a mistake in ruledsl itself


class Stop(Exception):
    """Ends a command with one line on standard error."""

    def __init__(self, status: Exit, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
