"""How fast the state can grow: a bound on the norm of each token's linear part, from the declared ranges.

The norms of the sub-steps multiply (`norms`). What the bound leaves open is decided by a witness, if there is one
(`witness`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ruledsl.algebra.affine import Term
from ruledsl.algebra.analysis import Analysis, Part
from ruledsl.algebra.coupled_norms import block_bound
from ruledsl.algebra.horizon import horizon
from ruledsl.algebra.norms import INF, ONE, Bound, map_bound
from ruledsl.algebra.scope import Scope
from ruledsl.algebra.sides import PartKind
from ruledsl.algebra.steps import Factored
from ruledsl.algebra.verdict import Stability
from ruledsl.algebra.witness import growth, told
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Interval

LONGEST = 200  # of a bound's text that settles nothing
_ORDER = ("contractive", "marginal", "not proven", "can grow", "not applicable")


def stability(analysis: Analysis, sizes: Mapping[str, int]) -> Stability:
    """Of the rule: of its least stable stratum. `sizes` are those that the rule was unrolled at."""
    if not analysis.parts:
        return Stability("not applicable", "", "there is no state")
    try:
        found = [of_part(analysis, part, sizes) for part in analysis.parts]
    except RecursionError:
        return Stability("not proven", "", "the rule is nested too deeply for the checker")
    worst = max(found, key=lambda s: _ORDER.index(s.claim))
    if len(found) == 1:
        return worst
    named = [(_names(p), s) for p, s in zip(analysis.parts, found, strict=True)]
    return replace(
        worst,
        bound=_listed((n, s.bound) for n, s in named),
        proof=worst.proof if worst.claim == "not applicable" else f"{named[found.index(worst)][0]}: {worst.proof}",
        assumptions=tuple(dict.fromkeys(a for s in found for a in s.assumptions)),
        memory=_listed((n, s.memory) for n, s in named),
        growth=_listed((n, s.growth) for n, s in named),
        rate=None if any(s.rate is None for s in found) else worst.rate,
    )


def _listed(named: Iterable[tuple[str, str]]) -> str:
    """One text per stratum; strata with the same text are named together."""
    told: dict[str, list[str]] = {}
    for name, text in named:
        if text:
            told.setdefault(text, []).append(name)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in told.items())


def _names(part: Part) -> str:
    return ", ".join(name if member is None else f"{name}[{member}]" for name, member in part.states)


def of_part(analysis: Analysis, part: Part, sizes: Mapping[str, int]) -> Stability:
    """Of one stratum."""
    scope = analysis.scope
    if part.found is None or part.frozen or part.too_large:
        many = len(part.states) > 1
        why = f"{_names(part)} {'are' if many else 'is'} not affine in {'their' if many else 'its'} own past"
        return Stability("not applicable", "", why)
    terms = [t for s in part.steps for t in s.value.terms] + [t for _, v in part.blocks for t in v.terms]
    used = _assumptions(scope, terms)
    bound = _bound(scope, part)
    claim = "not proven" if bound is None else bound.claim
    shown = "" if bound is None else _shown(bound)
    lasts = horizon(scope, part, bound)
    if bound is not None and claim != "not proven":
        proof = "from the declared ranges" if used else "for every input"
        return Stability(claim, shown, proof, used, lasts.memory, lasts.growth, bound.value)
    if len(shown) > LONGEST:
        shown = ""
    tame = _tamed(scope, part, terms)
    seen = growth(analysis, part, sizes)
    if seen is None:
        why = "the bound does not settle it, and no sequence of 1 to 3 tokens tried grows"
        return Stability("not proven", shown, why + tame, used, lasts.memory, lasts.growth)
    return Stability("can grow", shown, told(seen) + tame, used, lasts.memory, lasts.growth, None, seen)


def _tamed(scope: Scope, part: Part, terms: list[Term]) -> str:
    """What would hold if the undeclared inputs were as the layer makes them: scalars in (0, 1), keys unit."""
    missing = _undeclared(scope, terms)
    if not missing:
        return ""
    keys = {n for n in missing if scope.symbols[n].type.is_vector and _is_key(part, n)}
    rest = [n for n in missing if not scope.symbols[n].type.is_scalar and n not in keys]
    symbols = tuple(
        replace(s, unit=True)
        if s.name in keys
        else replace(s, interval=Interval(0, 1, True, True))
        if s.name in missing and s.name not in rest
        else s
        for s in scope.rule.symbols
    )
    bound = None if rest else _bound(Scope(replace(scope.rule, symbols=symbols)), part)
    told = f"; nothing is declared about {', '.join(missing)}"
    if bound is None or bound.claim == "not proven":
        return told
    promises = ", ".join(f"{n} unit" if n in keys else f"{n} in (0, 1)" for n in missing)
    return f"{told}: with {promises} it is {bound.claim}"


def unpromised_keys(analysis: Analysis) -> tuple[str, ...]:
    """Vectors that the state is read and written along, without a promise that they are unit."""
    return tuple(
        s.name
        for s in analysis.scope.rule.of(typed.Role.INPUT)
        if s.type.rows != 1 and s.type.cols == 1 and not s.unit and any(_is_key(p, s.name) for p in analysis.parts)
    )


def _is_key(part: Part, name: str) -> bool:
    """A vector that is both read and written along."""
    sides = [p for m in part.maps if isinstance(m, Factored) for p in (*m.left, *m.right) if p.kind is PartKind.RANK]
    return any(_names_in(p.matrix) == {name} == _names_in(p.key) for p in sides)


def _names_in(expr: Expr | None) -> set[str]:
    if expr is None:
        return set()
    own = {expr.name} if isinstance(expr, typed.Ref) else set()
    return own.union(*(_names_in(c) for c in typed.children(expr)))


def _shown(bound: Bound) -> str:
    if bound.text == f"{bound.value:g}":
        return bound.text
    if bound.value == INF:
        return f"{bound.text}, not bounded by what is declared"
    return f"{bound.text} {'<' if bound.strict else '<='} {bound.value:.4g}"


def _bound(scope: Scope, part: Part) -> Bound | None:
    """Of the whole token."""
    if part.blocks:
        return block_bound(scope, part.blocks, part.states)
    out = ONE
    for step, m in zip(part.steps, part.maps, strict=True):
        one = map_bound(scope, step, m)
        if one is None:
            return None
        out = out.times(one)
    return out


# ------------------------------------------------------------------------------------------------ what it rests on


def _mentioned(scope: Scope, terms: list[Term]) -> list[typed.Symbol]:
    names: dict[str, None] = {}
    visited: set[str] = set()

    def visit(expr: Expr) -> None:
        match expr:
            case typed.Ref(name, typed.Role.LET | typed.Role.OUTPUT):
                if name in scope.lets and name not in visited:
                    visited.add(name)
                    visit(scope.lets[name])
            case typed.Ref(name):
                names[name] = None
        for child in typed.children(expr):
            visit(child)

    for t in terms:
        for _, powers in t.coef.terms:
            for atom, _ in powers:
                visit(atom)
        for factor in (*t.left, *t.right, *([] if t.weight is None else [t.weight])):
            visit(factor)
    return [scope.symbols[n] for n in names if n in scope.symbols]


def _assumptions(scope: Scope, terms: list[Term]) -> tuple[str, ...]:
    out = []
    for s in _mentioned(scope, terms):
        if s.unit:
            out.append(f"{s.name} unit")
        if s.interval is not None:
            out.append(f"{s.name} in {_interval(s.interval)}")
        if s.perm:
            out.append(f"{s.name} perm")
    return tuple(out)


def _undeclared(scope: Scope, terms: list[Term]) -> list[str]:
    roles = (typed.Role.INPUT, typed.Role.PARAM, typed.Role.CONST)
    return [
        s.name
        for s in _mentioned(scope, terms)
        if s.role in roles and s.interval is None and not s.unit and not s.perm and s.init is None
    ]


def _interval(x: Interval) -> str:
    return f"{'(' if x.low_open else '['}{x.low:g}, {x.high:g}{')' if x.high_open else ']'}"
