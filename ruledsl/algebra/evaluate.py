"""Typed expressions on small matrices of Python floats, for witnesses: one token at given sizes.

A matrix is a list of rows; a vector has one column, a scalar is 1 x 1. Names come from `env` as `(name, lag)`, or as
`(name, version, member)` for states, `(name, -1)` for frozen ones; a family is a list of members. The values of lets
are added to `env`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

from ruledsl.lang import typed
from ruledsl.lang.functions import TABLE
from ruledsl.lang.typed import Expr, Role, dim_value

Matrix = list[list[float]]
ROW_EPS = {"layernorm": 1e-5, "rmsnorm": 1e-5, "unit": 1e-6}
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b, ">": lambda a, b: a > b, "<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b, "==": lambda a, b: a == b,
}  # fmt: skip


class Unknown(Exception):
    """The environment has no value, or the node none here."""


def evaluate(expr: Expr, env: dict[Any, Any], lets: Mapping[str, Expr], sizes: Mapping[str, int]) -> Matrix:
    def go(e: Expr) -> Matrix:
        return evaluate(e, env, lets, sizes)

    shape = expr.type
    rows = shape.rows if isinstance(shape.rows, int) else dim_value(shape.rows, sizes)
    cols = shape.cols if isinstance(shape.cols, int) else dim_value(shape.cols, sizes)
    match expr:
        case typed.Number(value):
            return [[value]]
        case typed.SizeOf(dim):
            return [[float(dim_value(dim, sizes))]]
        case typed.Builtin(name):
            return [[float(env.get((name, 0), 1 if name == "heads" else 0))]]
        case typed.Ref(name, Role.LET | Role.OUTPUT, _, None) if name in lets and (name, 0) not in env:
            env[name, 0] = go(lets[name])  # once per token
            return cast(Matrix, env[name, 0])
        case typed.Ref(name, _, _, lag):
            return cast(Matrix, _look(env, (name, 0 if lag is None else int(go(lag)[0][0]))))
        case typed.StateRef(name, _, version, member):
            return cast(Matrix, _look(env, (name, version, member)))
        case typed.Frozen(name):
            return cast(Matrix, _look(env, (name, -1)))
        case typed.Member(base, index):
            i = int(go(index)[0][0])
            if base.type.family:
                assert isinstance(base, typed.Ref)
                back = 0 if base.lag is None else int(go(base.lag)[0][0])
                return cast(Matrix, _look(env, (base.name, back))[i - 1])
            return [go(base)[i - 1]]
        case typed.Compare(op, x, y):
            return _map(lambda a, b: float(_COMPARE[op](a, b)), rows, cols, go(x), go(y))
        case typed.Apply("where", (test, x, y)):
            return _map(lambda c, a, b: a if c else b, rows, cols, go(test), go(x), go(y))
        case typed.Apply(fn, args):
            row = TABLE[fn].python
            if row is None:
                raise Unknown(fn)
            return _map(row, rows, cols, *map(go, args))
        case typed.RowWise(fn, x):
            return _rowwise(expr, fn, go(x), None if expr.count is None else int(go(expr.count)[0][0]))
        case typed.Reduce("sum", x):
            return [[sum(map(sum, go(x)))]]
        case typed.Reduce("trace", x):
            return [[sum(r[i] for i, r in enumerate(go(x)))]]
        case typed.Product(x, y):
            return matmul(go(x), go(y))
        case typed.Transpose(x):
            return [list(r) for r in zip(*go(x), strict=True)]
        case typed.Diag(x):
            return [[v[0] if i == j else 0.0 for j in range(rows)] for i, v in enumerate(go(x))]
        case typed.Eye():
            return [[float(i == j) for j in range(cols)] for i in range(rows)]
        case typed.Ones():
            return [[1.0] * cols for _ in range(rows)]
        case typed.Concat(parts):
            return [r for p in parts for r in go(p)]
        case typed.Kron(x, y):
            return [[a[0] * b[0]] for a in go(x) for b in go(y)]
        case typed.Rotate(x, angle):
            return _rotate(go(x), [r[0] for r in go(angle)])
        case typed.Solve(matrix, right):
            return solve(go(matrix), go(right))
    raise Unknown(type(expr).__name__)


def _look(env: Mapping[Any, Any], key: Any) -> Any:
    if key not in env:
        raise Unknown(str(key))
    return env[key]


def _map(fn: Callable[..., float], rows: int, cols: int, *args: Matrix) -> Matrix:
    def at(m: Matrix, i: int, j: int) -> float:
        return m[i if len(m) > 1 else 0][j if len(m[0]) > 1 else 0]

    if rows == cols == 1:
        return [[fn(*(m[0][0] for m in args))]]
    return [[fn(*(at(m, i, j) for m in args)) for j in range(cols)] for i in range(rows)]


def _rowwise(expr: Expr, fn: str, x: Matrix, count: int | None) -> Matrix:
    column = expr.type.cols == 1
    out = [_one_row(fn, r, count) for r in ([[r[0] for r in x]] if column else x)]
    return [[v] for v in out[0]] if column else out


def _one_row(fn: str, x: list[float], count: int | None) -> list[float]:
    n = len(x)
    match fn:
        case "softmax":
            e = [math.exp(v - max(x)) for v in x]
            return [v / sum(e) for v in e]
        case "topk":
            best = sorted(range(n), key=lambda i: -x[i])[:count]
            return [float(i in best) for i in range(n)]
        case "layernorm":
            mean = sum(x) / n
            x = [v - mean for v in x]
    square = sum(v * v for v in x) / (1 if fn == "unit" else n)
    scale = 1 / math.sqrt(square + ROW_EPS[fn])
    return [v * scale for v in x]


def _rotate(x: Matrix, angle: list[float]) -> Matrix:
    out = [list(r) for r in x]
    for i, a in enumerate(angle):
        c, s = math.cos(a), math.sin(a)
        for j in range(len(x[0])):
            u, v = x[2 * i][j], x[2 * i + 1][j]
            out[2 * i][j], out[2 * i + 1][j] = c * u - s * v, s * u + c * v
    return out


def matmul(x: Matrix, y: Matrix) -> Matrix:
    columns = list(zip(*y, strict=True))
    return [[sum(a * b for a, b in zip(r, c, strict=True)) for c in columns] for r in x]


def solve(a: Matrix, b: Matrix) -> Matrix:
    """Gaussian elimination with partial pivoting."""
    n = len(a)
    m = [list(r) + list(s) for r, s in zip(a, b, strict=True)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda k: abs(m[k][i]))
        m[i], m[pivot] = m[pivot], m[i]
        for k in range(n):
            if k != i:
                f = m[k][i] / m[i][i]
                m[k] = [u - f * v for u, v in zip(m[k], m[i], strict=True)]
    return [[v / m[i][i] for v in m[i][n:]] for i in range(n)]


def spectral_radius(m: Matrix, squarings: int = 16) -> float:
    """In closed form up to 2 x 2, else from the norm of m^(2^squarings), by squaring."""
    if len(m) == 1:
        return abs(m[0][0])
    if len(m) == 2:
        half, det = (m[0][0] + m[1][1]) / 2, m[0][0] * m[1][1] - m[0][1] * m[1][0]
        inside = half * half - det
        return abs(half) + math.sqrt(inside) if inside >= 0 else math.sqrt(max(det, 0.0))
    log = 0.0
    for _ in range(squarings):
        size = max(abs(v) for r in m for v in r)
        if size == 0:
            return 0.0
        if not math.isfinite(size):
            return math.inf
        m = [[v / size for v in r] for r in m]
        log = 2 * (log + math.log(size))
        m = matmul(m, m)
    size = max(abs(v) for r in m for v in r)
    return math.exp((log + math.log(size)) / 2**squarings) if size else 0.0
