"""`ruledsl explain`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ruledsl.cli.exits import Exit, Stop

if TYPE_CHECKING:
    from ruledsl.lang.catalogue import Entry


def explain(
    what: Annotated[str, typer.Argument(metavar="CODE|FILE", help="A code such as RD107, or a rule.")],
) -> None:
    """Explain a diagnostic's code, or the whole verdict of a rule."""
    import re

    from ruledsl.cli.read import read
    from ruledsl.cli.say import told
    from ruledsl.cli.stages import Walk
    from ruledsl.cli.verdict_text import verdict_text
    from ruledsl.lang.catalogue import CATALOGUE, explain

    if entry := explain(what):
        sys.stdout.write(_entry(entry))
        return
    if re.fullmatch(r"(RD)?\d+", what, re.IGNORECASE):
        raise Stop(Exit.USAGE, f"there is no code {what}; the codes are {', '.join(CATALOGUE)}")
    with told(Exit.USAGE):
        source = read(what)
    with told():
        sys.stdout.write(verdict_text(Walk(source).verdict))


def _entry(entry: Entry) -> str:
    parts = [f"{entry.code}: {entry.title}", entry.explanation]
    if entry.example is not None:
        parts.append("for example\n" + _indented(entry.example.decode("utf-8", errors="replace")))
    if entry.fix is not None:
        parts.append("the fix\n" + _indented(entry.fix))
    return "\n\n".join(parts) + "\n"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.rstrip("\n").split("\n"))
