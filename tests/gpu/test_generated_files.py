"""`ruledsl compile RULE --backend triton`: the file's own test passes on a device, without ruledsl in sight."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["gated_delta", "kda", "rwkv7", "gla_two_sided"])
def test_the_self_test_passes(name: str, tmp_path: Path) -> None:
    """A scalar decay with reads, one for each channel, params and a bonus, decays on both sides."""
    file = tmp_path / "own.py"
    command = [sys.executable, str(ROOT / "cli.py"), "compile", str(ROOT / "rules" / f"{name}.rule")]
    made = subprocess.run([*command, "--backend", "triton", "-o", str(file)], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "ruledsl" not in [line.split()[1] for line in file.read_text().splitlines() if "import" in line.split()[:1]]
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TRITON_INTERPRET")}
    env["TRITON_CACHE_DIR"] = str(tmp_path / "triton")
    done = subprocess.run(
        [sys.executable, "-I", str(file)], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.startswith("chunked (float32) against recurrent, float64: outputs")
