"""`check --format`: annotations, SARIF, JSON; narrow terminals; standard input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from .running import BROKEN, GOOD, NO, run


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    texts = {"good.rule": GOOD, "broken.rule": BROKEN, "a no, 50%.rule": NO}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return {name: str(tmp_path / name) for name in texts}


# ------------------------------------------------------------------------------------------------ github

COMMAND = re.compile(r"^::(error|warning|notice) file=([^,\n]*)((?:,\w+=[^,\n]*)*)::([^\n]*)$")


def test_annotations(files: dict[str, str]) -> None:
    done = run("check", *files.values(), "--format", "github")
    assert done.status == 1 and not done.err
    found = [COMMAND.match(line) for line in done.out.splitlines()]
    assert all(found), done.out
    levels = [(m[1], Path(unquote(m[2])).name) for m in found if m]
    assert levels.count(("error", "broken.rule")) == 2
    assert ("notice", "good.rule") in levels
    blame = next(line for line in done.out.splitlines() if "RD701" in line)
    assert "line=3,endLine=3,col=11,endColumn=23" in blame
    assert "a no%2C 50%25.rule" in blame, "commas and per cent signs of a property are escaped"
    assert "%0A" in blame and "help: " in blame


def test_what_require_does_not_accept_is_an_error(files: dict[str, str]) -> None:
    done = run("check", files["a no, 50%.rule"], "--format", "github", "--require", "chunk")
    assert done.status == 1
    assert [line.split()[0] for line in done.out.splitlines()] == ["::error", "::error"]
    assert run("check", files["a no, 50%.rule"], "--format", "github").out.startswith("::notice")


# ------------------------------------------------------------------------------------------------ SARIF


def test_sarif_has_what_the_schema_requires(files: dict[str, str]) -> None:
    done = run("check", *files.values(), "--format", "sarif")
    assert done.status == 1 and not done.err
    log = json.loads(done.out)
    assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-schema-2.1.0.json")
    assert len(log["runs"]) == 1
    driver, results = log["runs"][0]["tool"]["driver"], log["runs"][0]["results"]
    assert driver["name"] == "ruledsl" and isinstance(driver["version"], str)
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids) and {"RD201", "RD701"} <= set(ids)
    assert all(rule["shortDescription"]["text"] and rule["fullDescription"]["text"] for rule in driver["rules"])
    assert len(results) == 3
    for result in results:
        assert result["level"] in {"none", "note", "warning", "error"}
        assert result["message"]["text"]
        assert ids[result["ruleIndex"]] == result["ruleId"]
        (location,) = result["locations"]
        physical = location["physicalLocation"]
        assert re.fullmatch(r"[A-Za-z0-9/._~%-]+", physical["artifactLocation"]["uri"])
        region = physical["region"]
        assert 1 <= region["startLine"] <= region["endLine"] and region["startColumn"] >= 1
        if region["startLine"] == region["endLine"]:
            assert region["endColumn"] >= region["startColumn"]
    assert [r["level"] for r in results] == ["error", "error", "note"]


def test_sarif_regions_cut_out_the_blamed_text(files: dict[str, str]) -> None:
    log = json.loads(run("check", files["a no, 50%.rule"], "--format", "sarif").out)
    region = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["region"]
    line = NO.splitlines()[region["startLine"] - 1]
    assert line[region["startColumn"] - 1 : region["endColumn"] - 1] == "tanh(v - S k)"


def test_sarif_of_nothing_wrong_is_a_log_without_results() -> None:
    log = json.loads(run("check", "-", "--format", "sarif", stdin=GOOD).out)
    assert log["runs"][0]["results"] == [] and log["runs"][0]["tool"]["driver"]["rules"] == []


# ------------------------------------------------------------------------------------------------ JSON


def test_json_holds_stability_and_notes() -> None:
    rules = json.loads(run("check", "gated_delta", "rwkv7", "--format", "json").out)["rules"]
    gated, grows = rules
    assert gated["stability"]["rate"] == 1.0 and "half-life" in gated["stability"]["memory"]
    assert gated["stability"]["growth"].startswith("|S_T|") and gated["stability"]["witness"] is None
    assert [d["code"] for d in gated["diagnostics"]] == ["RD703"]
    witness = grows["stability"]["witness"]
    assert witness["rate"] > 1.1 and len(witness["tokens"]) == 2 and set(witness["tokens"][0]) == {"x", "k", "a"}


# ------------------------------------------------------------------------------------------------ terminals


def shown(text: str) -> str:
    """Letters only: what must not be lost when lines are broken elsewhere."""
    return re.sub(r"[\s|]+", "", text)


@pytest.mark.parametrize("how", [["delta"], ["-e", NO], ["mlstm"], ["rwkv7"], ["mission", "--sizes", "K=64"]])
def test_a_narrow_terminal_loses_no_text(how: list[str]) -> None:
    narrow, wide = run("check", *how, COLUMNS="40"), run("check", *how, COLUMNS="300")
    assert narrow.status == wide.status == 0
    assert shown(narrow.out) == shown(wide.out)


def test_a_narrow_table_loses_no_text() -> None:
    narrow, wide = run("check", "delta", "kda", "--table", COLUMNS="40"), run("check", "delta", "kda", "--table", COLUMNS="200")  # fmt: skip
    words = {w for w in wide.out.split() if w not in {"bytes", "rule"}}
    assert words <= {*narrow.out.split()}
    assert "\x1b" not in narrow.out + wide.out


def test_no_color() -> None:
    assert "\x1b[" in run("check", "gru", FORCE_COLOR="1").out
    coded = re.findall(r"\x1b\[([0-9;]*)m", run("check", "gru", FORCE_COLOR="1", NO_COLOR="1").out)
    assert not [c for c in coded if any(30 <= int(n) <= 47 for n in c.split(";") if n)]


def test_standard_input() -> None:
    done = run("check", "-", stdin=GOOD)
    assert done.status == 0 and done.out.startswith("<stdin>: chunkwise (2)")
    done = run("check", "-", stdin=BROKEN)
    assert done.status == 1 and " --> <stdin>:3:9" in done.err


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["check", "detla"], "did you mean `delta`?"),
        (["explain", "gated_detla"], "did you mean `gated_delta`"),
        (["check", "rules/detla.rule"], "rules/delta.rule"),
        (["chek", "delta"], "Did you mean 'check'"),
        (["check", "delta", "--tabel"], "--table"),
        (["check", "delta", "--sizes", "k=4"], "did you mean K?"),
        (["check", "delta", "--device", "h20"], "did you mean h200?"),
        (["check", "-e", "S = a*S + b*tahn(v) k^T"], "did you mean `tanh`?"),
        (["check", "-e", "state S[V, K]\ninput q[K], k[K] unti, v[V]\nS = S + v k^T"], "did you mean `unit`?"),
        (["check", "-e", "state S[V, K]\ninput q[K], key[K], v[V]\nS = S + v kye^T"], "did you mean `key`?"),
        (["check", "-e", "state S[V, Dk]\ninput q[Dk], v[V]\nS = S + v q^T/sqrt(DK)"], "did you mean `Dk`?"),
        (["check", "-e", "stat S[V, K]\ninput q[K], v[V]\nS = S + v q^T"], "did you mean `state`?"),
        (["check", "-e", "state Mem[V, K]\ninput q[K], v[V]\nMme = Mem + v q^T"], "did you mean `Mem`?"),
    ],
    ids=lambda x: " ".join(x)[:50] if isinstance(x, list) else "",
)
def test_did_you_mean(words: list[str], meant: str) -> None:
    done = run(*words)
    assert done.status in (1, 2)
    assert meant in done.err


def test_a_misspelt_state_is_told_once() -> None:
    """Not also that the one that was meant is never assigned."""
    done = run("check", "-e", "state Mem[V, K]\ninput q[K], v[V]\nMme = Mem + v q^T")
    assert done.err.count("error[") == 1
