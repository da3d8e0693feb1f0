"""The numerical cases in parallel processes, as JSON lines: python tests/gpu/sweep.py OUT.jsonl [--every N] [--rules a,b]."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]


def one(name: str, indices: list[int]) -> None:
    """A process of its own: the cases of one rule, a line each."""
    import torch
    from device_cases import errors, pairwise

    cases = pairwise(0)
    for i in indices:
        start = time.time()
        row: dict[str, object] = {"rule": name, "case": str(cases[i]), "device": torch.cuda.get_device_name()}
        try:
            found = errors(name, cases[i])
            row["errors"] = {k: float(f"{e:.2e}") for k, (e, _) in found.items()}
            row["missed"] = [k for k, (e, bar) in found.items() if not e <= bar]
        except Exception as error:  # a crash is a result here
            row["missed"], row["failure"] = ["run"], f"{type(error).__name__}: {error}"[:300]
        row["seconds"] = round(time.time() - start, 1)
        print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--rules", default="")
    parser.add_argument("--workers", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1e9)
    options = parser.parse_args()
    from device_cases import CHUNKED, pairwise

    names = options.rules.split(",") if options.rules else CHUNKED
    count = len(pairwise(0))
    tasks = [(n, i) for i in range(0, count) for at, n in enumerate(names) if (i + at) % options.every == 0]
    deadline = time.time() + options.seconds

    def launch(task: tuple[str, int]) -> str:
        left = deadline - time.time()
        if left < 20:
            return ""
        command = [sys.executable, __file__, "--one", task[0], str(task[1])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=left)
        except subprocess.TimeoutExpired:
            return ""
        lines = [x for x in done.stdout.splitlines() if x.startswith("{")]
        return lines[0] if lines else json.dumps({"rule": task[0], "case": task[1], "missed": ["run"], "failure": done.stderr[-300:]})

    with ThreadPoolExecutor(options.workers) as pool:
        lines = [x for x in pool.map(launch, tasks) if x]
    options.out.write_text("".join(f"{x}\n" for x in lines))
    rows = [json.loads(x) for x in lines]
    missed = [r for r in rows if r["missed"]]
    print(f"{len(rows)} of {len(tasks)} cases ran, {len(missed)} missed a bar")
    for r in missed:
        print(r["rule"], r["case"], {k: r.get("errors", {}).get(k) for k in r["missed"]}, r.get("failure", "")[:160])


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        one(sys.argv[2], [int(i) for i in sys.argv[3:]])
    else:
        main()
