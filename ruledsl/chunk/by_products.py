"""Diagonal decays by products even where a logarithm would be safe.

With 16-bit operands the gradient of a diagonal log decay is a difference of two sums that see differently rounded
operands: RMS errors of 0.02 in bf16, against 0.003 through the adjoint of the products.
"""

from __future__ import annotations

from dataclasses import replace

from ruledsl.algebra.verdict import Decay, MatrixForm, Step, TokenForm


def by_products(token: TokenForm) -> TokenForm:
    """The form without logarithms of diagonal decays; scalar decays keep theirs."""
    return replace(token, forms=tuple(_form(f) for f in token.forms))


def _form(form: MatrixForm) -> MatrixForm:
    return replace(form, steps=tuple(_step(s) for s in form.steps))


def _step(step: Step) -> Step:
    return replace(step, right=_decay(step.right), left=_decay(step.left))


def _decay(decay: Decay | None) -> Decay | None:
    return decay if decay is None or decay.value.type.is_scalar else replace(decay, log=None)
