"""The kernels for single tokens, interpreted on the CPU, against plain torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ruledsl.runtime.rule import load
from ruledsl.runtime.token_form import token_text
from ruledsl.runtime.triton_token import warps

PROGRAM = Path(__file__).with_name("token_compare.py")
DENSE = """
state S[V, K]
input q[K], k[K] unit, v[V], b
S = S + b*tanh(v - S k) k^T
output o = S q
"""
PRODUCT = """
state S[V, K]
input q[K], v[V], A[K, K]
S = S (0.5*A) + 0.1*S A^T + v q^T
output o = S q
"""
SHAPES = """
state s[F]
input q[K], k[K/2], g
param W[F, 3*K]
let x = cat(q, k, rotate(q, k), softmax(k))
s = 0.9*s + g*(W x) .* topk(s, 2)
output o = cat(s[2], s .^ 4)
"""
# a gate of its own per entry, vectors, dense reads, a family, looking back, copies, a running maximum, complex numbers
RULES = {
    "gru": {}, "slstm": {"*": 8}, "ba_fast_weights": {"D": 8}, "mamba1": {"V": 8, "N": 16}, "hgrn": {"K": 20},
    "gated_delta": {"V": 8, "K": 20}, "rwkv7": {"V": 16, "K": 8}, "momentum_delta": {"V": 20, "K": 8},
    "mlstm": {"V": 8, "K": 16}, "titans_linear": {"V": 16, "K": 20}, "titans": {"V": 4, "K": 4},
    "omega_linear": {"V": 8, "K": 4}, "mamba3": {"P": 8, "N": 16},
    "based": {"V": 4, "K": 3, "F": 13}, "lru": {"V": 4, "N": 8},
}  # fmt: skip


def ask(cases: list[dict[str, object]], tmp_path: Path) -> list[dict[str, float]]:
    env = {**os.environ, "TRITON_INTERPRET": "1", "RULEDSL_CACHE": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, PROGRAM], input=json.dumps(cases), capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def sized(name: str) -> dict[str, int]:
    return {s: n for s, n in RULES.get(name, {}).items() if s != "*"}


@pytest.mark.parametrize("names", [list(RULES)[i::4] for i in range(4)], ids=lambda names: "-".join(names))
def test_gradients(names: list[str], tmp_path: Path) -> None:
    for name, found in zip(names, ask([{"rule": n, "sizes": sized(n)} for n in names], tmp_path), strict=True):
        assert max(found.values()) < 1e-4, (name, found)


def test_other_operations(tmp_path: Path) -> None:
    """Products with dense matrices, columns taken apart and joined, the largest entries."""
    cases = [
        {"rule": DENSE, "sizes": {"V": 8, "K": 20}},
        {"rule": PRODUCT, "sizes": {"V": 20, "K": 8}},
        {"rule": SHAPES, "sizes": {"K": 6, "F": 5}},
    ]
    for found in ask(cases, tmp_path):
        assert max(found.values()) < 1e-4, found


def test_packed_grouped_and_in_blocks(tmp_path: Path) -> None:
    """Sequences of 0, 1 and several segments; heads that share inputs; a state cut into blocks of rows."""
    packed = [5, 0, 1, 9]
    cases = [
        {"rule": "gated_delta", "sizes": {"V": 20, "K": 8}, "packed": packed, "grouped": ["q", "k", "a"]},
        {"rule": "gated_delta", "sizes": {"V": 40, "K": 256}, "length": 5, "batch": 1, "heads": 1},
        {"rule": "mlstm", "sizes": {"V": 40, "K": 256}, "packed": [2, 3], "heads": 1},
        {"rule": "slstm", "sizes": {"D": 8}, "packed": packed},
        {"rule": "titans", "sizes": {"V": 4, "K": 4}, "packed": [3, 18], "heads": 1},
    ]
    for found in ask(cases, tmp_path):
        assert max(found.values()) < 1e-4, found


def test_entries_on_their_own_in_blocks(tmp_path: Path) -> None:
    """Several blocks of 32 lanes, the last one with padding: a matrix, vectors that read each other, a complex state."""
    cases = [
        {"rule": "mamba1", "sizes": {"V": 70, "N": 4}, "heads": 1},
        {"rule": "rwkv4", "sizes": {"D": 70}, "packed": [5, 0, 6], "heads": 1},
        {"rule": "s4d", "sizes": {"V": 40, "N": 4}, "heads": 2},
        {"rule": "hgrn", "sizes": {"K": 100}, "grouped": ["f"]},
    ]
    for case, found in zip(cases, ask(cases, tmp_path), strict=True):
        assert max(found.values()) < 1e-4, (case, found)


def test_few_heads_make_more_blocks() -> None:
    r = load("state h[D]\ninput f[D], x[D]\nh = f .* h + x\noutput o = h")
    assert [token_text(r, {"D": 512}, heads).blocks for heads in (1, 8, 32, 64)] == [16, 16, 4, 4]
    reads = load("state S[V, K]\ninput q[K], k[K], v[V]\nS = S + (v - S k) k^T\noutput o = S q")
    assert len({token_text(reads, {"V": 128, "K": 16}, heads).blocks for heads in (1, 64)}) == 1, "its entries meet"


def test_a_step_has_blocks_for_one_warp() -> None:
    reads = load("state S[V, K]\ninput q[K], k[K], v[V]\nS = S + (v - S k) k^T\noutput o = S q")
    for size, lanes in ((64, 16), (128, 8), (256, 4)):
        form = token_text(reads, {"V": size, "K": size})
        assert f"BLOCK = {lanes}\n" in form.text and form.step_largest == 1024 and warps(form, "step") == 1


def test_cut_anywhere(tmp_path: Path) -> None:
    cases = [{"rule": n, "kind": "cut", "sizes": sized(n), "length": 9} for n in ("gru", "mlstm", "mamba3", "titans")]
    for found in ask(cases, tmp_path):
        assert max(found.values()) < 1e-6, found


def test_step(tmp_path: Path) -> None:
    """Slots in a pool, one of them -1: the same as plain torch, and rows of other slots stay as they are."""
    names = ("gru", "gated_delta", "mlstm", "mamba3", "titans")
    cases = [{"rule": n, "kind": "step", "sizes": sized(n), "length": 3, "batch": 4} for n in names]
    for name, found in zip(names, ask(cases, tmp_path), strict=True):
        assert found.pop("untouched") == 0
        assert max(found.values()) < 1e-5, (name, found)
