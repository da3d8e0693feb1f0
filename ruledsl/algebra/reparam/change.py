"""What a recogniser answers, and the walk they share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr

MOST_LOOKS = 4000


@dataclass(frozen=True, slots=True)
class Change:
    name: str  # "max-plus", "Moebius", ...
    reason: str  # why it composes


class Outside(Exception):
    """The expression is not in the family."""


@dataclass(slots=True)
class Own:
    """One state, as a recogniser sees it."""

    scope: Scope
    state: State
    looks: int = 0

    def reads(self, expr: Expr) -> bool:
        self.looks += 1
        if self.looks > MOST_LOOKS:  # lets are walked where they are met: they may double at each step
            raise Outside
        return self.state in self.scope.seen(expr).now

    def values(self) -> Iterator[tuple[int, Expr]]:
        """The version that each assignment must read alone, and its value."""
        yield from enumerate(a.value for a in self.scope.assigns.get(self.state, []))

    def is_state(self, expr: Expr, version: int) -> bool:
        """The state itself at that version; any other version of it is outside every family here."""
        if not isinstance(expr, typed.StateRef) or (expr.name, expr.member) != self.state:
            return False
        if expr.version != version:
            raise Outside
        return True
