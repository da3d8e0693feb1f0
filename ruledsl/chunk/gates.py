"""The decay of a form along one of its axes, inside a chunk.

A token is m sub-steps; point f is after sub-step f (0: as the token began). What was written by step g of token s and
is seen at point f of token t has decayed by the steps after g of s, all steps of the tokens between, and the steps up
to f of t. Two routes:

    log      only sums of log decays: level(f) = G - (log decays of the steps after f), G the running sum of a token's
             total; the factor is exp(level(f)[t] - level(g)[s])
    product  for decays that may be 0 or negative: only products: before(f)[t] * prod_{s<i<t} total[i] * after(g)[s],
             and within one token between(g, f)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ruledsl.chunk.build import Builder, Tile


@dataclass(frozen=True, slots=True)
class Gate:
    """One decay for each sub-step (None: that step does not decay), as logarithms or as factors; [tokens, n] or
    [tokens, 1]."""

    b: Builder
    steps: tuple[Tile | None, ...]
    log: bool

    # ------------------------------------------------------------------------------------------------ within a token

    def _steps(self, low: int, high: int) -> Tile:
        """Steps low < i <= high together: their sum or product."""
        result = self.b.const(0.0 if self.log else 1.0)
        for step in self.steps[low:high]:
            if step is not None:
                result = result + step if self.log else result * step
        return result

    def between(self, g: int, f: int) -> Tile:
        """The factor of the steps g < i <= f of one token."""
        steps = self._steps(g, f)
        return self.b.apply("exp", steps) if self.log else steps

    def before(self, f: int) -> Tile:
        return self.between(0, f)

    def after(self, g: int) -> Tile:
        return self.between(g, len(self.steps))

    @property
    def total(self) -> Tile:
        """All steps of a token: the log decay, or the factor."""
        return self._steps(0, len(self.steps))

    # ------------------------------------------------------------------------------------------------ across tokens

    def level(self, f: int) -> Tile:
        """Log route: the log decay from the start of the chunk to point f."""
        assert self.log
        return self.b.make("cumsum", (self.total,), False) - self._steps(f, len(self.steps))

    def since_start(self, f: int) -> Tile:
        """The factor from the start of the chunk to point f."""
        if self.log:
            return self.b.apply("exp", self.level(f))
        running = self.b.make("cumprod", (self.total,), False)
        if f == len(self.steps):
            return running
        return self.b.shift(running, 1.0, 1) * self.before(f)

    def to_end(self, g: int) -> Tile:
        """The factor from after step g to the end of the chunk."""
        if self.log:
            running = self.b.make("cumsum", (self.total,), False)
            return self.b.apply("exp", self.b.last(running) - self.level(g))
        return self.b.shift(self.b.make("cumprod", (self.total,), True), 1.0, -1) * self.after(g)

    @property
    def gap(self) -> Tile:
        """[t, s]: the factor of all tokens between s and t, without both; 0 unless s < t."""
        if self.log:
            return self.b.make("mexp", (self.level(0) - self.level(len(self.steps)).T,), "strict")
        return self.b.make("spans", (self.total,))

    @property
    def whole(self) -> Tile:
        """The factor of the whole chunk, one row."""
        return self.b.last(self.since_start(len(self.steps)))


def combined(b: Builder, steps: Sequence[Sequence[tuple[Tile, Tile | None]]]) -> Gate | None:
    """One gate out of several decays at each step, given as (factor, logarithm or None): the log route only if every
    logarithm is there; None if nothing decays."""
    every = [decay for step in steps for decay in step]
    if not every:
        return None
    log = all(logarithm is not None for _, logarithm in every)
    merged: list[Tile | None] = []
    for step in steps:
        total: Tile | None = None
        for factor, logarithm in step:
            value = logarithm if log else factor
            assert value is not None
            total = value if total is None else total + value if log else total * value
        merged.append(total)
    return Gate(b, tuple(merged), log)
