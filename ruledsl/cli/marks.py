"""What committed test results say about a rule of the collection. Nothing is run, and nothing is known by heart.

A results file is JSON with `texts`, the hash of each rule's text when it was tested, and the results themselves, in a
form of its own: one row of READERS. Results of a rule whose text has changed since are stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ruledsl.resources import data_dir

FOLDER = "benchmarks/results"
COLUMNS = ("CPU", "GPU", "decode")
NONE, STALE = "-", "stale"
FLOAT32 = (1e-5, 1e-4)  # bars on outputs and states, on gradients
HALF = (0.005, 0.008)
Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """Cases of one column: how many there are, and how many passed."""

    column: str
    passed: int
    cases: int
    chunks: bool | None = None  # whether chunk kernels ran, or token kernels; None: neither


def text_hash(text: str) -> str:
    """Of a rule's words: comments, blank lines and space do not count."""
    lines = (" ".join(line.split("#", 1)[0].split()) for line in text.splitlines())
    return hashlib.sha256("\n".join(line for line in lines if line).encode()).hexdigest()[:16]


def results(folder: Path | None = None) -> dict[str, Data]:
    """The results files that there are, by name; none where they are not installed."""
    if folder is None:
        try:
            folder = data_dir(FOLDER)
        except FileNotFoundError:
            return {}
    return {n: json.loads((folder / n).read_text(encoding="utf-8")) for n in READERS if (folder / n).is_file()}


def marks(rule: str, text: str, files: dict[str, Data], chunks: bool) -> tuple[str, ...]:
    """For each of COLUMNS: `yes`, `no`, `N of M` cases, `stale`, or `-` where no result is committed. `chunks`: the rule has
    chunk kernels, so that results of token kernels do not speak for it."""
    fresh: list[Found] = []
    stale: set[str] = set()
    for name, data in files.items():
        found = [f for f in READERS[name](rule, data) if f.cases and f.chunks in (None, chunks)]
        if data.get("texts", {}).get(rule) == text_hash(text):
            fresh += found
        else:
            stale |= {f.column for f in found}
    return tuple(_mark(column, fresh, column in stale) for column in COLUMNS)


def _mark(column: str, fresh: list[Found], stale: bool) -> str:
    own = [f for f in fresh if f.column == column]
    passed, cases = sum(f.passed for f in own), sum(f.cases for f in own)
    if not cases:
        return STALE if stale else NONE
    return "yes" if passed == cases else "no" if not passed else f"{passed} of {cases}"


# ------------------------------------------------------------------------------------------------ one row for each file


def _cpu(rule: str, data: Data) -> Iterable[Found]:
    """Of `benchmarks/cpu_rules.py`: worst errors in float32."""
    row = data["rules"].get(rule)
    if row is not None:
        good = "failure" not in row and row["forward"] <= FLOAT32[0] and row["gradient"] <= FLOAT32[1]
        yield Found("CPU", int(good), 1)
        yield Found("decode", int("failure" not in row and row["decode"] <= FLOAT32[0]), 1)


def _numerics(rule: str, data: Data, chunks: bool | None = True) -> Iterable[Found]:
    """Of `tests/gpu/report.py`: cases, what missed a bar, what was refused."""
    row = data["rules"].get(rule)
    if row is not None:
        yield Found("GPU", row["passed"], row["cases"], chunks)
        step = [m for m in row["missed"] if "failure" in m or any(k.startswith("step.") for k in m["errors"])]
        yield Found("decode", row["cases"] - len(row["refused"]) - len(step), row["cases"])


def _token_kernels(rule: str, data: Data) -> Iterable[Found]:
    """A row for each case: sequences forward and backward, and the step."""
    rows = [r for r in data["rows"] if r["rule"] == rule]
    steps = [r for r in rows if r["case"] == "step"]
    sequences = [r for r in rows if r["case"] != "step"]
    yield Found("GPU", sum("fail" not in r and r["e"] <= HALF[1] for r in sequences), len(sequences), chunks=False)
    good = ("fail" not in r and r["out"] <= HALF[0] and max(r["state"], r["graph"]) <= FLOAT32[0] for r in steps)
    yield Found("decode", sum(good), len(steps))


READERS: dict[str, Callable[[str, Data], Iterable[Found]]] = {
    "cpu_rules.json": _cpu,
    "h200_numerics.json": _numerics,
    "h200_scan_numerics.json": partial(_numerics, chunks=False),
    "h200_zoo.json": partial(_numerics, chunks=None),  # by what a call on the device takes
    "h200_token_kernels.json": _token_kernels,
}
