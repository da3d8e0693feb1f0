"""From what stands on the command line to sources."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ruledsl.algebra.verdict import Verdict
    from ruledsl.lang.diagnostic import RuleError
    from ruledsl.lang.source import Source


def read(name: str) -> Source:
    """The source of a file, of standard input (`-`), or of a rule of the collection by its name.

    Raises RuleError for what cannot be read; the commands answer it with the status for usage."""
    from ruledsl.resources import MAX_BYTES, decode, load_source

    if name == "-":
        return decode(sys.stdin.buffer.read(MAX_BYTES + 1), "<stdin>")
    path = path_of(name)
    if name.isidentifier() and not os.path.lexists(path):
        raise _unknown(name)
    found = load_source(path)
    return found if path == Path(name) else replace(found, name=name)


def path_of(name: str) -> Path:
    """The file that a word on the command line means: a path, or else a rule of the collection."""
    if name.isidentifier() and not os.path.lexists(name):
        return next((path for path in collection() if path.stem == name), Path(name))
    return Path(name)


def _unknown(name: str) -> RuleError:
    """For a word that is neither a file nor a rule of the collection."""
    from difflib import get_close_matches

    from ruledsl.lang.diagnostic import Diagnostic, RuleError
    from ruledsl.lang.source import Source, Span

    near = get_close_matches(name, [path.stem for path in collection()], n=3)
    meant = f"did you mean {' or '.join(f'`{n}`' for n in near)}?"
    hint = meant if near else "give the path of a file, a name that `ruledsl rules` lists, or a text with -e"
    found = Diagnostic("RD121", f"there is no file and no rule `{name}`", Span(0, 0), hint=hint)
    return RuleError(Source("", name), [found])


def judge(source: Source) -> Verdict:
    """The verdict of a text. Raises RuleError."""
    from ruledsl import pipeline

    return pipeline.verdict(pipeline.check(pipeline.parse(source)))


def collection() -> list[Path]:
    """The rules that come with ruledsl, by name."""
    from ruledsl.resources import data_dir

    return sorted(data_dir("rules").glob("*.rule"))
