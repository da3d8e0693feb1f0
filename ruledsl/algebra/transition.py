"""The token's map as text: `S <- S (a I - b k k^T) + b v k^T`, plain and LaTeX."""

from __future__ import annotations

from ruledsl.algebra import build, text
from ruledsl.algebra.affine import Affine, Term
from ruledsl.algebra.analysis import Analysis, Part
from ruledsl.algebra.scalars import Coef
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
    if part.found is not None and part.steps:
        return [
            _state(part.states[0], tex) + arrow + _step(part.states[0], s.value, m, tex)
            for s, m in zip(part.steps, part.maps, strict=True)
        ]
    if part.found is not None and part.blocks:
        return [_state(s, tex) + arrow + _terms(value, tex) for s, value in part.blocks]
    out = []
    for state in part.states:
        for assign in analysis.scope.assigns.get(state, []):
            out.append(_state(state, tex) + arrow + (text.latex(assign.value) if tex else text.plain(assign.value)))
    return out


def _state(state: tuple[str, int | None], tex: bool) -> str:
    own = text.name(state[0], tex)
    return own if state[1] is None else f"{own}_{{{state[1]}}}" if tex else f"{own}[{state[1]}]"


def _step(state: tuple[str, int | None], value: Affine, m: Map, tex: bool) -> str:
    if not isinstance(m, Factored) or not value.terms:
        return _terms(value, tex)
    own = _state(state, tex)
    if m.transposed:
        own += r"^\top" if tex else "^T"
    left, right = _side(m.left, tex), _side(m.right, tex)
    plain_left, plain_right = left.removesuffix(" I"), right.removesuffix(" I")
    pieces = []
    if left != "I":
        pieces.append(plain_left)
    if right not in ("I", "0") and len(m.right) == 1 and m.right[0].kind is PartKind.IDENTITY:
        pieces.append(_coef(m.right[0].coef, tex))
        right = "I"
    if value.type.is_scalar and pieces:
        body = " ".join([*pieces, own])
    else:
        body = " ".join([*pieces, own] + ([] if right == "I" else [plain_right if len(m.right) == 1 else right]))
    free = [_signed(f.coef, [text.factor(x, tex) for x in f.chain], tex) for f in value.free]
    return _joined([("+", body), *free])


def _side(found: tuple[SidePart, ...], tex: bool) -> str:
    if not found:
        return "0"
    signed = [_signed(p.coef, _matrix(p, tex), tex) for p in found]
    joined = _joined(signed)
    return joined if len(found) == 1 and not joined.startswith("-") else f"({joined})"


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


def _terms(value: Affine, tex: bool) -> str:
    signed = [_signed(t.coef, _factors(t, tex), tex) for t in value.terms]
    signed += [_signed(f.coef, [text.factor(x, tex) for x in f.chain], tex) for f in value.free]
    return _joined(signed) if signed else "0"


def _factors(t: Term, tex: bool) -> list[str]:
    own = _state(t.marker.state, tex)
    if t.opaque:
        return [f"f({own})"]
    if t.transposed:
        own += r"^\top" if tex else "^T"
    if t.weight is not None:
        times = r"\odot" if tex else ".*"
        own = f"({text.term(t.weight, tex)} {times} {own})"
    return [*(text.factor(x, tex) for x in t.left), own, *(text.factor(x, tex) for x in t.right)]


def _signed(coef: Coef, factors: list[str], tex: bool) -> tuple[str, str]:
    sign = "+"
    if len(coef.terms) == 1 and coef.terms[0][0] < 0:
        sign, coef = "-", Coef(((-coef.terms[0][0], coef.terms[0][1]),))
    if coef.literal == 1 and factors:
        return sign, " ".join(factors)
    return sign, " ".join([_coef(coef, tex), *factors])


def _coef(coef: Coef, tex: bool) -> str:
    expr = coef.expr()
    flat = text.factor(expr, tex) if not _is_product(expr) else text.term(expr, tex)
    return flat


def _is_product(expr: typed.Expr) -> bool:
    return isinstance(expr, typed.Apply) and expr.fn in ("mul", "div")


def _joined(signed: list[tuple[str, str]]) -> str:
    out = ""
    for sign, body in signed:
        out += (("-" if sign == "-" else "") if not out else f" {sign} ") + body
    return out
