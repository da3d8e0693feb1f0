"""Products of conditions that exclude each other."""

from __future__ import annotations

import itertools

import pytest

from ruledsl.algebra.conditions import possible
from ruledsl.algebra.scalars import Coef
from ruledsl.lang import typed
from ruledsl.lang.typed import SCALAR, Apply, Compare, Number, Ref, Role

X, Y = Ref("x", Role.INPUT, SCALAR), Ref("y", Role.INPUT, SCALAR)
OPS = {"<": float.__lt__, "<=": float.__le__, ">": float.__gt__, ">=": float.__ge__, "==": float.__eq__}


def condition(op: str, left: typed.Expr, right: typed.Expr, holds: bool = True) -> Coef:
    yes, no = Number(float(holds)), Number(float(not holds))
    return Coef.of(Apply("where", (Compare(op, left, right, SCALAR), yes, no), SCALAR))


def kept(*factors: Coef) -> bool:
    product = Coef.of(Y)
    for f in factors:
        product = product.times(f)
    found = possible(product)
    assert found in (product, Coef(()))
    return not found.is_zero


@pytest.mark.parametrize(("first", "second"), itertools.product(OPS, OPS))
def test_two_bounds_on_one_value(first: str, second: str) -> None:
    """Kept exactly where some number satisfies both; the second bound stands the other way round and shifted."""
    for a, b, holds in itertools.product((1.0, 2.0, 3.0), (1.0, 2.0, 3.0), (True, False)):
        numbers = [n / 2 for n in range(-2, 10)]
        some = any(OPS[first](x, a) and OPS[second](b, x) is holds for x in numbers)
        shifted = Apply("sub", (Apply("add", (X, Number(1.0)), SCALAR), Y), SCALAR)
        other = Apply("sub", (Number(b + 1), Y), SCALAR)
        assert kept(condition(first, X, Number(a)), condition(second, other, shifted, holds)) == some


def test_values_that_are_not_the_same_are_kept_apart() -> None:
    assert kept(condition("<", X, Number(1.0)), condition(">", Y, Number(2.0)))
    assert kept(condition("<", X, Y), condition(">", X, Number(2.0)))
    assert kept(condition("==", Number(1.0), Number(2.0)))  # no value in it: not looked at
    assert not kept(condition("<", X, Y), condition("<=", Y, X))
