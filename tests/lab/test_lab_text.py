"""The corpus and its baseline."""

from __future__ import annotations

import math

import pytest
import torch

from ruledsl.lab.text import batch, python_help, split, unigram_bits


def test_text_is_real_and_large() -> None:
    data = python_help()
    assert len(data) > 300_000 and b"The statement" in data and data == python_help()


def test_split_keeps_order_and_everything() -> None:
    train, held_out = split(bytes(range(100)))
    assert train.tolist() == list(range(90)) and held_out.tolist() == list(range(90, 100))


def test_unigram_bits() -> None:
    even = torch.arange(256)
    assert unigram_bits(even, even) == pytest.approx(8)
    train = torch.tensor([65] * 768)  # 769 of 1024 counts are A's, every other byte has one
    assert unigram_bits(train, torch.tensor([65])) == pytest.approx(-math.log2(769 / 1024))
    assert unigram_bits(train, torch.tensor([66])) == pytest.approx(10)


def test_batches_are_windows_and_what_follows() -> None:
    data = torch.arange(1000)
    tokens, following = batch(data, 64, 20, torch.Generator().manual_seed(0))
    assert tokens.shape == following.shape == (64, 20)
    assert torch.equal(following, tokens + 1) and torch.equal(tokens[:, 1:], tokens[:, :-1] + 1)
    assert len(set(tokens[:, 0].tolist())) > 50
    tokens, following = batch(data[:21], 8, 20, torch.Generator())
    assert tokens[:, 0].eq(0).all() and following[:, -1].eq(20).all()
