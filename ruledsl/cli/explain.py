"""`ruledsl explain`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ruledsl.cli.exits import Exit, Stop

if TYPE_CHECKING:
    from ruledsl.algebra.verdict import Verdict
    from ruledsl.lang.catalogue import Entry


class Form(StrEnum):
    TEXT = "text"
    LATEX = "latex"
    JSON = "json"


def explain(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="RULE|CODE",
            help="A rule file, a name of the collection, - for standard input, or a code such as RD107.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[str | None, typer.Option("-e", metavar="RULE", help="The text of a rule.")] = None,
    format: Annotated[Form, typer.Option(help="LaTeX is one align* block.")] = Form.TEXT,
) -> None:
    """Explain a rule's verdict: how tokens compose, the chunk form, the adjoint, what would fix a no. Or explain the code
    of a diagnostic."""
    import re

    from ruledsl.cli.read import judge, read
    from ruledsl.cli.say import told
    from ruledsl.lang import catalogue
    from ruledsl.lang.source import Source

    if (what is None) == (text is None):
        raise Stop(Exit.USAGE, "explain one thing: a RULE, a CODE, - or -e RULE")
    if what is not None and (entry := catalogue.explain(what)):
        sys.stdout.write(_entry(entry, format))
        return
    if what is not None and re.fullmatch(r"(RD)?\d+", what, re.IGNORECASE):
        raise Stop(Exit.USAGE, f"there is no code {what}; the codes are {', '.join(catalogue.CATALOGUE)}")
    if text is not None:
        source = Source(text)
    else:
        assert what is not None
        with told(Exit.USAGE):
            source = read(what)
    with told():
        sys.stdout.write(_explained(judge(source), format))


def _explained(verdict: Verdict, format: Form) -> str:
    from ruledsl.algebra.explain import explain, remedies
    from ruledsl.algebra.explain.render import data, latex, plain

    match format:
        case Form.TEXT:
            return plain(explain(verdict))
        case Form.LATEX:
            return latex(explain(verdict, tex=True))
        case Form.JSON:
            record = {
                "file": verdict.rule.source.name,
                "kind": str(verdict.kind),
                "number": verdict.kind.number,
                "sections": data(explain(verdict)),
                "remedies": [{"says": r.says, "kind": str(r.kind), "text": r.text} for r in remedies(verdict)],
                "latex": latex(explain(verdict, tex=True)),
            }
            return json.dumps({"version": 1, "rules": [record]}, indent=2, ensure_ascii=False) + "\n"


def _entry(entry: Entry, format: Form) -> str:
    if format is Form.JSON:
        example = None if entry.example is None else entry.example.decode("utf-8", errors="replace")
        record = {"code": entry.code, "title": entry.title, "explanation": entry.explanation, "example": example}
        return json.dumps({"version": 1, "codes": [record | {"fix": entry.fix}]}, indent=2, ensure_ascii=False) + "\n"
    if format is Form.LATEX:
        raise Stop(Exit.USAGE, "--format latex is for rules")
    parts = [f"{entry.code}: {entry.title}", entry.explanation]
    if entry.example is not None:
        parts.append("for example\n" + _indented(entry.example.decode("utf-8", errors="replace")))
    if entry.fix is not None:
        parts.append("the fix\n" + _indented(entry.fix))
    return "\n\n".join(parts) + "\n"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.rstrip("\n").split("\n"))
