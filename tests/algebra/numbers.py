"""A stratum's token as numbers, from the text of the rule alone: the linear part and the write, in float64."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

import numpy as np

from ruledsl.algebra.analysis import Analysis, Part, analyse
from ruledsl.algebra.samples import Sampler
from ruledsl.algebra.stability import of_part
from ruledsl.algebra.verdict import Stability, Verdict

from . import token
from .corpus import FILES, judged, verdict

SIZES = {"K": 4, "N": 4, "D": 4}  # other free sizes are 2


@dataclass(frozen=True)
class Stratum:
    verdict: Verdict
    analysis: Analysis
    part: Part
    stability: Stability


@cache
def strata(name_or_text: str) -> tuple[Stratum, ...]:
    found = verdict(name_or_text) if name_or_text in FILES else judged(name_or_text)
    analysis = analyse(found.rule)
    return tuple(Stratum(found, analysis, p, of_part(analysis, p, found.sizes)) for p in analysis.parts)


def maps(stratum: Stratum, count: int, wild: bool = True) -> list[tuple[np.ndarray, np.ndarray]]:
    """(M, u) of random tokens, many of their inputs at the ends of the ranges: the stacked state goes to M s + u."""
    rule, bound = stratum.verdict.rule, stratum.verdict.sizes
    sizes = {name: bound.get(name, SIZES.get(name, 2)) for name in (*rule.sizes, *bound)}
    sampler = Sampler(rule, sizes, random.Random(0), wild)
    keys = [s if s[1] is not None else (s[0], None) for s in stratum.part.states]
    out = []
    for seed in range(count):
        env = token.sample(rule, sizes, seed)
        drawn = sampler.token() | {n: v for n, v in sampler.params().items() if n not in sampler.given}
        earlier = {lag: sampler.token() for _, lag in [k for k in env if len(k) == 2] if lag}
        for name, lag in [k for k in env if len(k) == 2]:
            values = drawn if lag == 0 else earlier[lag]
            if name in values:
                env[name, lag] = values[name]
            elif name in drawn:
                env[name, lag] = drawn[name]
        out.append(_linear(stratum, env, sizes, keys))
    return out


def _linear(stratum: Stratum, env: token.Env, sizes: dict[str, int], keys: list) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    shapes = [np.shape(env[name, 0, member]) for name, member in keys]
    width = sum(r * c for r, c in shapes)

    def step(entries: np.ndarray) -> np.ndarray:
        values, at = dict(env), 0
        for (name, member), (rows, cols) in zip(keys, shapes, strict=True):
            values[name, 0, member] = entries[at : at + rows * cols].reshape(rows, cols).tolist()
            at += rows * cols
        after, _ = token.run(stratum.verdict.rule, values, sizes)
        return np.concatenate([np.ravel(after.get(k, values[k[0], 0, k[1]])) for k in keys]).astype(float)

    base = np.concatenate([np.ravel(env[name, 0, member]) for name, member in keys]).astype(float)
    there = step(base)  # not around 0: another state may solve with this one
    linear = np.stack([step(base + row) - there for row in np.eye(width)], axis=1)
    return linear, there - linear @ base
