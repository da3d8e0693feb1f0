"""A summary of the lines of `sweep.py`, as JSON and as a table:

    python tests/gpu/report.py LINES.jsonl ... [-o benchmarks/results/h200_numerics.json]

For each rule and dtype: the worst error over the cases of the forward pass, the backward pass and the decode step, how many
cases passed, missed a bar and were refused, and what was missed. A case that crashed or whose process died has missed. Of lines
of several runs the last one of a case counts; `present_kernels` says how many passed on the kernels that are generated now.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
RULES = Path(__file__).resolve().parents[2] / "rules"
PASSES = ("fwd", "bwd", "step")
DTYPES = ("bfloat16", "float16", "float32")
ERROR = "RMS(error) / max(RMS(reference), 1e-3 RMS(dv)) against float64; bars in tests/gpu/device_cases.py"
Row = dict[str, Any]


def summary(rows: list[Row]) -> Row:
    """All rules; where a case of a rule stands twice, the later line counts."""
    from device_cases import kernels_hash

    from ruledsl.cli.marks import text_hash

    last = {(r["rule"], r["case"]): r for r in rows}
    rules: dict[str, list[Row]] = {}
    for row in last.values():
        rules.setdefault(row["rule"], []).append(row)
    about = {key: sorted({r[key] for r in rows if key in r}) for key in ("device", "torch", "triton")}
    texts = {n: text_hash(p.read_text(encoding="utf-8")) for n in rules if (p := RULES / f"{n}.rule").is_file()}
    found = {name: of_rule(own) for name, own in rules.items()}
    for name, own in rules.items():
        if any("kernels" in r for r in own):
            now = kernels_hash(name)
            found[name]["present_kernels"] = sum(_passed(r) and r.get("kernels") == now for r in own)
    return {**about, "error": ERROR, "texts": texts, "rules": found}


def of_rule(rows: list[Row]) -> Row:
    judged = [r for r in rows if "errors" in r]
    worst = {
        dtype: {part: _worst([r for r in judged if r["case"].endswith(f"-{dtype}")], part) for part in PASSES}
        for dtype in DTYPES
    }
    found: Row = {
        "cases": len(rows),
        "passed": sum(map(_passed, rows)),
        "missed": [_miss(r) for r in rows if r["missed"]],
        "refused": [{"case": r["case"], "why": r["refused"]} for r in rows if "refused" in r],
        "worst": worst,
    }
    return found | ({"text": rows[0]["text"]} if "text" in rows[0] else {})


def _passed(row: Row) -> bool:
    return not row["missed"] and "refused" not in row


def _worst(rows: list[Row], part: str) -> Row | None:
    """The largest error of a pass, whose it is and in which case; NaN is larger than any number."""
    found = [(e, k, r["case"]) for r in rows for k, e in r["errors"].items() if k.startswith(f"{part}.")]
    if not found:
        return None
    error, key, case = max(found, key=lambda x: (x[0] != x[0], x[0]))
    return {"error": error, "of": key, "case": case}


def _miss(row: Row) -> Row:
    if "failure" in row:
        return {"case": row["case"], "failure": row["failure"]}
    return {"case": row["case"], "errors": {k: row["errors"][k] for k in row["missed"]}}


def table(found: Row) -> str:
    """Markdown: a row for each rule, errors as bf16 / fp16 / fp32."""
    lines = ["| rule | fwd | bwd | step | passed | missed | refused |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for name, r in found["rules"].items():
        cells = [" / ".join(_cell(r["worst"][dtype][part]) for dtype in DTYPES) for part in PASSES]
        counts = f"{r['passed']} of {r['cases']}", str(len(r["missed"])), str(len(r["refused"]))
        lines.append(f"| {' | '.join((name, *cells, *counts))} |")
    return "\n".join([*lines, "", "Worst errors over the cases: bf16 / fp16 / fp32."])


def _cell(worst: Row | None) -> str:
    if worst is None:
        return "-"
    error = worst["error"]
    return f"{error:.4f}"[1:] if 1e-4 <= error < 0.99995 else f"{error:.0e}".replace("e-0", "e-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()
    found = summary([json.loads(x) for path in options.lines for x in path.read_text().splitlines() if x.strip()])
    if options.out:
        options.out.write_text(json.dumps(found, indent=1, allow_nan=True) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
