"""The chunk form of a token form: C tokens at once, with the rule's own names.

With G_t the inclusive sum of log D inside the chunk, for S_t = S_{t-1} D_t + sum_j z_{t,j} w_{t,j}^T and
z_{t,j} = alpha_{t,j} S p_{t,j} + u_{t,j}:

    A[t,s] = alpha_t p_t^T (exp(G_t - G_s) .* w_s)     for s < t, else 0
    Z      = (I - A)^-1 R,     R_t = u_t + alpha_t S_0 (exp(G_t) .* p_t)
    y_t    = S_0 (exp(G_t) .* q_t) + sum_{s<=t} (q_t^T (exp(G_t - G_s) .* w_s)) z_s
    S_C    = S_0 diag(exp(G_C)) + sum_s z_s (exp(G_C - G_s) .* w_s)^T

Only the terms that are there are written: no solve without reads, no exponentials without decay. A read that stands
before the decay of its own sub-step sees G_{t-1}. A decay that may be 0 or negative is a product D_{t,s} in place of
exp(G_t - G_s). Decays on the rows are H. Sub-steps are tokens of their own: (t,j).
"""

from __future__ import annotations

from collections.abc import Iterator

from ruledsl.algebra import build
from ruledsl.algebra.explain.coupled_equations import coupled_equations
from ruledsl.algebra.explain.explanation import Equation, Line, Sentence
from ruledsl.algebra.explain.frame import Family, Frame, Letters, renamed, scaled, signs, spread
from ruledsl.algebra.explain.writer import Writer, symbol
from ruledsl.algebra.verdict import Decay, Read, TokenForm
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Ref, Role
from ruledsl.lang.walk import expressions, subexpressions


def chunk_form(w: Writer, token: TokenForm) -> Iterator[Line]:
    names = _read_names(w, token)
    letters: Letters = {}
    for form in token.forms:
        yield from _Equations(w, token, form, names, letters).lines()
    for joint in token.coupled:
        yield from coupled_equations(w, joint, token, names)
    if any(isinstance(e, typed.Builtin) and e.name == "t" for s in w.analysis.rule.body for e in _nodes(s)):
        yield Sentence(
            f"{w.inline(w.name('pos', 't'))} is the position of token {w.inline('t')} in the sequence, 0 for the first"
        )
    for system in token.solves:
        left, right = (w.write(w.at("t")(renamed(e, names))) for e in (system.applied, system.right))
        most = "" if system.steps is None else f" in at most {w.write(system.steps)} steps"
        x = w.inline(w.name(names[system.name], "t"))
        note = f"solved for {x} by conjugate gradients{most}, all tokens of the chunk together: no token's matrix is formed"
        yield Equation(left, right, "=", note)
    for output in token.outputs:
        value = w.at("t")(renamed(output.value, names))
        left = w.name(output.name, "t")
        if w.write(value) != left:
            yield Equation(left, w.write(value))


def _nodes(s: typed.Statement) -> Iterator[Expr]:
    for e in expressions(s):
        yield from subexpressions(e)


def _read_names(w: Writer, token: TokenForm) -> dict[str, str]:
    """A read that is an output carries its name; others are y, or y1, y2 ... Solutions are x, or x1, x2 ..."""
    direct = {o.value.name: o.name for o in token.outputs if isinstance(o.value, Ref) and o.value.role is Role.READ}
    used = w.fresh("y", "Y", "r")
    rest = [r for r in token.reads if r.name not in direct]
    names = {r.name: used if len(rest) == 1 else f"{used}{i}" for i, r in enumerate(rest, 1)} | direct
    letter = w.fresh("x", "c", "g") if token.solves else ""
    for i, system in enumerate(token.solves, 1):
        names[system.name] = names[system.unknown] = letter if len(token.solves) == 1 else f"{letter}{i}"
    return names


