"""Numbers that show a "no": a token that is not affine in its state, or affine with a description that grows.

Every number comes from running the token as the rule says it (`numbers`), at the smallest sizes that show something.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruledsl.algebra.analysis import Analysis, Part
from ruledsl.algebra.evaluate import Matrix, Unknown, matmul
from ruledsl.algebra.explain.explanation import Equation, Line, Sentence
from ruledsl.algebra.explain.numbers import Env, Token, filled, small_sizes
from ruledsl.algebra.explain.writer import Writer, state_name
from ruledsl.algebra.scope import State
from ruledsl.algebra.verdict import Kind
from ruledsl.lang import typed
from ruledsl.lang.typed import Role

ENTRIES = ((1.0,), (1.0, 2.0), (2.0, 1.0, -1.0), (0.5, 1.0), (-1.0, 2.0, 1.0))  # of the inputs, turn by turn
PAIRS = ((0.0, 2.0), (1.0, 3.0), (0.0, 4.0), (-1.0, 3.0), (-4.0, 2.0))  # of the states
SIZES = (1, 2, 3, 4, 5)
GAP = 0.02
BIG = 100.0
MOST_ENTRIES = 64
TOKENS = 4
FAULTS = (Unknown, ArithmeticError, ValueError, KeyError, IndexError, AssertionError)


@dataclass(frozen=True, slots=True)
class Bend:
    """f at two values of a state and half-way between them, in one entry of one state."""

    sizes: dict[str, int]
    inputs: Env
    first: dict[State, Matrix]
    second: dict[State, Matrix]
    state: State
    entry: tuple[int, int]
    values: tuple[float, float, float]  # f(S1), f(S2), f((S1 + S2)/2)


@dataclass(frozen=True, slots=True)
class Growth:
    """Independent L (x) R terms of the products of 1, 2, ... tokens; or one term whose factor is full."""

    size: int
    terms: tuple[int, ...]
    most: int
    block: int = 0  # rank of the block off the diagonal of a token's factor, where there is one term
    which: str = ""


def bend(analysis: Analysis, part: Part, bound: dict[str, int]) -> Bend | None:
    """The first numbers, smallest sizes first, where half-way is not half-way; None if none of those tried is."""
    for number in SIZES:
        sizes = small_sizes(analysis, bound, number)
        for entries in ENTRIES:
            for low, high in PAIRS:
                try:
                    found = _bend(analysis, part, sizes, entries, low, high)
                except FAULTS:
                    continue
                if found is not None:
                    return found
    return None


def _bend(
    analysis: Analysis, part: Part, sizes: dict[str, int], entries: tuple[float, ...], low: float, high: float
) -> Bend | None:
    env = filled(analysis, sizes, lambda s, i: entries[i % len(entries)])
    if sum(len(env[n, 0, m]) * len(env[n, 0, m][0]) for n, m in part.states) > MOST_ENTRIES:
        return None
    token = Token(analysis, sizes, env)
    first = {s: _state(env, s, lambda i, j: low) for s in part.states}
    second = {s: _state(env, s, lambda i, j: high + (i + j) % 2) for s in part.states}
    middle = {s: [[(a + b) / 2 for a, b in zip(x, y, strict=True)] for x, y in zip(first[s], second[s], strict=True)] for s in part.states}  # fmt: skip
    one, two, half = token(first), token(second), token(middle)
    best: tuple[float, State, tuple[int, int]] | None = None
    for s in part.states:
        for i, row in enumerate(half[s]):
            for j, value in enumerate(row):
                a, b = one[s][i][j], two[s][i][j]
                gap = abs((a + b) / 2 - value) / max(1.0, abs(a), abs(b), abs(value))
                if gap == gap and max(abs(a), abs(b), abs(value)) < BIG and (best is None or gap > best[0]):
                    best = gap, s, (i, j)
    if best is None or best[0] < GAP:
        return None
    _, s, (i, j) = best
    return Bend(sizes, env, first, second, s, (i, j), (one[s][i][j], two[s][i][j], half[s][i][j]))


def _state(env: Env, state: State, entry: Any) -> Matrix:
    old = env[state[0], 0, state[1]]
    return [[float(entry(i, j)) for j in range(len(old[0]))] for i in range(len(old))]


def growth(analysis: Analysis, part: Part, bound: dict[str, int]) -> Growth | None:
    """Of a single matrix state; None if nothing can be shown."""
    if len(part.states) != 1 or not _is_matrix(analysis, part.states[0]):
        return None
    try:
        for size in (4, 6):
            sizes = small_sizes(analysis, bound, size)
            operators = [_operator(analysis, part, sizes, seed) for seed in range(TOKENS)]
            break
    except FAULTS:
        return None
    rows = len(operators[0][1])
    cols = len(operators[0][1][0])
    terms, product = [], None
    for m, _ in operators:
        product = m if product is None else matmul(m, product)
        terms.append(rank(_rearranged(product, rows, cols)))
    if set(terms) != {1}:
        return Growth(size, tuple(terms), min(rows * rows, cols * cols))
    m = operators[0][0]
    right = [[m[c][d] for d in range(cols)] for c in range(cols)]
    left = [[m[i * cols][r * cols] for r in range(rows)] for i in range(rows)]
    blocks = {
        which: rank([row[len(f) // 2 :] for row in f[: len(f) // 2]]) for which, f in (("right", right), ("left", left))
    }
    which = max(blocks, key=lambda k: blocks[k])
    return Growth(size, tuple(terms), min(rows * rows, cols * cols), blocks[which], which)


def _is_matrix(analysis: Analysis, state: State) -> bool:
    type = analysis.scope.symbols[state[0]].type
    return type.rows != 1 and type.cols != 1


def _operator(analysis: Analysis, part: Part, sizes: dict[str, int], seed: int) -> tuple[Matrix, Matrix]:
    """The linear part of a token on the state's entries, row by row; and a state, for its shape."""
    source = random.Random(seed)
    env = filled(analysis, sizes, lambda s, i: _drawn(s, source))
    token, (state,) = Token(analysis, sizes, env), part.states
    shape = env[state[0], 0, state[1]]
    n, width = len(shape) * len(shape[0]), len(shape[0])

    def run(hot: int) -> list[float]:
        return [v for r in token({state: _state(env, state, lambda i, j: i * width + j == hot)})[state] for v in r]

    zero = run(-1)
    columns = [[a - b for a, b in zip(run(k), zero, strict=True)] for k in range(n)]
    assert n == len(shape) * width
    return [list(r) for r in zip(*columns, strict=True)], shape


