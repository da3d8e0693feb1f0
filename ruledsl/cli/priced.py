"""What a rule costs at given sizes on a device, in numbers: for `check --sizes` and `check --table`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ruledsl.algebra.affine import TooLarge
from ruledsl.algebra.amounts import Amounts, amounts, price_at
from ruledsl.algebra.calculus import NoDerivative
from ruledsl.algebra.verdict import Verdict
from ruledsl.cli.exits import Exit, Stop
from ruledsl.cli.sizes import DEFAULT, RUN
from ruledsl.lang.diagnostic import RuleError
from ruledsl.lang.unroll import loop_sizes
from ruledsl.schedule.roofline import BACKWARD, Ceiling, roofline
from ruledsl.schedule.target import TARGETS, Target


@dataclass(frozen=True, slots=True)
class Priced:
    sizes: dict[str, int]  # of the rule
    run: dict[str, int]  # B, T, H, C
    device: Target
    amounts: Amounts
    train: Ceiling
    decode: Ceiling

    @property
    def layer_bytes(self) -> float:
        """The states of one layer: all heads of all sequences, whatever T is."""
        return self.amounts.state_bytes * self.run["H"] * self.run["B"]


def device(name: str) -> Target:
    """Raises Stop for a name that is no device's."""
    if name in TARGETS:
        return TARGETS[name]
    near = get_close_matches(name.lower(), TARGETS, n=1)
    meant = f"; did you mean {near[0]}?" if near else "."
    raise Stop(Exit.USAGE, f"--device: there is no {name}{meant} The devices: {', '.join(TARGETS)}")


def priced(verdict: Verdict, given: Mapping[str, int], device: Target) -> Priced | None:
    """At the sizes that are given, others at their defaults; None for a rule whose price is not counted."""
    if not verdict.price.state_bytes:
        return None
    from ruledsl import pipeline

    rule = pipeline.check(pipeline.parse(verdict.rule.source))
    loops = {name: given.get(name, verdict.sizes[name]) for name in loop_sizes(rule)}
    price = verdict.price
    if loops != verdict.sizes:
        try:
            price = price_at(rule, loops)
        except (RuleError, TooLarge, NoDerivative, RecursionError):
            return None
    names = [*rule.sizes, *loops]
    own = {name: given.get(name, loops.get(name, DEFAULT)) for name in dict.fromkeys(names)}
    run = {name: value if name in own else given.get(name, value) for name, value in RUN.items()}
    if verdict.chunk is not None and "C" not in own:
        run["C"] = verdict.chunk
    found = amounts(price, {"C": run["C"], **own})
    heads, batch = run["H"], run["B"]
    chunked = verdict.token is not None
    train = roofline(
        device,
        BACKWARD * found.train_flops,
        BACKWARD * found.train_bytes,
        1 / min(run["C"], run["T"]) if chunked else 1.0,
        heads,
        batch,
    )
    decode = roofline(device, found.decode_flops, found.decode_bytes, 1.0, heads, batch)
    return Priced(own, run, device, found, train, decode)


def lines(found: Priced) -> list[tuple[str, str]]:
    """Labelled lines for people."""
    a = found.amounts
    at = ", ".join(f"{k}={v}" for k, v in {**found.sizes, **found.run}.items())
    return [
        ("at", f"{at}; one layer on {found.device.name} ({found.device.source} figures)"),
        ("", f"state {size(a.state_bytes)} per head, {size(found.layer_bytes)} for the layer, at T = 10 as at T = 10^6"),
        ("", f"training: {count(a.train_flops)} flop, {size(a.train_bytes)} per token and head forward; {rate(found.train)}"),
        ("", f"decoding: {count(a.decode_flops)} flop, {size(a.decode_bytes)} per token and head; {rate(found.decode)}"),
    ]  # fmt: skip


def record(found: Priced) -> dict[str, Any]:
    """The same as data."""
    a = found.amounts
    return {
        "sizes": {**found.sizes, **found.run},
        "device": found.device.name,
        "device_figures": found.device.source,
        "state_bytes": a.state_bytes,
        "layer_state_bytes": found.layer_bytes,
        "train_flops": a.train_flops,
        "train_bytes": a.train_bytes,
        "decode_flops": a.decode_flops,
        "decode_bytes": a.decode_bytes,
        "train_tokens_per_second": found.train.tokens,
        "train_limit": found.train.limit,
        "decode_tokens_per_second": found.decode.tokens,
        "decode_limit": found.decode.limit,
    }


def rate(ceiling: Ceiling) -> str:
    return f"at most {count(ceiling.tokens)} tokens/s ({ceiling.limit})"


def count(value: float) -> str:
    """Three figures and a unit letter: `1.23M`."""
    for unit, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def size(value: float) -> str:
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= unit:
            return f"{value / unit:.4g} {name}"
    return f"{value:.4g} bytes"
