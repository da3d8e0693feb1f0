"""States inside a chunk: what is frozen does not change there, so it ties no states together.

States of one stratum that depend on each other through `frozen` alone part into groups. A matrix made of what is frozen and
added to a state, `W = frozen(W, 16) - eta*G`, is a state of the group that no token changes: a copy.
"""

from __future__ import annotations

from dataclasses import replace

from ruledsl.algebra import build
from ruledsl.algebra.affine import Affine, Free, Marker, Term
from ruledsl.algebra.analysis import Analysis, Part, part_of
from ruledsl.algebra.dated import varies
from ruledsl.algebra.normal import NO_OUTER_PRODUCT, NoForm
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.sides import Part as SidePart
from ruledsl.algebra.sides import PartKind, matrix
from ruledsl.algebra.text import plain
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr


def held(analysis: Analysis) -> tuple[Part, ...]:
    """The strata, those that read what is frozen as the groups that they are inside a chunk."""
    found: list[Part] = []
    for part in analysis.parts:
        groups = _groups(analysis.scope, part.states) if part.frozen else [part.states]
        found += [part] if len(groups) == 1 else [part_of(analysis.scope, group) for group in groups]
    return tuple(found)


def _groups(scope: Scope, states: tuple[State, ...]) -> list[tuple[State, ...]]:
    """The states connected by what they read of each other as tokens go by."""
    groups: list[set[State]] = []
    for state in states:
        reads = [scope.seen(a.value).live for a in scope.assigns.get(state, [])]
        own = {state}.union(*reads) & set(states)
        groups = [g for g in groups if not g & own] + [own.union(*(g for g in groups if g & own))]
    return [tuple(s for s in states if s in g) for g in sorted(groups, key=lambda g: min(map(states.index, g)))]


def copied(scope: Scope, part: Part) -> bool:
    """Is a matrix made of what is frozen added to one of the states?"""
    values = [s.value for s in part.steps] + [value for _, value in part.blocks]
    return any(value.type.is_matrix and with_copies(scope, value)[1] for value in values)


def with_copies(scope: Scope, value: Affine) -> tuple[Affine, dict[State, Expr]]:
    """What is made of frozen states and added to `value` as terms over copies, and those copies by marker. Raises NoForm."""
    terms: list[Term] = []
    free: list[Free] = []
    copies: dict[State, Expr] = {}
    for f in value.free:
        found = matrix(scope, build.chain(f.chain)) if f.chain else []
        if not any(_copy(scope, p) for p in found):
            free.append(f)
            continue
        for p in found:
            copy = _copy(scope, p)
            if copy is None:
                if p.matrix is None or p.key is None:
                    raise NoForm(NO_OUTER_PRODUCT)
                free.append(Free(f.coef.times(p.coef), (p.matrix, build.transpose(p.key))))
                continue
            marker = Marker(plain(copy), 0, None, copy.type)
            copies[marker.state] = copy
            turned = isinstance(p.matrix, typed.Transpose)
            terms.append(Term(f.coef.times(p.coef), marker, transposed=turned))
    return Affine(value.type).plus(replace(value, free=tuple(free)), Affine(value.type, tuple(terms))), copies


def _copy(scope: Scope, part: SidePart) -> Expr | None:
    """The matrix that a part is, or is the transpose of, if it is made of what is frozen; or the frozen vector."""
    if part.matrix is None or (part.kind is not PartKind.DENSE and part.key != build.ONE):
        return None
    inner = scope.let(part.matrix.operand if isinstance(part.matrix, typed.Transpose) else part.matrix)
    if part.kind is PartKind.DENSE:
        return inner if scope.seen(inner).frozen and not varies(scope, inner, inside=True) else None
    return inner if isinstance(inner, typed.Frozen | typed.Member) and scope.seen(inner).frozen else None
