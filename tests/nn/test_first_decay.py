"""A fresh layer forgets slowly, whatever expression the rule's decay is."""

from __future__ import annotations

import pytest
import torch
from small_layers import layer, load

from ruledsl.lang.typed import Interval
from ruledsl.nn.assume import decays
from ruledsl.nn.decay import FASTEST, SLOWEST, offsets, start, targets

DECAYED = (
    "mission",
    "gated_linear",
    "gated_delta",
    "gated_delta_product",
    "gla",
    "hgrn2",
    "rwkv5",
    "rwkv6",
    "rwkv7",
    "ssd",
    "kda",
    "comba",
    "dplr",
)


@pytest.mark.parametrize("name", DECAYED)
def test_one_token_of_zeros_keeps_most_of_the_state(name: str) -> None:
    """At x = 0 every vector without a bias is zero: nothing is written, and the state is multiplied by its decay."""
    module = layer(name, head_dim=8)
    first = module.init_state(1)
    memory = torch.randn_like(first.memory)
    with torch.no_grad():
        _, after = module.step(torch.zeros(1, module.dim), first._replace(memory=memory))
    kept = after.memory / memory
    assert 0.93 < kept.min() and kept.max() < 0.995, (kept.min(), kept.max())
    assert kept.max() - kept.min() > 0.01


def test_both_sides_decay() -> None:
    module = layer("gla_two_sided", head_dim=8)
    first = module.init_state(1)
    with torch.no_grad():
        _, after = module.step(torch.zeros(1, module.dim), first._replace(memory=torch.ones_like(first.memory)))
    assert 0.93**2 < after.memory.min() and after.memory.max() < 0.995**2


def test_targets_are_spread_between_fast_and_slow() -> None:
    spread = targets(8)
    assert FASTEST < spread[0] < spread[-1] < SLOWEST and spread == sorted(spread)
    assert targets(1)[0] == pytest.approx(1 - ((1 - FASTEST) * (1 - SLOWEST)) ** 0.5)


def test_a_range_without_slow_decays_is_left_alone() -> None:
    (decay,) = decays(load("gated_linear").verdict)
    assert offsets(decay, "a", {"a": Interval(0.0, 1.0)}, [0.97])[0] == pytest.approx(3.476, abs=0.05)
    assert offsets(decay, "a", {"a": Interval(0.0, 0.5)}, [0.97]) is None
    assert start(decay, "a", {"a": Interval(2.0, 3.0)}, 2, ()) is None


def test_shapes() -> None:
    (decay,) = decays(load("gated_linear").verdict)
    ranges = {"a": Interval(0.0, 1.0)}
    assert start(decay, "a", ranges, 4, ()).shape == (4,)
    assert start(decay, "a", ranges, 4, (3, 5)).shape == (4, 3, 5)
