"""A gauge in formulas: the states without it, their recurrence and the outputs."""

from __future__ import annotations

from collections.abc import Iterator

from ruledsl.algebra import build, dated
from ruledsl.algebra.explain.explanation import Equation, Line, Sentence
from ruledsl.algebra.explain.writer import Writer
from ruledsl.algebra.gauge import Gauge, change, gauges, primed
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Role, StateRef


def cancelled(w: Writer) -> Iterator[Line]:
    for gauge in gauges(w.analysis):
        by = w.inline(w.own(gauge.by))
        yield Sentence(
            f"change of variables: {by} is a gauge (a stabiliser)"
            if gauge.invariant
            else f"change of variables: {by} cancels from the recurrence of what it scales"
        )
        for s in gauge.states:
            yield Equation(w.write(primed(s)), w.write(change(w.scope, gauge, s)), "=")
        for s in gauge.states:
            for assign in w.scope.assigns[s]:
                yield Equation(w.write(primed(s)), _shown(w, gauge, assign.value, s), "<-", f"without {by}")
        if not gauge.invariant:
            yield Sentence(f"that the outputs do not depend on {by} is not shown")
            continue
        for o in w.analysis.rule.body:
            if isinstance(o, typed.Output):
                yield Equation(w.name(o.name), _shown(w, gauge, o.value), "=", "the same output")
        yield Sentence(f"so {by} keeps the numbers in range and changes no output in exact arithmetic")


def _shown(w: Writer, gauge: Gauge, expr: Expr, *own: State) -> str:
    prev = dated.earlier(w.scope, frozenset(name for name, _ in own))
    return w.write(prev(_without(w.scope, gauge, expr, frozenset(own))))


def _without(scope: Scope, gauge: Gauge, expr: Expr, own: frozenset[State]) -> Expr:
    """The expression with m = 0 and X' for X: what is left of a homogeneous one beside its power of exp(m). States as
    the token began are written prev(X'), but for those in `own`."""
    moved = {gauge.by, *gauge.states}

    def visit(e: Expr) -> Expr:
        if not scope.seen(e).every & moved:
            return e
        match scope.let(e):
            case StateRef(_, _, _, member) as s if (s.name, member) == gauge.by:
                return build.ZERO
            case StateRef(name, type, version, member) if (name, member) in moved:
                if version or (name, member) in own:
                    return StateRef(f"{name}'", type, version, member)
                shown = f"{name}'" if member is None else f"{name}'[{member}]"
                return typed.Ref(shown, Role.INPUT, type, build.ONE)
            case value:
                return _folded(build.rebuild(value, visit))

    return visit(expr)


def _folded(expr: Expr) -> Expr:
    match expr:
        case typed.Apply("exp", (x,)) if build.is_zero(x):
            return build.ONE
        case typed.Apply("neg", (x,)):
            return build.neg(x)
        case typed.Apply("add", (x, y)):
            return build.add(x, y)
        case typed.Apply("sub", (x, y)):
            return build.sub(x, y)
        case typed.Apply("mul", (x, y)):
            return build.mul(x, y)
        case typed.Apply("div", (x, y)):
            return build.div(x, y)
    return expr
