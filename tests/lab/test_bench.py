"""`ruledsl bench`: what it prints and writes, what it refuses, and the floor."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from ruledsl.cli.app import app
from ruledsl.cli.exits import Exit, Stop
from ruledsl.lab.bench import peers
from ruledsl.lab.bench.bench import bench
from ruledsl.lab.bench.floor import CHUNK, device_row, floor
from ruledsl.lab.bench.gate import BARS, Wrong, gate
from ruledsl.lab.bench.shapes import SHAPES, Shape, shapes
from ruledsl.lab.bench.timing import Times, Watch
from ruledsl.lab.peers import FLA, Operator
from ruledsl.resources import data_dir
from ruledsl.runtime import op
from ruledsl.runtime.rule import Rule, load
from ruledsl.schedule.target import target

TINY = Shape("", 1, 64, 2, 16)
AT = "B=1,T=64,H=2,K=16,V=16"
CPU = torch.device("cpu")
TIMES = {"cold_forward_s", "cold_backward_s", "forward_ms", "forward_backward_ms", "decode_ms", "peak_mib"}


def rule(name: str) -> Rule:
    return load(data_dir("rules") / f"{name}.rule")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["bench", *words, "--repeats", "2"], env={"COLUMNS": "110"})


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The torch backend, one percent off."""
    honest = op.BACKENDS["torch"]

    def run(*arguments: Any) -> Any:
        outputs, carry = honest.run(*arguments)
        return {n: 1.01 * x for n, x in outputs.items()}, carry

    monkeypatch.setitem(op.BACKENDS, "torch", replace(honest, run=run))


def test_a_run_prints_and_writes_everything(tmp_path: Path) -> None:
    file, plot = tmp_path / "rows.json", tmp_path / "rows.png"
    done = run("delta", "--vs", "fla", "--shapes", AT, "--json", str(file), "--plot", str(plot))
    assert done.exit_code == 0, done.output
    assert "delta B=1 T=64 H=2" in done.stdout and "over floor" in done.stdout
    assert plot.read_bytes()[1:4] == b"PNG"
    found = json.loads(file.read_text())
    assert set(found) == {"schema", "device", "versions", "how", "rows"}
    assert found["device"]["row"]["name"] == "cpu" and found["versions"]["torch"] == torch.__version__
    (row,) = found["rows"]
    assert row["shape"] == {"name": "", "B": 1, "T": 64, "H": 2, "K": 16, "V": 16}
    assert (row["rule"], row["dtype"], row["backend"]) == ("delta", "float32", "torch")
    assert row["gate"]["error"] <= row["gate"]["bar"]
    assert set(row["ours"]) == TIMES
    assert all(x > 0 for n, x in row["ours"].items() if n != "peak_mib") and row["ours"]["peak_mib"] is None
    for name in ("forward", "forward_backward", "decode"):
        assert row["over_floor"][name] == pytest.approx(row["ours"][f"{name}_ms"] / row["floor"][f"{name}_ms"])


@pytest.mark.skipif(importlib.util.find_spec("fla") is not None, reason="fla is installed")
def test_a_peer_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    assert "fla: not installed" in run("delta", "--vs", "fla", "--shapes", AT, "--json", str(file)).stdout
    (row,) = json.loads(file.read_text())["rows"]
    assert row["peer"]["status"] == "not installed" and row["peer"]["operator"].endswith("chunk_delta_rule")
    assert row["peer_over_ours"] == {"forward": None, "forward_backward": None, "decode": None}


def test_a_wrong_backend_is_not_timed(broken: None) -> None:
    with pytest.raises(Wrong, match=r"delta: not timed: the torch backend is wrong against float64: o off by 0\.01 \(bar 1e-05\)"):
        gate(rule("delta"), "delta", TINY, torch.float32, CPU, "torch")
    done = run("delta", "--shapes", AT)
    assert isinstance(done.exception, Stop) and done.exception.status is Exit.FAULT == 3
    assert done.stdout == ""


def test_the_bars_are_those_of_the_device_tests(root: Path) -> None:
    code = "import device_cases; print(device_cases.BARS)"
    paths = os.pathsep.join((str(root), str(root / "tests" / "gpu")))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})  # fmt: skip
    assert done.stdout.strip() == str(BARS), done.stderr


@pytest.mark.parametrize("name", ["retention", "rwkv6", "gru", "lru", "delta_product"])
def test_params_several_states_and_rules_without_a_chunk_form(name: str) -> None:
    (row,) = bench(
        [(name, rule(name))], [replace(TINY, length=8)], torch.float32, Watch(CPU, 1), None, None, lambda _: None
    )
    assert row.ours.decode_ms and row.gate.error <= row.gate.bar


