"""The chunk form of states that one token maps jointly, with the rule's own names.

S_t = a_t*S_{t-1} - b_t*M_{t-1} + d_t*e_t k_t^T      each state's last version; its factors are a row of P_t
e_t = v_t - S_{t-1} p_t                              what is written along a key
S_{t-1} x = sum_j D_{t,0}[S,j] (S_j,0 x) + sum_{s<t} (x^T k_s) (sum_j D_{t,s}[S,j] d_{j,s}) e_s
A[t,s], (I - A)^-1                                   the first two over the third: one solve per chunk
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from ruledsl.algebra import build
from ruledsl.algebra.explain.explanation import Equation, Line, Sentence
from ruledsl.algebra.explain.frame import renamed, signs
from ruledsl.algebra.explain.writer import Writer, symbol
from ruledsl.algebra.verdict import CoupledForm, CoupledVersion, Read, TokenForm
from ruledsl.lang.typed import Expr, Type


def coupled_equations(w: Writer, form: CoupledForm, token: TokenForm, names: dict[str, str]) -> Iterator[Line]:
    """`names`: how the token's reads are called."""
    yield from _Equations(w, form, token, names).lines()


class _Equations:
    def __init__(self, w: Writer, form: CoupledForm, token: TokenForm, names: dict[str, str]) -> None:
        self.w, self.form = w, form
        self.shown = names
        own = {(s.state, s.member): i for i, s in enumerate(form.states)}
        self.reads = [(names[r.name], r, own[r.state, r.member]) for r in token.reads if (r.state, r.member) in own]
        self.labels = form.names
        self.takes = {i: {i} for i in range(len(form.held))}
        for _ in form.states:
            self.takes = {
                i: found.union(*({j for j, _ in form.last(k).states} for k in found if k < len(form.states)))
                for i, found in self.takes.items()
            }
        self.row = w.fresh("e", "r", "z")
        self.product = w.fresh("D", "G", "W")

    def lines(self) -> Iterator[Line]:
        w, n = self.w, len(self.form.states)
        total, lines = len(self.labels), "line" if n == 1 else f"{n} lines"
        names = " and ".join(w.inline(w.name(x)) for x in self.labels)
        kept = ", ".join(w.inline(w.name(x)) for x in self.labels[n:])
        yield Sentence(
            f"{names} are taken together: each token mixes them by the {total} x {total} matrix of their factors in the next {lines}"
            + (f"; no token of the chunk changes {kept}" if kept else "")
        )
        for i in range(n):
            yield Equation(w.write(self.state(i, "t")), self.version(self.form.last(i)))
        for number, write in enumerate(self.form.writes):
            parts = [] if write.value is None else [self.dated(write.value)]
            parts += [
                build.mul(self.dated(r.gain), build.product(self.state(r.source, "t-1"), self.dated(r.read)))
                for r in write.reads
            ]
            yield Equation(w.write(self.error(number, "t")), signs(" + ".join(map(w.write, parts))))
        d, shown = w.inline(w.name(self.product, "t,s")), ", ".join(w.inline(w.name(x)) for x in self.labels)
        yield Sentence(
            f"{d} is the product of these matrices over the tokens between s and t, the identity for s = t-1, its entries named by"
            f" {shown}: sums of products only, so that the factors may be 0 or negative"
        )
        x = symbol(w.fresh("x", "c", "g"), "", Type(self.form.cols, 1))
        for i in self._asked():
            yield Equation(w.write(build.product(self.state(i, "t-1"), x)), self.before(i, x))
        if any(write.reads for write in self.form.writes):
            yield from self._system()
        for name, read, i in self.reads:
            yield Equation(w.name(name, "t"), w.write(self.read(read, i)))

    def dated(self, expr: Expr, at: str = "t") -> Expr:
        return self.w.at(at)(renamed(expr, self.shown))

    def state(self, i: int, at: str) -> Expr:
        form = self.form
        at = at if i < len(form.states) else ""
        if form.held[i].transposed:
            return build.transpose(symbol(self.labels[i], at, Type(form.cols, form.rows)))
        return symbol(self.labels[i], at, Type(form.rows, form.cols))

    def error(self, number: int, at: str) -> Expr:
        return symbol(self.row + (str(number + 1) if len(self.form.writes) > 1 else ""), at, Type(self.form.rows, 1))

    def version(self, version: CoupledVersion) -> str:
        parts = [build.mul(self.dated(c), self.state(j, "t-1")) for j, c in version.states]
        for number, d in version.writes:
            key = build.transpose(self.dated(self.form.writes[number].key))
            parts.append(build.mul(self.dated(d), build.product(self.error(number, "t"), key)))
        return signs(" + ".join(map(self.w.write, parts))) or "0"

    def entry(self, i: int, j: int, at: str) -> Expr:
        """0 where state i takes nothing from state j, not even through others."""
        return (
            build.ZERO
            if j not in self.takes[i]
            else symbol(f"{self.product}[{self.labels[i]},{self.labels[j]}]", at, Type())
        )

    def weight(self, i: int, number: int) -> Expr:
        """What state i holds, before token t, of the row that token s wrote."""
        held = [(j, d) for j in range(len(self.form.states)) for w, d in self.form.last(j).writes if w == number]
        return build.summed(build.mul(self.entry(i, j, "t,s"), self.dated(d, "s")) for j, d in held) or build.ZERO

    def pair(self, vector: Expr, number: int, i: int) -> Expr:
        key = self.dated(self.form.writes[number].key, "s")
        return build.mul(build.product(build.transpose(vector), key), self.weight(i, number))

    def before(self, i: int, x: Expr) -> str:
        """S_{t-1} x over the states as the chunk began and the rows of its tokens."""
        w = self.w
        first = [
            build.mul(self.entry(i, j, "t,0"), build.product(self.state(j, "0"), x)) for j in range(len(self.labels))
        ]
        parts = [w.write(e) for e in first if not build.is_zero(e)]
        for number in range(len(self.form.writes)):
            if not build.is_zero(self.weight(i, number)):
                total = build.mul(self.pair(x, number, i), self.error(number, "s"))
                parts.append(w.sum("s<t") + w.write(total))
        return signs(" + ".join(parts))

    def _asked(self) -> list[int]:
        """The states that are read as a token begins, by writes or through the versions that are read."""
        found = {r.source for write in self.form.writes for r in write.reads}
        for _, read, i in self.reads:
            seen = [v for v in self.form.versions if (v.target, v.version) == (i, read.version)]
            found |= {j for v in seen for j, _ in v.states} if seen else {i}
        return sorted(i for i in found if i < len(self.form.states))

    def _system(self) -> Iterator[Line]:
        w, form = self.w, self.form
        reading = [i for i, write in enumerate(form.writes) if write.reads]
        a, order = w.fresh("A", "N"), count(1)
        for i in reading:
            for number in reading:
                total = build.summed(
                    build.mul(self.dated(r.gain), self.pair(self.dated(r.read), number, r.source))
                    for r in form.writes[i].reads
                )
                label = a if len(reading) == 1 else f"{a}{next(order)}"
                yield Equation(f"{w.name(label)}[t,s]", w.write(total or build.ZERO), "=", "s < t, else 0")
        unknown = ", ".join(w.inline(w.write(self.error(i, "t"))) for i in reading)
        inverse = "(I - A)^{-1}" if w.tex else "(I - A)^-1"
        yield Sentence(
            f"{unknown} for all tokens of the chunk: {w.inline(inverse.replace('A', a))} times what they are without the sums over"
            " s, unit lower triangular: one solve per chunk"
        )

    def read(self, read: Read, i: int) -> Expr:
        """A read of a version, at the version's own name where it is a token's last."""
        seen = self.state(i, "t" if read.version else "t-1")
        return build.product(build.transpose(seen) if read.left else seen, self.dated(read.vector))
