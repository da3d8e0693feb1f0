"""The token's map as text: `S <- S (a I - b k k^T) + b v k^T`, plain and LaTeX."""

from __future__ import annotations

from ruledsl.algebra import build, dated, text
from ruledsl.algebra.affine import Affine, Term
from ruledsl.algebra.analysis import Analysis, Part
from ruledsl.algebra.scalars import Coef
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.sides import Part as SidePart
from ruledsl.algebra.sides import PartKind
from ruledsl.algebra.steps import Factored, Map
from ruledsl.lang import typed


def transition(analysis: Analysis, tex: bool) -> str:
    """One line per sub-step, strata in order; a state that is not affine shows its assignment as written."""
    lines = [line for part in analysis.parts for line in _lines(analysis, part, tex)]
    return (r" \\ " if tex else "\n").join(lines)


def _lines(analysis: Analysis, part: Part, tex: bool) -> list[str]:
    arrow = r" \leftarrow " if tex else " <- "
    scope = analysis.scope
    change = dated.earlier(scope, frozenset(name for name, _ in part.states))
    if part.found is not None and part.steps:
        return [
            state_text(part.states[0], tex) + arrow + step_text(part.states[0], s.value, m, tex, change)
            for s, m in zip(part.steps, part.maps, strict=True)
        ]
    if part.found is not None and part.blocks:
        return [state_text(s, tex) + arrow + affine_text(dated.affine(value, change), tex) for s, value in part.blocks]
    return [
        state_text(state, tex) + arrow + (text.latex if tex else text.plain)(_written(scope, state, number, a.value))
        for state in part.states
        for number, a in enumerate(scope.assigns.get(state, []))
    ]


def _written(scope: Scope, state: State, number: int, value: typed.Expr) -> typed.Expr:
    """The value of the assignment with that number. What it reads of the state itself is current there unless it says
    version 0; of other states it may be either, so that prev is written wherever a new value exists."""
    own = frozenset({state[0]}) if number == 0 else frozenset[str]()
    read_first = frozenset(n for n, m in scope.assigns if _assigned_after(scope, (n, m), state, number))
    return dated.earlier(scope, own | read_first)(value)


def _assigned_after(scope: Scope, other: State, state: State, number: int) -> bool:
    """Whether the first assignment of `other` stands below this one of `state`: its name then means the old value."""
    return scope.assigns[other][0].span.start > scope.assigns[state][number].span.start


def state_text(state: State, tex: bool) -> str:
    own = text.name(state[0], tex)
    return own if state[1] is None else f"{own}_{{{state[1]}}}" if tex else f"{own}[{state[1]}]"


def step_text(state: State, value: Affine, m: Map, tex: bool, change: dated.Change = lambda e: e) -> str:
    """`change` is applied to every coefficient: it writes tokens at names."""
    value, m = dated.affine(value, change), _changed(m, change)
    if not isinstance(m, Factored) or not value.terms:
        return affine_text(value, tex)
    own = state_text(state, tex)
    if m.transposed:
        own += r"^\top" if tex else "^T"
    left, right = side_text(m.left, tex), side_text(m.right, tex)
    plain_left, plain_right = left.removesuffix(" I"), right.removesuffix(" I")
    pieces = []
    if left != "I":
        pieces.append(plain_left)
    if right not in ("I", "0") and len(m.right) == 1 and m.right[0].kind is PartKind.IDENTITY:
        pieces.append(coef_text(m.right[0].coef, tex))
        right = "I"
    if value.type.is_scalar and pieces:
        body = " ".join([*pieces, own])
    else:
        body = " ".join([*pieces, own] + ([] if right == "I" else [plain_right if len(m.right) == 1 else right]))
    free = [signed(f.coef, [text.factor(x, tex) for x in f.chain], tex) for f in value.free]
    return joined([("+", body), *free])


def _changed(m: Map, change: dated.Change) -> Map:
    if not isinstance(m, Factored):
        return m
    left, right = (tuple(dated.part(p, change) for p in side) for side in (m.left, m.right))
    return Factored(left, right, m.transposed)


def side_text(found: tuple[SidePart, ...], tex: bool) -> str:
    if not found:
        return "0"
    out = joined([signed(p.coef, _matrix(p, tex), tex) for p in found])
    return out if len(found) == 1 and not out.startswith("-") else f"({out})"


def _matrix(p: SidePart, tex: bool) -> list[str]:
    if p.kind is PartKind.IDENTITY:
        return ["I"]
    assert p.matrix is not None
    if p.kind is PartKind.DIAGONAL:
        return [(r"\operatorname{diag}(" if tex else "diag(") + (text.latex if tex else text.plain)(p.matrix) + ")"]
    if p.kind is PartKind.RANK:
        assert p.key is not None
        return [text.factor(p.matrix, tex), text.factor(build.transpose(p.key), tex)]
    return [text.factor(p.matrix, tex)]


def affine_text(value: Affine, tex: bool) -> str:
    terms = [signed(t.coef, _factors(t, tex), tex) for t in value.terms]
    terms += [signed(f.coef, [text.factor(x, tex) for x in f.chain], tex) for f in value.free]
    return joined(terms) if terms else "0"


def _factors(t: Term, tex: bool) -> list[str]:
    own = state_text(t.marker.state, tex)
    if t.opaque:
        return [f"f({own})"]
    if t.transposed:
        own += r"^\top" if tex else "^T"
    if t.weight is not None:
        times = r"\odot" if tex else ".*"
        own = f"({text.term(t.weight, tex)} {times} {own})"
    return [*(text.factor(x, tex) for x in t.left), own, *(text.factor(x, tex) for x in t.right)]


def signed(coef: Coef, factors: list[str], tex: bool) -> tuple[str, str]:
    sign = "+"
    if len(coef.terms) == 1 and coef.terms[0][0] < 0:
        sign, coef = "-", Coef(((-coef.terms[0][0], coef.terms[0][1]),))
    if coef.literal == 1 and factors:
        return sign, " ".join(factors)
    return sign, " ".join([coef_text(coef, tex), *factors])


def coef_text(coef: Coef, tex: bool) -> str:
    expr = coef.expr()
    flat = text.factor(expr, tex) if not _is_product(expr) else text.term(expr, tex)
    return flat


def _is_product(expr: typed.Expr) -> bool:
    return isinstance(expr, typed.Apply) and expr.fn in ("mul", "div")


def joined(signed: list[tuple[str, str]]) -> str:
    out = ""
    for sign, body in signed:
        out += (("-" if sign == "-" else "") if not out else f" {sign} ") + body
    return out