def _drawn(s: typed.Symbol, source: random.Random) -> float:
    low, high = (-1.0, 1.0) if s.interval is None else (max(s.interval.low, -2.0), min(s.interval.high, 2.0))
    return source.uniform(low, high)


def _rearranged(m: Matrix, rows: int, cols: int) -> Matrix:
    """Entries ordered by (row to row, column to column): its rank is the number of L (x) R terms."""
    return [
        [m[i * cols + j][r * cols + c] for j in range(cols) for c in range(cols)]
        for i in range(rows)
        for r in range(rows)
    ]


def rank(m: Matrix) -> int:
    """By elimination, with a relative tolerance."""
    m, found = [list(r) for r in m], 0
    scale = max((abs(v) for r in m for v in r), default=0.0)
    for c in range(len(m[0]) if m else 0):
        pivot = max(range(found, len(m)), key=lambda i: abs(m[i][c]), default=None)
        if pivot is None or abs(m[pivot][c]) <= 1e-9 * scale:
            continue
        m[found], m[pivot] = m[pivot], m[found]
        for i in range(found + 1, len(m)):
            f = m[i][c] / m[found][c]
            m[i] = [a - f * b for a, b in zip(m[i], m[found], strict=True)]
        found += 1
        if found == len(m):
            break
    return found


# ------------------------------------------------------------------------------------------------ as text


def counterexample(w: Writer) -> Iterator[Line]:
    """Of every stratum whose verdict is a no."""
    for part, stratum in zip(w.analysis.parts, w.verdict.strata, strict=True):
        match stratum.kind:
            case Kind.SEQUENTIAL | Kind.UNDECIDED if part.found is None:
                found = bend(w.analysis, part, w.verdict.sizes)
                if found is not None:
                    yield from _bent(w, part, found, stratum.kind)
            case Kind.DENSE:
                grown = growth(w.analysis, part, w.verdict.sizes)
                if grown is not None:
                    yield from _grown(w, part.states[0], grown)


