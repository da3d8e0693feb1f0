"""Every stage of a few rules, as text, against the files in `golden/`.

`make accept` (pytest --accept) takes the texts as they are now. Read the difference before committing it.
"""

from __future__ import annotations

import difflib
import functools
import re
from pathlib import Path

import pytest

from ruledsl.cli.options import Stage
from ruledsl.cli.stages import Walk, text
from ruledsl.lang.source import Source
from ruledsl.resources import load_source

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden"
# inferred declarations; a scalar gate; sub-steps; a diagonal gate with two writes; no reads, read before write; parameters
RULES = ("mission", "gated_delta", "delta_product", "rwkv7", "rwkv6", "ssd")
STAGES = tuple(Stage)
CASES = [(rule, stage) for rule in RULES for stage in STAGES]


@functools.cache
def _walk(rule: str) -> Walk:
    return Walk(load_source(ROOT / "rules" / f"{rule}.rule"))


def _file(rule: str, stage: Stage) -> Path:
    return GOLDEN / f"{rule}.{stage.value}.txt"


@pytest.mark.parametrize(("rule", "stage"), CASES, ids=lambda x: str(x))
def test_golden(rule: str, stage: Stage, accept: bool) -> None:
    path, now = _file(rule, stage), text(_walk(rule), stage)
    if accept:
        path.parent.mkdir(exist_ok=True)
        path.write_text(now, encoding="utf-8")
    assert path.is_file(), f"there is no {path.name}: run make accept"
    before = path.read_text(encoding="utf-8")
    difference = "\n".join(difflib.unified_diff(before.split("\n"), now.split("\n"), "golden", "now", lineterm="", n=2))
    assert before == now, difference[:4000]


def test_no_golden_file_is_left_over() -> None:
    assert {p.name for p in GOLDEN.iterdir()} == {_file(*case).name for case in CASES}


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_a_stage_depends_on_the_text_alone(stage: Stage) -> None:
    """Not on the file's name, nor on what was compiled before."""
    source = load_source(ROOT / "rules" / "gated_delta.rule")
    other = text(Walk(Source(source.text, "/elsewhere/other.rule")), stage)
    assert other == text(_walk("gated_delta"), stage)
    assert not re.search(r"gated_delta\.rule|elsewhere|20\d\d-\d\d|0x[0-9a-f]{6}", other)
