"""How long the state remembers, and how large it gets, from a bound r on the norm of one token's map.

With S <- M S + u and |M| <= r (Frobenius norms, states of a stratum stacked):

    what a write leaves after n tokens is at most r^n of it: half is gone after ln 2 / -ln r tokens
    |S_T| <= r^T |S_0| + (1 + r + ... + r^(T-1)) max|u|,  the sum being 1/(1 - r) in the limit, and T for r = 1

A bound that is approached but not reached (`strict`, at 1) forgets with every token, at no rate that it tells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ruledsl.algebra.affine import Free
from ruledsl.algebra.analysis import Part
from ruledsl.algebra.norms import INF, Bound, absolute, added, map_bound, norm
from ruledsl.algebra.scope import Scope
from ruledsl.algebra.sides import PartKind
from ruledsl.algebra.steps import Factored
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr

HEADS = 4  # shown of a decay that is fixed per head


@dataclass(frozen=True, slots=True)
class Horizon:
    memory: str  # how fast a write fades
    growth: str  # a bound on |S_T|


def horizon(scope: Scope, part: Part, bound: Bound | None) -> Horizon:
    """Of a stratum. Where the bound is above 1, or there is none, nothing is promised, and that is said."""
    if bound is None or bound.claim == "not proven":
        return Horizon("how long a write lasts is not proven", "not bounded by what is declared")
    return Horizon(_memory(scope, part, bound), _growth(scope, part, bound))


def half_life(rate: float) -> float:
    """Tokens until half is left; 0 < rate < 1."""
    return math.log(2) / -math.log(rate)


def _memory(scope: Scope, part: Part, bound: Bound) -> str:
    if bound.value == 0:
        return "a write is gone with the next token"
    if bound.value < 1:
        half, most = half_life(bound.value), math.log(100) / -math.log(bound.value)
        return f"of a write at most half is left after {_tokens(half)}, at most 1% after {_tokens(most)}"
    if per_head := _per_head(scope, part):
        return "half-life of a write: " + per_head
    over = "; it is overwritten along the keys that are read" if _erases(part) else ""
    varying = _varying(bound.text)
    if not varying:
        return f"a write does not fade{over}"
    shown = f"half-life <= ln 2/-ln({varying}): 69 tokens where that is 0.99"
    if bound.strict:
        return f"a write fades with every token, at no rate that the ranges bound; {shown}{over}"
    return f"{shown}, no end where it is 1{over}"


def _tokens(count: float) -> str:
    whole = math.ceil(count)
    return f"{whole} token{'' if whole == 1 else 's'}"


def _varying(text: str) -> str:
    """The bound's text without what never forgets: `a` of `a * max(1, 1 - b)`, nothing of `max(1, 1 - b)`."""
    return "" if text == "1" or text.startswith("max(1, ") else text.split(" * max(1, ")[0]


def _erases(part: Part) -> bool:
    """Something is read along a vector and written back along it or another."""
    return any(p.kind is PartKind.RANK for m in part.maps if isinstance(m, Factored) for p in (*m.left, *m.right))


def _per_head(scope: Scope, part: Part) -> str:
    """For one scalar decay that depends on the head alone."""
    if len(part.steps) != 1 or len(part.steps[0].value.terms) != 1:
        return ""
    term = part.steps[0].value.terms[0]
    if term.left or term.right or term.weight is not None or term.transposed or term.opaque:
        return ""
    rates = [_at_head(scope, term.coef.expr(), head) for head in range(HEADS)]
    known = [r for r in rates if r is not None and 0 < r < 1]
    if len(known) < HEADS or len(set(known)) == 1:
        return ""
    return ", ".join(f"{half_life(r):.0f}" for r in known) + ", ... tokens in head 0, 1, 2, 3, ..."


def _at_head(scope: Scope, expr: Expr, head: int) -> float | None:
    from ruledsl.algebra.evaluate import Unknown, evaluate

    env = {("head", 0): head}
    consts = {s.name: s.init for s in scope.rule.of(typed.Role.CONST) if s.init is not None and s.type.is_scalar}
    try:
        held = {(name, 0): evaluate(init, dict(env), {}, {}) for name, init in consts.items()}
        return float(evaluate(expr, {**env, **held}, scope.lets, {})[0][0])
    except (Unknown, ArithmeticError, ValueError, KeyError):
        return None


def _growth(scope: Scope, part: Part, bound: Bound) -> str:
    write = write_bound(scope, part)
    size = "" if write is None else f", |u| <= {_shown(write)}"
    held = _held(scope, part)
    size += f", which holds {', '.join(held)}" if held else ""
    if write is not None and write.value == 0:
        return "|S_T| <= |S_0|" if bound.value == 1 else f"|S_T| <= {bound.value:.4g}^T |S_0|"
    if bound.value < 1:
        start = f"{bound.value:.4g}^T |S_0| + " if bound.value else ""
        return f"|S_T| <= {start}{1 / (1 - bound.value):.4g} max|u|{size}"
    return f"|S_T| <= |S_0| + T max|u|{size}"


def _shown(bound: Bound) -> str:
    return (
        bound.text if bound.value == INF or bound.text == f"{bound.value:g}" else f"{bound.text} <= {bound.value:.4g}"
    )


def write_bound(scope: Scope, part: Part) -> Bound | None:
    """What one token adds to the state, at most: a sub-step's write is carried on by the sub-steps after it. For
    coupled states there is one bound for the stacked write; None where a sub-step has no bound."""
    if part.blocks:
        return added([_free_bound(scope, f) for _, value in part.blocks for f in value.free])
    total = Bound(0.0, False, "0")
    for step, m in zip(part.steps, part.maps, strict=True):
        along = map_bound(scope, step, m)
        if along is None:
            return None
        new = [_free_bound(scope, f) for f in step.value.free]
        carried = [] if total.value == 0 else [total if along.value <= 1 else total.times(along)]
        total = added([*carried, *new])
    return total


def _free_bound(scope: Scope, free: Free) -> Bound:
    out = absolute(scope, free.coef.expr())
    for factor in free.chain:
        row = factor.type.is_row and isinstance(factor, typed.Transpose)
        out = out.times(norm(scope, factor.operand if row and isinstance(factor, typed.Transpose) else factor))
    return out


def _held(scope: Scope, part: Part) -> list[str]:
    """Other states that the write reads."""
    own = set(part.states)
    free = [f for s in part.steps for f in s.value.free] + [f for _, v in part.blocks for f in v.free]
    seen = {s for f in free for s in scope.seen(f.expr).every} - own
    return sorted({name for name, _ in seen})
