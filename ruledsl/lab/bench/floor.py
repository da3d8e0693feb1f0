"""The least time that a device allows: the verdict's own flops and bytes over its rates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from ruledsl import pipeline
from ruledsl.algebra.affine import TooLarge
from ruledsl.algebra.amounts import amounts, price_at
from ruledsl.algebra.calculus import NoDerivative
from ruledsl.lab.bench.shapes import Shape
from ruledsl.lang.diagnostic import RuleError
from ruledsl.runtime.rule import Rule
from ruledsl.schedule.roofline import BACKWARD, Ceiling, roofline
from ruledsl.schedule.target import TARGETS, Target

CHUNK = 64  # tokens per chunk of the formulas
PRICED = 2  # bytes of an input in the formulas


@dataclass(frozen=True, slots=True)
class Floor:
    """Milliseconds, and what limits them: "flops", "bytes", or "latency" for a rule without a chunk form."""

    forward_ms: float
    forward_backward_ms: float
    decode_ms: float
    forward_limit: str
    decode_limit: str


def device_row(name: str) -> Target | None:
    """The row of a device by the name that its driver gives it ("NVIDIA H200"), or None."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    said = {*words, *(a + b for a, b in pairwise(words))}  # "RTX 4090"; an "L40S" is no l4
    return next((row for key, row in TARGETS.items() if key in said), None)


def floor(rule: Rule, shape: Shape, itemsize: int, device: Target) -> Floor | None:
    """`itemsize`: bytes of an entry of an input. Backward and forward count as three forward passes. None for a rule whose
    price is not counted. Latency counts only where tokens must wait for each other (or the rule's own chunks must): with a
    chunk form a sequence can be split."""
    sizes, price = shape.sizes(rule), rule.verdict.price
    if not price.state_bytes:
        return None
    loops = {n: sizes[n] for n in pipeline.unroll_sizes(rule.typed)}
    if loops != rule.verdict.sizes:
        try:
            price = price_at(rule.typed, loops)
        except (RuleError, TooLarge, NoDerivative, RecursionError):
            return None
    own = rule.verdict.chunk
    found = amounts(price, {"C": own or CHUNK, **sizes})
    wider = itemsize / PRICED
    moved = found.train_bytes * wider
    stepped = found.decode_bytes - found.train_bytes + moved  # the state does not get wider
    steps = 1.0 if rule.verdict.token is None else 1 / own if own else 0.0
    heads, batch = shape.heads, shape.batch
    forward = roofline(device, found.train_flops, moved, steps, heads, batch)
    both = roofline(device, BACKWARD * found.train_flops, BACKWARD * moved, steps, heads, batch)
    token = roofline(device, found.decode_flops, stepped, 0.0, heads, batch)
    every = batch * shape.length
    return Floor(_ms(every, forward), _ms(every, both), _ms(batch, token), forward.limit, token.limit)


def _ms(tokens: int, ceiling: Ceiling) -> float:
    return 1e3 * tokens / ceiling.tokens
