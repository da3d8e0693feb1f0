"""What would give a rule a better verdict, as whole texts: each was parsed, checked and judged before it is shown.

The edits of `edits` are tried one kind at a time: after each, what is to blame then is looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ruledsl.algebra import judge as judging
from ruledsl.algebra.affine import TooLarge
from ruledsl.algebra.analysis import analyse
from ruledsl.algebra.calculus import NoDerivative
from ruledsl.algebra.explain.edits import (
    Edit,
    Text,
    drop,
    freeze,
    freeze_reduced,
    from_inputs,
    narrower,
    split,
    to_read_out,
)
from ruledsl.algebra.scope import Scope
from ruledsl.algebra.sizes import unrolled
from ruledsl.algebra.verdict import Kind, Stratum, Verdict
from ruledsl.lang.check import check
from ruledsl.lang.diagnostic import RuleError
from ruledsl.lang.parse import parse
from ruledsl.lang.source import Source, Span
from ruledsl.lang.unparse import unparse

ROUNDS = 5
MOST_JUDGED = 40
MOST = 4
LONGEST = 2000  # characters of a rule that is tried

At = Callable[[Text, Span], Iterator[Edit]]


@dataclass(frozen=True, slots=True)
class Remedy:
    says: str
    kind: Kind
    text: str  # of the whole rule
    changed: str  # the new expression, where one was changed; else ""


@dataclass(frozen=True, slots=True)
class _Try:
    """A text that is a rule, and what the algebra says of it."""

    text: Text
    scope: Scope
    strata: tuple[Stratum, ...]

    @property
    def worst(self) -> Stratum | None:
        return max(self.strata, key=lambda s: s.kind.number, default=None)

    @property
    def kind(self) -> Kind:
        return self.worst.kind if self.worst is not None else Kind.CLOSED


class _Tries:
    """Counts the trials, so that the time is bounded."""

    def __init__(self) -> None:
        self.left = MOST_JUDGED

    def of(self, text: str) -> _Try | None:
        """The kinds alone: no stability, no price."""
        if not self.left:
            return None
        self.left -= 1
        try:
            written = parse(Source(text))
            checked = check(written)
            analysis = analyse(unrolled(checked)[0])
            strata = tuple(judging.stratum_of(analysis, part) for part in analysis.parts)
        except (RuleError, NoDerivative, TooLarge, RecursionError):
            return None
        return _Try(Text(written, checked), analysis.scope, strata)


def remembering(scope: Scope) -> frozenset[str]:
    """States that still read themselves within a chunk."""
    return frozenset(name for (name, m), assigns in scope.assigns.items() if any((name, m) in scope.seen(a.value).now for a in assigns))  # fmt: skip


def remedies(verdict: Verdict, most: int = MOST) -> tuple[Remedy, ...]:
    """Better rules near this one, in the order of the edits; none for a rule whose chunk of tokens is computed at once
    already."""
    if verdict.kind.parallel or len(verdict.rule.source.text) > LONGEST:
        return ()
    tries = _Tries()
    start = tries.of(verdict.rule.source.text)
    if start is None:
        return ()
    found: list[Remedy] = []
    for one in _found(tries, start):
        if all(one.text != r.text for r in found) and (sure := _sure(one)):
            found.append(sure)
        if len(found) >= most:
            break
    return tuple(found)


def _sure(remedy: Remedy) -> Remedy | None:
    """With the verdict of the text as it is shown."""
    try:
        judged = judging.judge(check(parse(Source(remedy.text))))
    except RuleError:
        return None
    return remedy if judged.kind is remedy.kind else None


def _found(tries: _Tries, start: _Try) -> Iterator[Remedy]:
    if start.kind is Kind.DENSE:
        for edit in (*split(start.text), *freeze_reduced(start.text), *narrower(start.text)):
            new = tries.of(unparse(edit.rule))
            if new is not None and _better(new, start):
                yield Remedy(edit.says, new.kind, new.text.rule.source.text, edit.changed)
        return
    for kind in (freeze, drop, to_read_out, from_inputs):
        remedy = _repeated(tries, start, kind)
        if remedy is not None:
            yield remedy


def _better(new: _Try, old: _Try) -> bool:
    """A better kind, and a memory in every state of the worst strata that had one: forgetting everything is no remedy."""
    if not (new.kind.parallel or new.kind.number < old.kind.number):
        return False
    before, after = remembering(old.scope), remembering(new.scope)
    bad = [s for s in old.strata if s.kind is old.kind]
    return all(set(s.states) & after for s in bad if set(s.states) & before)


def _repeated(tries: _Tries, start: _Try, edit: At) -> Remedy | None:
    """The same kind of edit at what is to blame, until nothing is. Each turn goes on with the best of its edits."""
    now, said, changed = start, list[str](), ""
    for _ in range(ROUNDS):
        worst = now.worst
        if worst is None or worst.blame is None:
            return None
        best: tuple[_Try, Edit] | None = None
        for change in edit(now.text, worst.blame):
            new = tries.of(unparse(change.rule))
            if new is None or (remembering(start.scope) and not remembering(new.scope)):
                continue
            if best is None or new.kind.number < best[0].kind.number:
                best = new, change
            if new.kind.parallel:
                break
        if best is None:
            return None
        now, change = best
        changed = change.changed if not said else ""
        said += [] if change.says in said else [change.says]
        if _better(now, start):
            return Remedy(" and ".join(said), now.kind, now.text.rule.source.text, changed)
    return None
