"""The words that the sections share: names, tokens, sums and sizes in the notation asked for."""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.algebra import build, dated, text
from ruledsl.algebra.analysis import Analysis, Part
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.text import AT
from ruledsl.algebra.transition import state_text
from ruledsl.algebra.verdict import Verdict
from ruledsl.lang import typed
from ruledsl.lang.typed import Dim, DimOp, Expr, Ref, Role, Type

HARD = "\u00a0"  # a space inside a formula, where no line is broken; printed as a space


@dataclass(frozen=True, slots=True)
class Writer:
    verdict: Verdict
    analysis: Analysis
    tex: bool

    @property
    def scope(self) -> Scope:
        return self.analysis.scope

    def write(self, expr: Expr) -> str:
        return text.latex(expr) if self.tex else text.plain(expr)

    def factor(self, expr: Expr) -> str:
        return text.factor(expr, self.tex)

    def name(self, word: str, at: str = "") -> str:
        return text.name(word + (AT + at if at else ""), self.tex)

    def inline(self, formula: str) -> str:
        """A formula inside a sentence."""
        return f"${formula}$" if self.tex else formula.replace(" ", HARD)

    def words(self, said: str) -> str:
        """Words inside a formula."""
        return rf"\text{{{said}}}" if self.tex else said

    def own(self, state: State) -> str:
        """The state's name."""
        return state_text(state, self.tex)

    def state(self, state: State, at: str) -> str:
        """The state's name at a token: S_{t-1}."""
        return self.write(symbol(state_name(state), at, self.type_of(state)))

    def type_of(self, state: State) -> Type:
        own = self.scope.symbols[state[0]].type
        return Type(own.rows, own.cols)

    def today(self, part: Part) -> dated.Change:
        """Writes prev(m) for the old value of another stratum's state."""
        return dated.earlier(self.scope, frozenset(name for name, _ in part.states))

    def at(self, index: str) -> dated.At:
        return dated.At(self.scope, index)

    def dated(self, expr: Expr) -> Expr:
        """At token t."""
        return self.at("t")(expr)

    def fresh(self, *wanted: str) -> str:
        """The first of the names that the rule does not use."""
        taken = {s.name for s in self.analysis.rule.symbols} | set(self.scope.lets) | set(self.analysis.rule.sizes)
        name = next((w for w in wanted if w not in taken), wanted[0])
        while name in taken:
            name += wanted[0]
        return name

    def sum(self, below: str) -> str:
        """The sign of a sum; `below` as plain text."""
        if self.tex:
            return rf"\sum_{{{below.replace('<=', chr(92) + 'leq ')}}} "
        return f"sum_{{{below}}} "


def state_name(state: State) -> str:
    return state[0] if state[1] is None else f"{state[0]}[{state[1]}]"


def symbol(name: str, at: str, type: Type) -> Expr:
    """A name of the explanation's own, with its token."""
    return Ref(name + (AT + at if at else ""), Role.INPUT, type)


def times(*dims: Dim) -> str:
    """The product of sizes: K*V."""
    dims = tuple(d for d in dims if d != 1)
    shown = [f"({d})" if isinstance(d, DimOp) and len(dims) > 1 else str(d) for d in dims]
    return "*".join(shown) or "1"


def inlined(scope: Scope, expr: Expr, most: int = 300) -> Expr:
    """Lets of this token replaced by their values, as long as the expression stays small; otherwise as it stands."""
    from ruledsl.lang.walk import tree_size

    def visit(e: Expr) -> Expr:
        value = scope.let(e)
        return build.rebuild(value, visit)

    size = _grown(scope, expr, most)
    return expr if size > most else visit(expr) if tree_size(expr) <= most else expr


def _grown(scope: Scope, expr: Expr, most: int) -> int:
    """Nodes after replacement, counted up to `most`."""
    total = 0
    stack = [expr]
    while stack and total <= most:
        node = scope.let(stack.pop())
        total += 1
        stack.extend(typed.children(node))
    return total
