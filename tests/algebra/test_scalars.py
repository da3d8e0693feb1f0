"""Scalar coefficients: equality up to products, shared factors."""

from __future__ import annotations

import pytest

from ruledsl.algebra import build
from ruledsl.algebra.scalars import Coef, common, over
from ruledsl.algebra.text import plain
from ruledsl.lang.typed import SCALAR, Expr, Ref, Role

A, B, C = (Ref(n, Role.INPUT, SCALAR) for n in "abc")
TWO = build.number(2)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (build.mul(A, B), build.mul(B, A)),
        (build.div(build.mul(A, B), B), A),
        (build.mul(build.neg(A), build.neg(B)), build.mul(A, B)),
        (build.mul(build.power(A, 3), build.div(B, A)), build.mul(build.mul(A, A), B)),
        (build.div(A, build.div(B, C)), build.div(build.mul(A, C), B)),
        (build.div(A, TWO), build.mul(build.number(0.5), A)),
    ],
)
def test_equal(x: Expr, y: Expr) -> None:
    assert Coef.of(x) == Coef.of(y)
    assert hash(Coef.of(x)) == hash(Coef.of(y))


def test_not_equal() -> None:
    assert Coef.of(build.add(A, B)) != Coef.of(build.add(B, C))
    assert Coef.of(build.div(A, build.add(A, B))) != Coef.of(build.div(A, build.add(A, C)))


def test_like_terms_cancel() -> None:
    assert Coef.of(build.mul(A, B)).plus(Coef.of(build.neg(build.mul(B, A)))).is_zero


@pytest.mark.parametrize(
    ("parts", "shared"),
    [
        ([build.neg(B), B], "b"),
        ([build.mul(build.number(-2), B), build.mul(TWO, B)], "2*b"),
        ([build.mul(build.number(-2), B), build.mul(build.number(3), B)], "b"),
        ([build.mul(A, B), build.mul(B, C)], "b"),
        ([build.div(A, B), build.div(C, B)], "1/b"),
        ([A, B], "1"),
    ],
)
def test_common_factor(parts: list[Expr], shared: str) -> None:
    coefs = [Coef.of(p) for p in parts]
    factor = common(coefs)
    assert plain(factor.expr()) == shared
    assert [over(c, factor).times(factor) for c in coefs] == coefs
