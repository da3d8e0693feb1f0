"""What a layer adds to a rule: a range for coefficients, and unit length for keys, that the text leaves open.

    scalar without a range                                -> in [0, 1], through a sigmoid
    decay (a factor of the state) without a range         -> in [0, 1], through a sigmoid
    vector that the same write reads and writes along     -> unit

An input that the rule itself squashes (`softplus(g + bias)`, `exp(logsigmoid(g)/16)`) keeps the real line. The op
never assumes any of this; only a layer, which makes the inputs, does. Imports no torch: `check` prints the same list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ruledsl.algebra.verdict import Verdict
from ruledsl.lang import typed
from ruledsl.lang.typed import Interval, Role

_ARITHMETIC = frozenset(
    {"add", "sub", "mul", "div", "neg", "stopgrad", "where"}
)  # functions that pass a large input on


@dataclass(frozen=True, slots=True)
class Plan:
    """How a layer makes one input. `interval` and `unit` are what is declared or assumed; `assumed` says the latter."""

    name: str
    interval: Interval | None
    unit: bool
    gate: bool  # a coefficient, or part of a decay: no convolution, and a bias
    assumed: str = ""


def assume(verdict: Verdict) -> tuple[Plan, ...]:
    """One plan per input of the judged rule, in the order of declaration."""
    rule = verdict.rule
    bare = _bare(rule)
    whole = bare.whole
    factors = {name for factor in decays(verdict) for name in names_in(factor, Role.INPUT)}
    keys = _feedback_keys(verdict)

    def plan(symbol: typed.Symbol) -> Plan:
        name, kind = symbol.name, symbol.type
        entrywise = kind.is_scalar or (kind.is_vector and not kind.family and name not in whole)
        gate = entrywise or symbol.interval is not None or name in factors
        if symbol.interval is not None or symbol.unit or symbol.perm or name not in bare.names:
            return Plan(name, symbol.interval, symbol.unit, gate)
        if entrywise or name in factors:
            what = "a decay" if name in factors else "a coefficient"
            return Plan(
                name, Interval(0.0, 1.0), False, gate, f"{name}: {what} without a range, taken in [0, 1] (sigmoid)"
            )
        if name in keys and kind.is_vector:
            return Plan(
                name, None, True, gate, f"{name}: read and written without a promise, taken of unit length (unit)"
            )
        return Plan(name, None, False, gate)

    return tuple(plan(s) for s in rule.of(Role.INPUT))


def decays(verdict: Verdict) -> Iterator[typed.Expr]:
    """The diagonal or scalar factors of the states, lets inlined down to inputs, params and consts."""
    if verdict.token is None:
        return
    lets = _lets(verdict.rule) | {s.name: s.value for s in verdict.token.lets}
    for form in verdict.token.forms:
        for step in form.steps:
            for decay in (step.right, step.left):
                if decay is not None:
                    yield inline(decay.value, lets)
    for joint in verdict.token.coupled:
        for i in range(len(joint.states)):
            yield from (inline(c, lets) for j, c in joint.last(i).states if j == i)


def inline(expr: typed.Expr, lets: dict[str, typed.Expr]) -> typed.Expr:
    """Lets that are a plain name or a map of inputs replaced by their values, along maps only."""
    match expr:
        case typed.Ref(name, Role.LET | Role.OUTPUT, _, None) if name in lets:
            return inline(lets[name], lets)
        case typed.Apply(fn, args, kind):
            return typed.Apply(fn, tuple(inline(a, lets) for a in args), kind, span=expr.span)
        case _:
            return expr


def names_in(expr: typed.Expr, role: Role) -> Iterator[str]:
    """Names of one role in an expression, in text order, with repetition."""
    if isinstance(expr, typed.Ref) and expr.role is role:
        yield expr.name
    for child in typed.children(expr):
        yield from names_in(child, role)


def _lets(rule: typed.Rule) -> dict[str, typed.Expr]:
    return {s.name: s.value for s in rule.body if isinstance(s, typed.Let | typed.Output)}


@dataclass(frozen=True, slots=True)
class _Bare:
    names: frozenset[str]  # inputs that reach a state or an output outside every squashing function
    whole: frozenset[str]  # inputs that are used as a whole somewhere, not only entry by entry


def _bare(rule: typed.Rule) -> _Bare:
    lets = _lets(rule)
    names: set[str] = set()
    whole: set[str] = set()
    seen: set[tuple[str, bool]] = set()

    def visit(expr: typed.Expr, covered: bool) -> None:
        match expr:
            case typed.Ref(name, Role.INPUT):
                whole.add(name)
                if not covered:
                    names.add(name)
            case typed.Ref(name, Role.LET) if name in lets:
                if (name, covered) not in seen:
                    seen.add((name, covered))
                    visit(lets[name], covered)
            case typed.Member(typed.Ref(name, Role.INPUT)):
                if not covered:
                    names.add(name)
            case typed.Apply(fn, args):
                for arg in args:
                    visit(arg, covered or fn not in _ARITHMETIC)
            case typed.RowWise(_, operand):
                visit(operand, True)
            case _:
                for child in typed.children(expr):
                    visit(child, covered)

    for statement in _statements(rule.body):
        if not isinstance(statement, typed.Let):
            visit(statement.value, False)
    return _Bare(frozenset(names), frozenset(whole))


def _statements(body: tuple[typed.Statement, ...]) -> Iterator[typed.Let | typed.Output | typed.Assign]:
    for statement in body:
        if isinstance(statement, typed.For):
            yield from _statements(statement.body)
        else:
            yield statement


def _feedback_keys(verdict: Verdict) -> set[str]:
    """Inputs that stand, up to a scalar factor, as the key or the read of a write that reads the state."""
    if verdict.token is None:
        return set()
    lets = _lets(verdict.rule) | {s.name: s.value for s in verdict.token.lets}
    writes = (w for form in verdict.token.forms for step in form.steps for w in step.writes)
    found = [(w.key, w.read) for w in writes if w.read is not None]
    found += [(w.key, r.read) for joint in verdict.token.coupled for w in joint.writes for r in w.reads]
    names = (_direction(e, lets) for pair in found for e in pair)
    return {name for name in names if name is not None}


def _direction(expr: typed.Expr, lets: dict[str, typed.Expr]) -> str | None:
    """The input that a vector is a scalar multiple of."""
    match expr:
        case typed.Ref(name, Role.INPUT):
            return name
        case typed.Ref(name, Role.LET, _, None) if name in lets:
            return _direction(lets[name], lets)
        case typed.Member(base) if not expr.type.is_scalar:
            return _direction(base, lets)
        case typed.Apply("neg", (operand,)):
            return _direction(operand, lets)
        case typed.Apply("mul", (left, right)) if left.type.is_scalar:
            return _direction(right, lets)
        case typed.Apply("mul" | "div", (left, right)) if right.type.is_scalar:
            return _direction(left, lets)
        case _:
            return None
