"""Scan kernels, interpreted on the CPU, against the recurrence in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_token import ask

from ruledsl.runtime import op, tables, token_form, triton_backend, triton_scan, triton_token
from ruledsl.runtime.errors import BackendError
from ruledsl.runtime.rule import load
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.triton_scan import scan_kernels
from ruledsl.schedule.scan_tiles import ScanTiles, piece
from ruledsl.schedule.target import target

RULES: dict[str, dict[str, int]] = {
    "mamba1": {"V": 20, "N": 4}, "rwkv4": {"D": 40}, "lru": {"V": 4, "N": 8}, "s4d": {"V": 20, "N": 4},
    "mamba3": {"N": 8, "P": 4}, "mlstm": {"V": 20, "K": 4}, "abc": {"K": 8, "V": 4, "M": 4}, "hgrn": {"K": 40},
    "qrnn": {"D": 8}, "case_19a": {}, "case_40a": {},
}  # fmt: skip
MORE = {
    "bounds times a sign": "state h[K]\ninput a[K], x[K]\nh = a .* min(max(h + x, -0.3), 0.4)\noutput o = h",
    "a bound from an earlier state": "state c[K], h[K]\ninput a[K], x[K]\nc = a .* c + x\nh = min(0.9*h + x, c)\noutput o = h .* c",
    "frozen": "state h[K]\ninput a[K], x[K]\nh = h + a .* frozen(h, 4) + x\noutput o = h",
    "nothing reads h": "state h[K], g[K]\ninput a[K], x[K]\nh = x - where(a < 0.3, h, 0)\ng = a .* g + x\noutput o = g",
    "looked back": "state h[K]\ninput a[K], x[K]\nlet y = tanh(x)\nh = a .* h + prev(y, 2)\noutput o = h",
    "columns": "state S[V, K]\ninput a[K], k[K], v[V]\nS = S diag(a) + v k^T\noutput o = S^T v",
}
BACK = "triton-scan"


def judged(cases: list[dict[str, object]], tmp_path: Path, bar: float) -> None:
    for case, found in zip(cases, ask(cases, tmp_path), strict=True):
        assert max(found.values()) < bar, (case, found)


@pytest.mark.parametrize("names", [list(RULES)[i::4] for i in range(4)], ids=lambda names: "-".join(names))
def test_whole_sequences_and_pieces(names: list[str], tmp_path: Path) -> None:
    """Outputs, final states and gradients; odd lengths; pieces that are no multiple of a turn."""
    cases = [
        {"rule": n, "sizes": RULES[n], "backend": BACK, **own}
        for n in names
        for own in ({"length": 11, "heads": 1}, {"length": 13, "chunk_size": 5, "batch": 1})
    ]
    judged(cases, tmp_path, 1e-4)


def test_other_maps(tmp_path: Path) -> None:
    cases = [
        {"rule": text, "sizes": {"K": 6, "V": 4}, "length": 9, "chunk_size": 4, "heads": 1, "backend": BACK}
        for text in MORE.values()
    ]
    judged(cases, tmp_path, 1e-4)


def test_packed_and_grouped(tmp_path: Path) -> None:
    """Sequences of 0, 1 and several pieces, tokens that belong to none; heads that share inputs."""
    packed = [5, 0, 1, 9]
    cases = [
        {"rule": "mamba1", "sizes": RULES["mamba1"], "packed": packed, "grouped": ["B", "C"], "chunk_size": 4, "backend": BACK},
        {"rule": "rwkv4", "sizes": {"D": 8}, "packed": [0, 3, 6, 0], "tail": 3, "chunk_size": 3, "backend": BACK},
        {"rule": "mamba3", "sizes": RULES["mamba3"], "packed": [6, 1], "backend": BACK, "heads": 1},
        {"rule": MORE["frozen"], "sizes": {"K": 6}, "packed": packed, "chunk_size": 4, "backend": BACK},
    ]  # fmt: skip
    judged(cases, tmp_path, 1e-4)


def test_one_token_and_16_bits(tmp_path: Path) -> None:
    cases = [{"rule": n, "sizes": RULES[n], "length": 1, "backend": BACK} for n in ("mamba1", "rwkv4", "lru", "abc")]
    judged(cases, tmp_path, 1e-4)
    cases = [
        {"rule": n, "sizes": RULES[n], "chunk_size": 4, "dtype": "float16", "backend": BACK}
        for n in ("mamba1", "rwkv4", "s4d")
    ]
    judged(cases, tmp_path, 5e-3)


def test_several_segments(tmp_path: Path) -> None:
    """More tokens than lie between two kept states."""
    judged(
        [{"rule": "mamba1", "sizes": {"V": 4, "N": 4}, "length": 67, "heads": 1, "batch": 1, "backend": BACK}],
        tmp_path,
        1e-4,
    )


def test_cut_anywhere(tmp_path: Path) -> None:
    names = ("mamba1", "mamba3", "rwkv4", "mlstm")
    cases = [
        {"rule": n, "kind": "cut", "sizes": RULES[n], "length": 9, "chunk_size": 3, "backend": BACK} for n in names
    ]
    judged(cases, tmp_path, 1e-5)


def test_levels_of_maps() -> None:
    """A state and its readers are found one after the other, states alike together."""
    form = scan_kernels(load("rules/rwkv4.rule"), {"D": 64})
    assert [len(parts) for parts in form.forward] == [3, 4] and len(form.backward) == 2


def test_pieces_are_found_on_the_device() -> None:
    """Sequences of 0, 5, 0 and 7 tokens from the third token on, in pieces of 3; two more pieces than there are."""
    begin, of, sequence, before = tables.pieces(torch.tensor([2, 2, 7, 7, 14]), 3, 7)
    assert of.tolist() == [0, 0, 2, 2, 5]
    assert begin.tolist() == [2, 5, 7, 10, 13, 14, 14, 14]
    assert sequence.tolist()[:5] == [1, 1, 3, 3, 3] and before.tolist()[:5] == [0, 3, 0, 3, 6]


def test_pieces_where_a_device_is_not_filled() -> None:
    tiles, h200 = scan_kernels(load("rules/mamba1.rule"), {"V": 64, "N": 16}).tiles, target("h200")
    assert piece(8192, 4096, 1, tiles, h200) == 4096
    assert piece(16, 4096, 1, tiles, h200) < 1024
    assert piece(16, 32, 1, tiles, h200) == 32


def test_scan_kernels_are_taken_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    rule, gru = load("rules/mamba1.rule"), load("rules/gru.rule")
    here = torch.device("cpu")
    setting = Setting((("N", 4), ("V", 20)), 2, torch.float32, torch.float32, here)
    monkeypatch.setattr(triton_scan, "missing", lambda: "")
    monkeypatch.setattr(token_form, "missing", lambda: "")
    assert isinstance(op.BACKENDS["triton-scan"].prepare(rule, setting), triton_scan.Compiled)
    assert isinstance(triton_backend.prepare(rule, setting), triton_scan.Compiled)
    dense = Setting(tuple((s, 4) for s in gru.typed.sizes), 2, torch.float32, torch.float32, here)
    assert isinstance(triton_backend.prepare(gru, dense), triton_token.Compiled)
    with pytest.raises(BackendError, match="it is no scan"):
        op.BACKENDS["triton-scan"].prepare(gru, dense)


def test_tiles_can_be_set() -> None:
    rule, sizes = load("rules/mamba1.rule"), {"V": 64, "N": 16}
    with triton_scan.only(ScanTiles(32, 2, 16, 4)):
        own = scan_kernels(rule, sizes)
    assert own.tiles == ScanTiles(32, 2, 16, 4) and own.blocks == 2
    assert scan_kernels(rule, sizes).tiles != own.tiles