def _bent(w: Writer, part: Part, found: Bend, kind: Kind) -> Iterator[Line]:
    given = _given(w, part, found)
    start = (
        "one token as a function f of its state, with " + ", ".join(given)
        if given
        else "one token as a function f of its state"
    )
    yield Sentence(start + ":")
    names = [w.own(s) for s in part.states]
    x = state_name(part.states[0]) if len(names) == 1 and names[0].isalpha() else "X"
    x1, x2 = (w.name(x, str(k)) for k in (1, 2))
    value = found.first[found.state]
    entry = "" if len(value) == len(value[0]) == 1 else f", entry ({found.entry[0] + 1}, {found.entry[1] + 1})"
    of = f": the new {w.inline(w.own(found.state))}{entry}" if len(names) > 1 or entry else ""
    middle = {s: [[(a + b) / 2 for a, b in zip(p, q, strict=True)] for p, q in zip(found.first[s], found.second[s], strict=True)] for s in part.states}  # fmt: skip
    one, two, half = found.values
    yield Equation(f"f({x1})", number(one), "=", _where(w, part, found.first) + of)
    yield Equation(f"f({x2})", number(two), "=", _where(w, part, found.second) + of)
    yield Equation(f"(f({x1}) + f({x2}))/2", number((one + two) / 2), "=", "what an affine map gives half-way")
    yield Equation(f"f(({x1} + {x2})/2)", number(half), "=", _where(w, part, middle))
    if kind is Kind.UNDECIDED:
        inside = w.inline(", ".join(names))
        yield Sentence(
            f"so the token is not affine in {inside}; whether a change of variables makes it so is not decided"
        )


def _where(w: Writer, part: Part, values: dict[State, Matrix]) -> str:
    return ", ".join(w.inline(f"{w.own(s)} = {_pattern(values[s])}") for s in part.states)


def _pattern(value: Matrix) -> str:
    """The matrix; of a large one its rule."""
    if sum(map(len, value)) <= 9:
        return shown(value)
    low, high = min(min(r) for r in value), max(max(r) for r in value)
    return (
        f"{number(low)} everywhere" if low == high else f"{number(low)} where row + column is even, else {number(high)}"
    )


def _given(w: Writer, part: Part, found: Bend) -> list[str]:
    """The values that the stratum's assignments use."""
    used = {name for s in part.states for a in w.scope.assigns.get(s, ()) for name in _names(w, a.value, set())}
    out = []
    if found.sizes:
        by: dict[int, list[str]] = {}
        for name, size in found.sizes.items():
            by.setdefault(size, []).append(name)
        out += [w.inline(" = ".join(names) + f" = {size}") for size, names in by.items()]
    for s in w.analysis.rule.symbols:
        if s.name not in used or (s.role is Role.STATE and any(s.name == n for n, _ in part.states)):
            continue
        value = found.inputs.get((s.name, 0), found.inputs.get((s.name, 0, None)))
        if value is not None and not (s.role is Role.CONST and s.init is not None):
            out.append(w.inline(f"{w.name(s.name)} = {shown(value)}"))
    return out


def _names(w: Writer, expr: typed.Expr, visited: set[str]) -> Iterator[str]:
    if isinstance(expr, typed.Ref | typed.StateRef):
        yield expr.name
        if expr.name in w.scope.lets and expr.name not in visited:
            visited.add(expr.name)
            yield from _names(w, w.scope.lets[expr.name], visited)
    for c in typed.children(expr):
        yield from _names(w, c, visited)


def _grown(w: Writer, state: State, found: Growth) -> Iterator[Line]:
    own = w.inline(w.own(state))
    at = f"all sizes {found.size}, random inputs"
    if found.which:
        half = found.size // 2
        yield Sentence(
            f"{at}: one term L {state_name(state)} R, but the {half} x {half} block off the diagonal of its {found.which} factor"
            f" has rank {found.block}, as high as it can be: the factor of {own} is a full matrix from the first token on"
        )
        return
    counts = ", ".join(map(str, found.terms))
    yield Sentence(
        f"{at}: written as a sum of L {state_name(state)} R, the product of 1, 2, 3, 4 tokens needs {counts} independent terms"
        f" (at most {found.most} at this size)"
    )
    if len(set(found.terms)) == 1:
        yield Sentence(
            "the number does not grow at this size; what is claimed is that no description of constant size was found"
        )


def shown(value: Any) -> str:
    """A matrix as a number, a list or a list of rows."""
    if isinstance(value, list) and value and isinstance(value[0], list) and value[0] and isinstance(value[0][0], list):
        return "[" + ", ".join(map(shown, value)) + "]"
    if len(value) == 1 and len(value[0]) == 1:
        return number(value[0][0])
    if len(value[0]) == 1:
        return "[" + ", ".join(number(r[0]) for r in value) + "]"
    return "[" + ", ".join("[" + ", ".join(map(number, r)) + "]" for r in value) + "]"


def number(x: float) -> str:
    return f"{x:.4g}" if x else "0"