def test_the_floor_is_the_formulas_over_the_rates() -> None:
    h200 = target("h200")
    found = floor(rule("linear"), SHAPES["S1"], 2, h200)
    assert found is not None
    tokens, k, v = 8 * 4096 * 16, 128, 128
    assert found.forward_ms == pytest.approx(1e3 * tokens * 2 * (2 * k + 2 * v) / h200.bandwidth)
    assert found.forward_backward_ms == pytest.approx(3 * found.forward_ms)
    assert found.decode_ms == pytest.approx(1e3 * 8 * 16 * (8 * k * v + 2 * (2 * k + 2 * v)) / h200.bandwidth)
    assert found.forward_limit == found.decode_limit == "bytes"
    wide = floor(rule("linear"), SHAPES["S1"], 4, h200)
    assert wide is not None and wide.forward_ms == pytest.approx(2 * found.forward_ms)
    slow = floor(rule("gru"), SHAPES["S1"], 2, h200)
    assert slow is not None and slow.forward_limit == "latency"
    assert slow.forward_ms == pytest.approx(1e3 * 4096 * h200.step)
    assert CHUNK == 64


def test_devices_are_known_by_whole_words() -> None:
    names = {"NVIDIA H200": "h200", "NVIDIA A100-SXM4-80GB": "a100", "NVIDIA GeForce RTX 4090": "rtx4090", "cpu": "cpu"}
    for name, row in names.items():
        found = device_row(name)
        assert found is not None and found.name == row
    assert device_row("NVIDIA L40S") is None and device_row("NVIDIA GH200 480GB") is None


def test_shapes_are_named_or_written() -> None:
    found = shapes("S1,B=1,T=7,K=32,B=2,C1", SHAPES["C1"], ["K", "V"])
    assert found[0] == SHAPES["S1"] and found[3] == SHAPES["C1"]
    assert found[1] == Shape("", 1, 7, 4, 64, {"K": 32}) and found[2] == Shape("", 2, 1024, 4, 64)
    assert found[1].sizes(rule("delta")) == {"V": 64, "K": 32}
    for text in ("S99", "K=0", "K=x", "Q=3", ""):
        with pytest.raises(ValueError):
            shapes(text, SHAPES["C1"], ["K", "V"])


@pytest.mark.parametrize("words", [("--shapes", "S99"), ("--vs", "flash"), ("--json", "/no/such/folder/x.json")])
def test_mistakes_on_the_command_line(words: tuple[str, ...]) -> None:
    done = run("delta", *words)
    assert isinstance(done.exception, Stop) and done.exception.status is Exit.USAGE


def test_every_peer_row_is_a_rule_and_a_rule_is_known_by_its_meaning() -> None:
    assert set(FLA) <= {p.stem for p in data_dir("rules").glob("*.rule")}
    for name in ("delta", "gated_delta"):
        assert peers.operator_for(rule(name), "fla")[1] is FLA[name]
    assert peers.operator_for(rule("mission"), "fla") == ("no operator", None)
    assert peers.operator_for(rule("mission"), "fla:delta")[1] is FLA["delta"]


def test_a_peer_is_timed_and_what_it_refuses_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for a peer: a module with an operator that has no backward pass."""
    text = "import torch\ndef chunk(q, k):\n    return (q * k).detach(), None\n"
    (tmp_path / "stand_in.py").write_text(
        text + "def token(q, k, initial_state, output_final_state):\n    return q * k\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    operator = Operator("stand_in", "chunk", "token", {"q": "keys", "k": "unit keys"})
    monkeypatch.setitem(peers.PEERS, "stand_in", {"delta": operator})
    called, status, times, failures = peers.time_peer(rule("delta"), "stand_in", TINY, torch.float32, Watch(CPU, 1))
    assert (called, status) == ("stand_in.chunk", "measured")
    assert isinstance(times, Times) and times.forward_ms and times.decode_ms and times.forward_backward_ms is None
    assert [f.partition(":")[0] for f in failures] == ["cold_backward", "both"]


@pytest.mark.parametrize("name", FLA)
def test_arguments_of_peers_have_their_shapes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Module:
        def __getattr__(self, called: str) -> Any:
            return lambda **given: seen.setdefault(called, given)["v"]

    monkeypatch.setattr(peers.importlib, "import_module", lambda _: Module())
    found = peers.subject(FLA[name], Shape("", 1, 4, 3, 16), 16, 8, torch.bfloat16, CPU)
    found.forward()
    given = seen[FLA[name].chunk]
    assert given["v"].shape == (1, 4, 3, 8) and given["k"].shape == (1, 4, 3, 16)
    assert all(x.requires_grad and x.abs().sum() > 0 for n, x in given.items() if n in FLA[name].arguments)
    if found.token is not None:
        found.token()
        assert seen[FLA[name].token]["v"].shape == (1, 1, 3, 8)
        assert seen[FLA[name].token]["initial_state"].shape == (1, 3, 16, 8)
