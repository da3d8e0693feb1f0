"""The numerical cases in parallel processes, as JSON lines:

    python tests/gpu/sweep.py OUT.jsonl [--every N [--first K]] [--rules a,b] [--random N] [--backend triton-scan | default]

A line: {rule, text (of random rules), case, kernels (a hash of them), device, torch, triton, errors, missed, refused or failure,
seconds}. With `--random N` the rules are N random ones, three cases each. With `--backend triton-scan` they are those with scan
kernels, with `--backend default` all of the collection, in small cases, by what a call on the device takes. `report.py` makes a table of the lines.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from zlib import crc32

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]


def one(name: str, backend: str, indices: list[int]) -> None:
    """A process of its own: the cases of one rule, a line each."""
    import torch
    import triton
    from device_cases import cases_of, errors, kernels_hash, missed
    from random_rules import text

    from ruledsl.runtime.errors import BackendError

    cases, kernels = cases_of(backend), kernels_hash(name)
    for i in indices:
        start = time.time()
        row: dict[str, object] = {"rule": name, "case": str(cases[i]), "backend": backend, "kernels": kernels}
        if name.startswith("seed_"):
            row["text"] = text(int(name[5:]))
        row |= {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
        row |= {"torch": torch.__version__, "triton": triton.__version__}
        try:
            found = errors(name, cases[i], backend=backend)
            row["errors"] = {k: float(f"{e:.2e}") for k, (e, _) in found.items()}
            row["missed"] = list(missed(found))
        except BackendError as error:  # a limit that is named
            row["missed"], row["refused"] = [], str(error)[:300]
        except Exception as error:  # a crash is a result here
            row["missed"], row["failure"] = ["run"], f"{type(error).__name__}: {error}"[:300]
        row["seconds"] = round(time.time() - start, 1)
        print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, metavar="K", help="with --every N: the K-th of the N parts, from 0")
    parser.add_argument("--rules", default="")
    parser.add_argument("--random", type=int, default=0, metavar="N")
    parser.add_argument("--backend", default="triton")
    parser.add_argument("--workers", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4, help="cases of a rule in one process")
    parser.add_argument("--seconds", type=float, default=1e9)
    options = parser.parse_args()
    from device_cases import cases_of

    tasks = _tasks(options)
    total = sum(len(cases) for _, cases in tasks)
    deadline = time.time() + options.seconds
    devices = _devices()
    turns = itertools.count()
    rows = []

    def launch(task: tuple[str, list[int]]) -> list[str]:
        """The cases of one process; after a crash the rest go into another."""
        name, todo = task
        lines: list[str] = []
        while todo and (left := deadline - time.time()) > 20:
            command = [sys.executable, __file__, "--one", name, options.backend, *map(str, todo)]
            env = {**os.environ, "CUDA_VISIBLE_DEVICES": str(next(turns) % devices)}
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=min(left, 3600), env=env)
            except subprocess.TimeoutExpired as late:
                out = late.stdout or b""
                return lines + [
                    x for x in (out if isinstance(out, str) else out.decode()).splitlines() if x.startswith("{")
                ]
            found = [x for x in done.stdout.splitlines() if x.startswith("{")]
            if len(found) < len(todo):
                case = str(cases_of(options.backend)[todo[len(found)]])
                died = {"rule": name, "case": case, "missed": ["run"], "failure": done.stderr[-300:]}
                found.append(json.dumps(died))
            lines += found
            todo = todo[len(found) :]
        return lines

    with ThreadPoolExecutor(options.workers) as pool, options.out.open("w") as out:
        for done in as_completed([pool.submit(launch, task) for task in tasks]):
            out.write("".join(f"{x}\n" for x in done.result()))
            out.flush()  # a run that is stopped keeps what it has
            rows += [json.loads(x) for x in done.result()]
    wrong = [r for r in rows if r["missed"]]
    refused = sum("refused" in r for r in rows)
    print(f"{len(rows)} of {total} cases ran, {len(wrong)} missed a bar, {refused} were refused")
    for r in wrong:
        print(r["rule"], r["case"], {k: r.get("errors", {}).get(k) for k in r["missed"]}, r.get("failure", "")[:160])


def _devices() -> int:
    """How many GPUs the processes are spread over."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    except OSError:
        return 1
    return max(1, listed.count("GPU "))


def _tasks(options: argparse.Namespace) -> list[tuple[str, list[int]]]:
    """Rules and numbers of their cases, a few for each process: a start costs as much as a small case."""
    from device_cases import CHUNKED, SCANNED, ZOO, cases_of, random_cases
    from random_rules import seeds

    if options.random:
        return [(f"seed_{s}", random_cases(s)) for s in seeds(options.random)]
    usual = {"triton-scan": SCANNED, "default": ZOO}.get(options.backend, CHUNKED)
    names = options.rules.split(",") if options.rules else usual
    numbers = range(len(cases_of(options.backend)))
    # a part is the same whatever other rules are asked for
    chosen = {n: [i for i in numbers if (i + crc32(n.encode())) % options.every == options.first] for n in names}
    return [
        (n, cases[at : at + options.batch])
        for at in range(0, len(numbers), options.batch)
        for n, cases in chosen.items()
        if cases[at : at + options.batch]
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3], [int(i) for i in sys.argv[4:]])
    else:
        main()
