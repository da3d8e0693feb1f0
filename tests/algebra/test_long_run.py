"""A million tokens: states of rules that are proven contractive or marginal stay below the growth bound that is told."""

from __future__ import annotations

import numpy as np
import pytest

from .corpus import ACCEPTED
from .numbers import Stratum, maps, strata
from .test_stability import OWN

STEPS = 1_000_000
POOL = 12  # tokens, drawn from at random
WIDEST = 8  # entries of a state
LOOKS = 200  # at how many steps the norms are compared


def proven() -> list[Stratum]:
    found = [s for n in [*OWN, *ACCEPTED] for s in strata(OWN.get(n, n))]
    return [s for s in found if s.stability.rate is not None and "which holds" not in s.stability.growth]


@pytest.mark.slow
def test_a_million_tokens() -> None:
    """All rules at once, each state as one padded vector, in float64."""
    drawn = [(s, maps(s, POOL)) for s in proven()]
    rules = [s for s, tokens in drawn if len(tokens[0][1]) <= WIDEST]
    assert len(rules) > 35
    tokens = [tokens for _, tokens in drawn if len(tokens[0][1]) <= WIDEST]
    width = max(len(u) for rule in tokens for _, u in rule)
    linear = np.zeros((POOL, len(rules), width, width))
    write = np.zeros((POOL, len(rules), width, 1))
    for r, rule in enumerate(tokens):
        for i, (m, u) in enumerate(rule):
            linear[i, r, : len(u), : len(u)], write[i, r, : len(u), 0] = m, u
    rates = np.array([s.stability.rate for s in rules])
    largest = np.linalg.norm(write[..., 0], axis=2).max(axis=0)
    source = np.random.default_rng(0)
    state = source.normal(size=(len(rules), width, 1))
    state[np.linalg.norm(linear, axis=(0, 3)) == 0] = 0  # the padding
    start = np.linalg.norm(state[..., 0], axis=1)
    order = source.integers(POOL, size=STEPS)
    look = STEPS // LOOKS
    for step in range(STEPS):
        i = order[step]
        state = linear[i] @ state + write[i]
        if step % look == look - 1 or step < 50:
            assert (np.linalg.norm(state[..., 0], axis=1) <= _bound(rates, start, largest, step + 1)).all(), step


def _bound(rates: np.ndarray, start: np.ndarray, largest: np.ndarray, tokens: int) -> np.ndarray:
    """r^T |S_0| + (1 + ... + r^(T-1)) max|u|, with room for rounding."""
    power = rates**tokens
    below = np.where(rates < 1, 1 - rates, 1.0)
    total = np.where(rates < 1, (1 - power) / below, tokens)
    return (power * start + total * largest) * (1 + 1e-9) + 1e-9
