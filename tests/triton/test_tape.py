"""Calls played from a recording, interpreted: the same numbers as calls that run the launcher, whatever changed between them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

PROGRAM = Path(__file__).with_name("tape.py")


@pytest.mark.parametrize("case", ["again", "one_tensor_twice", "strided", "unaligned", "packed", "shared_heads", "other_shapes", "freed", "steps", "copies"])
def test_case(case: str, tmp_path: Path) -> None:
    env = {**os.environ, "TRITON_INTERPRET": "1", "RULEDSL_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, str(PROGRAM), case], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
