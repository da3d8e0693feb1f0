"""The token's transpose: what runs backwards over the tokens when a loss is differentiated.

With dX the gradient by a state X, a token S -> L S R + U gives dS -> L^T dS R^T: a rule of the same class, in which a
rank-one term  S p w^T  has become  dS w p^T. The read-outs, forwards a product with q, backwards write along q. What is
not affine is differentiated at the token's state by the calculus, and its coefficients then hold forward states.

    Adjoint = Adjoint(before, token, after, inputs, between)

`before`: what reads of the new state add to dX; `token`: dX of the token before, over dX; `after`: what reads of the
old state add to it; `inputs`: gradients by the token's inputs and params; `between`: what reads of the state between two
sub-steps add on the way (then `inputs` is empty). Gradients are Refs named dX.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ruledsl.algebra import build, dated
from ruledsl.algebra.affine import Affine, Marker, Term, peel
from ruledsl.algebra.analysis import Analysis, Part
from ruledsl.algebra.calculus import NoDerivative, gradient
from ruledsl.algebra.explain.explanation import Equation, Line, Sentence
from ruledsl.algebra.explain.writer import Writer, state_name
from ruledsl.algebra.scalars import UNIT
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.steps import map_of
from ruledsl.algebra.text import AT
from ruledsl.algebra.transition import affine_text, step_text
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Ref, Role, Type
from ruledsl.lang.walk import tree_size

_SQUARE = Type("K", "K")
_DIAGONAL = typed.Product(
    typed.Apply("mul", (Ref("X", Role.INPUT, _SQUARE), typed.Eye(_SQUARE)), _SQUARE), typed.Ones(Type("K")), Type("K")
)
LONG = 60  # nodes of a gradient that is still shown
D = "d"


@dataclass(frozen=True, slots=True)
class Adjoint:
    before: dict[State, Expr] = field(default_factory=dict)
    token: dict[State, Expr] = field(default_factory=dict)
    after: dict[State, Expr] = field(default_factory=dict)
    inputs: dict[str, Expr] = field(default_factory=dict)
    between: dict[tuple[State, int], Expr] = field(default_factory=dict)
    lagged: bool = False  # inputs also pass back through prev


def tidied(expr: Expr) -> Expr:
    """Signs and scalar factors in front of products; sum(X .* u w^T) as u^T X w."""
    expr = build.rebuild(expr, tidied)
    match expr:
        case typed.Reduce("sum", typed.Apply("mul", (x, typed.Product(u, w) as outer))) if u.type.is_vector and x.type == outer.type:  # fmt: skip
            return tidied(build.chain((build.transpose(u), x, build.transpose(w))))
        case typed.Reduce("sum", x):
            coef, chain = peel(x)
            if coef != UNIT and chain:
                return build.mul(coef.expr(), tidied(typed.Reduce("sum", build.chain(chain))))
            return expr
        case typed.Apply("add" | "sub" as fn, (x, y)):
            return build.add(x, y) if fn == "add" else build.sub(x, y)
        case typed.Product() | typed.Apply("neg" | "mul"):
            coef, chain = peel(expr)
            scalar = coef.expr()
            if not chain:
                return scalar
            body = build.chain(chain)
            return build.neg(build.mul(build.neg(scalar), body)) if _negative(scalar) else build.mul(scalar, body)
    return expr


def _negative(x: Expr) -> bool:
    return (build.value_of(x) or 0) < 0 or (isinstance(x, typed.Apply) and x.fn == "neg")


def d(name: str, type: Type) -> Expr:
    """The gradient by a value of that name."""
    return Ref(D + name, Role.INPUT, type)


def adjoint(analysis: Analysis) -> Adjoint:
    """Of the whole token; what the calculus has no derivative for is left out."""
    scope = analysis.scope
    read = _Loss(_readout(scope), dict(scope.lets))
    into = _versions(scope, list(scope.states))
    before, after, token = dict[State, Expr](), dict[State, Expr](), dict[State, Expr]()
    between = dict[tuple[State, int], Expr]()
    for state in scope.states:
        last = len(scope.assigns.get(state, ()))
        for version, to in ((last, before), (0, after)):
            if version == last == 0 and to is after:
                continue
            value = _gradient(_ref(scope, state, version), read)
            if value is not None and not build.is_zero(value):
                to[state] = value
        for version in range(1, last):
            value = _gradient(_ref(scope, state, version), read)
            if value is None or not build.is_zero(value):
                between[state, version] = value or build.ZERO
        passed = _gradient(_ref(scope, state, 0), into)
        if passed is not None:
            token[state] = passed
    lagged = any(isinstance(e, Ref) and e.lag is not None for s in analysis.rule.body for e in _nodes(s.value))  # type: ignore[union-attr]
    inputs = dict[str, Expr]()
    for s in analysis.rule.symbols:
        if s.role in (Role.INPUT, Role.PARAM) and not s.type.family and not between:
            parts = [_gradient(Ref(s.name, s.role, s.type), loss) for loss in (into, read)]
            if None not in parts:
                inputs[s.name] = build.add(*(p for p in parts if p is not None))
    return Adjoint(before, token, after, {n: x for n, x in inputs.items() if not build.is_zero(x)}, between, lagged)


def _gradient(wrt: Expr, of: _Loss) -> Expr | None:
    try:
        return tidied(gradient(of.loss, wrt, of.lets, _long))
    except NoDerivative:
        return None


def _long(cotangent: Expr) -> Expr:
    """Called for a cotangent that is too long to be shown: without a name of its own it could double at each step."""
    raise NoDerivative(cotangent.span, "a long expression")


@dataclass(frozen=True, slots=True)
class _Loss:
    loss: Expr
    lets: dict[str, Expr]


def _readout(scope: Scope) -> Expr:
    """<do, o> over the outputs."""
    outputs = [s for s in scope.rule.body if isinstance(s, typed.Output)]
    parts = [build.total(build.mul(d(o.name, o.value.type), o.value)) for o in outputs]
    return build.summed(parts) or build.ZERO


def _versions(scope: Scope, states: list[State]) -> _Loss:
    """<dX, X_t> over the states, with each version but the first as a let, in the order of the text."""
    named: dict[tuple[State, int], str] = {}
    for state, assigns in scope.assigns.items():
        for k in range(1, len(assigns) + 1):
            at = "t" if k == len(assigns) else f"t,{k}"
            named[state, k] = f"{state_name(state)}{AT}{at}"

    def change(e: Expr) -> Expr:
        match e:
            case typed.StateRef(name, type, version, member) if version:
                return Ref(named[(name, member), version], Role.LET, type, span=e.span)
        return build.rebuild(e, change)

    lets: dict[str, Expr] = {}
    count: dict[State, int] = {}
    for s in scope.rule.body:
        match s:
            case typed.Let(name, value) | typed.Output(name, value):
                lets[name] = change(value)
            case typed.Assign(name, member, value):
                state = name, None if member is None else int(build.value_of(member) or 0)
                count[state] = count.get(state, 0) + 1
                own = scope.symbols[name].type
                lets[named[state, count[state]]] = build.full(change(value), Type(own.rows, own.cols))
    parts = []
    for state in states:
        own = scope.symbols[state[0]].type
        type = Type(own.rows, own.cols)
        last = len(scope.assigns.get(state, ()))
        value = Ref(named[state, last], Role.LET, type) if last else typed.StateRef(state[0], type, 0, state[1])
        parts.append(build.total(build.mul(d(state_name(state), type), value)))
    return _Loss(build.summed(parts) or build.ZERO, lets)


def _ref(scope: Scope, state: State, version: int) -> Expr:
    own = scope.symbols[state[0]].type
    return typed.StateRef(state[0], Type(own.rows, own.cols), version, state[1])


def _nodes(expr: Expr) -> Iterator[Expr]:
    yield expr
    for c in typed.children(expr):
        yield from _nodes(c)


# ------------------------------------------------------------------------------------------------ transposed maps


def transposed(value: Affine, source: State, own: str) -> Affine:
    """The linear part's transpose: what dX passes back through `value` to `source`. `own`: the name of dX."""
    terms = tuple(_flipped(t, Marker(own, 0, None, value.type)) for t in value.terms if t.marker.state == source)
    return Affine(terms[0].marker.type if terms else value.type, terms)


