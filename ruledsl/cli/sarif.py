"""Findings as SARIF 2.1.0, for code scanning.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from ruledsl import __version__
from ruledsl.algebra.verdict import Verdict
from ruledsl.cli.findings import findings
from ruledsl.lang.catalogue import CATALOGUE
from ruledsl.lang.diagnostic import RuleError, Severity
from ruledsl.lang.render import to_json

LEVEL = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}
SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif(answers: Iterable[tuple[Verdict | RuleError, bool]]) -> dict[str, Any]:
    """One log of one run; answers with whether `--require` is unmet."""
    records = [r for answer, unmet in answers for r in to_json(findings(answer, unmet))]
    codes = sorted({r["code"] for r in records})
    driver = {
        "name": "ruledsl",
        "version": __version__,
        "rules": [_rule(code) for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(r, codes.index(r["code"])) for r in records],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(code: str) -> dict[str, Any]:
    entry = CATALOGUE[code]
    return {"id": code, "shortDescription": {"text": entry.title}, "fullDescription": {"text": entry.explanation}}


def _result(r: dict[str, Any], index: int) -> dict[str, Any]:
    said = [r["headline"], r["label"], *r["notes"], *([f"help: {r['hint']}"] if r["hint"] else [])]
    region = {
        "startLine": r["line"],
        "startColumn": r["column"],
        "endLine": r["end_line"],
        "endColumn": r["end_column"],
    }
    file = {"uri": quote(r["file"].replace("\\", "/"), safe="/")}
    return {
        "ruleId": r["code"],
        "ruleIndex": index,
        "level": LEVEL[Severity(r["severity"])],
        "message": {"text": "\n".join(s for s in said if s)},
        "locations": [{"physicalLocation": {"artifactLocation": file, "region": region}}],
    }
