"""Which rules compute in float64 whatever their inputs are.

A state whose inverse is what tokens add to (Sherman-Morrison: recursive least squares) holds the small eigenvalues of the
inverse as its large ones. With P^-1 = g P^-1 + k k^T, directions that no recent key has grow by 1/g with each token: after 45
tokens with gates between 0 and 1 the eigenvalues of P span 20 powers of ten, and the next key's gain hangs on the
smallest. float32 has 7 digits. Measured there (K = 8, RMS of the outputs against float64): the recurrence as written 1.4, made
symmetric after each token 1.4, in Joseph's form 2e-3, by P^-1 and a solve 2e-3, by square roots (Potter) 3e-5; and even
with all arithmetic in float64, rounding P to float32 between tokens costs 5e-4. The digits have to be there from token to
token: arithmetic and states of such a rule are float64, which reproduces the recurrence in float64 as it is.
"""

from __future__ import annotations

from ruledsl.algebra.affine import TooLarge
from ruledsl.algebra.calculus import NoDerivative, expand
from ruledsl.algebra.hidden import as_states
from ruledsl.algebra.linear import Linear, NotAffine
from ruledsl.algebra.reparam.inverse import inverse
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.sizes import unrolled
from ruledsl.lang import typed
from ruledsl.lang.diagnostic import RuleError
from ruledsl.lang.walk import expressions, subexpressions


def in_double(rule: typed.Rule) -> bool:
    """Of a rule as checked; False where the algebra cannot follow it."""
    nodes = (e for s in rule.body for value in expressions(s) for e in subexpressions(value))
    if not any(isinstance(e, typed.Apply) and e.fn == "div" for e in nodes):
        return False
    try:
        return inverted(Scope(expand(as_states(unrolled(rule)[0]))))
    except (NoDerivative, TooLarge, RuleError, RecursionError):
        return False


def inverted(scope: Scope) -> bool:
    """Is there a state that is no affine map of itself, but whose inverse is?"""
    return any(_square(scope, s) and not _affine(scope, s) and inverse(scope, s) is not None for s in scope.states)


def _square(scope: Scope, state: State) -> bool:
    type = scope.symbols[state[0]].type.member
    return type.is_matrix and type.rows == type.cols


def _affine(scope: Scope, state: State) -> bool:
    linear = Linear(scope, frozenset({state}))
    try:
        for assign in scope.assigns.get(state, []):
            linear.of(assign.value)
    except (NotAffine, TooLarge):
        return False
    return True