def _flipped(t: Term, marker: Marker) -> Term:
    """<dY, c L (W .* X^tau) R> = <c (W .* (L^T dY R^T))^tau, X>; a weight stands next to diagonals only."""
    left = tuple(build.transpose(f) for f in reversed(t.left))
    right = tuple(build.transpose(f) for f in reversed(t.right))
    if t.transposed:
        left, right = (
            tuple(build.transpose(f) for f in reversed(right)),
            tuple(build.transpose(f) for f in reversed(left)),
        )
        weight = None if t.weight is None else build.transpose(t.weight)
        return replace(t, marker=marker, left=left, right=right, weight=weight)
    return replace(t, marker=marker, left=left, right=right)


# ------------------------------------------------------------------------------------------------ as text


def adjoint_rule(w: Writer) -> Iterator[Line]:
    if not w.scope.states:
        return
    found = adjoint(w.analysis)
    parallel = all(p.found is not None for p in w.analysis.parts)
    names = ", ".join(w.inline(w.name(D + state_name(s))) for s in w.scope.states)
    yield Sentence(
        f"the tokens run backwards with {names}, the gradient{'s' if len(w.scope.states) > 1 else ''} by the state"
        f"{'s' if len(w.scope.states) > 1 else ''}"
        + (": again a rule of this class" if parallel else "; its coefficients hold forward states")
    )
    for state, value in found.before.items():
        yield from _added(w, state, value, "what the read-out passes back")
    exact = {s for p in w.analysis.parts for s in p.states if _isolated(w, p)}
    for part in reversed(w.analysis.parts):
        yield from _through(w, part, found, exact)
    for state, value in found.after.items():
        yield from _added(w, state, value, "the read-out looks at the old state")
    if any(w.scope.seen(a.value).frozen for assigns in w.scope.assigns.values() for a in assigns):
        yield Sentence("what the frozen coefficients pass back is added to the gradient by the chunk's first state")
    swap = _swap(w)
    if swap:
        yield Sentence(swap)
    yield from _inputs(w, found)


