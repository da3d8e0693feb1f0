"""The whole explanation of a verdict: the verdict first, then what it rests on and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from ruledsl.algebra.affine import TooLarge
from ruledsl.algebra.analysis import analyse
from ruledsl.algebra.calculus import NoDerivative
from ruledsl.algebra.explain.adjoint import adjoint_rule
from ruledsl.algebra.explain.cancelled import cancelled
from ruledsl.algebra.explain.counterexample import counterexample
from ruledsl.algebra.explain.equations import chunk_form
from ruledsl.algebra.explain.explanation import Equation, Explanation, Line, Quote, Section, Sentence
from ruledsl.algebra.explain.law import law
from ruledsl.algebra.explain.monoids import monoid
from ruledsl.algebra.explain.regression import derived, regression
from ruledsl.algebra.explain.remedies import remedies
from ruledsl.algebra.explain.writer import Writer
from ruledsl.algebra.verdict import Kind, Verdict
from ruledsl.lang import typed
from ruledsl.lang.source import Source, Span
from ruledsl.lang.walk import subexpressions

MOST_LINES = 120  # of one section


def explain(verdict: Verdict, tex: bool = False) -> Explanation:
    """`tex`: formulas as LaTeX. What the checker could not follow is said in place of the section."""
    try:
        w = Writer(verdict, analyse(verdict.rule), tex)
    except (NoDerivative, TooLarge, RecursionError) as e:
        return Explanation(verdict.headline, (Section("why", (Sentence(f"not followed: {_reason(e)}"),)),), tex)
    made = [Section(title, tuple(_safely(of, w))) for title, of in SECTIONS]
    return Explanation(verdict.headline, tuple(s for s in made if s.lines), tex)


def _safely(of: Callable[[Writer], Iterator[Line]], w: Writer) -> Iterator[Line]:
    try:
        made = list(islice(of(w), MOST_LINES + 1))
        yield from made[:MOST_LINES]
        if len(made) > MOST_LINES:
            yield Sentence("the rest is too long to be shown")
    except (TooLarge, NoDerivative, RecursionError) as e:
        yield Sentence(f"not followed: {_reason(e)}")


def _reason(e: Exception) -> str:
    return "the rule is nested too deeply for the checker" if isinstance(e, RecursionError) else str(e)


def _transition(w: Writer) -> Iterator[Line]:
    arrow, rows = (
        (r" \leftarrow ", w.verdict.latex.split(r" \\ ")) if w.tex else (" <- ", w.verdict.transition.split("\n"))
    )
    for row in rows:
        left, sign, right = row.partition(arrow)
        if sign:
            yield Equation(left, right, "<-")


def _why(w: Writer) -> Iterator[Line]:
    """Of a no: the place to blame, and the reason."""
    if w.verdict.kind.parallel:
        return
    yield Sentence(w.verdict.reason)
    if w.verdict.blame is not None:
        yield Quote(caret(w.verdict.rule.source, w.verdict.blame))


def caret(source: Source, span: Span) -> str:
    """The line with the place underlined; of a place over several lines the first."""
    line, column = source.position(span.start)
    text = source.line(line)
    length = max(1, min(span.end - span.start, len(text) - column + 1))
    margin = " " * len(str(line))
    return f"{line} | {text}\n{margin} | {' ' * (column - 1)}{'^' * length}"


def _remedies(w: Writer) -> Iterator[Line]:
    found = remedies(w.verdict)
    for remedy in found:
        changed = f" ({remedy.changed})" if remedy.changed else ""
        yield Sentence(f"{remedy.says}{changed}: {remedy.kind}".replace("$", ""))
        yield Quote(remedy.text)


def _law(w: Writer) -> Iterator[Line]:
    parts = w.analysis.parts
    if len(parts) > 1:
        order = ", then ".join(", ".join(w.inline(w.own(s)) for s in p.states) for p in parts)
        yield Sentence(f"in this order, each over all tokens, the earlier ones being inputs to the later: {order}")
    for part, stratum in zip(parts, w.verdict.strata, strict=True):
        if part.found is not None:
            yield from law(w, part)
        elif stratum.kind is Kind.REPARAMETRISED:
            yield from monoid(w, part.states[0], stratum.structure)
        else:
            names = ", ".join(w.inline(w.own(s)) for s in part.states)
            yield Sentence(
                f"none for {names}: two tokens have no known description that is shorter than the two tokens."
                f" What composes is the linearisation at a given run: its Jacobians are {stratum.structure.removesuffix(' Jacobian')}"
            )
    yield from cancelled(w)


def _frozen(w: Writer) -> Iterator[Line]:
    """What stays the same within a chunk."""
    seen: dict[str, None] = {}
    for s in w.analysis.rule.body:
        assert not isinstance(s, typed.For)
        for e in subexpressions(s.value):
            if isinstance(e, typed.Frozen):
                shown = w.inline(w.write(e))
                length = w.write(e.chunk)
                seen[f"{shown} is {w.inline(w.name(e.name))} as it was when the chunk of {length} tokens began"] = None
    yield from map(Sentence, seen)
    if seen:
        yield Sentence(
            "so every coefficient made from it is known before the chunk starts, and within the chunk the rule is what the"
            " composition law says; from one chunk to the next it is not affine. The length of a chunk is part of the rule"
        )


def _chunk(w: Writer) -> Iterator[Line]:
    if w.verdict.token is not None:
        yield from chunk_form(w, w.verdict.token)
    else:
        yield Sentence(f"none: {w.verdict.no_form}")


def _regression(w: Writer) -> Iterator[Line]:
    yield from regression(w)
    yield from derived(w)


def _cost(w: Writer) -> Iterator[Line]:
    for stratum in w.verdict.strata:
        names = ", ".join(w.inline(w.name(n)) for n in stratum.states)
        yield Sentence(f"{names}: {stratum.kind}, {stratum.structure}: {stratum.reason}")
    price = w.verdict.price
    for label, shown, unit in (
        ("state", price.state_bytes, "bytes per head, whatever the length"),
        ("training", price.train_flops, "flops per token and head"),
        ("decoding", price.decode_flops, "flops per token and head"),
        ("moved in training", price.train_bytes, "bytes per token and head"),
        ("moved in decoding", price.decode_bytes, "bytes per token and head"),
    ):
        if shown:
            yield Equation(w.words(label), shown.replace("*", " ") if w.tex else shown, "=", unit)
    if price.note:
        yield Sentence(price.note)


SECTIONS: tuple[tuple[str, Callable[[Writer], Iterator[Line]]], ...] = (
    ("transition", _transition),
    ("why not", _why),
    ("counter-example", counterexample),
    ("what would help", _remedies),
    ("composition law", _law),
    ("what is frozen", _frozen),
    ("chunk form", _chunk),
    ("regression view", _regression),
    ("adjoint rule", adjoint_rule),
    ("class and cost", _cost),
)
