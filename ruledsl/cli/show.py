"""`ruledsl show`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ruledsl.cli.exits import Exit, Stop
from ruledsl.cli.options import Backend, Notation, Stage


def show(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A rule file, a name of the collection, or -.")],
    stage: Annotated[Stage, typer.Option(help="Where to stop.")],
    backend: Annotated[Backend, typer.Option(help="Whose schedule and source.")] = Backend.TORCH,
    format: Annotated[Notation, typer.Option(help="LaTeX is for the verdict's transition.")] = Notation.TEXT,
) -> None:
    """Print one stage of the way from text to source."""
    from ruledsl.cli.read import read
    from ruledsl.cli.say import told
    from ruledsl.cli.stages import Walk, text

    if format is Notation.LATEX and stage is not Stage.VERDICT:
        raise Stop(Exit.USAGE, "--format latex goes with --stage verdict")
    with told(Exit.USAGE):
        source = read(file)
    with told():
        walk = Walk(source, backend)
        sys.stdout.write(walk.verdict.latex + "\n" if format is Notation.LATEX else text(walk, stage))
