"""The place that makes an affine stratum dense: a factor that is neither diagonal nor of low rank, a term that is no
product, or the term that does not factor with the ones before it."""

from __future__ import annotations

from ruledsl.algebra.analysis import Analysis, Part
from ruledsl.algebra.sides import PartKind, matrix
from ruledsl.lang import typed
from ruledsl.lang.source import NOWHERE, Span


def dense_blame(analysis: Analysis, part: Part) -> Span | None:
    scope = analysis.scope
    terms = [t for s in part.steps for t in s.value.terms] + [t for _, v in part.blocks for t in v.terms]
    places = [_summand(analysis, t.span) for t in terms if t.opaque]
    places += [
        factor.span
        for t in terms
        if not t.opaque
        for factor in (*t.left, *t.right)
        if factor.type.is_matrix and any(p.kind is PartKind.DENSE for p in matrix(scope, factor))
    ]
    last = sorted((t.span for t in terms), key=lambda s: s.start, reverse=True)
    places += [_summand(analysis, span) for span in last]
    return next((place for place in places if place != NOWHERE), None)


def _summand(analysis: Analysis, span: Span) -> Span:
    """The whole summand of a statement that a read of the state stands in."""
    for statement in analysis.written.body:
        if isinstance(statement, typed.For) or span == NOWHERE:
            continue
        at = statement.value
        if not _inside(span, at.span):
            continue
        while isinstance(at, typed.Apply) and at.fn in ("add", "sub", "neg"):
            inner = next((a for a in at.args if _inside(span, a.span)), None)
            if inner is None:
                break
            at = inner
        return at.span
    return span


def _inside(inner: Span, outer: Span) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end
