"""A search over tiles: one field after the other, both directions at once, each kept where it is faster."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ruledsl.lab.bench.shapes import DTYPES, Shape
from ruledsl.lab.tune.trial import Outcome, Request
from ruledsl.runtime import tuned
from ruledsl.runtime.errors import BackendError
from ruledsl.runtime.rule import Rule
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.triton_backend import takes_chunks
from ruledsl.runtime.triton_form import form_of
from ruledsl.runtime.tuned import Choice, Place
from ruledsl.schedule.tiles import LOADS, Loop, Tiles, alternatives
from ruledsl.schedule.unsupported import Unsupported

FASTER = 0.98  # times of what replaces a choice, over those of the choice: less is noise

Run = Callable[[Request], Outcome]


@dataclass(frozen=True, slots=True)
class Tried:
    choice: Choice
    outcome: Outcome

    def seconds(self, direction: str) -> float:
        """The geometric mean over the shapes, in milliseconds; infinite if it was not timed."""
        times = self.outcome.forward_ms if direction == "forward" else self.outcome.backward_ms
        return math.exp(sum(map(math.log, times)) / len(times)) if times else math.inf

    @property
    def total(self) -> float:
        return self.seconds("forward") + self.seconds("backward")


@dataclass(frozen=True, slots=True)
class Tuned:
    """Of one rule at one set of sizes. `best`: None if nothing could be timed."""

    place: Place
    shapes: tuple[Shape, ...]
    shipped: Tried
    best: Tried | None
    trials: tuple[Tried, ...]


def groups(rule: Rule, shapes: Sequence[Shape]) -> list[tuple[Shape, ...]]:
    """Shapes with the same sizes share a choice."""
    found: dict[tuple[tuple[str, int], ...], list[Shape]] = {}
    for shape in shapes:
        found.setdefault(tuple(sorted(shape.sizes(rule).items())), []).append(shape)
    return [tuple(group) for group in found.values()]


def tune(
    rule: Rule,
    shapes: tuple[Shape, ...],
    dtype: str,
    device: torch.device,
    repeats: int,
    run: Run,
    say: Callable[[str], None],
) -> Tuned:
    """Try tiles at `shapes`, which agree in their sizes. Nothing is stored. BackendError: the rule has no chunk kernels
    here."""
    place, first, fields = _open(rule, shapes[0], dtype, device)
    trials: dict[Choice, Tried] = {}

    def tried(choice: Choice) -> Tried:
        if choice not in trials:
            say(_described(choice))
            trials[choice] = Tried(choice, run(Request(rule.source.text, shapes, dtype, choice, repeats)))
        return trials[choice]

    begun = _first(tried(Choice(c, c)) for c in first)
    shipped = next((t for t in begun if t.outcome.status != "refused"), begun[-1])  # the first that fits both ways
    best = {d: (begun[-1].choice.of(d), begun[-1].seconds(d)) for d in tuned.DIRECTIONS}
    for name, values in fields.items() if begun[-1].outcome.status == "timed" else ():
        start = {d: best[d][0] for d in tuned.DIRECTIONS}
        for value in values:
            change: dict[str, Any] = {name: value}
            wanted = {d: replace(start[d], **change) for d in tuned.DIRECTIONS}
            for t in _both_or_each(wanted, start, tried):
                for d in tuned.DIRECTIONS:
                    if t.choice.of(d) == wanted[d] and t.seconds(d) < FASTER * best[d][1]:
                        best[d] = t.choice.of(d), t.seconds(d)
    tried(Choice(best["forward"][0], best["backward"][0]))  # two halves may come from different trials
    timed = [t for t in trials.values() if t.outcome.status == "timed"]
    fastest = min(timed, key=lambda t: t.total, default=None)
    if fastest is not None and not fastest.total < FASTER * shipped.total:
        fastest = shipped
    return Tuned(place, shapes, shipped, fastest, tuple(trials.values()))


def _first(trials: Iterator[Tried]) -> list[Tried]:
    """Up to the first that was timed."""
    found = []
    for t in trials:
        found.append(t)
        if t.outcome.status == "timed":
            break
    return found


def _both_or_each(
    wanted: dict[str, Tiles], start: dict[str, Tiles], tried: Callable[[Choice], Tried]
) -> Iterator[Tried]:
    """One trial that changes both directions; if that fails, one for each."""
    together = tried(Choice(**wanted))
    yield together
    if together.outcome.status != "timed":
        for direction in tuned.DIRECTIONS:
            yield tried(Choice(**start | {direction: wanted[direction]}))


def _open(
    rule: Rule, shape: Shape, dtype: str, device: torch.device
) -> tuple[Place, tuple[Tiles, ...], dict[str, tuple[int | Loop, ...]]]:
    """Where a choice will be stored, the shipped tiles, and what may be tried instead."""
    sizes = shape.sizes(rule)
    found = rule.chunkable(sizes)
    if isinstance(found, str):
        raise BackendError(f"{found}: kernels that take single tokens have no tiles to choose")
    out = DTYPES[dtype]
    setting = Setting(tuple(sorted(sizes.items())), shape.heads, torch.float32, out, device)
    if not takes_chunks(rule, setting):
        raise BackendError("the rule is not run by chunk kernels: there are no tiles to choose")
    try:
        form = form_of(rule, found, setting)
    except Unsupported as error:
        raise BackendError(str(error)) from None
    searched = alternatives(form.programs, sizes)
    fields = {name: values for name, values in searched.items() if name in ("chunk", *form.kernels.kinds)}
    fixed = found.program.chunk
    shipped = form.candidates
    if fixed:
        fields |= {"chunk": (fixed,)}
        shipped = tuple(dict.fromkeys(replace(t, chunk=fixed) for t in shipped))
    return Place(form.key, setting.sizes, out, device), shipped, fields


def _described(choice: Choice) -> str:
    return "; ".join(f"{d} {written(choice.of(d))}" for d in tuned.DIRECTIONS)


def written(t: Tiles) -> str:
    loops = ((name, getattr(t, name)) for name in LOADS)
    return f"chunk {t.chunk}, " + ", ".join(f"{name} {x}" for name, x in loops)