def _added(w: Writer, state: State, value: Expr, note: str) -> Iterator[Line]:
    own = w.name(D + state_name(state))
    if tree_size(value) > LONG:
        yield Sentence(f"{w.inline(own)} gains {note}")
        return
    yield Equation(own, f"{own} + {w.write(w.dated(value))}".replace("+ -", "- "), "<-", note)


def _isolated(w: Writer, part: Part) -> bool:
    """Whether its states are read by no other stratum, so that the transposed map is all there is."""
    mine = set(part.states)
    others = [a.value for s, assigns in w.scope.assigns.items() if s not in mine for a in assigns]
    return part.found is not None and not any(w.scope.seen(v).every & mine for v in others)


def _through(w: Writer, part: Part, found: Adjoint, exact: set[State]) -> Iterator[Line]:
    if part.found is None or part.too_large:
        for state in part.states:
            own = w.name(D + state_name(state))
            value = found.token.get(state)
            if value is None or tree_size(value) > LONG:
                yield Sentence(
                    f"{w.inline(own)} passes through the transposed Jacobian of the token, taken at its state"
                )
            else:
                back = w.name(D + state_name(state), "t-1")
                yield Equation(back, w.write(w.dated(value)), "=", "the derivative at the token's state")
        return
    extra = {s for s in part.states if s not in exact}
    if part.steps:
        (state,) = part.states
        name = D + state_name(state)
        if state in extra:
            yield Sentence(
                f"{w.inline(w.name(name))} first gains what the later states' gradients pass back to {w.inline(w.own(state))}"
            )
        for step in reversed(part.steps):
            turned = transposed(step.value, state, name)
            shown = step_text((name, None), turned, map_of(w.scope, turned.terms), w.tex, w.today(part))
            if shown != w.name(name):
                yield Equation(w.name(name), shown if turned.terms else "0", "<-")
            if (state, step.base) in found.between:
                yield from _added(w, state, found.between[state, step.base], "read between the sub-steps")
        if not part.steps:
            yield Sentence(f"{w.inline(w.name(name))} is passed on as it is")
        return
    for state in part.states:
        sums = []
        for target, block in part.blocks:
            turned = transposed(block, state, D + state_name(target))
            if turned.terms:
                sums.append(affine_text(dated.affine(turned, w.today(part)), w.tex))
        own = w.name(D + state_name(state))
        yield Equation(
            own,
            " + ".join(sums).replace("+ -", "- ") or "0",
            "<-",
            "all of them at once" if state == part.states[0] else "",
        )


def _swap(w: Writer) -> str:
    """Which keys change places."""
    token = w.verdict.token
    if token is None:
        return ""
    said = []
    for form in token.forms:
        for write in (x for s in form.steps for x in s.writes):
            if write.read is not None and write.read != write.key:
                said.append(f"{w.inline(w.write(write.read))} and {w.inline(w.write(write.key))}")
    if said:
        return f"the vector that is read with and the vector that is written along change places: {', '.join(dict.fromkeys(said))}"
    if any(x.read is not None for f in token.forms for s in f.steps for x in s.writes):
        return "each read has its write's own vector, so the transpose reads and writes along the same one"
    return ""


def _inputs(w: Writer, found: Adjoint) -> Iterator[Line]:
    shown = {n: x for n, x in found.inputs.items() if tree_size(x) <= LONG}
    if shown:
        which = ", ".join(w.inline(w.name(D + state_name(s))) for s in w.scope.states)
        yield Sentence(
            f"gradients by the token's inputs, with {which} after the read-out's part and before the token's"
            + ("; what later tokens read through prev is added to these" if found.lagged else "")
        )
    for name, value in shown.items():
        symbol = w.analysis.rule.symbol(name)
        left = w.name(D + name, "t") if symbol.role is Role.INPUT else w.name(D + name)
        yield Equation(
            left, w.write(w.dated(value)), "=", "" if symbol.role is Role.INPUT else "summed over the tokens"
        )
    if any(isinstance(e, typed.Eye) for x in shown.values() for e in _nodes(x)):
        yield Sentence(f"{w.inline(w.write(_DIAGONAL))} is the diagonal of {w.inline('X')}")
