"""What the names of one rule mean while it is checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches

from ruledsl.lang import syntax
from ruledsl.lang.report import Report
from ruledsl.lang.shapes import Shape
from ruledsl.lang.source import NOWHERE, Span
from ruledsl.lang.typed import Interval, Role


@dataclass(frozen=True, slots=True)
class Entry:
    """A declared, assigned or inferred name."""

    name: str
    role: Role
    shape: Shape
    span: Span
    varies: bool = True  # differs from token to token
    interval: Interval | None = None
    unit: bool = False
    perm: bool = False
    init: syntax.Expr | None = None
    learned: bool = False
    inferred: bool = False
    loops: tuple[str, ...] = ()  # the loops around a let


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop variable with its bounds as written."""

    name: str
    low: syntax.Expr
    high: syntax.Expr


@dataclass(slots=True)
class Scope:
    """Names in order of appearance."""

    report: Report
    open: bool  # nothing is declared: unknown names are inputs, assigned names states
    entries: dict[str, Entry] = field(default_factory=dict)
    sizes: dict[str, Span] = field(default_factory=dict)
    later: dict[str, Span] = field(default_factory=dict)  # lets and outputs of the text that are not reached yet
    loops: list[Loop] = field(default_factory=list)

    def add(self, entry: Entry) -> bool:
        """Enter a name, unless it has a meaning already (which is told)."""
        if not self.free(entry.name, entry.span):
            return False
        self.entries[entry.name] = entry
        self.later.pop(entry.name, None)
        return True

    def free(self, name: str, span: Span) -> bool:
        """Whether `name` may be given a meaning here; says why not. (Reserved names are refused while parsing.)"""
        if name in self.sizes:
            self.report.add(
                "RD207",
                f"`{name}` is a size and cannot name a value too",
                span,
                notes=("A size stands for its number in expressions: `sqrt(K)`.",),
                hint="rename one of them",
            )
        elif name in self.entries:
            first = self.entries[name]
            self.report.add(
                "RD202",
                f"`{name}` has a meaning already",
                span,
                f"it is {_article(first.role)}",
                notes=("A name means one thing in the whole rule.",),
                hint=self._again(first),
            )
        elif any(loop.name == name for loop in self.loops):
            self.report.add("RD202", f"`{name}` has a meaning already", span, "it is the loop's variable")
        else:
            return True
        return False

    def loop(self, name: str) -> Loop | None:
        return next((loop for loop in reversed(self.loops) if loop.name == name), None)

    def near(self, name: str) -> str:
        """Text for names that are spelled like `name`."""
        known = [*self.entries, *self.sizes, *self.later, *(loop.name for loop in self.loops)]
        by_letter = [k for k in known if k.lower() == name.lower()]
        found = list(dict.fromkeys(by_letter + get_close_matches(name, known, n=2, cutoff=0.6)))
        return f"did you mean {' or '.join(f'`{n}`' for n in found)}?" if found else ""

    @staticmethod
    def _again(first: Entry) -> str:
        if first.role is Role.STATE:
            return f"a state is assigned without `let`: `{first.name} = ...`"
        return (
            f"give it a name of its own: `{first.name}2`"
            if first.role in (Role.LET, Role.OUTPUT)
            else "remove one of the two"
        )


def _article(role: Role) -> str:
    return f"an {role}" if role in (Role.INPUT, Role.OUTPUT) else f"a {role}"


def unknown_entry(name: str, shape: Shape) -> Entry:
    """A stand-in after a mistake."""
    return Entry(name, Role.INPUT, shape, NOWHERE)
