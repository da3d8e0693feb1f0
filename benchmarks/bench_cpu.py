"""Forward and backward of rules on the CPU: chunked torch text against the token loop, and memory over T.

    python benchmarks/bench_cpu.py                        the five rules below, table and bench_cpu.json
    python benchmarks/bench_cpu.py comba mission --no-memory -o other.json

Times are medians after one warm-up call; the token loop runs once, in the same process. Memory is the growth of the
peak resident set of a fresh process over its size just before the call, inputs not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import ruledsl  # noqa: E402
from ruledsl.runtime.sample import sample  # noqa: E402

RULES = ("linear", "gated_delta", "gla", "kda", "rwkv7")
LENGTHS = (2048, 4096, 8192, 16384)


def arguments(rule: Any, batch: int, length: int, heads: int, size: int) -> dict[str, torch.Tensor]:
    """Random float32 arguments within the declared ranges, requiring gradients."""
    sizes = dict.fromkeys(rule.typed.sizes, size)
    given = sample(rule.typed, batch, length, heads, sizes, torch.Generator().manual_seed(0), torch.float32)
    return {name: x.requires_grad_() for name, x in given.items()}


def pass_seconds(rule: Any, given: dict[str, torch.Tensor], backend: str) -> tuple[float, float]:
    """One forward and one backward pass."""
    start = time.perf_counter()
    output = rule(**given, backend=backend)
    total = sum(x.sum() for x in (output.values() if isinstance(output, dict) else [output]))
    middle = time.perf_counter()
    torch.autograd.grad(total, list(given.values()), allow_unused=True)
    return middle - start, time.perf_counter() - middle


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Times of one rule."""
    rule = ruledsl.load(ROOT / "rules" / f"{name}.rule")
    given = arguments(rule, options.batch, options.length, options.heads, options.size)
    pass_seconds(rule, given, "torch")
    runs = [pass_seconds(rule, given, "torch") for _ in range(options.repeats)]
    forward, backward = (statistics.median(run[i] for run in runs) for i in (0, 1))
    both = statistics.median(sum(run) for run in runs)
    loop = sum(pass_seconds(rule, given, "recurrent")) if options.loop else None
    return {
        "rule": name,
        "forward_s": forward,
        "backward_s": backward,
        "both_s": both,
        "token_loop_s": loop,
        "ratio": loop / both if loop else None,
    }


def growth(name: str, length: int, options: argparse.Namespace) -> float:
    """MiB that one forward and backward pass adds to the peak, in a process of its own."""
    command = [
        sys.executable,
        __file__,
        name,
        "--peak",
        "--length",
        str(length),
        "--batch",
        str(options.batch),
        "--heads",
        str(options.heads),
        "--size",
        str(options.size),
    ]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak(name: str, options: argparse.Namespace) -> float:
    """The growth, measured here."""
    rule = ruledsl.load(ROOT / "rules" / f"{name}.rule")
    small = arguments(rule, options.batch, 128, options.heads, options.size)
    pass_seconds(rule, small, "torch")  # what is loaded and compiled once does not count
    given = arguments(rule, options.batch, options.length, options.heads, options.size)
    before = _status("VmRSS")
    pass_seconds(rule, given, "torch")
    return _status("VmHWM") - before


def _status(field: str) -> float:
    """A size of this process in MiB. (`getrusage` would start from the peak of the process that started this one.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown",
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ruledsl": ruledsl.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="*", default=RULES)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--size", type=int, default=64, help="every size of the rule")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-loop", dest="loop", action="store_false")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=Path("bench_cpu.json"))
    options = parser.parse_args()
    if options.peak:
        print(peak(options.rules[0], options))
        return
    shape = {"B": options.batch, "T": options.length, "H": options.heads, "sizes": options.size, "dtype": "float32"}
    print(
        f"B={options.batch} T={options.length} H={options.heads}, sizes {options.size}, float32; seconds, median of {options.repeats}"
    )
    print(
        f"{'rule':<16} {'forward':>8} {'backward':>8} {'both':>8} {'loop':>8} {'ratio':>6}   MiB at T = {', '.join(map(str, LENGTHS)) if options.memory else '-'}"
    )
    rows = []
    for name in options.rules:
        row = measure(name, options)
        row["memory_mib"] = {t: growth(name, t, options) for t in LENGTHS} if options.memory else None
        rows.append(row)
        loop = f"{row['token_loop_s']:>8.2f} {row['ratio']:>6.0f}" if row["ratio"] else f"{'-':>8} {'-':>6}"
        memory = "  ".join(f"{m:.0f}" for m in row["memory_mib"].values()) if options.memory else ""
        print(
            f"{name:<16} {row['forward_s']:>8.3f} {row['backward_s']:>8.3f} {row['both_s']:>8.3f} {loop}   {memory}",
            flush=True,
        )
    options.output.write_text(json.dumps({"machine": machine(), "shape": shape, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
