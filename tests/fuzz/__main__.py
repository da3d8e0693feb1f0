"""`PYTHONPATH=tests:. python -m fuzz [--seconds N] [--corpus DIR] [--findings DIR]`: fuzz for N seconds of wall time.

Findings are written as files, one for each way to fail (the smallest input is kept), and counted; the status is 1 if
there were any. atheris (https://github.com/google/atheris) guides by the branches of ruledsl that an input reaches.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from random import Random

import atheris

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

with atheris.instrument_imports(include=["ruledsl"], enable_loader_override=False):
    from fuzz import mutate, oracle

    for floor in ("lang", "algebra", "chunk", "schedule", "emit"):  # the walk imports most of them when it needs them
        for path in sorted((ROOT / "ruledsl" / floor).rglob("*.py")):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))

EVERY = 60  # seconds between lines of the log
SLOWER = 1.6  # what counting branches costs


def main() -> None:
    parser = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, default=ROOT / "build" / "fuzz" / "corpus")
    parser.add_argument("--findings", type=Path, default=ROOT / "build" / "fuzz" / "findings")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    given = parser.parse_args()
    for folder in (given.corpus, given.findings):
        folder.mkdir(parents=True, exist_ok=True)
    run = _Run(given.findings, given.seconds)
    flags = ["-use_value_profile=0", "-timeout=600", "-rss_limit_mb=0", "-len_control=0", "-report_slow_units=600"]
    flags += [f"-max_len={mutate.MOST_BYTES}", f"-seed={given.seed}", f"-artifact_prefix={given.findings}/hang-"]
    folders = [given.corpus, HERE / "seeds", ROOT / "tests" / "corpus", ROOT / "rules"]
    atheris.Setup([sys.argv[0], *flags, *map(str, folders)], run.one, custom_mutator=run.mutated)
    oracle.limit_memory()
    atheris.Fuzz()


class _Run:
    """Counts, and what was found."""

    def __init__(self, findings: Path, seconds: int) -> None:
        self.findings, self.seconds = findings, seconds
        self.began = self.told = time.monotonic()
        self.stages: Counter[str] = Counter()
        self.found: dict[str, int] = {}
        self.slowest = 0.0
        folders = (HERE / "seeds", ROOT / "tests" / "corpus", ROOT / "rules")
        self.donors = [p.read_text("utf-8", errors="replace") for f in folders for p in sorted(f.glob("*.rule"))]

    def mutated(self, data: bytes, most: int, seed: int) -> bytes:
        return mutate.mutate(data, Random(seed), self.donors)[:most]

    def one(self, data: bytes) -> int:
        """-1: not worth keeping. Of texts that do not parse only some are: they reach new branches all the time."""
        began = time.process_time()
        stage, finding = oracle.examine(data, SLOWER * oracle.SECONDS)
        self.slowest = max(self.slowest, time.process_time() - began)
        self.stages[stage] += 1
        if finding is not None and len(data) < self.found.get(finding.key, 1 << 30):
            if finding.key not in self.found:
                print(f"FINDING {finding.key} ({finding.stage})\n{finding.told}", file=sys.stderr, flush=True)
            self.found[finding.key] = len(data)
            name = re.sub(r"[^\w.]+", "-", finding.key)[:120]
            (self.findings / f"{name}.rule").write_bytes(data)
            (self.findings / f"{name}.txt").write_text(f"{finding.stage}\n{finding.told}", encoding="utf-8")
        now = time.monotonic()
        if now - self.told > EVERY or now - self.began > self.seconds:
            self.told = now
            print(self, file=sys.stderr, flush=True)
        if now - self.began > self.seconds:
            os._exit(1 if self.found else 0)  # libFuzzer has no way to be asked
        return -1 if stage == "parse, told" and zlib.crc32(data) % 64 else 0

    def __str__(self) -> str:
        runs, done = sum(self.stages.values()), self.stages["done"]
        return (
            f"FUZZ {time.monotonic() - self.began:.0f} s, {time.process_time():.0f} s of processor time, {runs} inputs, {done} of them compiled, slowest {self.slowest:.1f} s, "
            f"{len(self.found)} findings, by last stage {dict(self.stages.most_common())}"
        )


if __name__ == "__main__":
    main()
