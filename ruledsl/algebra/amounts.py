"""What a token costs in numbers: the formulas of `Price` at given sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from ruledsl.algebra.analysis import analyse
from ruledsl.algebra.price import price
from ruledsl.algebra.readout import form_of
from ruledsl.algebra.verdict import Price
from ruledsl.lang import typed
from ruledsl.lang.unroll import unroll

_TERM = re.compile(r"([+-]?) ?([^ +-]+)")


@dataclass(frozen=True, slots=True)
class Amounts:
    """Per head; flops and bytes per token. Training is the forward pass."""

    state_bytes: float
    train_flops: float
    train_bytes: float
    decode_flops: float
    decode_bytes: float


def amounts(found: Price, sizes: Mapping[str, int]) -> Amounts:
    """`sizes` binds every size of the formulas, and C, the chunk length. KeyError names one that is missing."""
    return Amounts(**{f.name: amount(getattr(found, f.name), sizes) for f in fields(Amounts)})


def amount(formula: str, sizes: Mapping[str, int]) -> float:
    """A sum of products of numbers and sizes, as `Price` writes it: `C^2/3 + 4*C*K + 2`."""
    total = 0.0
    for sign, term in _TERM.findall(formula):
        product, _, under = term.partition("/")
        value = -1.0 if sign == "-" else 1.0
        for factor in product.split("*"):
            base, _, power = factor.partition("^")
            value *= (float(base) if base[0].isdigit() else sizes[base]) ** int(power or 1)
        total += value / int(under or 1)
    return total


def price_at(rule: typed.Rule, loops: Mapping[str, int]) -> Price:
    """The price of a rule (not unrolled) with its loops written out at other sizes. Raises what `judge` catches:
    RuleError, TooLarge, NoDerivative."""
    analysis = analyse(unroll(rule, loops))
    token, _ = form_of(analysis)
    return price(analysis, token, loops)
