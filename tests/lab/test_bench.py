"""`ruledsl bench`: what it prints and writes, what it refuses, and the floor."""

from __future__ import annotations

import importlib.util
import json
import os
import re
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
from ruledsl.lab.bench.model import apart, model
from ruledsl.lab.bench.shapes import SHAPES, Shape, shapes
from ruledsl.lab.bench.timing import COPIED, Decoded, Subject, Times, Watch, decoded
from ruledsl.lab.peers import FLA, PER_HEAD, Operator
from ruledsl.resources import data_dir
from ruledsl.runtime import op
from ruledsl.runtime.rule import Rule, load
from ruledsl.schedule.predict import LAUNCH, Estimate
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
        assert row["over_model"][name] == pytest.approx(row["ours"][f"{name}_ms"] / row["model"][f"{name}_ms"])
    (step,) = row["steps"]
    assert (step["batch"], step["graph_ms"], step["state_bytes"]) == (1, None, 4 * 2 * 16 * 16) and step["eager_ms"] > 0
    assert step["floor_ms"] == pytest.approx(2e3 * 2048 / row["copy_rate"]) and "CUDA graph" in done.stdout
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
    with pytest.raises(
        Wrong, match=r"delta: not timed: the torch backend is wrong against float64: o off by 0\.01 \(bar 1e-05\)"
    ):
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
    for path in (Path(__file__).resolve().parents[2] / "benchmarks" / "log_forms").glob("*.rule"):
        form = load(path)
        assert form.verdict.kind is rule(path.stem).verdict.kind
        assert peers.operator_for(form, f"fla:{path.stem}")[1] is FLA[path.stem]
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
    given = (rule("delta"), "stand_in", TINY, torch.float32, Watch(CPU, 1), (1, 3))
    called, status, times, steps, failures = peers.time_peer(*given)
    assert [s.batch for s in steps] == [1, 3] and all(s.eager_ms > 0 and s.graph_ms is None for s in steps)
    assert [s.state_bytes for s in steps] == [4 * 2 * 16 * 16, 3 * 4 * 2 * 16 * 16]
    assert (called, status) == ("stand_in.chunk", "measured")
    assert isinstance(times, Times) and times.forward_ms and times.decode_ms and times.forward_backward_ms is None
    assert [f.partition(":")[0] for f in failures] == ["cold_backward", "both"]


SIZES = {"K": 16, "V": 8, "M": 4}


class Module:
    """Keeps what its operators are called with."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, Any]] = {}

    def __getattr__(self, called: str) -> Any:
        return lambda **given: self.seen.setdefault(called, given)


def called(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What a row's operators get at B=2 T=4 H=3: the chunk operator, and the one-token operator."""
    module = Module()
    monkeypatch.setattr(peers.importlib, "import_module", lambda _: module)
    found = peers.subject(FLA[name], Shape("", 2, 4, 3, 16), SIZES, torch.bfloat16, CPU)
    found.forward()
    if found.token is not None:
        found.token()
    return module.seen[FLA[name].chunk], module.seen.get(FLA[name].token)


@pytest.mark.parametrize("name", FLA)
def test_arguments_of_peers_have_their_shapes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = FLA[name]
    given, token = called(name, monkeypatch)
    assert all(x.requires_grad and x.abs().sum() > 0 for n, x in given.items() if n in operator.arguments)
    for n, kind in operator.arguments.items():
        per_token = [2, 4] if kind in ("channels", "channel log decays") else [2, 4, 3]
        assert (
            list(given[n].shape[:2]) == [3, 16]
            if kind in PER_HEAD
            else list(given[n].shape[: len(per_token)]) == per_token
        )
        assert "decay" not in kind or (-5 <= given[n].min() and given[n].max() <= 0)
    if token is None:
        return
    for n in operator.arguments:
        x = token[operator.renamed.get(n, n)]
        if operator.arguments[n] not in PER_HEAD:
            assert x.shape == (given[n][:, 0] if operator.timeless else given[n][:, :1]).shape and not x.requires_grad
    states = [x for n in operator.states for x in (token[n] if isinstance(token[n], tuple) else [token[n]])]
    axes = {"H": 3, "D": 48, **SIZES}
    wanted = [[2, *(axes[a] for a in each)] for pair in operator.states.values() for each in pair]
    assert [list(x.shape) for x in states] == wanted and all(x.dtype == torch.float32 for x in states)


