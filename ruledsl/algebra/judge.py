"""The public entry of the algebra: a checked rule and its verdict."""

from __future__ import annotations

from dataclasses import replace

from ruledsl.algebra.affine import TooLarge
from ruledsl.algebra.analysis import Analysis, Part, analyse
from ruledsl.algebra.calculus import NoDerivative
from ruledsl.algebra.dense_blame import dense_blame
from ruledsl.algebra.gauge import gauged, gauges
from ruledsl.algebra.precision import inverted
from ruledsl.algebra.price import price
from ruledsl.algebra.readout import form_of
from ruledsl.algebra.sequential import broken
from ruledsl.algebra.sizes import unrolled as written_out
from ruledsl.algebra.stability import stability, unpromised_keys
from ruledsl.algebra.transition import transition
from ruledsl.algebra.verdict import Kind, Price, Stability, Stratum, Verdict
from ruledsl.lang import typed
from ruledsl.lang.diagnostic import RuleError
from ruledsl.lang.source import Span
from ruledsl.lang.unroll import unroll


def judge(rule: typed.Rule) -> Verdict:
    """Loops are unrolled at small representative sizes; the reason says how many sub-steps a token has."""
    unrolled, sizes = written_out(rule)
    try:
        return _judged(rule, unrolled, sizes)
    except NoDerivative as e:
        return _unknown(rule, unrolled, sizes, str(e), e.span)
    except TooLarge as e:
        return _unknown(rule, unrolled, sizes, str(e), None)
    except RecursionError:
        return _unknown(rule, unrolled, sizes, "the rule is nested too deeply for the checker", None)


def _judged(rule: typed.Rule, unrolled: typed.Rule, sizes: dict[str, int]) -> Verdict:
    analysis = analyse(unrolled)
    strata = tuple(stratum_of(analysis, part) for part in analysis.parts)
    if sizes:
        strata = _per_size(rule, sizes, strata)
    found = gauges(analysis)
    strata = tuple(
        replace(s, reason=gauged(analysis.scope, found, part, s.reason))
        for s, part in zip(strata, analysis.parts, strict=True)
    )
    token, no_form = form_of(analysis)
    kind = max((s.kind for s in strata), key=lambda k: k.number, default=Kind.CLOSED)
    bound = stability(analysis, sizes)
    texts = transition(analysis, tex=False), transition(analysis, tex=True)
    return Verdict(
        unrolled,
        kind,
        strata,
        token,
        no_form,
        bound,
        price(analysis, token, sizes),
        *texts,
        sizes,
        (*unrolled.notes, *_warnings(analysis)),
    )


def _warnings(analysis: Analysis) -> tuple[str, ...]:
    carried = (f"{name} reads its own past: it is judged as a state of that name" for name in analysis.hidden)
    double = ("computes in float64, states too: float32 does not hold a matrix whose inverse fades",) if inverted(analysis.scope) else ()
    return (*carried, *double, *_keys(analysis))


def _keys(analysis: Analysis) -> tuple[str, ...]:
    return tuple(
        f"{name} is read and written along, and not declared unit: a long one makes the state grow"
        for name in unpromised_keys(analysis)
    )


def stratum_of(analysis: Analysis, part: Part) -> Stratum:
    names = tuple(dict.fromkeys(name for name, _ in part.states))
    if part.found is None:
        return broken(analysis, part, names)
    found = part.found
    if part.frozen and found.kind is not Kind.UNDECIDED:
        reason = f"affine given the state at the start of the chunk: what is not linear stands inside frozen(...). Within a chunk: {found.structure}"
        return Stratum(names, Kind.FROZEN, found.structure, reason, None, found.rank)
    blame = dense_blame(analysis, part) if found.kind is Kind.DENSE else None
    return Stratum(names, found.kind, found.structure, found.reason, blame, found.rank)


def _per_size(rule: typed.Rule, sizes: dict[str, int], strata: tuple[Stratum, ...]) -> tuple[Stratum, ...]:
    """How the rank grows with the loops' sizes, from a second set of them."""
    at = ", ".join(f"{k} = {v}" for k, v in sizes.items())
    other = {k: v + 1 for k, v in sizes.items()}
    try:
        second = analyse(unroll(rule, other)).parts
    except (NoDerivative, TooLarge, RuleError, RecursionError):
        second = ()
    out = []
    for i, s in enumerate(strata):
        found = second[i].found if i < len(second) else None
        if s.rank is None or found is None or found.rank is None or found.rank == s.rank:
            out.append(s)
            continue
        slope, names = found.rank - s.rank, "+".join(sizes)
        rest = s.rank - slope * sum(sizes.values())
        if len(sizes) == 1 or slope == len(sizes):
            times = names if slope == 1 or len(sizes) > 1 else f"{slope}*{names}"
            grown = times + (f" + {rest}" if rest > 0 else f" - {-rest}" if rest < 0 else "")
            out.append(
                replace(s, reason=f"{s.reason} (counted at {at}; rank {grown}, from {names} sub-steps per token)")
            )
        else:
            out.append(replace(s, reason=f"{s.reason} (counted at {at})"))
    return tuple(out)


def _unknown(rule: typed.Rule, unrolled: typed.Rule, sizes: dict[str, int], why: str, span: Span | None) -> Verdict:
    """What the checker cannot follow: it runs token by token, as written."""
    names = tuple(s.name for s in rule.of(typed.Role.STATE))
    stratum = Stratum(names, Kind.UNDECIDED, "unknown", why, span)
    nothing = Price("", "", "", "", "", "not counted")
    bound = Stability("not applicable", "", why)
    return Verdict(
        unrolled,
        Kind.UNDECIDED,
        (stratum,),
        None,
        why,
        bound,
        nothing,
        "",
        "",
        sizes,
        unrolled.notes,
    )
