"""From what stands on the command line to sources."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ruledsl.algebra.verdict import Verdict
    from ruledsl.lang.source import Source


def read(name: str) -> Source:
    """The source of a file, of standard input (`-`), or of a rule of the collection by its name.

    Raises RuleError for what cannot be read; the commands answer it with the status for usage."""
    from ruledsl.resources import MAX_BYTES, decode, load_source

    if name == "-":
        return decode(sys.stdin.buffer.read(MAX_BYTES + 1), "<stdin>")
    if name.isidentifier() and not os.path.lexists(name):
        known = next((path for path in collection() if path.stem == name), None)
        if known is not None:
            return replace(load_source(known), name=name)
    return load_source(Path(name))


def judge(source: Source) -> Verdict:
    """The verdict of a text. Raises RuleError."""
    from ruledsl import pipeline

    return pipeline.verdict(pipeline.check(pipeline.parse(source)))


def collection() -> list[Path]:
    """The rules that come with ruledsl, by name."""
    from ruledsl.resources import data_dir

    return sorted(data_dir("rules").glob("*.rule"))
