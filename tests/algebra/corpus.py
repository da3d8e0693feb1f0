"""Rules the algebra is tested on: the texts of `tests/corpus` and the files of `rules/`, with the kinds they state."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from ruledsl.algebra.judge import judge
from ruledsl.algebra.verdict import Verdict
from ruledsl.lang import typed
from ruledsl.lang.check import check
from ruledsl.lang.parse import parse
from ruledsl.lang.source import Source

TESTS = Path(__file__).resolve().parent.parent

CORPUS = {p.stem: p for p in sorted((TESTS / "corpus").glob("*.rule"))}
FILES: dict[str, Path] = CORPUS | {f"rules/{p.stem}": p for p in sorted((TESTS.parent / "rules").glob("*.rule"))}


@cache
def text(name: str) -> str:
    return FILES[name].read_text()


def stated(name: str) -> str:
    """The kind in the file's comments."""
    found = re.search(r"#.*?(?:expect|verdict):\s*(\w+)", text(name))
    assert found, f"{name} states no kind"
    return found.group(1)


def checked(source: str) -> typed.Rule:
    return check(parse(Source(source)))


@cache
def rule(name: str) -> typed.Rule:
    return checked(text(name))


@cache
def verdict(name: str) -> Verdict:
    return judge(rule(name))


def judged(source: str) -> Verdict:
    return judge(checked(source))


ACCEPTED = [name for name in CORPUS if stated(name) != "refused"]
SHIPPED = [name for name in FILES if name not in CORPUS and stated(name) != "refused"]
