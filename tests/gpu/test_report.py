"""The table and the summary of made-up lines; and the random rules, which need no device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import report
from device_cases import kernels_hash
from random_rules import has_chunk_form, seeds, text

NAN = float("nan")
LINES = [
    {"rule": "delta", "case": "T1-K16-V16-none-plain-bfloat16", "errors": {"fwd.o": 0.002, "bwd.q": 0.003}, "missed": []},
    {"rule": "delta", "case": "T9-K16-V16-none-plain-bfloat16", "errors": {"fwd.o": 0.001, "fwd.S": 0.006, "bwd.q": NAN, "step.o": 0.0016}, "missed": ["fwd.S", "bwd.q"]},
    {"rule": "delta", "case": "T1-K16-V16-none-plain-float32", "errors": {"fwd.o": 9e-7, "bwd.q": 0.5, "step.o": 1.5}, "missed": []},
    {"rule": "delta", "case": "T1-K256-V16-none-plain-float32", "missed": [], "refused": "backend 'triton': too large"},
    {"rule": "seed_3", "case": "T1-K16-V16-none-plain-float16", "missed": ["run"], "failure": "Died: x", "text": "S = S + v k^T"},
    {"rule": "seed_3", "case": "T7", "missed": ["run"], "failure": "killed", "text": "S = S + v k^T"},
    {"rule": "delta", "case": "T1-K16-V16-none-plain-bfloat16", "errors": {"fwd.o": 0.0025, "bwd.q": 0.003}, "missed": []},
]  # fmt: skip


def test_cases_on_present_kernels_are_counted() -> None:
    now = kernels_hash("delta")
    rows = [r | {"kernels": now if i else "others"} for i, r in enumerate(LINES[:4])]
    found = report.summary(rows)["rules"]["delta"]
    assert (found["passed"], found["present_kernels"]) == (2, 1)
    assert now and kernels_hash("gated_delta") not in ("", now) and kernels_hash("gru") == ""


def test_summary_and_table(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r | {"device": "H", "torch": "2"}) + "\n" for r in LINES))
    command = [sys.executable, report.__file__, str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[2:4] == [
        "| delta | .0060 / - / 9e-7 | nan / - / .5000 | .0016 / - / 2e+00 | 2 of 4 | 1 | 1 |",
        "| seed_3 | - / - / - | - / - / - | - / - / - | 0 of 2 | 2 | 0 |",
    ]
    found = json.loads((tmp_path / "out.json").read_text())
    delta, random_rule = found["rules"]["delta"], found["rules"]["seed_3"]
    assert found["device"] == ["H"] and found["triton"] == []
    assert delta["missed"][0]["errors"]["fwd.S"] == 0.006 and delta["worst"]["bfloat16"]["fwd"]["of"] == "fwd.S"
    assert delta["refused"][0]["why"] == "backend 'triton': too large"
    assert random_rule["text"] == "S = S + v k^T" and random_rule["missed"][1] == {"case": "T7", "failure": "killed"}


def test_random_rules_are_the_same_every_time_and_have_a_chunk_form() -> None:
    found = seeds(10)
    assert found == seeds(10) and len({text(s) for s in found}) == 10
    assert all(has_chunk_form(text(s)) for s in found)
    texts = "\n".join(text(s) for s in found)
    for part in ("diag(", "prev(", "param ", "sigmoid(", "unit", " - "):
        assert part in texts
