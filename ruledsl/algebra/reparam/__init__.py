"""Strata that are not affine, yet associative after a change of variables: one recogniser per file.

A recogniser takes the scope and a single state, and answers with a `Change` only if it has proved, from structure and
promises alone, that every assignment of that state stays in a family of maps that is closed under composition.
"""

from __future__ import annotations

from ruledsl.algebra.reparam.change import Change
from ruledsl.algebra.reparam.clip import clip
from ruledsl.algebra.reparam.inverse import inverse
from ruledsl.algebra.reparam.log_domain import log_domain
from ruledsl.algebra.reparam.log_normalised import log_normalised
from ruledsl.algebra.reparam.moebius import moebius
from ruledsl.algebra.reparam.projective import projective
from ruledsl.algebra.reparam.scale_free import scale_free
from ruledsl.algebra.scope import Scope, State

RECOGNISERS = (clip, log_domain, moebius, scale_free, projective, log_normalised, inverse)


def change_of_variables(scope: Scope, states: tuple[State, ...]) -> Change | None:
    """The first recogniser's answer; None if no change of variables is known."""
    if len(states) != 1:
        return None
    assigns = scope.assigns.get(states[0], [])
    if any(scope.seen(a.value).frozen or scope.seen(a.value).before & set(states) for a in assigns):
        return None
    for recognise in RECOGNISERS:
        if found := recognise(scope, states[0]):
            return found
    return None


__all__ = ["Change", "change_of_variables"]
