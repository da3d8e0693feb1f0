"""Sizes in one spelling, so that `K/2 + K/2` and `K` are the same axis."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from ruledsl.lang.typed import Dim, DimOp

_Polynomial = dict[tuple[str, ...], Fraction]  # monomial (sorted symbols) -> coefficient


def normal(dim: Dim, sizes: Mapping[str, int] | None = None) -> Dim:
    """The canonical spelling of a size, with the sizes that are known put in. ValueError if a symbol is divided by."""
    return _spell(_polynomial(dim, sizes or {}))


def _polynomial(dim: Dim, sizes: Mapping[str, int]) -> _Polynomial:
    match dim:
        case int():
            return {(): Fraction(dim)} if dim else {}
        case str():
            return _polynomial(sizes[dim], sizes) if dim in sizes else {(dim,): Fraction(1)}
        case DimOp("*", left, right):
            product: _Polynomial = {}
            for m, c in _polynomial(left, sizes).items():
                for n, d in _polynomial(right, sizes).items():
                    key = tuple(sorted((*m, *n)))
                    product[key] = product.get(key, Fraction(0)) + c * d
            return product
        case DimOp("/", left, right):
            divisor = _polynomial(right, sizes)
            if set(divisor) != {()}:
                raise ValueError(f"a size can be divided by a number only: {dim}")
            return {m: c / divisor[()] for m, c in _polynomial(left, sizes).items()}
        case DimOp(op, left, right):
            total = dict(_polynomial(left, sizes))
            for m, c in _polynomial(right, sizes).items():
                total[m] = total.get(m, Fraction(0)) + (c if op == "+" else -c)
            return {m: c for m, c in total.items() if c}


def _spell(polynomial: _Polynomial) -> Dim:
    result: Dim | None = None
    for monomial, coefficient in sorted(polynomial.items(), key=lambda item: (-len(item[0]), item[0])):
        magnitude = abs(coefficient)
        factors: list[Dim] = [*([magnitude.numerator] if magnitude.numerator != 1 or not monomial else []), *monomial]
        term: Dim = factors[0]
        for factor in factors[1:]:
            term = DimOp("*", term, factor)
        if magnitude.denominator != 1:
            term = DimOp("/", term, magnitude.denominator)
        if result is None:
            result = term if coefficient > 0 else -term if isinstance(term, int) else DimOp("*", -1, term)
        else:
            result = DimOp("+" if coefficient > 0 else "-", result, term)
    return 0 if result is None else result
