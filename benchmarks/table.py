"""Write the README's performance tables from the committed results: python benchmarks/table.py [--check]"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
END = "<!-- end -->\n"
Results = dict[str, Any]


def cpu(results: Results) -> str:
    """Markdown rows of `bench_cpu.json`."""
    lines = ["| rule | forward + backward, s | token loop, s | ratio | MiB at T = 2k, 4k, 8k, 16k |", "| --- | --- | --- | --- | --- |"]
    for row in results["rows"]:
        memory = ", ".join(f"{m:.0f}" for m in row["memory_mib"].values())
        lines.append(f"| {row['rule']} | {row['both_s']:.3f} | {row['token_loop_s']:.1f} | {row['token_loop_s'] / row['both_s']:.0f} | {memory} |")
    return "\n".join(lines) + "\n"


def h200(results: Results) -> str:
    """Markdown rows of `h200_speed.json`; a peer's time over ours in brackets, starred where they are of different runs."""
    lines = ["| rule | forward, ms | forward + backward, ms | kernels, ms | peak MiB | fla, ms (over ours) |", "| --- | --- | --- | --- | --- | --- |"]
    keys = ("forward_ms", "forward_backward_ms")
    for row in results["rows"]:
        peer = row.get("fla", {})
        beside, star = peer.get("beside", row), "*" * ("other_run" in peer)
        said = ", ".join(f"{peer[k]:.2f} ({peer[k] / beside[k]:.2f}){star}" for k in keys if peer) or "-"
        ours = " | ".join(f"{row[k]:.2f}" if k in row else "-" for k in (*keys, "kernels_ms"))
        lines.append(f"| {row['rule']} | {ours} | {row['peak_mib']} | {said} |")
    return "\n".join(lines) + "\n"


def shapes(results: Results) -> str:
    """Markdown rows of `h200_shapes.json` that have a peer's time."""
    lines = ["| rule | shape | forward, ms | forward + backward, ms | peak MiB | fla, ms (over ours) | fla, MiB |", "| --- | --- | --- | --- | --- | --- | --- |"]
    keys = ("forward_ms", "forward_backward_ms")
    for row in (r for r in results["rows"] if "fla" in r):
        size = " ".join(f"{k}={v}" for k, v in results["shapes"][row["shape"]].items())
        ours = " | ".join(f"{row[k]:.2f}" for k in keys)
        said = ", ".join(f"{row['fla'][k]:.2f} ({row['fla'][k] / row[k]:.2f})" for k in keys)
        lines.append(f"| {row['rule']} | {size} | {ours} | {row['peak_mib']} | {said} | {row['fla']['peak_mib']} |")
    return "\n".join(lines) + "\n"


def decode(results: Results) -> str:
    """Markdown rows of `h200_decode.json`."""
    lines = ["| rule | B = 1, us | 64 | 256 | of the time to read and write the state at 256 |", "| --- | --- | --- | --- | --- |"]
    for row in results["rows"]:
        times = " | ".join(f"{s['graph_us']:.0f}" for s in row["steps"])
        last = row["steps"][-1]
        lines.append(f"| {row['rule']} | {times} | {last['graph_us'] / last['floor_us']:.1f} |")
    return "\n".join(lines) + "\n"


def errors(results: Results) -> str:
    """Markdown rows of `h200_numerics.json`."""
    lines = ["| rule | forward | backward | decode step | cases passed |", "| --- | --- | --- | --- | --- |"]
    for name, row in results["rules"].items():
        worst = [" / ".join(_short(row["worst"][d][part]) for d in ("bfloat16", "float16", "float32")) for part in ("fwd", "bwd", "step")]
        lines.append(f"| {name} | {' | '.join(worst)} | {row['passed']} of {row['cases']} |")
    return "\n".join(lines) + "\n"


def _short(worst: Results | None) -> str:
    error = None if worst is None else worst["error"]
    return "-" if error is None else f"{error:.4f}".lstrip("0") if 1e-4 <= error < 1 else f"{error:.0e}"


TABLES: dict[str, tuple[str, Callable[[Results], str]]] = {
    "cpu table": ("bench_cpu.json", cpu),
    "h200 table": ("h200_speed.json", h200),
    "h200 shapes": ("h200_shapes.json", shapes),
    "h200 decode": ("h200_decode.json", decode),
    "h200 errors": ("h200_numerics.json", errors),
}


def main() -> None:
    readme = ROOT / "README.md"
    text = made = readme.read_text(encoding="utf-8")
    for name, (file, table) in TABLES.items():
        begin = f"<!-- {name}: benchmarks/table.py -->\n"
        before, rest = made.split(begin)
        _, after = rest.split(END, 1)
        made = before + begin + table(json.loads((ROOT / "benchmarks/results" / file).read_text())) + END + after
    if "--check" in sys.argv:
        raise SystemExit(0 if made == text else "the README's tables are not the results'")
    readme.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
