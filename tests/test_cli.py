"""The command line as a user meets it: what it prints, and its exit status."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ruledsl

ROOT = Path(__file__).resolve().parent.parent
DELTA = "state S[V, K]\ninput q[K], k[K] unit, v[V], b in [0, 1]\nS = S + b*(v - S k) k^T\noutput o = S q\n"
BROKEN = "state S[V, K]\ninput q[K], k[K], v[V]\nS = S + w k^T\nS = S + k v^T\noutput o = S q\n"
SEQUENTIAL = "state S[V, K]\ninput q[K], k[K], v[V], b\nS = S + b*tanh(v - S k) k^T\noutput o = S q\n"


def run(*words: str, cwd: Path = ROOT, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """`ruledsl WORDS` as it runs from a checkout, in a terminal 100 columns wide."""
    settings = (
        {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}}
        | {"COLUMNS": "100"}
        | env
    )
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *words],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        input=stdin,
        env=settings,
    )


# ------------------------------------------------------------------------------------------------ check


def test_the_verdict_comes_first() -> None:
    done = run("check", "rules/delta.rule")
    assert done.returncode == 0 and not done.stderr
    first = done.stdout.split("\n")[0]
    assert first.startswith("rules/delta.rule: chunkwise (2)")
    for word in ("transition", "why", "stability", "state", "training", "decoding"):
        assert f"  {word}" in done.stdout


@pytest.mark.parametrize(
    "how", [["delta"], ["rules/delta.rule"], ["-"], ["-e", DELTA]], ids=["name", "path", "stdin", "text"]
)
def test_a_rule_is_named_in_four_ways(how: list[str]) -> None:
    done = run("check", *how, stdin=DELTA)
    assert done.returncode == 0
    assert ": chunkwise (2)" in done.stdout.split("\n")[0]


def test_a_file_comes_before_a_name_of_the_collection(tmp_path: Path) -> None:
    (tmp_path / "delta").write_text(SEQUENTIAL)
    done = run("check", "delta", cwd=tmp_path)
    assert done.stdout.startswith("delta: sequential")


def test_several_rules_are_all_checked(tmp_path: Path) -> None:
    (tmp_path / "broken.rule").write_text(BROKEN)
    done = run("check", "delta", str(tmp_path / "broken.rule"), "linear")
    assert done.returncode == 1
    assert "chunkwise (2)" in done.stdout and "closed (1)" in done.stdout
    assert "broken.rule:3:" in done.stderr


def test_every_mistake_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "broken.rule").write_text(BROKEN)
    done = run("check", "broken.rule", cwd=tmp_path)
    assert done.returncode == 1 and not done.stdout
    assert "broken.rule:3:9" in done.stderr and "broken.rule:4:" in done.stderr


def test_require_fails_for_a_sequential_rule() -> None:
    assert run("check", "-e", SEQUENTIAL).returncode == 0
    done = run("check", "-e", SEQUENTIAL, "--require", "chunk")
    assert done.returncode == 1
    assert "--require chunk" in done.stderr
    assert run("check", "delta", "linear", "mlstm", "--require", "chunk").returncode == 0


def test_a_no_points_at_the_sub_expression() -> None:
    lines = run("check", "-e", SEQUENTIAL).stdout.split("\n")
    assert "sequential (6)" in lines[0]
    at = next(i for i, line in enumerate(lines) if "b*tanh(v - S k)" in line and "^" in lines[i + 1])
    caret = lines[at + 1].index("^")
    assert lines[at][caret:].startswith("tanh(v - S k)")


def test_json_holds_what_people_see(tmp_path: Path) -> None:
    (tmp_path / "broken.rule").write_text(BROKEN)
    done = run("check", "broken.rule", "-e", SEQUENTIAL, "--format", "json", cwd=tmp_path)
    assert done.returncode == 1 and not done.stderr
    broken, judged = json.loads(done.stdout)["rules"]
    assert broken["kind"] is None and broken["file"] == "broken.rule"
    assert [d["line"] for d in broken["diagnostics"]] == [3, 4]
    assert judged["kind"] == "sequential" and judged["number"] == 6 and judged["parallel"] is False
    assert judged["blame"]["text"] == "tanh(v - S k)"
    assert judged["price"]["state_bytes"] and judged["stability"]["claim"]


def test_colour_is_for_terminals(tmp_path: Path) -> None:
    assert "\x1b[" not in run("check", "delta").stdout
    assert "\x1b[" not in run("check", "delta", NO_COLOR="1", FORCE_COLOR="1").stdout.replace("\x1b[1m", "").replace(
        "\x1b[2m", ""
    ).replace("\x1b[0m", "")


@pytest.mark.parametrize("width", ["20", "40"])
def test_narrow_terminals(width: str) -> None:
    done = run("check", "delta", "-e", SEQUENTIAL, COLUMNS=width)
    assert done.returncode == 0 and not done.stderr
    assert "chunkwise" in done.stdout
    assert run("rules", COLUMNS=width).returncode == 0


def test_check_is_quick() -> None:
    """Processor seconds of the whole command, which other work on the machine does not change."""
    took = []
    for _ in range(3):  # the first one may compile modules
        before = os.times()
        assert run("check", "gated_delta").returncode == 0
        after = os.times()
        took.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(took) < 2.0, took


# ------------------------------------------------------------------------------------------------ status


@pytest.mark.parametrize(
    "words",
    [
        ["check"],
        ["check", "no_such_rule"],
        ["check", "rules"],
        ["check", "--format", "xml", "delta"],
        ["bogus"],
        ["show", "delta"],
        ["show", "delta", "--stage", "bogus"],
        ["compile", "delta"],
        ["explain", "RD9999"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_two(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("debug", ["", "1"])
def test_a_fault_of_ours_is_status_three(debug: str) -> None:
    code = "import ruledsl.lang.parse as p, sys\ndef fall(source): raise AssertionError('two types for one name')\np.parse = fall\nfrom ruledsl.cli.app import main\nsys.argv = ['ruledsl', 'check', 'delta']\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=os.environ | {"RULEDSL_DEBUG": debug},
    )
    if debug:
        assert "Traceback" in done.stderr
    else:
        assert done.returncode == 3
        assert "Traceback" not in done.stderr
        assert (
            "a fault of ruledsl" in done.stderr
            and "two types for one name" in done.stderr
            and "RULEDSL_DEBUG=1" in done.stderr
        )


def test_a_closed_pipe_is_no_fault() -> None:
    done = subprocess.run(
        f"{sys.executable} cli.py check delta linear gla | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert "Traceback" not in done.stderr and "fault" not in done.stderr


# ------------------------------------------------------------------------------------------------ the other commands


def test_version() -> None:
    assert run("version").stdout == f"ruledsl {ruledsl.__version__}\n"


def test_rules_lists_the_collection() -> None:
    done = run("rules", COLUMNS="140")
    assert done.returncode == 0
    rows = {line.split()[0]: line for line in done.stdout.split("\n")[1:] if line.strip()}
    assert {p.stem for p in (ROOT / "rules").glob("*.rule")} <= set(rows)
    assert "chunkwise" in rows["kda"] and "closed" in rows["gla"] and "sequential" in rows["gru"]


def test_help_names_every_command() -> None:
    said = run("--help").stdout
    assert all(name in said for name in ("check", "compile", "show", "explain", "rules", "version"))


STAGES = ["syntax", "typed", "verdict", "chunk", "gradient", "schedule", "source"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_can_be_shown(stage: str) -> None:
    done = run("show", "gated_delta", "--stage", stage)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_verdict_in_latex() -> None:
    done = run("show", "gated_delta", "--stage", "verdict", "--format", "latex")
    assert done.returncode == 0
    assert "\\" in done.stdout


def test_compile_writes_a_module(tmp_path: Path) -> None:
    target = tmp_path / "delta.py"
    done = run("compile", "rules/delta.rule", "-o", str(target))
    assert done.returncode == 0, done.stderr
    text = target.read_text(encoding="utf-8")
    assert "S = S + b*(v - S k) k^T" in text, "the rule stands on top"
    assert str(ROOT) not in text
    spec = importlib.util.spec_from_file_location("compiled_delta", target)
    assert spec and spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert run("compile", "delta", "-o", "-").stdout.count("\n") == text.count("\n")


def test_compile_does_not_write_where_it_cannot(tmp_path: Path) -> None:
    assert run("compile", "delta", "-o", str(tmp_path)).returncode == 2
    assert run("compile", "delta", "-o", str(tmp_path / "no" / "out.py")).returncode == 2
    assert run("compile", "-o", str(tmp_path / "out.py"), "-", stdin=BROKEN).returncode == 1
    assert not list(tmp_path.iterdir())


def test_explain_a_code_and_a_rule() -> None:
    done = run("check", "-e", BROKEN)
    code = next(
        word
        for word in done.stderr.replace("[", " ").replace("]", " ").replace(":", " ").split()
        if word.startswith("RD")
    )
    told = run("explain", code)
    assert told.returncode == 0 and code in told.stdout and len(told.stdout) > 100
    assert run("explain", code.lower()).stdout == told.stdout
    rule = run("explain", "gated_delta")
    assert rule.returncode == 0 and "chunkwise" in rule.stdout
