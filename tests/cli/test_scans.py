"""`show` and `compile` for rules that have scans instead of a chunk form."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ruledsl.cli.options import Backend, Stage
from ruledsl.cli.stages import Walk, text
from ruledsl.resources import load_source

# several levels, a matrix, two coupled states, logaddexp and softmax, a computed value looked back at
RULES = ("rwkv4", "mamba1", "lru", "abc", "mamba3")


def walk(name: str, backend: Backend = Backend.TORCH) -> Walk:
    return Walk(load_source(Path("rules") / f"{name}.rule"), backend)


@pytest.mark.parametrize("backend", list(Backend))
@pytest.mark.parametrize("name", RULES)
def test_a_compiled_file_tests_itself(name: str, backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "compiled.py"
    path.write_text(walk(name, backend).module, encoding="utf-8")
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-I", str(path)], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("chunked") and "against recurrent, float64: outputs" in done.stdout


def test_the_self_test_can_fail(tmp_path: Path) -> None:
    module = walk("rwkv4").module
    broken = module.replace(
        "def scan_tokens(inputs, fixed, state, sizes):\n",
        "def scan_tokens(inputs, fixed, state, sizes):\n    inputs = {**inputs, 'k': 1.01 * inputs['k']}\n",
    )
    assert broken != module
    path = tmp_path / "broken.py"
    path.write_text(broken, encoding="utf-8")
    assert subprocess.run([sys.executable, "-I", str(path)], capture_output=True, cwd=tmp_path).returncode == 1


def test_kernels_of_a_file_fit_other_sizes(tmp_path: Path) -> None:
    """More than a block, and less than one."""
    module = walk("mamba1", Backend.TRITON).module
    path = tmp_path / "sizes.py"
    assert module.count('example(2, 37, 2, {"V": 4, "N": 6})') == 1
    path.write_text(module.replace('example(2, 37, 2, {"V": 4, "N": 6})', 'example(1, 9, 1, {"V": 37, "N": 3})'))
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-I", str(path)], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr


def test_stages() -> None:
    found = walk("rwkv4")
    assert "scan state p: clip (" in text(found, Stage.CHUNK)
    assert "scan cotangent p: affine (" in text(found, Stage.GRADIENT)
    assert "runs of 16 to 256 tokens" in text(found, Stage.SCHEDULE)
    assert "def scan_tokens(" in text(found, Stage.SOURCE)


def test_the_schedule_of_kernels_says_what_it_chose() -> None:
    found = walk("mamba1", Backend.TRITON)
    said = text(found, Stage.SCHEDULE)
    tiles = found.scan_kernels.tiles
    assert f"{tiles.turn} tokens are written out; states are kept every {tiles.segment} tokens" in said
    assert "1024     whole" in said and "pieces of" in said
    assert "def dsum0_kernel(" in text(found, Stage.SOURCE)


def test_a_rule_with_neither_form_says_so() -> None:
    assert walk("gru").scan is None
    assert walk("delta").scan is None


@pytest.mark.parametrize("name", ["like", "torch", "scanned", "entering_h"])
def test_a_name_of_the_module_is_a_name_like_any_other(name: str, tmp_path: Path) -> None:
    rule = f"state h[K]\ninput a[K], {name}[K]\nh = relu(a .* h) + {name}\noutput o = h .* {name}\n"
    path = tmp_path / "names.py"
    path.write_text(Walk(load_source(rule)).module, encoding="utf-8")
    done = subprocess.run([sys.executable, "-I", str(path)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("chunked"), done.stdout + done.stderr
