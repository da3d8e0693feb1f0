"""`ruledsl rules`: every rule of the collection, with marks that come from results files and nowhere else."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from ruledsl.cli import marks
from ruledsl.cli.forms import runs
from ruledsl.cli.marks import NONE, STALE, text_hash
from ruledsl.cli.read import judge
from ruledsl.resources import load_source

from .running import ROOT, run

TEXT = "# a comment\nstate h[K]\ninput x[K]\n\nh = 0.5*h + x  # another\noutput o = h\n"
GOOD = {"forward": 1e-7, "gradient": 1e-6, "decode": 1e-7}
STEP = {"rule": "r", "case": "step", "out": 1e-6, "state": 1e-7, "graph": 1e-7}


def cpu(text: str = TEXT, **changes: object) -> dict[str, object]:
    return {"cpu_rules.json": {"texts": {"r": text_hash(text)}, "rules": {"r": GOOD | changes}}}


def tokens(*rows: dict[str, object], text: str = TEXT) -> dict[str, object]:
    return {"h200_token_kernels.json": {"texts": {"r": text_hash(text)}, "rows": list(rows)}}


def numerics(passed: int, missed: list[object], refused: list[object]) -> dict[str, object]:
    row = {"cases": 5, "passed": passed, "missed": missed, "refused": refused}
    return {"h200_numerics.json": {"texts": {"r": text_hash(TEXT)}, "rules": {"r": row}}}


def found(files: dict[str, object], text: str = TEXT) -> tuple[str, ...]:
    """Marks of a rule that is run by the kernels that the files are about."""
    return marks.marks("r", text, files, "h200_numerics.json" in files)  # type: ignore[arg-type]


def test_comments_and_space_are_no_change() -> None:
    assert text_hash(TEXT) == text_hash("state  h[K]\ninput x[K]\nh = 0.5*h + x\noutput o = h")
    assert text_hash(TEXT) != text_hash(TEXT.replace("0.5", "0.6"))


def test_no_result_is_a_dash() -> None:
    assert found({}) == (NONE, NONE, NONE)
    assert marks.marks("other", TEXT, {**cpu(), **tokens(STEP)}, False) == (NONE, NONE, NONE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (cpu(), ("yes", NONE, "yes")),
        (cpu(forward=2e-5), ("no", NONE, "yes")),
        (cpu(gradient=2e-4), ("no", NONE, "yes")),
        (cpu(decode=float("inf")), ("yes", NONE, "no")),
        (cpu(failure="KeyError"), ("no", NONE, "no")),
        (tokens(STEP, {"rule": "r", "case": "bf16", "e": 0.003}), (NONE, "yes", "yes")),
        (tokens(STEP, {"rule": "r", "case": "bf16", "e": 0.003}, {"rule": "r", "case": "small", "e": 0.03}), (NONE, "1 of 2", "yes")),
        (tokens({"rule": "r", "case": "step", "fail": "x"}, {"rule": "r", "case": "bf16", "fail": "x"}), (NONE, "no", "no")),
        (numerics(5, [], []), (NONE, "yes", "yes")),
        (numerics(3, [{"case": "T1", "errors": {"fwd.o": 1.0}}], [{"case": "T2", "why": ""}]), (NONE, "3 of 5", "4 of 5")),
        (numerics(3, [{"case": "T1", "errors": {"step.o": 1.0}}, {"case": "T2", "failure": ""}], []), (NONE, "3 of 5", "3 of 5")),
        ({**cpu(), **tokens(STEP | {"out": 1.0})}, ("yes", NONE, "1 of 2")),
    ],
)
def test_marks_follow_the_results(files: dict[str, object], expected: tuple[str, ...]) -> None:
    assert found(files) == expected


def test_token_kernels_do_not_speak_for_chunk_kernels() -> None:
    files = tokens(STEP, {"rule": "r", "case": "bf16", "e": 0.003})
    assert marks.marks("r", TEXT, files, True) == (NONE, NONE, "yes")  # type: ignore[arg-type]
    assert marks.marks("r", TEXT, numerics(5, [], []), False) == (NONE, NONE, "yes")  # type: ignore[arg-type]


def test_results_of_another_text_are_stale() -> None:
    changed = TEXT.replace("0.5", "0.6")
    both = {**cpu(), **tokens(STEP, {"rule": "r", "case": "bf16", "e": 0.003})}
    assert found(both, changed) == (STALE, STALE, STALE)
    assert found({**cpu(text=changed), **tokens({"rule": "r", "case": "bf16", "e": 0.003})}, changed) == ("yes", STALE, "yes")
    assert found({"cpu_rules.json": {"rules": {"r": GOOD}}}) == (STALE, NONE, STALE), "a result without a hash"


def test_files_are_read_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / "cpu_rules.json").write_text(json.dumps(cpu()["cpu_rules.json"]))
    assert found(marks.results(tmp_path)) == ("yes", NONE, "yes")
    assert found(marks.results(tmp_path / "nothing")) == (NONE, NONE, NONE)


def test_the_command_lists_every_rule_with_the_committed_marks() -> None:
    lines = {line.split()[0]: line for line in run("rules", COLUMNS="200").out.splitlines() if line.strip()}
    files = marks.results()
    assert set(files) == set(marks.READERS), "every reader has its file"
    for path in sorted((ROOT / "rules").glob("*.rule")):
        kernels = runs(judge(load_source(path))).kernels
        expected = marks.marks(path.stem, path.read_text(encoding="utf-8"), files, kernels)
        assert " ".join(lines[path.stem].split()).endswith(" ".join(expected))
    assert "chunk" in lines["based"].split() and not runs(judge(load_source(ROOT / "rules/based.rule"))).kernels
    assert "scan" in lines["mamba1"].split() and "chunk" in lines["delta"].split() and "tokens" in lines["gru"].split()


def test_results_name_rules_that_exist() -> None:
    for name, data in marks.results().items():
        assert all((ROOT / "rules" / f"{rule}.rule").is_file() for rule in data["texts"]), name


@pytest.mark.parametrize("name", ["rwkv4", "delta", "gru"])
def test_the_script_finds_what_is_committed(name: str) -> None:
    path = ROOT / "rules" / f"{name}.rule"
    row = runpy.run_path(str(ROOT / "benchmarks" / "cpu_rules.py"))["judged"](path)
    committed = marks.results()["cpu_rules.json"]["rules"][name]
    assert row["backend"] == committed["backend"]
    fresh = {"texts": {name: text_hash(path.read_text(encoding="utf-8"))}, "rules": {name: row}}
    assert marks.marks(name, path.read_text(encoding="utf-8"), {"cpu_rules.json": fresh}, False) == ("yes", NONE, "yes")
