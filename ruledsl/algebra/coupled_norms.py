"""A bound on the map of coupled states, from bounds on its blocks.

The norm of a block matrix is at most that of the matrix of its blocks' norms. Two states that turn and fade together,
[[P, -Q], [Q, P]] with P = m cos(x) and Q = m sin(x) entry by entry (a complex diagonal as real and imaginary parts),
have the norm max|m| exactly.
"""

from __future__ import annotations

import math

from ruledsl.algebra import build
from ruledsl.algebra.affine import Affine, Term
from ruledsl.algebra.norms import ONE, Bound, absolute, added, term_bound
from ruledsl.algebra.scalars import MINUS, Coef
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr

TURNS = 200  # of the power iteration
MOST = 16  # states


def block_bound(scope: Scope, blocks: tuple[tuple[State, Affine], ...], states: tuple[State, ...]) -> Bound | None:
    """Of the stacked state's map; None where a term is no product or no block has a bound."""
    found: dict[tuple[State, State], list[Term]] = {}
    for target, value in blocks:
        for t in value.terms:
            if t.opaque:
                return None
            found.setdefault((target, t.marker.state), []).append(t)
    assigned = {target for target, _ in blocks}
    if (turn := _turn(scope, found, states)) is not None:
        return turn
    if len(states) > MOST:
        return None
    table = []
    for target in states:
        row = [added([term_bound(scope, t) for t in found.get((target, s), [])]) for s in states]
        table.append(row if target in assigned else [ONE if s == target else added([]) for s in states])
    norm = _spectral([[b.value for b in row] for row in table])
    if not math.isfinite(norm):
        return None
    return Bound(norm, False, "norm of [" + ", ".join(f"[{', '.join(b.text for b in row)}]" for row in table) + "]")


def _turn(scope: Scope, found: dict[tuple[State, State], list[Term]], states: tuple[State, ...]) -> Bound | None:
    if len(states) != 2 or any(len(found.get((i, j), [])) != 1 for i in states for j in states):
        return None
    (p, upper), (lower, q) = [[_entry(found[i, j][0]) for j in states] for i in states]
    if p is None or upper is None or lower is None or p != q or upper != (lower[0].times(MINUS), lower[1]):
        return None
    a, b = _polar(scope, p, "cos"), _polar(scope, lower, "sin")
    return absolute(scope, a[0]) if a is not None and a == b else None


Entry = tuple[Coef, Expr | None]


def _entry(t: Term) -> Entry | None:
    """What an entry of the state is multiplied by, where every entry goes by itself: a scalar times these entries."""
    if t.transposed or any(not isinstance(f, typed.Diag) for f in (*t.left, *t.right)):
        return None
    entries = [f.operand for f in (*t.left, *t.right) if isinstance(f, typed.Diag)]
    entries += [] if t.weight is None else [t.weight]
    return None if len(entries) > 1 else (t.coef, entries[0] if entries else None)


def _polar(scope: Scope, entry: Entry, wave: str) -> tuple[Expr, Expr] | None:
    """(m, x) of  m .* wave(x), up to sign."""
    coef, entries = entry
    if entries is None:
        return _wave(scope, coef.expr(), wave)
    return _wave(scope, entries, wave) if coef.literal in (1.0, -1.0) else None


def _wave(scope: Scope, expr: Expr, wave: str) -> tuple[Expr, Expr] | None:
    match scope.let(expr):
        case typed.Apply("neg", (x,)):
            return _wave(scope, x, wave)
        case typed.Apply("mul", (x, y)):
            for m, w in ((x, scope.let(y)), (y, scope.let(x))):
                if isinstance(w, typed.Apply) and w.fn == wave:
                    return m, w.args[0]
        case typed.Apply(fn, (x,)) if fn == wave:
            return build.ONE, x
    return None


def _spectral(m: list[list[float]]) -> float:
    """The norm of a matrix without negative entries, rounded up; by power iteration, then bounded from above
    (Collatz-Wielandt: for positive x the largest ratio (M^T M x)_i / x_i is at least the largest eigenvalue)."""
    if any(not math.isfinite(v) for row in m for v in row):
        return math.inf
    n = len(m)
    gram = [[sum(m[k][i] * m[k][j] for k in range(n)) for j in range(n)] for i in range(n)]
    x = [1.0] * n
    for _ in range(TURNS):
        y = [sum(a * b for a, b in zip(row, x, strict=True)) + 1e-12 * max(x) for row in gram]
        size = max(y)
        x = [v / size for v in y]
    above = max(sum(a * b for a, b in zip(row, x, strict=True)) / v for row, v in zip(gram, x, strict=True))
    return math.sqrt(above)
