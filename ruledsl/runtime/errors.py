"""What a caller of a rule is told: one class per kind of mistake, each a ValueError or a TypeError.

Every message names the input (or state), what the rule declares, and what came.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class MissingInput(TypeError):
    """A declared input, param, const or learned initial state was not given."""


class UnknownInput(TypeError):
    """A name was given that the rule does not declare."""


class ShapeError(ValueError):
    """A tensor's shape does not fit its declaration, or two tensors disagree about a size."""


class DtypeError(TypeError):
    """A tensor's dtype does not fit: not a float, or mixed with others in a way that has no meaning."""


class DeviceError(ValueError):
    """Tensors of one call lie on several devices."""


class StateError(ValueError):
    """An initial state that does not belong to the rule, or not to this call."""


class BackendError(ValueError):
    """A backend that is not known, not available here, or has no form for this rule."""


class SecondOrderError(TypeError):
    """A derivative was asked for that the chunk-parallel kernels do not have."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean `k`?`, or nothing."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""
