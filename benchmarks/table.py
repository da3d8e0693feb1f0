"""Write the README's performance table from the committed results: python benchmarks/table.py [--check]"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- cpu table: benchmarks/table.py -->\n", "<!-- end -->\n"


def table(results: dict[str, Any]) -> str:
    """Markdown rows of `results/bench_cpu.json`."""
    lines = ["| rule | forward + backward, s | token loop, s | ratio | MiB at T = 2k, 4k, 8k, 16k |", "| --- | --- | --- | --- | --- |"]
    for row in results["rows"]:
        memory = ", ".join(f"{m:.0f}" for m in row["memory_mib"].values())
        lines.append(f"| {row['rule']} | {row['both_s']:.3f} | {row['token_loop_s']:.1f} | {row['token_loop_s'] / row['both_s']:.0f} | {memory} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    made = before + BEGIN + table(json.loads((ROOT / "benchmarks/results/bench_cpu.json").read_text())) + END + after
    if "--check" in sys.argv:
        raise SystemExit(0 if made == text else "the README's table is not the results'")
    readme.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
