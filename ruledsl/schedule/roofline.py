"""How many tokens a second a device can do at most: its arithmetic, its memory and its latency as three ceilings.

No program that moves these bytes and does these flops is faster; a real one is slower. Latency is counted for what
cannot overlap: the steps of one sequence that wait for each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.schedule.target import Target

BACKWARD = 3  # forward and backward together, in forward passes: of flops and of bytes


@dataclass(frozen=True, slots=True)
class Ceiling:
    tokens: float  # per second, over all sequences
    limit: str  # "flops", "bytes" or "latency"


def roofline(device: Target, flops: float, moved: float, steps: float, heads: int, batch: int) -> Ceiling:
    """`flops` and `moved` (bytes) are per token and head, `steps` the dependent steps per token of a sequence;
    0: none that must wait for another."""
    ceilings = [
        Ceiling(device.dot_rate / (flops * heads) if flops else float("inf"), "flops"),
        Ceiling(device.bandwidth / (moved * heads) if moved else float("inf"), "bytes"),
        Ceiling(batch / (steps * device.step) if steps else float("inf"), "latency"),
    ]
    return min(ceilings, key=lambda c: c.tokens)
