"""Findings as annotations of GitHub's workflows: `::error file=...,line=...::message`.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from collections.abc import Iterator

from ruledsl.algebra.verdict import Verdict
from ruledsl.cli.findings import findings
from ruledsl.lang.diagnostic import RuleError, Severity
from ruledsl.lang.render import to_json

LEVEL = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def commands(answer: Verdict | RuleError, unmet: bool) -> Iterator[str]:
    """One line per finding, and one for the verdict."""
    if isinstance(answer, Verdict):
        kind = answer.kind
        level = "error" if unmet else "notice"
        yield _line(level, answer.rule.source.name, "title=verdict", f"{kind}: {answer.reason}")
    for r in to_json(findings(answer, unmet)):
        place = [f"line={r['line']}", f"endLine={r['end_line']}"]
        if r["line"] == r["end_line"]:  # columns are only allowed within a line; the end is inclusive
            place += [f"col={r['column']}", f"endColumn={max(r['end_column'] - 1, r['column'])}"]
        place.append(f"title={_property(r['code'])}")
        said = [r["headline"], r["label"], *r["notes"], *([f"help: {r['hint']}"] if r["hint"] else [])]
        yield _line(LEVEL[Severity(r["severity"])], r["file"], ",".join(place), "\n".join(s for s in said if s))


def _line(level: str, file: str, rest: str, message: str) -> str:
    return f"::{level} file={_property(file)},{rest}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
