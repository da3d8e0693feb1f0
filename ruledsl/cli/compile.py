"""`ruledsl compile`."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import suppress
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
    _write(Path(output), text, Path(file))
    print(f"{output}: {text.count(chr(10))} lines")


def _write(path: Path, text: str, rule: Path) -> None:
    """All of it or nothing: an interrupted run leaves no half module. A link is replaced, never written through; the
    rule itself, and what is no ordinary file, are left alone."""
    part = path.parent / f".ruledsl-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        if path.exists():
            if not path.is_file():
                raise FileExistsError(17, "it is no ordinary file; `-o -` is standard output")
            if rule.exists() and path.samefile(rule):
                raise FileExistsError(17, "it is the rule")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "w", encoding="utf-8") as file:
            file.write(text)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise Stop(Exit.USAGE, f"cannot write `{path}`: {error.strerror}") from None
