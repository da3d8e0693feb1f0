"""Sums of reads of coupled states by one vector as one read.

lam_1*(S_1 q) + lam_2*(S_2 q) is (lam_1*S_1 + lam_2*S_2) q: one product with what the tokens of the chunk wrote, however
many states there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ruledsl.algebra import build
from ruledsl.algebra.verdict import Read, TokenForm
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Ref, Role

Term = tuple[Expr, Expr]  # a scalar, and what it stands before


@dataclass(frozen=True, slots=True)
class MixedRead:
    """The sum of `parts`, scalars times reads that differ only in state and version; `Ref(name, Role.READ)` stands for it."""

    name: str
    parts: tuple[tuple[Expr, Read], ...]


def mixed_reads(token: TokenForm) -> tuple[TokenForm, tuple[MixedRead, ...]]:
    """The token over mixed reads where its lets and outputs add reads of states that are mapped jointly."""
    finder = _Finder(token)
    outputs = tuple(replace(o, value=finder.rewrite(o.value)) for o in token.outputs)
    lets = tuple(replace(x, value=finder.rewrite(x.value)) for x in token.lets)
    return replace(token, outputs=outputs, lets=lets), tuple(finder.found)


class _Finder:
    def __init__(self, token: TokenForm) -> None:
        self.found: list[MixedRead] = []
        self._reads = {r.name: r for r in token.reads}
        self._form = {(s.state, s.member): i for i, c in enumerate(token.coupled) for s in c.states}

    def rewrite(self, expr: Expr) -> Expr:
        """The expression over mixed reads."""
        if not isinstance(expr, typed.Apply) or expr.fn not in ("add", "sub"):
            return build.rebuild(expr, self.rewrite)
        groups: dict[object, list[tuple[Expr, Ref]]] = {}
        rest: list[Term] = []
        for scale, x in _terms(expr):
            read = self._reads.get(x.name) if isinstance(x, Ref) and x.role is Role.READ and x.lag is None else None
            if read is None or (read.state, read.member) not in self._form or not isinstance(x, Ref):
                rest.append((scale, x))
            else:
                key = self._form[read.state, read.member], read.vector, read.left, x.type
                groups.setdefault(key, []).append((scale, x))
        if all(len(parts) == 1 for parts in groups.values()):
            return build.rebuild(expr, self.rewrite)
        total = build.summed([build.mul(s, self.rewrite(x)) for s, x in rest] + [self._mixed(g) for g in groups.values()])
        assert total is not None
        return total

    def _mixed(self, parts: list[tuple[Expr, Ref]]) -> Expr:
        scale, first = parts[0]
        if len(parts) == 1:
            return build.mul(scale, first)
        name = f"mixed {len(self.found) + 1}"  # no name of a rule has a space
        self.found.append(MixedRead(name, tuple((s, self._reads[x.name]) for s, x in parts)))
        return Ref(name, Role.READ, first.type)


def _terms(expr: Expr) -> Iterable[Term]:
    """A sum as scalars and what they stand before, in order."""
    stack: list[Term] = [(build.ONE, expr)]
    while stack:
        scale, e = stack.pop()
        match e:
            case typed.Apply("add", (x, y)):
                stack += [(scale, y), (scale, x)]
            case typed.Apply("sub", (x, y)):
                stack += [(build.neg(scale), y), (scale, x)]
            case typed.Apply("neg", (x,)):
                stack.append((build.neg(scale), x))
            case typed.Apply("mul", (s, x)) | typed.Apply("mul", (x, s)) if s.type.is_scalar and not x.type.is_scalar:
                stack.append((build.mul(scale, s), x))
            case typed.Apply("div", (x, s)) if s.type.is_scalar and not x.type.is_scalar:
                stack.append((build.div(scale, s), x))
            case _:
                yield scale, e
