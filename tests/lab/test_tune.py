"""`ruledsl tune`: the search, trials in processes of their own, what is stored, and that the runtime takes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ruledsl.cli.app import app
from ruledsl.cli.exits import Exit, Stop
from ruledsl.lab.bench.shapes import Shape
from ruledsl.lab.bench.timing import Subject, Watch
from ruledsl.lab.tune import process
from ruledsl.lab.tune.process import in_a_process
from ruledsl.lab.tune.trial import Outcome, Request, read_outcome, read_request, trial, written
from ruledsl.lab.tune.tune import groups, tune
from ruledsl.resources import data_dir
from ruledsl.runtime import registration, triton_chunked, tuned
from ruledsl.runtime.rule import Rule, load
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.tuned import Choice, Place
from ruledsl.schedule.tiles import Loop, alike

CPU = torch.device("cpu")
ONE = alike(32, Loop(4, 32, 2))
CHOICE = Choice(ONE, replace(ONE, chunk=16))
PLACE = Place("abc", (("K", 64), ("V", 32)), torch.bfloat16, CPU)
SHAPE = Shape("", 1, 40, 1, 64)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RULEDSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rule(name: str) -> Rule:
    return load(data_dir("rules") / f"{name}.rule")


# ------------------------------------------------------------------------------------------------ the store


def test_a_choice_comes_back_for_its_place_only(folder: Path) -> None:
    path = tuned.store(PLACE, CHOICE, "a rule", {"forward_ms": [1.0]})
    assert folder.stat().st_mode & 0o777 == 0o700 and path.stat().st_mode & 0o077 == 0
    assert tuned.load(PLACE) == CHOICE and tuned.entries() == [path]
    others = (
        replace(PLACE, kernels="abd"), replace(PLACE, sizes=(("K", 32), ("V", 64))), replace(PLACE, dtype=torch.float16),
        replace(PLACE, device=torch.device("meta")),
    )  # fmt: skip
    assert [tuned.load(p) for p in others] == [None] * 4
    assert tuned.clear() == 1 and tuned.load(PLACE) is None and not list(folder.iterdir())


def test_another_version_is_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned.store(PLACE, CHOICE, "", {})
    with monkeypatch.context() as patch:
        patch.setattr("ruledsl.__version__", "99")
        assert tuned.load(PLACE) is None
    monkeypatch.setattr(tuned, "_triton_version", lambda: "99")
    assert tuned.load(PLACE) is None


def _edited(path: Path, **changes: Any) -> bytes:
    """The file with other tiles, its hash made right again: only the check of the values is left."""
    found = json.loads(path.read_text())
    del found["content"]
    found["forward"] |= changes
    return json.dumps({**found, "content": tuned._hash(found)}).encode()


@pytest.mark.parametrize("damage", ["", "nothing", "cut", "digit", "bytes", "list", "deep", "huge", "chunk", "field"])
def test_a_damaged_entry_is_no_choice(damage: str) -> None:
    path = tuned.store(PLACE, CHOICE, "", {})
    whole = path.read_bytes()
    made = {
        "": whole, "nothing": b"", "cut": whole[:-40], "digit": whole.replace(b'"chunk": 32', b'"chunk": 64'), "bytes": b"\xff\x00",
        "list": b"[]", "deep": b"[" * 60_000, "huge": whole + b" " * tuned.LARGEST, "chunk": _edited(path, chunk=17),
        "field": _edited(path, other=1),
    }  # fmt: skip
    path.write_bytes(made[damage])
    assert tuned.load(PLACE) == (None if damage else CHOICE)
    tuned.store(PLACE, CHOICE, "", {})
    assert tuned.load(PLACE) == CHOICE


def test_an_entry_under_another_name_or_through_a_link_is_none(folder: Path) -> None:
    path = tuned.store(PLACE, CHOICE, "", {})
    other = replace(PLACE, kernels="abd")
    stranger = tuned.store(other, CHOICE, "", {})
    stranger.write_bytes(path.read_bytes())
    assert tuned.load(other) is None
    stranger.unlink()
    stranger.symlink_to(path)
    assert tuned.load(other) is None and tuned.entries() == [path]


def test_another_users_folder_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned.store(PLACE, CHOICE, "", {})
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    assert tuned.load(PLACE) is None
    with pytest.raises(PermissionError, match="belongs to another user"):
        tuned.store(PLACE, CHOICE, "", {})


def test_writers_that_race_leave_one_whole_entry(folder: Path, root: Path) -> None:
    program = (
        "import sys, time, torch; from dataclasses import replace\n"
        "from ruledsl.runtime import tuned; from ruledsl.schedule.tiles import Loop, alike\n"
        "place = tuned.Place('abc', (('K', 64), ('V', 32)), torch.bfloat16, torch.device('cpu'))\n"
        "tiles = alike(int(sys.argv[1]), Loop(4, 32, 2)); start = float(sys.argv[2])\n"
        "while time.time() < start: pass\n"
        "for i in range(100):\n"
        "    tuned.store(place, tuned.Choice(tiles, tiles), 'x' * 20_000, {})\n"
        "    assert tuned.load(place) is not None\n"
    )
    start = str(time.time() + 8)
    running = [subprocess.Popen([sys.executable, "-c", program, c, start], cwd=root) for c in ("16", "32", "64")]
    assert [p.wait(timeout=90) for p in running] == [0, 0, 0]
    found = tuned.load(PLACE)
    assert found is not None and found.forward == found.backward and len(list(folder.iterdir())) == 1


# ------------------------------------------------------------------------------------------------ the runtime


def prepared(name: str, chunk_size: int | None = None) -> Any:
    own = rule(name)
    sizes = tuple(sorted(SHAPE.sizes(own).items()))
    setting = Setting(sizes, 1, torch.float32, torch.float16, CPU, chunk_size)
    registration._PLANS.clear()
    compiled = triton_chunked.prepare(own, setting)
    return compiled, registration.registered(compiled.key), Place(compiled.form.key, sizes, torch.float16, CPU)


def test_the_runtime_takes_a_stored_choice_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    compiled, plan, place = prepared("gated_delta")
    shipped = compiled.form.candidates
    assert plan.candidates == {"forward": shipped, "backward": shipped}
    choice = Choice(replace(ONE, serial=Loop(4, 32, 5)), replace(ONE, chunk=16, slim=Loop(2, 16, 4)))
    tuned.store(place, choice, "", {})
    _, plan, _ = prepared("gated_delta")
    assert plan.candidates == {d: (choice.of(d), *shipped) for d in tuned.DIRECTIONS}
    _, plan, _ = prepared("gated_delta", chunk_size=64)
    assert {t.chunk for d in tuned.DIRECTIONS for t in plan.candidates[d]} == {64}
    assert plan.candidates["backward"][0] == replace(choice.backward, chunk=64)
    with tuned.only(CHOICE):
        assert prepared("gated_delta")[1].candidates == {d: (CHOICE.of(d),) for d in tuned.DIRECTIONS}


# ------------------------------------------------------------------------------------------------ the search


def fake(request: Request) -> Outcome:
    """A device on which the forward pass likes long chunks and the backward pass few warps; 64 rows are wrong, and 3 stages end
    the process."""
    f, b = request.choice.forward, request.choice.backward
    if max(f.serial.side, b.serial.side) == 64:
        return Outcome("wrong", "off")
    if max(f.serial.stages, b.serial.stages) == 3:
        return Outcome("crashed", "SIGABRT")
    forward = 1 + 16 / f.chunk + 0.1 * f.serial.warps
    backward = 2 + b.chunk / 16 + 0.1 * b.rows.warps
    count = len(request.shapes)
    return Outcome("timed", "", (forward,) * count, (backward,) * count, 0.5)


def test_each_direction_gets_its_own_best() -> None:
    heard: list[str] = []
    found = tune(rule("delta"), (SHAPE, replace(SHAPE, batch=2)), "bf16", CPU, 1, fake, heard.append)
    assert found.best is not None and found.best.outcome.status == "timed"
    assert found.shipped.outcome.status == "wrong"  # 64 rows, three stages: the first of the shipped ones
    best = found.best.choice
    assert (best.forward.chunk, best.forward.serial.warps) == (64, 4)
    assert (best.backward.chunk, best.backward.rows.warps) == (16, 2)
    assert len(heard) == len(found.trials) == len({t.choice for t in found.trials}) < 60


def test_what_is_not_faster_replaces_nothing() -> None:
    def even(request: Request) -> Outcome:
        noise = 1e-4 * request.choice.forward.chunk
        return Outcome("timed", "", (1 - noise,), (2 - noise,))

    found = tune(rule("linear"), (SHAPE,), "bf16", CPU, 1, even, lambda _: None)
    assert found.best is found.shipped


def test_nothing_that_runs_is_no_choice() -> None:
    found = tune(rule("linear"), (SHAPE,), "bf16", CPU, 1, lambda _: Outcome("refused", "too large"), lambda _: None)
    assert found.best is None and found.shipped.outcome.status == "refused"


def test_frozen_rules_keep_their_chunk_length() -> None:
    found = tune(
        rule("omega_linear"), (SHAPE,), "bf16", CPU, 1, lambda _: Outcome("timed", "", (1.0,), (1.0,)), lambda _: None
    )
    assert len({t.choice.of(d).chunk for t in found.trials for d in tuned.DIRECTIONS}) == 1


def test_shapes_of_the_same_sizes_share_a_choice() -> None:
    other = replace(SHAPE, size=32)
    assert groups(rule("linear"), [SHAPE, other, replace(SHAPE, batch=2)]) == [
        (SHAPE, replace(SHAPE, batch=2)),
        (other,),
    ]


# ------------------------------------------------------------------------------------------------ trials

REQUEST = Request("S = S + v k^T\n", (replace(SHAPE, own={"K": 32}),), "fp32", CHOICE, 1)


def test_requests_and_outcomes_are_the_same_when_read() -> None:
    assert read_request(written(REQUEST)) == REQUEST
    outcome = Outcome("timed", "", (1.0, 2.0), (3.0, 4.0), 0.25)
    assert read_outcome(written(outcome)) == outcome


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.abort()", "SIGABRT"), ("raise ValueError('illegal access')", "ValueError: illegal access"),
        ("print('[1, 2]')", "no outcome"), ("print('{}')", "no outcome"), ("import time; time.sleep(60)", "not done after 2 s"),
    ],
)  # fmt: skip
def test_a_process_that_ends_badly_is_an_outcome(program: str, said: str) -> None:
    assert in_a_process(REQUEST, (sys.executable, "-c", program), 2.0) == Outcome("crashed", said)


def test_a_trial_without_a_device_is_refused() -> None:
    if not torch.cuda.is_available():
        done = trial(REQUEST, Watch(CPU, 1))
        assert done.status == "refused" and "no CUDA device" in done.said


@pytest.mark.slow
def test_trials_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right kernels are timed; wrong ones (bf16 in the interpreter) and a launch that cannot be are not."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    small = replace(SHAPE, length=17, size=32)
    right = in_a_process(replace(REQUEST, shapes=(small,)))
    assert right.status == "timed" and right.nearest <= 1 and len(right.forward_ms) == len(right.backward_ms) == 1, (
        right
    )
    wrong = in_a_process(replace(REQUEST, shapes=(small,), dtype="bf16"))
    assert wrong.status == "wrong" and "off by" in wrong.said, wrong


def test_a_fake_timer_times_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    from ruledsl.lab.bench.gate import Passed
    from ruledsl.lab.tune import trial as module

    def clock(timed: Subject, watch: Watch) -> dict[str, float]:
        return {"forward_ms": float(timed.leaves[0].shape[0]), "backward_ms": 2.0}

    seen: list[object] = []

    def passed(*arguments: object) -> Passed:
        seen.append(tuned._only)
        return Passed("o", 0.001, 0.002)

    monkeypatch.setattr(module, "gate", passed)
    done = trial(replace(REQUEST, shapes=(SHAPE, replace(SHAPE, batch=3))), Watch(CPU, 1), clock)
    assert done == Outcome("timed", "", (1.0, 3.0), (2.0, 2.0), 0.5) and seen == [CHOICE] and tuned._only is None


# ------------------------------------------------------------------------------------------------ the command


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "140"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_nothing_is_tuned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    done = run("tune", "delta")
    assert isinstance(done.exception, Stop) and done.exception.status is Exit.REFUSED
    assert "no CUDA device" in done.exception.message and not folder.exists()


def test_the_command_stores_and_the_cache_lists_and_clears(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(process, "in_a_process", fake)
    done = run("tune", "linear", "--shape", "B=1,T=40,H=1,K=64,V=64", "--json")
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["rows"]
    assert row["rule"] == "linear" and row["chosen"]["choice"]["forward"]["chunk"] == 64
    assert row["stored"] == str(next(folder.glob("tuned_*.json"))) and len(row["trials"]) > 5
    assert "tiles for bfloat16 K=64 V=64, cpu: Linear attention" in run("cache").stdout
    next(folder.glob("tuned_*.json")).write_text("{")
    assert "damaged" in run("cache").stdout
    assert "1 file removed" in run("cache", "--clear").stdout and not list(folder.iterdir())


def test_wrong_kernels_are_our_fault_and_rules_without_chunks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(process, "in_a_process", lambda request: Outcome("wrong", "o off by 1"))
    done = run("tune", "linear", "--shape", "K=64")
    assert (
        isinstance(done.exception, Stop)
        and done.exception.status is Exit.FAULT
        and "o off by 1" in done.exception.message
    )
    done = run("tune", "gru")
    assert (
        isinstance(done.exception, Stop)
        and done.exception.status is Exit.REFUSED
        and "no tiles" in done.exception.message
    )
