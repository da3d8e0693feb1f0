"""Seconds of the first forward and backward of rules, each in a process of its own with empty caches, as JSON lines:

    python tests/gpu/first_call.py OUT.jsonl [--workers N] RULE ...

RULE is a file or a name of `rules/`; lines are appended. Measured after imports, reading the rule and one matrix product
on the device, at B = 1, T = 4096, H = 16, K = V = 128, bf16: everything from the call to the result, generating text and
compiling kernels included. A line: {rule, forward_s, backward_s, device, workers, versions}.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

HEADS, SIZE, LENGTH = 16, 128, 4096


def one(name: str) -> dict[str, object]:
    """The measurement; the process has called nothing before."""
    import torch
    import triton

    import ruledsl
    from ruledsl.runtime.sample import sample

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rule = ruledsl.load(_path(name))
    sizes = {s: 2 if s in ("n", "L") else SIZE for s in rule.typed.sizes}
    x = sample(rule.typed, 1, LENGTH, HEADS, sizes, torch.Generator().manual_seed(0), torch.float32)
    ranged = {e.name for e in rule.spec.inputs if not e.type.is_scalar and e.interval is None}
    leaves = {n: v.to(device, torch.bfloat16 if n in ranged else v.dtype).requires_grad_() for n, v in x.items()}
    warm = torch.ones(64, 64, device=device)
    (warm @ warm).sum().item()
    _wait()

    start = time.perf_counter()
    output = rule(**leaves, backend="triton")
    _wait()
    middle = time.perf_counter()
    outputs = [output] if isinstance(output, torch.Tensor) else list(output.values())
    torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs])
    _wait()
    end = time.perf_counter()
    return {
        "rule": Path(name).stem,
        "forward_s": round(middle - start, 2),
        "backward_s": round(end - middle, 2),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "triton": triton.__version__, "ruledsl": ruledsl.__version__},
    }


def _path(name: str) -> str:
    return name if Path(name).exists() else str(ROOT / "rules" / f"{name}.rule")


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def fresh(name: str) -> dict[str, object]:
    """`one` in a new process with empty caches."""
    with tempfile.TemporaryDirectory() as folder:
        caches = {"TRITON_CACHE_DIR": f"{folder}/triton", "RULEDSL_CACHE": f"{folder}/ruledsl"}
        command = [sys.executable, __file__, "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | caches)
    lines = [x for x in done.stdout.splitlines() if x.startswith("{")]
    return json.loads(lines[0]) if lines else {"rule": name, "failure": done.stderr[-300:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("rules", nargs="+", metavar="RULE")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time; they share the cores")
    options = parser.parse_args()
    with ThreadPoolExecutor(options.workers) as pool, options.out.open("a") as file:
        for row in pool.map(fresh, options.rules):
            line = json.dumps(row | {"workers": options.workers})
            print(line, flush=True)
            file.write(f"{line}\n")
            file.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2])), flush=True)
    else:
        main()