class _Equations(Frame):
    """One state's equations."""

    def lines(self) -> Iterator[Line]:
        w, form = self.w, self.form
        if not form.steps:
            yield Sentence(f"{w.inline(w.name(self.own))} does not change")
            return
        if self.own not in (form.state, f"{form.state}[{form.member}]"):
            yield Equation(w.name(self.own), w.write(typed.Transpose(symbol(form.state, "", self.type), self.type)), "=", "the low rank is on the left: the form holds for the transposed state")  # fmt: skip
        if len(form.steps) > 1:
            j = "(t,j)"
            yield Sentence(
                f"the token's {len(form.steps)} sub-steps count as tokens of their own, {w.inline(j)} in order"
            )
        yield from self._decays()
        if self.turns > 1 and (first := form.steps[0].right) is not None:
            before = symbol(self.own, "t-1", self.type)
            factor = self.dated(first.value, "t")
            yield Equation(w.name(self.own, "t,0"), w.write(self.decayed(before, factor)))
        yield from self._recurrence()
        for f in self.families:
            if f.reads and not self.uniform():
                yield Equation(self.z(f, "t"), w.write(self.error(f, "t", before=True)))
        yield from self._solve()
        for name, read in self.reads:
            yield Equation(w.name(name, "t"), self._read(read))
        yield Equation(w.name(self.own, "C"), self._last())

    def _decays(self) -> Iterator[Line]:
        w = self.w
        for side in ("right", "left"):
            if all(getattr(s, side) is None for s in self.form.steps):
                continue
            letter, known = self.letter(side)
            if known:
                continue
            for number, step in enumerate(self.form.steps, start=1):
                decay: Decay | None = getattr(step, side)
                if decay is None:
                    yield from self.undecayed(letter, side, number)
                    continue
                now, before, type = self.level(number, True), self.level(number, False), decay.value.type
                if self.log(side):
                    assert decay.log is not None
                    grown = build.add(symbol(letter, before, type), self.dated(decay.log, "t"))
                    yield Equation(
                        w.name(letter, now), signs(w.write(grown)), "=", w.inline(f"{w.name(letter, '0')} = 0")
                    )
                else:
                    grown = build.mul(self.dated(decay.value, "t"), symbol(letter, f"{before},s", type))
                    note = w.inline(f"{w.name(letter, 's,s')} = 1") + "; a product, where the logarithm is not safe"
                    yield Equation(w.name(letter, f"{now},s"), w.write(grown), "=", note)

    def undecayed(self, letter: str, side: str, number: int) -> Iterator[Line]:
        """A sub-step that leaves the sums as they were, where each sub-step has sums of its own."""
        now, before = self.level(number, True), self.level(number, False)
        if now != before and not self.first_only:
            tail = "" if self.log(side) else ",s"
            yield Equation(self.w.name(letter, now + tail), self.w.name(letter, before + tail), "=", "no decay here")

    def _recurrence(self) -> Iterator[Line]:
        """S_t over the z, one line per sub-step."""
        for number, step in enumerate(self.form.steps, start=1):
            if self.turns > 1 and number > 1:
                return
            several = len(self.form.steps) > 1 and not self.turns > 1
            at = f"t,{number}" if several and number < len(self.form.steps) else "t"
            before = "t-1" if number == 1 else f"t,{number - 1}"
            if self.turns > 1:
                at, before = "t,j", "t,j-1"
            s = symbol(self.own, before, self.type)
            if step.right is not None and self.turns == 1:
                s = self.decayed(s, self.dated(step.right.value, "t"))
            if step.left is not None:
                s = spread(self.dated(step.left.value, "t"), s)
            shown = [] if step.right is not None and build.is_zero(step.right.value) else [self.w.write(s)]
            for f in self.families:
                if f.step == number:
                    z, key = self.known(f, "t"), self.key(f, "t")
                    shown.append(self.term(self.written(z, key)))
            yield Equation(self.w.name(self.own, at), signs(" + ".join(shown)))

    def _solve(self) -> Iterator[Line]:
        w, reading = self.w, self.reading()
        if not reading:
            return
        pairs = [(j, i) for j in reading for i in self.families]
        if self.uniform():
            yield from self._generic()
            return
        many = len(self.families) > 1
        a = w.fresh("A", "N")
        for j, i in pairs:
            label = f"{a}{self.number(j)}{self.number(i)}" if many else a
            order = "s <= t" if j.step > i.step else "s < t"
            yield Equation(f"{w.name(label)}[{self.index(j, 't')},{self.index(i, 's')}]", self.gram(j, i), "=", self.where(order))  # fmt: skip
        r = w.fresh("R", "B")
        for j in reading:
            yield Equation(w.name(r + (self.number(j) if many else ""), self.token(j, "t")), w.write(self.error(j, "t", before=False)))  # fmt: skip
        inverse = f"(I - {a})^{{-1}} {r}" if w.tex else f"(I - {a})^-1 {r}"
        z = w.name(self.families[0].name.upper() if len(self.families) == 1 else w.fresh("Z", "E"))
        if not many:
            yield Equation(
                z,
                inverse,
                "=",
                "unit lower triangular: one solve per chunk; row t of a capital letter is that of token t",
            )
            return
        known = [f for f in self.families if not f.reads]
        for f in known:
            yield Equation(self.z(f, "t"), w.write(self.value(f, "t")), "=", "known: it reads nothing")
        for j in reading:
            terms, times = [self.w.name(r + self.number(j), "t")], r"\," if w.tex else "*"
            for i in self.families:
                order = "s<=t" if j.step > i.step else "s<t"
                terms.append(f"{w.sum(order)}{w.name(a + self.number(j) + self.number(i))}[t,s]{times}{self.z(i, 's')}")
            note = (
                f"solved for {', '.join(self.w.inline(self.z(f, 't')) for f in reading)} at once"
                if len(reading) > 1
                else "one triangular solve per chunk"
            )
            yield Equation(self.z(j, "t"), " + ".join(terms), "=", note)

    def _generic(self) -> Iterator[Line]:
        """Many writes: each one's key, read, factor and value first."""
        w = self.w
        letters = {n: w.fresh(n, *more) for n, *more in (("w", "x"), ("p", "r"), ("c", "d", "g"), ("u", "y"))}
        for f in self.families:
            j = self.number(f)
            yield Equation(w.name(letters["w"], f"t,{j}"), w.write(self.dated(f.write.key, "t")))
            if f.write.read is not None:
                yield Equation(w.name(letters["p"], f"t,{j}"), w.write(self.dated(f.write.read, "t")))
                yield Equation(w.name(letters["c"], f"t,{j}"), w.write(self.dated(self.alpha(f), "t")))
            yield Equation(w.name(letters["u"], f"t,{j}"), w.write(self.value(f, "t")))
        tj, si = "t,j", "s,i"
        p, key, c = w.name(letters["p"], tj), w.name(letters["w"], si), w.name(letters["c"], tj)
        turn, dot = (r"^\top", r" \odot ") if w.tex else ("^T", " .* ")
        decay = self.decay(
            "right", self.level(1, any(f.write.after_decay for f in self.families)), self.level(1, True, "s")
        )
        scalar = decay is not None and decay.type.is_scalar
        inner = f"{p}{turn} {key}" if decay is None or scalar else f"{p}{turn} ({w.write(decay)}{dot}{key})"
        tail = f" {w.write(decay)}" if decay is not None and scalar else ""
        many_steps = len(self.form.steps) > 1
        order = "(s,i) before (t,j)" if many_steps else "s < t"
        z = self.families[0].name.rstrip("0123456789")
        z_tj = w.name(z, tj)
        yield Equation(
            z_tj,
            f"{c} {w.write(symbol(self.own, 't-1', self.type))} {p} + {w.name(letters['u'], tj)}",
            "=",
            "what stands above as " + ", ".join(w.inline(self.z(f, "t")) for f in self.families),
        )
        yield Equation(f"{w.fresh('A', 'N')}[({tj}),({si})]", f"{c} ({inner}){tail}", "=", order + ", else 0")
        initial = self.decay("right", self.level(1, any(f.write.after_decay for f in self.families)), None)
        s0 = symbol(self.own, "0", self.type)
        read0 = (
            w.write(s0)
            + " "
            + (p if initial is None else f"({w.write(initial)}{dot}{p})" if not initial.type.is_scalar else p)
        )
        factor = "" if initial is None or not initial.type.is_scalar else f"{w.write(initial)} "
        yield Equation(w.name(w.fresh("R", "B"), tj), f"{w.name(letters['u'], tj)} + {c} {factor}{read0}")
        inverse = (
            f"(I - {w.fresh('A', 'N')})^{{-1}} {w.fresh('R', 'B')}"
            if w.tex
            else f"(I - {w.fresh('A', 'N')})^-1 {w.fresh('R', 'B')}"
        )
        yield Equation(w.fresh("Z", "E"), inverse, "=", "one solve per chunk")

    def _read(self, read: Read) -> str:
        """y_t: what the first state gives, and the chunk's own writes."""
        w, position = self.w, sum(1 for s in self.form.steps if s.version <= read.version)
        level = self.level(1, False) if position == 0 else self.level(position, True)
        vector = self.dated(read.vector, "t")
        out = [w.write(self.through(symbol(self.own, "0", self.type), vector, level, read.left))]
        for f in self.families:
            until = "s<=t" if f.step <= position or f.turn and position else "s<t"
            below = until if not f.turn else f"{until},i"
            out.append(self.w.sum(below) + self._summand(f, vector, level, read.left))
        return signs(" + ".join(out))

    def _summand(self, f: Family, vector: Expr, level: str, left: bool) -> str:
        w, key, own = self.w, self.key(f, "s"), self.level(f.step, True, "s")
        right, rows = self.decay("right", level, own), self.decay("left", level, own)
        z = self.known(f, "s")
        last = key if right is None or right.type.is_scalar else scaled(right, key)
        if left and vector == build.ONE:
            return self.term(scaled(z if right is None or not right.type.is_scalar else build.mul(right, z), last))
        if left:  # M^T x = sum (z^T x) key
            number = self.scaled_inner(
                build.ONE, z if rows is None else scaled(rows, z), vector, right if last is key else None
            )
            return number + (r"\," if w.tex else "*") + w.factor(last)
        if key == build.ONE or vector == build.ONE and key.type.is_scalar:
            body = z
        else:
            number = self.scaled_inner(build.ONE, vector, key, right)
            if z == build.ONE:
                return number
            return number + (r"\," if w.tex else "*") + w.factor(z if rows is None else scaled(rows, z))
        if right is not None:  # a vector state that is read as itself
            body = scaled(right, body)
        return self.term(body if rows is None else scaled(rows, body))

    def _last(self) -> str:
        """S_C."""
        w = self.w
        end = self.level(len(self.form.steps), True, "C")
        s0 = symbol(self.own, "0", self.type)
        right, left = self.decay("right", end, None), self.decay("left", end, None)
        if right is not None:
            s0 = self.decayed(s0, right)
        if left is not None:
            s0 = spread(left, s0)
        out = [w.write(s0)]
        for f in self.families:
            own = self.level(f.step, True, "s")
            a, b = self.decay("right", end, own), self.decay("left", end, own)
            z, key = self.known(f, "s"), self.key(f, "s")
            if b is not None:
                z = scaled(b, z)
            if a is not None and a.type.is_scalar:
                z = build.mul(a, z)
            elif a is not None:
                key = scaled(a, key)
            out.append(w.sum("s,i" if f.turn else "s") + self.term(self.written(z, key)))
        return signs(" + ".join(out))
