"""A search for tokens that make the state grow: products of 1 to 3 tokens at the edges of the declared ranges.

The linear part of each token is evaluated at small sizes; a product whose spectral radius exceeds 1 is a witness, for
those tokens repeated. Undeclared inputs take tame values first (scalars in [0, 1], vectors of norm at most 1), then
any. Coefficients that hold a state of another stratum are not searched. The search is seeded: the same rule gives the
same answer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from ruledsl.algebra.affine import Affine, Term
from ruledsl.algebra.analysis import Analysis, Part
from ruledsl.algebra.evaluate import Matrix, Unknown, evaluate, matmul, spectral_radius
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Interval, Role, Type, dim_value

POOL = 32  # tokens, at up to 2 entries of state (eigenvalues in closed form); fewer above
DRAWS = 3  # of the params
ENOUGH = 1.1
MOST_ENTRIES = 24
MOST_TERMS = 40
THRESHOLD = 1.002
NUDGE = 1e-3


def growth(analysis: Analysis, part: Part, bound: Mapping[str, int]) -> str | None:
    """A sentence that names the growth per token, or None. `bound`: the sizes that the rule was unrolled at."""
    scope = analysis.scope
    terms = [t for s in part.steps for t in s.value.terms] + [t for _, v in part.blocks for t in v.terms]
    if any(t.opaque for t in terms) or any(scope.seen(e).every for t in terms for e in _expressions(t)):
        return None
    if len(terms) > MOST_TERMS or any(_timed(scope, e, set()) for t in terms for e in _expressions(t)):
        return None  # a sequence that depends on the position does not repeat
    sizes = {name: bound.get(name, 2) for name in analysis.rule.sizes}
    sizes |= _idle(scope, part, terms, bound)
    try:
        entries = sum(_entries(scope, s, sizes) for s in part.states)
    except ValueError:
        return None
    if entries > MOST_ENTRIES:
        return None
    pool = POOL if entries <= 2 else max(5, 32 // entries)
    for wild in (False, True):
        sampler = _Sampler(analysis.rule, sizes, random.Random(0), wild)
        best = (0.0, 1)
        try:
            for _ in range(DRAWS):
                best = max(best, _search(scope, part, sampler, _lags(analysis.rule), pool), key=lambda b: b[0])
                if best[0] > ENOUGH:
                    break
        except (Unknown, ArithmeticError, ValueError, KeyError):
            return None
        rate, count = best
        if rate > THRESHOLD:
            tokens = "one token, repeated, grows" if count == 1 else f"{count} tokens, repeated, grow"
            edge = "with undeclared inputs outside [0, 1] or of norm above 1" if wild else "at the edges of the ranges"
            return f"{tokens} the state {_factor(rate)} per token ({edge})"
    return None


def _search(scope: Scope, part: Part, sampler: _Sampler, lags: list[int], pool: int) -> tuple[float, int]:
    """The fastest growth per token and its number of tokens, for one draw of the params: all tokens of a pool, all
    pairs, and the best pairs with a third. With lagged inputs a sequence must agree with itself, so fewer are tried."""
    params = sampler.params()
    if lags:
        return max(
            (
                (_rate(_sequence(scope, part, params, [sampler.token() for _ in range(n)], lags, sampler.sizes), n), n)
                for n in (1, 2, 3)
                for _ in range(pool // 2)
            ),
            key=lambda r: r[0],
        )
    tokens = [_sequence(scope, part, params, [sampler.token()], [], sampler.sizes) for _ in range(pool)]
    found = [(_rate(m, 1), 1) for m in tokens]
    pairs = [matmul(m, n) for i, m in enumerate(tokens) for n in tokens[:i]]
    rated = sorted(((_rate(m, 2), i) for i, m in enumerate(pairs)), reverse=True)
    found += [(rate, 2) for rate, _ in rated[:1]]
    found += [(_rate(matmul(pairs[i], m), 3), 3) for _, i in rated[:4] for m in tokens]
    return max(found, key=lambda r: r[0])


def _rate(product: Matrix, count: int) -> float:
    return float(spectral_radius(product) ** (1 / count))


def _sequence(
    scope: Scope,
    part: Part,
    params: dict[str, Any],
    tokens: list[dict[str, Any]],
    lags: list[int],
    sizes: Mapping[str, int],
) -> Matrix:
    """The map of a sequence that repeats."""
    product: Matrix | None = None
    for i in range(len(tokens)):
        env: dict[Any, Any] = {(n, k): v for n, v in params.items() for k in (0, *lags)}
        for k in (0, *lags):
            env |= {(n, k): v for n, v in tokens[(i - k) % len(tokens)].items()}
        m = _token(scope, part, env, sizes)
        product = m if product is None else matmul(m, product)
    assert product is not None
    return product


def _idle(scope: Scope, part: Part, terms: list[Term], bound: Mapping[str, int]) -> dict[str, int]:
    """Sizes for which 1 shows everything: rows that nothing acts on, columns that nothing acts on, both where every
    entry goes by itself."""
    types = [scope.symbols[name].type for name, _ in part.states]
    if any(t.transposed for t in terms):
        return {}
    entrywise = all(isinstance(f, typed.Diag) for t in terms for f in (*t.left, *t.right))
    whole = any(t.weight is not None for t in terms) and not entrywise
    rows = {t.rows for t in types} if entrywise or not (whole or any(t.left for t in terms)) else set()
    cols = {t.cols for t in types} if entrywise or not (whole or any(t.right for t in terms)) else set()
    kept = set() if entrywise else {t.rows for t in types} - rows | {t.cols for t in types} - cols
    return {d: 1 for d in (rows | cols) - kept if isinstance(d, str) and d not in bound}


def _factor(rate: float) -> str:
    return f"{rate:.3f} times" if rate < 1e6 else "without bound"


def _expressions(t: Term) -> list[Expr]:
    atoms = [a for _, powers in t.coef.terms for a, _ in powers]
    return [*atoms, *t.left, *t.right, *([] if t.weight is None else [t.weight])]


# ------------------------------------------------------------------------------------------------ the map as a matrix


def _token(scope: Scope, part: Part, env: dict[Any, Any], sizes: Mapping[str, int]) -> Matrix:
    """The token's linear part on the stacked entries of the stratum's states."""
    order = list(part.states)
    if part.blocks:
        return _matrix(scope, order, dict(part.blocks), env, sizes)
    state = part.states[0]
    out: Matrix | None = None
    for step in part.steps:
        m = _matrix(scope, order, {state: step.value}, env, sizes)
        out = m if out is None else matmul(m, out)
    if out is None:
        n = _entries(scope, state, sizes)
        out = [[float(i == j) for j in range(n)] for i in range(n)]
    return out


def _entries(scope: Scope, state: State, sizes: Mapping[str, int]) -> int:
    type = scope.symbols[state[0]].type
    return dim_value(type.rows, sizes) * dim_value(type.cols, sizes)


def _matrix(
    scope: Scope, order: list[State], values: Mapping[State, Affine], env: dict[Any, Any], sizes: Mapping[str, int]
) -> Matrix:
    widths = [_entries(scope, s, sizes) for s in order]
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


# ------------------------------------------------------------------------------------------------ samples


class _Sampler:
    """Values for inputs, params and consts."""

    def __init__(self, rule: typed.Rule, sizes: Mapping[str, int], source: random.Random, wild: bool) -> None:
        self.sizes, self.random, self.wild = sizes, source, wild
        self.inputs = rule.of(Role.INPUT)
        self.learned = [s for role in (Role.PARAM, Role.CONST) for s in rule.of(role) if s.init is None]
        self.given = {
            s.name: evaluate(s.init, {("head", 0): 0}, {}, sizes) for s in rule.of(Role.CONST) if s.init is not None
        }

    def token(self) -> dict[str, Any]:
        return {s.name: self.family(s) for s in self.inputs}

    def params(self) -> dict[str, Any]:
        return self.given | {s.name: self.family(s) for s in self.learned}

    def family(self, s: typed.Symbol, dims: tuple[typed.Dim, ...] | None = None) -> Any:
        dims = s.type.family if dims is None else dims
        if dims:
            return [self.family(s, dims[1:]) for _ in range(dim_value(dims[0], self.sizes))]
        rows, cols = dim_value(s.type.rows, self.sizes), dim_value(s.type.cols, self.sizes)
        if s.perm:
            order = list(range(rows))
            self.random.shuffle(order)
            return [[float(order[i] == j) for j in range(cols)] for i in range(rows)]
        if s.unit or (s.interval is None and not s.type.is_scalar):
            return self.direction(rows, cols, 1.0 if s.unit else 4.0 if self.wild else 1.0)
        return [[self.entry(s.interval) for _ in range(cols)] for _ in range(rows)]

    def direction(self, rows: int, cols: int, size: float) -> Matrix:
        """Of norm `size`, sometimes along an axis."""
        values = [[self.random.gauss(0, 1) for _ in range(cols)] for _ in range(rows)]
        if size > 1 and self.random.random() < 0.5:  # saturates what a gate squashes
            return [[self.random.choice((-12.0, -1.0, 1.0, 12.0)) for _ in range(cols)] for _ in range(rows)]
        if self.random.random() < 0.3:
            values = [[float(i == 0 and j == 0) for j in range(cols)] for i in range(rows)]
        norm = math.sqrt(sum(v * v for r in values for v in r)) or 1.0
        return [[v * size / norm for v in r] for r in values]

    def entry(self, x: Interval | None) -> float:
        if x is None:
            return (
                self.random.choice((-3.0, -1.0, 0.5, 1.0, 3.0))
                if self.wild
                else self.random.choice((0.0, 0.5, 1.0, self.random.random()))
            )
        low = x.low if math.isfinite(x.low) else min(-10.0, x.high - 10)
        high = x.high if math.isfinite(x.high) else max(10.0, x.low + 10)
        span = (high - low) * NUDGE
        low, high = low + span * x.low_open, high - span * x.high_open
        return self.random.choice((low, high, self.random.uniform(low, high)))


def _timed(scope: Scope, expr: Expr, visited: set[str]) -> bool:
    match expr:
        case typed.Builtin("t"):
            return True
        case typed.Ref(name, Role.LET | Role.OUTPUT) if name in scope.lets and name not in visited:
            visited.add(name)
            return _timed(scope, scope.lets[name], visited)
    return any(_timed(scope, c, visited) for c in typed.children(expr))


def _lags(rule: typed.Rule) -> list[int]:
    return sorted(
        {
            int(e.lag.value)
            for s in rule.body
            if not isinstance(s, typed.For)
            for e in _refs(s.value)
            if isinstance(e.lag, typed.Number)
        }
    )


def _refs(expr: Expr) -> Iterator[typed.Ref]:
    if isinstance(expr, typed.Ref):
        yield expr
    for child in typed.children(expr):
        yield from _refs(child)
