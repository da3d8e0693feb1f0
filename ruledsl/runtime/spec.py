"""What a rule's op takes and returns: names, shapes, ranges. Printed, it is the reference card of the op."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ruledsl.lang import typed
from ruledsl.lang.typed import Role


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the op. `leading` are the axes before the declared ones."""

    name: str
    role: Role
    type: typed.Type
    leading: tuple[str, ...]
    interval: typed.Interval | None = None
    unit: bool = False
    perm: bool = False
    learned: bool = False

    @property
    def shape(self) -> str:
        """As in messages: `[B, T, H, K]`."""
        return "[" + ", ".join((*self.leading, *map(str, self.type.dims))) + "]"

    @property
    def promise(self) -> str:
        words = [
            word for word, said in (("unit", self.unit), ("permutation", self.perm), ("learned", self.learned)) if said
        ]
        return ", ".join(words + ([f"in {interval_text(self.interval)}"] if self.interval else []))


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """Inputs vary by token; params and consts by head; consts with a value of their own do not appear."""

    inputs: tuple[Entry, ...]
    params: tuple[Entry, ...]
    consts: tuple[Entry, ...]
    states: tuple[Entry, ...]
    outputs: tuple[Entry, ...]
    sizes: tuple[str, ...]

    @property
    def arguments(self) -> tuple[Entry, ...]:
        """What a call must give by name, in order."""
        return self.inputs + self.params + self.consts

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        groups = (
            ("inputs", self.inputs),
            ("params", self.params),
            ("consts", self.consts),
            ("states", self.states),
            ("outputs", self.outputs),
        )
        entries = [e for _, group in groups for e in group]
        name, shape = (
            max((len(x) for x in column), default=0)
            for column in ([e.name for e in entries], [e.shape for e in entries])
        )
        for title, group in groups:
            for i, e in enumerate(group):
                yield f"{title if i == 0 else '':8} {e.name:{name}} {e.shape:{shape}} {e.promise}".rstrip()


def interval_text(interval: typed.Interval) -> str:
    left, right = "(" if interval.low_open else "[", ")" if interval.high_open else "]"
    return f"{left}{interval.low:g}, {interval.high:g}{right}"


def spec_of(rule: typed.Rule) -> RuleSpec:
    """The card of a checked rule."""

    def entries(role: Role, *leading: str) -> tuple[Entry, ...]:
        return tuple(
            Entry(s.name, role, s.type, leading, s.interval, s.unit, s.perm, s.learned)
            for s in rule.of(role)
            if not (role is Role.CONST and s.init is not None)
        )

    return RuleSpec(
        inputs=entries(Role.INPUT, "B", "T", "H"),
        params=entries(Role.PARAM, "H"),
        consts=entries(Role.CONST, "H"),
        states=entries(Role.STATE, "B", "H"),
        outputs=tuple(Entry(o.name, Role.OUTPUT, o.value.type, ("B", "T", "H")) for o in rule.outputs),
        sizes=rule.sizes,
    )
