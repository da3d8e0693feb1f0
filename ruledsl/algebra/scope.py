"""What the names of an unrolled rule stand for, and which states an expression reads.

A state variable is `(name, member)`; its versions 1, 2, ... are made by its assignments, in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Frozen, Number, Ref, Role, StateRef

State = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class Seen:
    """Which states an expression reads: in this token, through `frozen`, and through lets of earlier tokens."""

    now: frozenset[State] = frozenset()
    frozen: frozenset[State] = frozenset()
    before: frozenset[State] = frozenset()

    def __or__(self, other: Seen) -> Seen:
        return Seen(self.now | other.now, self.frozen | other.frozen, self.before | other.before)

    @property
    def live(self) -> frozenset[State]:
        """The states whose values change from token to token inside a chunk."""
        return self.now | self.before

    @property
    def every(self) -> frozenset[State]:
        return self.now | self.frozen | self.before


@dataclass(slots=True)
class Scope:
    rule: typed.Rule
    symbols: dict[str, typed.Symbol] = field(default_factory=dict)
    lets: dict[str, Expr] = field(default_factory=dict)  # outputs too
    assigns: dict[State, list[typed.Assign]] = field(default_factory=dict)
    ranges: dict[str, typed.Interval] = field(default_factory=dict)  # of lets, filled by `ranges`
    matrices: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # parts of matrix lets, filled by `sides`
    logs: dict[str, Expr | None] = field(default_factory=dict)  # logarithms of lets, filled by `logarithm`
    lengths: dict[str, float] = field(default_factory=dict)  # bounds on the norms of vector lets, filled by `norms`
    _seen: dict[str, Seen] = field(default_factory=dict)
    _known: dict[int, tuple[Expr, Seen]] | None = None  # by identity; the node is held so that its number stays its own
    _states: list[State] | None = None

    def __post_init__(self) -> None:
        self.symbols = {s.name: s for s in self.rule.symbols}
        for statement in self.rule.body:
            match statement:
                case typed.Let(name, value) | typed.Output(name, value):
                    self.lets[name] = value
                case typed.Assign(name, member, _):
                    index = None if member is None else _index(member)
                    self.assigns.setdefault((name, index), []).append(statement)
                case typed.For():
                    raise AssertionError("the rule is not unrolled")
        for name in self.lets:  # in order, so that a long chain of lets needs no deep recursion
            self.seen(typed.Ref(name, Role.LET, typed.SCALAR))
        self._known = {}  # not before: while lets are looked at, one that reads its own past is not finished

    @property
    def states(self) -> list[State]:
        """Every state variable, in order of declaration; members that are never assigned and never read are left out."""
        if self._states is None:
            self._states = self._found()
        return self._states

    def _found(self) -> list[State]:
        order = [s.name for s in self.rule.of(Role.STATE)]
        read = frozenset[State]().union(*(self.seen(a.value).every for v in self.assigns.values() for a in v))
        read = read.union(*(self.seen(v).every for v in self.lets.values()))
        found = set(self.assigns) | set(read)
        found |= {(name, None) for name in order if not self.symbols[name].type.family}
        return sorted(found, key=lambda s: (order.index(s[0]), s[1] or 0))

    def seen(self, expr: Expr) -> Seen:
        match expr:
            case StateRef(name, _, _, member):
                return Seen(now=frozenset({(name, member)}))
            case typed.Member(Frozen(name, type), Number(i)) if type.family:
                return Seen(frozen=frozenset({(name, int(i))}))
            case Frozen(name):
                return Seen(frozen=frozenset({(name, None)}))
            case Ref(name, Role.LET | Role.OUTPUT, _, lag):
                if name not in self._seen:
                    self._seen[name] = Seen()  # a lagged output may read itself
                    if name in self.lets:
                        self._seen[name] = self.seen(self.lets[name])
                inner = self._seen[name]
                return inner if lag is None else Seen(before=inner.now | inner.before, frozen=inner.frozen)
        if self._known is not None and id(expr) in self._known:
            return self._known[id(expr)][1]
        out = Seen()
        for child in typed.children(expr):
            out |= self.seen(child)
        if self._known is not None:
            self._known[id(expr)] = expr, out
        return out

    def let(self, expr: Expr) -> Expr:
        """The value behind a reference to a let or output of this token, else the expression itself."""
        while (
            isinstance(expr, Ref)
            and expr.lag is None
            and expr.role in (Role.LET, Role.OUTPUT)
            and expr.name in self.lets
        ):
            expr = self.lets[expr.name]
        return expr


def _index(expr: Expr) -> int:
    assert isinstance(expr, Number), "the rule is not unrolled"
    return int(expr.value)
