"""How Triton spells the element-wise rows of `lang.functions` and numbers."""

from __future__ import annotations

import math

from ruledsl.schedule.unsupported import unsupported

_SPELL = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
    "erf_half": "0.5 + 0.5 * tl.erf({0} * 0.7071067811865476)",
    "exp": "tl.exp({0})",
    "log": "tl.log({0})",
    "sqrt": "tl.sqrt({0})",
    "abs": "tl.abs({0})",
    "sign": "tl.where({0} > 0.0, 1.0, tl.where({0} < 0.0, -1.0, 0.0))",
    "floor": "tl.floor({0})",
    "sin": "tl.sin({0})",
    "cos": "tl.cos({0})",
    "tanh": "2.0 * tl.sigmoid(2.0 * {0}) - 1.0",
    "sigmoid": "tl.sigmoid({0})",
    "logsigmoid": "tl.minimum({0}, 0.0) - tl.log(1.0 + tl.exp(-tl.abs({0})))",
    "silu": "{0} * tl.sigmoid({0})",
    "gelu": "{0} * (0.5 + 0.5 * tl.erf({0} * 0.7071067811865476))",
    "softplus": "tl.maximum({0}, 0.0) + tl.log(1.0 + tl.exp(-tl.abs({0})))",
    "relu": "tl.maximum({0}, 0.0)",
    "elu": "tl.where({0} > 0.0, {0}, tl.exp(tl.minimum({0}, 0.0)) - 1.0)",
    "stopgrad": "{0}",
    "max": "tl.maximum({0}, {1})",
    "min": "tl.minimum({0}, {1})",
    "mod": "{0} - {1} * tl.floor({0} / {1})",
    "logaddexp": "tl.maximum({0}, {1}) + tl.log(1.0 + tl.exp(-tl.abs({0} - {1})))",
}

_POWERS: dict[float | None, str] = {-1.0: "1.0 / {0}", 0.5: "tl.sqrt({0})", -0.5: "tl.rsqrt({0})"}


def literal(value: float) -> str:
    """A float as Triton text."""
    if math.isfinite(value):
        return repr(float(value))
    return "float('nan')" if math.isnan(value) else f"float('{'-' if value < 0 else ''}inf')"


def template(fn: str, exponent: float | None = None) -> str:
    """One element-wise function, `{0}` and `{1}` for its arguments. `exponent`: pow's second when it is a number.

    Unsupported: a function that Triton has no words for."""
    if fn == "pow":
        return _power(exponent)
    if fn not in _SPELL:
        raise unsupported(f"the function `{fn}` has no Triton form")
    return _SPELL[fn]


def _power(exponent: float | None) -> str:
    """A base to a number: products as long as they are few; a negative base has a power only if that is whole."""
    if exponent in _POWERS:
        return _POWERS[exponent]
    if exponent is None or not exponent.is_integer():
        return "tl.exp2({1} * tl.log2({0}))"
    if 1 <= exponent <= 8:
        return " * ".join(["{0}"] * int(exponent))
    if -8 <= exponent <= -1:
        return f"1.0 / ({' * '.join(['{0}'] * -int(exponent))})"
    size = "tl.exp2({1} * tl.log2(tl.abs({0})))"
    return size if exponent % 2 == 0 else f"tl.where({{0}} < 0.0, -1.0, 1.0) * {size}"


def spell(fn: str, args: list[str], exponent: float | None = None) -> str:
    """One element-wise function over named tiles."""
    return template(fn, exponent).format(*args)