def test_operators_are_called_as_the_wheel_declares_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every parameter without a default is given, and none that does not exist."""
    lines = (Path(__file__).parent / "fla_0_6_0.txt").read_text().splitlines()[1:]
    found = [re.fullmatch(r"(\S+) (\w+)\((.*)\)", line) for line in lines]
    declared = {(m[1], m[2]): m[3].split(", ") for m in found if m is not None}
    for name, operator in FLA.items():
        for function, given in zip((operator.chunk, operator.token), called(name, monkeypatch), strict=True):
            if given is not None:
                parameters = declared[operator.module, function]
                assert {p for p in parameters if p[-1] not in "=*"} <= set(given), (name, function)
                assert set(given) <= {p.rstrip("=") for p in parameters}, (name, function)


# ------------------------------------------------------------------------------------------------ one token, the model


class Graphs(Watch):
    """A watch that pretends to capture, with a clock that counts calls."""

    def captured(self, call: Any) -> Any:
        call()
        return lambda: "replayed"

    def median(self, call: Any) -> float:
        return 0.25 if call() == "replayed" else 0.5


def test_a_token_is_timed_eager_and_as_a_graph() -> None:
    calls: list[int] = []
    timed = Subject([], list, lambda: calls.append(1), lambda: 1000)
    assert decoded(timed, 64, Graphs(CPU, 1)) == Decoded(64, 0.5, 0.25, 1000) and len(calls) == 2
    assert decoded(timed, 1, Watch(CPU, 1)).graph_ms is None
    assert Graphs(CPU, 1).copy_rate() == 2 * COPIED["cpu"] / 0.5e-3


def estimates(name: str, **changes: int) -> Any:
    shape = replace(SHAPES["S1"], **changes)
    own = rule(name)
    least = floor(own, shape, 2, target("h200"))
    return model(own, shape, torch.bfloat16, CPU, "triton", target("h200"), least)


def test_the_model_counts_every_kernel() -> None:
    h200, found = target("h200"), estimates("linear")
    (only,) = [e for e in found.forward if e.kernel == "forward"]
    # q, k, v and o; the state once in and once out
    moved = 8 * 16 * (2 * 4096 * 4 * 128 + 2 * 4 * 128 * 128)
    assert (only.limit, only.seconds) == ("bytes", pytest.approx(moved / h200.bandwidth + LAUNCH))
    assert found.forward_ms == pytest.approx(1e3 * sum(e.seconds for e in found.forward))
    assert found.forward_backward[: len(found.forward)] == found.forward
    assert {e.limit for e in estimates("linear", length=16, batch=1).forward} == {"launch"}
    solved = {e.kernel: e for e in estimates("gated_delta").forward}
    assert solved["forward"].limit == "latency"
    assert solved["forward"].seconds == pytest.approx(3 * 128 * h200.step + LAUNCH)  # 3 products in each of 128 chunks


def test_without_chunk_kernels_the_model_is_the_roofline() -> None:
    own, h200 = rule("gru"), target("h200")
    least = floor(own, SHAPES["S1"], 2, h200)
    assert least is not None
    found = model(own, SHAPES["S1"], torch.bfloat16, CPU, "triton", h200, least)
    assert found is not None and [e.limit for e in found.forward] == ["latency"]
    assert (found.forward_ms, found.forward_backward_ms) == pytest.approx((least.forward_ms, least.forward_backward_ms))
    assert model(own, SHAPES["S1"], torch.bfloat16, CPU, "triton", h200, None) is None


def test_what_is_far_from_the_model_is_explained() -> None:
    parts = (Estimate("prepare", 1e-4, "bytes"), Estimate("serial", 8e-4, "latency"), Estimate("rest", 1e-4, "launch"))
    assert (
        apart("forward", 1.29, parts) is None
        and apart("forward", 0.78, parts) is None
        and apart("forward", None, parts) is None
    )
    said = apart("forward", 2.0, parts)
    assert said == "forward: 2 ms, the model 1 ms (2x); its costliest: serial 0.8 ms (latency), prepare 0.1 ms (bytes)"
    assert apart("forward", 0.5, parts) is not None
