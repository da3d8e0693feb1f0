"""What the commands write to the terminal: diagnostics on standard error, the rest through rich."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

import typer

from ruledsl.cli.exits import Exit

if TYPE_CHECKING:
    from rich.console import Console

    from ruledsl.lang.diagnostic import RuleError


def console() -> Console:
    """Standard output. Width, colour and NO_COLOR are rich's business."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def diagnostics(error: RuleError, to: TextIO | None = None) -> None:
    """Print what is wrong with a text; to standard error unless told otherwise."""
    from ruledsl.lang.render import render

    to = to or sys.stderr
    terminal = to.isatty()
    width = shutil.get_terminal_size().columns if terminal or "COLUMNS" in os.environ else None
    print(render(error, width, color=terminal and not os.environ.get("NO_COLOR")), end="", file=to)


def error(message: str) -> None:
    """One line on standard error, after what was printed so far."""
    sys.stdout.flush()
    print(f"ruledsl: {message}", file=sys.stderr)


@contextmanager
def told(status: Exit = Exit.REFUSED) -> Iterator[None]:
    """Prints the diagnostics of a text that is no rule and ends the command with `status`."""
    from ruledsl.lang.diagnostic import RuleError

    try:
        yield
    except RuleError as error:
        diagnostics(error)
        raise typer.Exit(status) from None
