"""The linear part of a token as a matrix of floats, at given sizes and inputs: rows and columns are the entries of the
stratum's states, stacked in the stratum's order, each state row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ruledsl.algebra.affine import Affine, Term
from ruledsl.algebra.analysis import Part
from ruledsl.algebra.evaluate import Matrix, evaluate, matmul
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang.typed import Expr, Type, dim_value


def token_matrix(scope: Scope, part: Part, env: dict[Any, Any], sizes: Mapping[str, int]) -> Matrix:
    """`env` as for `evaluate`, which raises what this raises; it is filled with the values of lets."""
    order = list(part.states)
    if part.blocks:
        return _matrix(scope, order, dict(part.blocks), env, sizes)
    state = part.states[0]
    out: Matrix | None = None
    for step in part.steps:
        m = _matrix(scope, order, {state: step.value}, env, sizes)
        out = m if out is None else matmul(m, out)
    if out is None:
        n = entries(scope, state, sizes)
        out = [[float(i == j) for j in range(n)] for i in range(n)]
    return out


def entries(scope: Scope, state: State, sizes: Mapping[str, int]) -> int:
    """How many numbers a state has. Raises ValueError for a size that is not whole."""
    type = scope.symbols[state[0]].type
    return dim_value(type.rows, sizes) * dim_value(type.cols, sizes)


def _matrix(
    scope: Scope, order: list[State], values: Mapping[State, Affine], env: dict[Any, Any], sizes: Mapping[str, int]
) -> Matrix:
    widths = [entries(scope, s, sizes) for s in order]
    starts = [sum(widths[:i]) for i in range(len(order))]
    n = sum(widths)
    out = [[0.0] * n for _ in range(n)]
    for i, target in enumerate(order):
        if target not in values:
            for k in range(widths[i]):
                out[starts[i] + k][starts[i] + k] = 1.0
            continue
        for t in values[target].terms:
            j = order.index(t.marker.state)
            for row, column, value in _term(scope, t, env, sizes):
                out[starts[i] + row][starts[j] + column] += value
    return out


def _term(scope: Scope, t: Term, env: dict[Any, Any], sizes: Mapping[str, int]) -> Iterator[tuple[int, int, float]]:
    """Entries (row, column, value) of vec(X) -> vec(coef L (W .* X^tau) R), row-major."""

    def value(e: Expr) -> Matrix:
        return evaluate(e, env, scope.lets, sizes)

    type = t.marker.type if not t.transposed else Type(t.marker.type.cols, t.marker.type.rows)
    rows, cols = dim_value(type.rows, sizes), dim_value(type.cols, sizes)
    coef = value(t.coef.expr())[0][0]
    left = _chain([value(f) for f in t.left], rows)
    right = _chain([value(f) for f in t.right], cols)
    weight = None if t.weight is None else value(t.weight)
    width = len(right[0])
    for i, row in enumerate(left):
        for r in range(rows):
            for c in range(cols):
                for j in range(width):
                    v = coef * row[r] * right[c][j] * (1.0 if weight is None else weight[r][c])
                    if v:
                        source = c * rows + r if t.transposed else r * cols + c
                        yield i * width + j, source, v


def _chain(factors: list[Matrix], n: int) -> Matrix:
    out = [[float(i == j) for j in range(n)] for i in range(n)]
    for i, f in enumerate(factors):
        out = f if i == 0 else matmul(out, f)
    return out
