"""The rules that come with ruledsl: their comments, their verdicts, and that they are the corpus's rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ruledsl
from ruledsl.lang.parse import parse
from ruledsl.resources import load_source

ROOT = Path(__file__).resolve().parent.parent
RULES = sorted((ROOT / "rules").glob("*.rule"))
EXPECTED = re.compile(r"^# verdict: (\w+)$", re.MULTILINE)


@pytest.mark.parametrize("path", RULES, ids=lambda p: p.stem)
def test_its_verdict_is_the_one_it_announces(path: Path) -> None:
    expected = EXPECTED.findall(path.read_text(encoding="utf-8"))
    assert len(expected) == 1
    assert str(ruledsl.check(path).kind) == expected[0]


@pytest.mark.parametrize("path", RULES, ids=lambda p: p.stem)
def test_it_says_what_it_is(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split("\n\n", 1)[0].split("\n")
    assert all(line.startswith("#") for line in head)
    assert head[0].endswith(".") and len(head[0]) > 20
    assert any(line.startswith("#     ") and "=" in line for line in head) or path.stem == "log_linear", "the formula"


@pytest.mark.parametrize(
    "path", [p for p in RULES if (ROOT / "tests" / "corpus" / p.name).is_file()], ids=lambda p: p.stem
)
def test_it_is_the_rule_of_the_corpus(path: Path) -> None:
    assert parse(load_source(path)) == parse(load_source(ROOT / "tests" / "corpus" / path.name))
