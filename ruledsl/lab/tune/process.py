"""A trial in a process of its own: an illegal access or a compiler that does not end costs that trial only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import ruledsl
from ruledsl.lab.tune.trial import Outcome, Request, read_outcome, written

LIMIT = 600.0  # seconds
COMMAND = (sys.executable, "-P", "-m", "ruledsl.lab.tune.trial")


def in_a_process(request: Request, command: tuple[str, ...] = COMMAND, limit: float = LIMIT) -> Outcome:
    """Its outcome; "crashed" with the signal or the last line of its complaint. Nothing else runs meanwhile."""
    package = str(Path(ruledsl.__file__).parent.parent)
    paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            command,
            input=written(request),
            capture_output=True,
            text=True,
            timeout=limit,
            env=os.environ | {"PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        return Outcome("crashed", f"not done after {limit:.0f} s")
    if done.returncode == 0:
        try:
            return read_outcome(done.stdout.strip().rpartition("\n")[2])
        except (ValueError, TypeError, KeyError):
            return Outcome("crashed", "no outcome")
    if done.returncode < 0:
        return Outcome("crashed", signal.Signals(-done.returncode).name)
    return Outcome("crashed", done.stderr.strip().rpartition("\n")[2][:200] or f"status {done.returncode}")
