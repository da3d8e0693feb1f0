"""`ruledsl compile`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ruledsl.cli.exits import Exit, Stop
from ruledsl.cli.options import Backend


def compile_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A rule file, a name of the collection, or -.")],
    output: Annotated[str, typer.Option("-o", metavar="OUT.py", help="Where to write; - is standard output.")],
    backend: Annotated[Backend, typer.Option(help="Which text to write.")] = Backend.TORCH,
) -> None:
    """Write the compiled rule as a Python module that can be read and imported."""
    from ruledsl.cli.read import read
    from ruledsl.cli.say import told
    from ruledsl.cli.stages import Walk

    with told(Exit.USAGE):
        source = read(file)
    with told():
        text = Walk(source, backend).module
    if output == "-":
        sys.stdout.write(text)
        return
    _write(Path(output), text)
    print(f"{output}: {text.count(chr(10))} lines")


def _write(path: Path, text: str) -> None:
    """All of it or nothing: an interrupted run leaves no half module."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Stop(Exit.USAGE, f"cannot write {path}: {error.strerror}") from None
