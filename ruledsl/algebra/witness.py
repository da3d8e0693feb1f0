"""A search for tokens that make the state grow: products of 1 to 3 tokens at the edges of the declared ranges.

The linear part of each token is evaluated at small sizes; a product whose spectral radius exceeds 1 is a witness, for
those tokens repeated. A pool of tokens is tried singly, in pairs and in threes; the best sequences are then climbed,
one input of one token at a time. Undeclared inputs take tame values first, then any (`samples`). Coefficients that hold
a state of another stratum are not searched. The search is seeded and counts its evaluations: the same rule gives the
same answer.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from ruledsl.algebra.affine import Term
from ruledsl.algebra.analysis import Analysis, Part
from ruledsl.algebra.evaluate import Matrix, Unknown, matmul, spectral_radius
from ruledsl.algebra.samples import Sampler
from ruledsl.algebra.scope import Scope
from ruledsl.algebra.token_matrix import entries, token_matrix
from ruledsl.algebra.verdict import Witness
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Role

POOL = 64  # tokens, at up to 2 entries of state (eigenvalues in closed form); fewer above
ENOUGH = 2.0  # a rate that needs no further search
WORK = 1500  # of one climb: tokens times nodes evaluated; the best two climb on, four times as far
DRAWS = (2, 4)  # pools with tame inputs, then with wild ones, until one holds a witness
SQUARINGS = 7  # while climbing; the rate that is told is computed with more
MOST_ENTRIES = 24
MOST_TERMS = 40
THRESHOLD = 1.002

Token = dict[str, Any]


def growth(analysis: Analysis, part: Part, bound: Mapping[str, int]) -> Witness | None:
    """The fastest growth found, or None. `bound`: the sizes that the rule was unrolled at."""
    scope = analysis.scope
    terms = [t for s in part.steps for t in s.value.terms] + [t for _, v in part.blocks for t in v.terms]
    if any(t.opaque for t in terms) or any(scope.seen(e).every for t in terms for e in _expressions(t)):
        return None
    if len(terms) > MOST_TERMS or any(_timed(scope, e, set()) for t in terms for e in _expressions(t)):
        return None  # a sequence that depends on the position does not repeat
    sizes = {name: bound.get(name, 2) for name in analysis.rule.sizes}
    sizes |= _idle(scope, part, terms, bound)
    try:
        width = sum(entries(scope, s, sizes) for s in part.states)
    except ValueError:
        return None
    if width > MOST_ENTRIES:
        return None
    tame, wild = (Sampler(analysis.rule, sizes, random.Random(0), wild) for wild in (False, True))
    for sampler in (*[tame] * DRAWS[0], *[wild] * DRAWS[1]):
        try:
            found = _Search(scope, part, sampler, _lags(analysis.rule), width).best()
        except (Unknown, ArithmeticError, ValueError, KeyError):
            return None
        if found.rate > THRESHOLD:
            return found
    return None


class _Search:
    """Over the inputs of 1 to 3 tokens and the params, which all tokens share. With lagged inputs a sequence must
    agree with itself, so its tokens cannot be rated apart."""

    def __init__(self, scope: Scope, part: Part, sampler: Sampler, lags: list[int], width: int) -> None:
        self.scope, self.part, self.sampler, self.lags, self.width = scope, part, sampler, lags, width
        used, nodes = _used(scope, part)
        self.work = max(30, nodes + width**3)
        self.moves = [s for s in sampler.inputs if s.name in used]
        self.shared = [s for s in sampler.learned if s.name in used]

    def best(self) -> Witness:
        starts = self.starts(self.sampler.params())
        best = max((self.witness(*s) for s in starts), key=lambda w: w.rate)
        if best.rate > ENOUGH:
            return best
        budget = WORK // self.work
        rated = [(self.rate(*found), found) for found in (self.climb(*start, budget) for start in starts)]
        rated.sort(key=lambda r: r[0], reverse=True)
        climbed = [self.climb(*found, 4 * budget) for _, found in rated[:2]]
        return max([best, *(self.witness(*found) for found in climbed)], key=lambda w: w.rate)

    def starts(self, params: Token) -> list[tuple[Token, list[Token]]]:
        """The best of a pool: a single token, pairs, and the best pairs with a third."""
        pool = [self.sampler.token() for _ in range(POOL if self.width <= 2 else max(5, 32 // self.width))]
        if self.lags:
            random = self.sampler.random
            tried = [[[random.choice(pool) for _ in range(n)] for _ in pool] for n in (1, 2, 3)]
            return [(params, max(some, key=lambda tokens: self.rate(params, tokens))) for some in tried]
        maps = [self.map(params, [t], 0) for t in pool]
        numbers = range(len(pool))
        one = max(numbers, key=lambda i: spectral_radius(maps[i], SQUARINGS))
        pairs = [(spectral_radius(matmul(maps[j], maps[i]), SQUARINGS), i, j) for i in numbers for j in range(i)]
        best = sorted(pairs, reverse=True)[:3]
        chosen = [[one], *([i, j] for _, i, j in best)]
        for _, i, j in best[:2]:
            two = matmul(maps[j], maps[i])
            last = max(numbers, key=lambda k: spectral_radius(matmul(maps[k], two), SQUARINGS))
            chosen.append([i, j, last])
        return [(params, [pool[i] for i in which]) for which in chosen]

    def climb(self, params: Token, tokens: list[Token], budget: int) -> tuple[Token, list[Token]]:
        """One input of one token, or one param, is changed at a time; what does not lower the rate is kept."""
        places = [(i, s) for i in range(len(tokens)) for s in self.moves] + [(-1, s) for s in self.shared]
        if not places:
            return params, tokens
        maps = self.maps(params, tokens)
        rate = _rate(maps, SQUARINGS)
        for turn in range(budget):
            i, s = places[turn % len(places)]
            new, shared = list(tokens), params
            if i < 0:
                shared = params | {s.name: self.sampler.moved(s, params[s.name])}
            else:
                new[i] = tokens[i] | {s.name: self.sampler.moved(s, tokens[i][s.name])}
            if i < 0 or self.lags:
                there = self.maps(shared, new)
            else:
                there = [self.map(shared, new, i) if i == j else m for j, m in enumerate(maps)]
            if (found := _rate(there, SQUARINGS)) >= rate:
                params, tokens, maps, rate = shared, new, there, found
        return params, tokens

    def witness(self, params: Token, tokens: list[Token]) -> Witness:
        rate = self.rate(params, tokens, 16)
        used = {s.name for s in (*self.moves, *self.shared)}
        held = {n: v for n, v in params.items() if n in used}
        seen = tuple({n: v for n, v in t.items() if n in used} for t in tokens)
        return Witness(rate, seen, held, dict(self.sampler.sizes), self.sampler.wild)

    def rate(self, params: Token, tokens: list[Token], squarings: int = SQUARINGS) -> float:
        return _rate(self.maps(params, tokens), squarings)

    def maps(self, params: Token, tokens: list[Token]) -> list[Matrix]:
        return [self.map(params, tokens, i) for i in range(len(tokens))]

    def map(self, params: Token, tokens: list[Token], i: int) -> Matrix:
        """Of token `i` of a sequence that repeats."""
        env: dict[Any, Any] = {(n, k): v for n, v in params.items() for k in (0, *self.lags)}
        for k in (0, *self.lags):
            env |= {(n, k): v for n, v in tokens[(i - k) % len(tokens)].items()}
        return token_matrix(self.scope, self.part, env, self.sampler.sizes)


def _rate(maps: list[Matrix], squarings: int) -> float:
    """Growth per token of a sequence of maps, repeated."""
    product = maps[0]
    for m in maps[1:]:
        product = matmul(m, product)
    return float(spectral_radius(product, squarings) ** (1 / len(maps)))


def told(found: Witness) -> str:
    """The witness as a sentence."""
    count = len(found.tokens)
    tokens = "one token, repeated, grows" if count == 1 else f"{count} tokens, repeated, grow"
    rate = f"{found.rate:.3f} times" if found.rate < 1e6 else "without bound"
    edge = "undeclared inputs of any size" if found.wild else "undeclared scalars in [0, 1], vectors of norm 1"
    return f"{tokens} the state {rate} per token ({edge})"


def shown(found: Witness) -> str:
    """Its values to three figures, on one line per token and one for the params; to try it by hand."""
    sizes = ", ".join(f"{name}={value}" for name, value in found.sizes.items())
    lines = [f"token {i}: {_values(token)}" for i, token in enumerate(found.tokens, start=1)]
    lines += [f"params: {_values(found.params)}"] if found.params else []
    return "\n".join([f"{lines[0]} (at {sizes})" if sizes else lines[0], *lines[1:]])


def _values(named: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {_value(value)}" for name, value in named.items())


def _value(value: Any) -> str:
    """A scalar, a vector as its entries, a matrix or a family by rows."""
    if not isinstance(value, list):
        return f"{value:.3g}"
    flat = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in value]
    return _value(flat[0]) if len(flat) == 1 else f"({', '.join(map(_value, flat))})"


def _used(scope: Scope, part: Part) -> tuple[set[str], int]:
    """The names that the transition depends on, through lets, and the number of nodes of its coefficients."""
    names: set[str] = set()
    nodes = 0

    def visit(expr: Expr) -> None:
        nonlocal nodes
        nodes += 1
        if isinstance(expr, typed.Ref) and expr.name not in names:
            names.add(expr.name)
            if expr.role in (Role.LET, Role.OUTPUT) and expr.name in scope.lets:
                visit(scope.lets[expr.name])
        for child in typed.children(expr):
            visit(child)

    terms = [t for s in part.steps for t in s.value.terms] + [t for _, v in part.blocks for t in v.terms]
    for t in terms:
        for e in _expressions(t):
            visit(e)
    return names, nodes


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


def _expressions(t: Term) -> list[Expr]:
    atoms = [a for _, powers in t.coef.terms for a, _ in powers]
    return [*atoms, *t.left, *t.right, *([] if t.weight is None else [t.weight])]


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


def _refs(expr: Expr) -> list[typed.Ref]:
    own = [expr] if isinstance(expr, typed.Ref) else []
    return [*own, *(r for child in typed.children(expr) for r in _refs(child))]
