"""One token on small numbers that can be checked by hand: values for the inputs, and what becomes of the states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ruledsl.algebra import build
from ruledsl.algebra.analysis import Analysis
from ruledsl.algebra.evaluate import Matrix, Unknown, evaluate
from ruledsl.algebra.linear import step_back
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Ref, Role, Type, dim_value

Env = dict[Any, Any]


class Token:
    """The rule's token at given sizes and inputs, as a function of some of its states."""

    def __init__(self, analysis: Analysis, sizes: Mapping[str, int], env: Env) -> None:
        self.sizes, self.env = sizes, env
        self.body = [(s, _looked_back(analysis.scope, s.value)) for s in analysis.rule.body if not isinstance(s, typed.For)]  # fmt: skip

    def __call__(self, states: Mapping[State, Matrix]) -> dict[State, Matrix]:
        """Raises Unknown and ArithmeticError."""
        env: Env = dict(self.env)
        for (name, member), given in states.items():
            env[name, 0, member] = given
        last: dict[State, int] = {}
        for s, value in self.body:
            if isinstance(s, typed.Output):
                continue  # what a later token reads of it is looked up as written
            found = evaluate(value, env, {}, self.sizes)
            if isinstance(s, typed.Let):
                env[s.name, 0] = found
                continue
            state = s.state, None if s.member is None else int(build.value_of(s.member) or 0)
            last[state] = last.get(state, 0) + 1
            old = env[s.state, 0, state[1]]
            spread = [[found[0][0]] * len(old[0]) for _ in old] if len(found) == len(found[0]) == 1 else found
            env[s.state, last[state], state[1]] = spread
        return {s: env[s[0], last.get(s, 0), s[1]] for s in states}


def _looked_back(scope: Scope, expr: Expr) -> Expr:
    """A let or output of the token before as what it was then, over the states as this token begins."""
    match expr:
        case Ref(name, Role.LET | Role.OUTPUT, _, lag) if lag is not None and scope.seen(expr).every:
            found = step_back(scope, scope.lets[name]) if build.value_of(lag) == 1 else None
            if found is None:
                raise Unknown(name)
            return found
        case Ref(name, Role.OUTPUT, _, None):
            return _looked_back(scope, scope.lets[name])
    return build.rebuild(expr, lambda e: _looked_back(scope, e))


def small_sizes(analysis: Analysis, bound: Mapping[str, int], number: int) -> dict[str, int]:
    return {name: bound.get(name, number) for name in analysis.rule.sizes}


def filled(analysis: Analysis, sizes: Mapping[str, int], pick: Callable[[typed.Symbol, int], float]) -> Env:
    """A value for everything that is given: `pick` says the n-th entry of a symbol. Earlier tokens have the same."""
    env: Env = {("t", 0): 1.0, ("head", 0): 0.0, ("heads", 0): 1.0}
    lags = {int(build.value_of(e.lag) or 0) for s in analysis.rule.body for e in _refs(s.value) if e.lag is not None}  # type: ignore[union-attr]
    for s in analysis.rule.symbols:
        members = range(1, dim_value(s.type.family[0], sizes) + 1) if s.type.family else (None,)
        if s.role is Role.STATE:
            for member in members:
                env[s.name, 0, member] = _matrix(s, s.type, sizes, pick)
            continue
        if s.role is Role.CONST and s.init is not None:
            value: Any = evaluate(s.init, env, {}, sizes)
        else:
            value = _family(s, s.type, sizes, pick)
        for lag in {0, *lags}:
            env[s.name, lag] = value
    return env


def _family(s: typed.Symbol, type: Type, sizes: Mapping[str, int], pick: Callable[[typed.Symbol, int], float]) -> Any:
    if type.family:
        return [_family(s, type.member, sizes, pick) for _ in range(dim_value(type.family[0], sizes))]
    return _matrix(s, type, sizes, pick)


def _matrix(
    s: typed.Symbol, type: Type, sizes: Mapping[str, int], pick: Callable[[typed.Symbol, int], float]
) -> Matrix:
    rows, cols = dim_value(type.rows, sizes), dim_value(type.cols, sizes)
    if s.perm:
        return [[float((i + 1) % rows == j) for j in range(cols)] for i in range(rows)]
    if s.unit:
        pythagoras = [0.6, 0.8] if rows > 1 else [1.0]
        return [[pythagoras[i] if i < len(pythagoras) else 0.0] for i in range(rows)]
    return [[_inside(s, pick(s, i * cols + j)) for j in range(cols)] for i in range(rows)]


def _inside(s: typed.Symbol, wanted: float) -> float:
    """The wanted number, or a plain one within the declared range."""
    x = s.interval
    if x is None:
        return wanted
    for v in (wanted, 0.5, 1.0, -1.0, 2.0, -2.0, (x.low + x.high) / 2, x.low + 1, x.high - 1):
        if (x.low < v or x.low == v and not x.low_open) and (v < x.high or v == x.high and not x.high_open):
            return v
    return wanted


def _refs(expr: Expr) -> list[Ref]:
    out = [expr] if isinstance(expr, Ref) else []
    for c in typed.children(expr):
        out += _refs(c)
    return out
