"""The monomial form of scalar coefficients against sympy."""

from __future__ import annotations

import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from ruledsl.algebra import build
from ruledsl.algebra.scalars import Coef
from ruledsl.lang.typed import SCALAR, Expr, Ref, Role

NAMES = "abc"
ATOMS = {n: Ref(n, Role.INPUT, SCALAR) for n in NAMES}
SYMBOLS = {n: sympy.Symbol(n, positive=True) for n in NAMES}

leaves = st.one_of(
    st.sampled_from(NAMES).map(lambda n: (ATOMS[n], SYMBOLS[n])),
    st.sampled_from((2, 3, 0.5)).map(lambda x: (build.number(x), sympy.Rational(x))),
)
pairs = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: (build.mul(p[0][0], p[1][0]), p[0][1] * p[1][1])),
        st.tuples(inner, inner).map(lambda p: (build.div(p[0][0], p[1][0]), p[0][1] / p[1][1])),
        inner.map(lambda x: (build.neg(x[0]), -x[1])),
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(pairs, pairs)
def test_products_and_quotients_are_equal_exactly_when_sympy_says_so(
    x: tuple[Expr, sympy.Expr], y: tuple[Expr, sympy.Expr]
) -> None:
    assert (Coef.of(x[0]) == Coef.of(y[0])) == (sympy.simplify(x[1] - y[1]) == 0)


@settings(max_examples=100, deadline=None)
@given(pairs, pairs)
def test_a_difference_is_zero_exactly_when_sympy_says_so(x: tuple[Expr, sympy.Expr], y: tuple[Expr, sympy.Expr]) -> None:
    assert Coef.of(x[0]).plus(Coef.of(build.neg(y[0]))).is_zero == (sympy.simplify(x[1] - y[1]) == 0)
