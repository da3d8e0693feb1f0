"""A stratum that is not affine: a change of variables if a recogniser knows one, else whom to blame."""

from __future__ import annotations

from ruledsl.algebra.analysis import Analysis, Part
from ruledsl.algebra.reparam import change_of_variables
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.through import through
from ruledsl.algebra.verdict import Kind, Stratum
from ruledsl.lang import typed
from ruledsl.lang.source import Span
from ruledsl.lang.typed import Expr, Role

# Entry by entry, maps made of these alone may stay in a small family, though no recogniser found it.
MAY_COMPOSE = frozenset(
    {"max", "min", "relu", "abs", "log", "exp", "logaddexp", "softplus", "logsigmoid", "pow", "sqrt", "div"}
)
RATIONAL = frozenset({"add", "sub", "neg", "mul", "div", "pow", "where", "stopgrad"})


def broken(analysis: Analysis, part: Part, names: tuple[str, ...]) -> Stratum:
    failure, scope = part.failure, analysis.scope
    assert failure is not None
    if (change := change_of_variables(scope, part.states)) is not None:
        return Stratum(names, Kind.REPARAMETRISED, change.name, change.reason)
    source = analysis.rule.source.slice(failure.span)
    quoted = f"`{source}`: " if source else ""
    why = "its gradient is not linear in the state" if _in_a_loss(analysis.written, failure.span) else failure.why
    why += through(analysis, part.states, failure.span)
    shape = jacobian(scope, part.states)
    structure = f"{shape} Jacobian"
    reason = f"{quoted}{why}; the token's Jacobian is {shape}"
    if may_compose(scope, part.states, shape):
        return Stratum(
            names,
            Kind.UNDECIDED,
            structure,
            f"{reason}; no change of variables known to the checker was found",
            failure.span,
        )
    return Stratum(names, Kind.SEQUENTIAL, structure, reason, failure.span)


def _in_a_loss(rule: typed.Rule, span: Span) -> bool:
    """Whether the place is inside what some grad differentiates."""
    lets = {s.name: s.value for s in rule.body if isinstance(s, typed.Let | typed.Output)}

    def visit(expr: Expr, inside: bool) -> bool:
        if inside and expr.span == span:
            return True
        if inside and isinstance(expr, typed.Ref) and expr.name in lets:
            return visit(lets.pop(expr.name), True)
        return any(visit(c, inside or isinstance(expr, typed.Grad)) for c in typed.children(expr))

    return any(visit(s.value, False) for s in rule.body if not isinstance(s, typed.For))


def jacobian(scope: Scope, states: tuple[State, ...]) -> str:
    """Diagonal: every entry of the new state reads the same entry of the old one only."""
    values = [a.value for s in states for a in scope.assigns.get(s, [])]
    visited: set[str] = set()
    if all(_entrywise(scope, v, frozenset(states), visited) for v in values):
        return "diagonal" if len(states) == 1 else "diagonal in blocks"
    return "dense"


def may_compose(scope: Scope, states: tuple[State, ...], shape: str) -> bool:
    """Piecewise linear, logarithmic or rational maps: a family that the checker does not know may be closed."""
    used: set[str] = set()
    visited: set[str] = set()
    for s in states:
        for a in scope.assigns.get(s, []):
            _nonlinear(scope, a.value, frozenset(states), used, visited)
    if shape != "dense":
        return used <= MAY_COMPOSE | RATIONAL and bool(used & MAY_COMPOSE)
    return used <= RATIONAL | {"solve"} and bool(used & {"div", "solve"})


def _nonlinear(scope: Scope, expr: Expr, states: frozenset[State], used: set[str], visited: set[str]) -> None:
    """Names of the functions that stand above a read of the states."""
    if not scope.seen(expr).every & states:
        return
    match expr:
        case typed.Ref(name, Role.LET | Role.OUTPUT):
            if name not in visited:
                visited.add(name)
                _nonlinear(scope, scope.lets[name], states, used, visited)
            return
        case typed.Apply("div", (_, y)) if not scope.seen(y).every & states:
            pass
        case typed.Apply(fn) | typed.RowWise(fn):
            used.add(fn)
        case typed.Solve(matrix) if scope.seen(matrix).every & states:
            used.add("solve")
        case typed.Compare():
            used.add("compare")
    for child in typed.children(expr):
        _nonlinear(scope, child, states, used, visited)


def _entrywise(scope: Scope, expr: Expr, states: frozenset[State], visited: set[str]) -> bool:
    """`visited`: lets found to be so."""
    if not scope.seen(expr).every & states:
        return True
    match expr:
        case typed.StateRef():
            return True
        case typed.Ref(name, Role.LET | Role.OUTPUT):
            if name not in visited and not _entrywise(scope, scope.lets[name], states, visited):
                return False
            visited.add(name)
            return True
        case typed.Apply(_, args):
            same = all(a.type == expr.type for a in args if scope.seen(a).every & states)
            return same and all(_entrywise(scope, a, states, visited) for a in args)
        case typed.Compare(_, x, y):
            return _entrywise(scope, x, states, visited) and _entrywise(scope, y, states, visited)
        case typed.Product(typed.Diag(x), y) if not scope.seen(x).every & states:
            return _entrywise(scope, y, states, visited)
    return False
