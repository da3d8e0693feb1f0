"""Texts of random rules, wide enough that every verdict comes out: what the checker is tested against the probe on.

    random_rule(seed) -> text      the same text for the same seed; always a rule that checks

A text is drawn from one of a few families (affine sub-steps, coupled states, monoids, nonlinear reads, frozen copies,
earlier tokens), with ingredients drawn on the way: gates that are functions of inputs, declared ranges or none, lags,
families with loops, permutations, `where`, gradients of objectives, normalised read-outs. Nothing aims at one verdict.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from random import Random

from ruledsl.lab.random_terms import Ingredients, State
from ruledsl.lang.check import check
from ruledsl.lang.diagnostic import RuleError
from ruledsl.lang.parse import parse
from ruledsl.lang.source import Source

WORD = re.compile(r"[A-Za-z]\w*")
POSITIVE = (" in (0, 1]", " in (0, inf)", " in [0.5, 2]")
BENT = ("tanh", "sigmoid", "silu", "gelu", "relu", "abs", "softplus", "elu", "sin", "exp")


def random_rule(seed: int) -> str:
    """Raises nothing: a draw that is no rule is drawn again."""
    for attempt in count():
        text = _Draw(Random(f"{seed}/{attempt}")).text()
        try:
            check(parse(Source(text)))
        except RuleError:
            continue
        return text
    raise AssertionError


class _Draw(Ingredients):
    def text(self) -> str:
        families: list[tuple[float, Callable[[], None]]] = [
            (30, self.matrix),
            (12, self.coupled),
            (12, self.vector),
            (17, self.monoid),
            (11, self.nonlinear),
            (8, self.frozen),
            (4, self.earlier),
            (6, self.tower),
        ]
        weights, choices = zip(*families, strict=True)
        self.random.choices(choices, weights)[0]()
        if not any(line.startswith("output") for line in self.lines):
            self.lines.append(f"output o = {self.read_out()}")
        head = []
        for s in self.states:
            head.append(f"state {s.name}{s.dims}{self.init.get(s.name, '')}")
        named = set(WORD.findall("\n".join(self.lines)))
        for name, declared in self.inputs.items():
            if name in named:  # others were drawn for terms that were not taken
                head.append(f"{'param' if name in self.params else 'input'} {declared}")
        return "\n".join([*head, "", *self.lines]) + "\n"

    # -------------------------------------------------------------------------------------------- families of rules

    def matrix(self) -> None:
        s = self.state(*(("K", "K") if self.chance(0.2) else ("V", "K")))
        for _ in range(self.random.choices([1, 2, 3], [6, 4, 1])[0]):
            self.step(s)
        if self.chance(0.15):
            z = self.state(s.cols)
            self.lines.append(f"{z.name} = {self.number()}*{z.name} + {self.vec(s.cols)}")

    def step(self, s: State) -> None:
        n = s.name
        match self.random.choices(["sum", "delta", "loop", "let", "where", "reset"], [8, 6, 1.5, 1.5, 0.7, 0.4])[0]:
            case "sum":
                self.lines.append(f"{n} = {self.sum_of(s, [s])}")
            case "delta":
                self.lines.append(f"{n} = {self.delta(s)}")
            case "loop":
                k, v = self.family("k", s.cols), self.family("v", s.rows)
                b = self.new("b", "[n]", self.pick("", " in [0, 1]", " in [0, 2]"))
                body = self.pick(
                    f"{n} + {b}[j]*({v}[j] - {n} {k}[j]) {k}[j]^T", f"{b}[j]*{n} + {v}[j] {k}[j]^T",
                    f"{n} - {b}[j]*{v}[j] ({v}[j]^T {n})",
                )  # fmt: skip
                total = f"{n} = {self.number()}*{n} - sum({b}[j]*({n} {k}[j] - {v}[j]) {k}[j]^T for j in 1..n)"
                self.lines.append(f"for j in 1..n: {n} = {body}" if self.chance(0.7) else total)
            case "let":
                name = f"e{next(self.numbers)}"
                old = "prev" if self.chance(0.2) and any(x.startswith(f"{n} =") for x in self.lines) else ""
                read = f"prev({n})" if old else n
                self.lines.append(f"let {name} = {self.vec(s.rows)} - {read} {self.vec(s.cols)}")
                self.lines.append(f"{n} = {self.number()}*{n} + {self.number()}*{name} {self.vec(s.cols)}^T")
            case "where":
                self.lines.append(
                    f"{n} = where({self.condition()}, {self.term(s, s)}, {self.term(s, s)}) + {self.write(s)}"
                )
            case "reset":
                self.lines.append(f"{n} = where({self.condition()}, 0, {n}) + {self.write(s)}")

    def family(self, letter: str, dim: str) -> str:
        return self.new(letter, f"[n, {dim}]", self.pick("", " unit"))

    def coupled(self) -> None:
        shapes = self.random.choices(
            [[("V", "K"), ("V", "K")], [("K", ""), ("K", "")], [("V", "K"), ("V", "")], [("", ""), ("", "")],
             [("V", "K"), ("K", "")], [("V", "K")] * 3, [("K", "K"), ("K", "K")], [("V", "K"), ("K", "V")], [("K", ""), ("", "")]],
            [8, 4, 2, 2, 1.5, 1, 1, 0.7, 1],
        )[0]  # fmt: skip
        for rows, cols in shapes:
            self.state(rows, cols)
        for i, s in enumerate(self.states):
            other = self.states[i - 1]
            if s.cols and other.cols == s.cols and other.rows == s.rows and self.chance(0.5):
                k = self.vec(s.cols)
                self.lines.append(
                    f"{s.name} = {self.number()}*{s.name} - {self.number()}*({self.vec(s.rows)} - {other.name} {k}) {k}^T"
                )
                continue
            read = other.name if self.chance(0.8) else f"prev({other.name})"
            mixed = self.term(State(read, other.rows, other.cols), s)
            self.lines.append(f"{s.name} = {self.sum_of(s, [s], 0.1)} + {mixed}")

    def vector(self) -> None:
        s = self.state(*self.random.choice([("K", ""), ("K", ""), ("", "")]))
        for _ in range(self.random.choices([1, 2], [4, 1])[0]):
            self.lines.append(f"{s.name} = {self.sum_of(s, [s])}")
        if self.chance(0.2):
            r = self.state("K")
            self.lines.append(f"{r.name} = {self.gate('K')} .* {r.name} + tanh({self.vec('K')})")

    def monoid(self) -> None:
        """Maps that compose after a change of variables, and close neighbours that do not."""
        which = self.random.choice(["plus", "clip", "lse", "fraction", "direction", "log", "inverse", "common"])
        rows = self.pick("", "K", "K")
        x = (lambda: self.vec("K")) if rows else self.number
        point = " .*" if rows else "*"
        over = " ./" if rows else "/"
        if which in ("direction", "common"):
            s = self.state(*self.random.choice([("V", "K"), ("K", "")]))
        elif which == "log":
            s = self.state(*self.random.choice([("V", "K"), ("K", "")]))
        elif which == "inverse":
            s = self.state("K", "K")
        else:
            s = self.state(rows, "", "m")
        n = s.name
        match which:
            case "plus":
                self.lines.append(f"{n} = {self.pick('max', 'min')}({n} + {x()}, {x()})" + self.pick("", f" + {x()}"))
                self.downstream(s)
            case "clip":
                f = self.pick(f"relu({x()}{point} {n} + {x()})", f"clip({x()}{point} {n} + {x()}, -1, 1)",
                              f"min(relu({n} - {x()}), {x()}) - {x()}", f"max({x()}{point} {n}, {x()}) + {x()}",
                              f"abs({n} + {x()})", f"max({n} + {x()}, {x()}{point} {n})")  # fmt: skip
                self.lines.append(f"{n} = {f}")
            case "lse":
                self.lines.append(f"{n} = " + self.pick(f"logaddexp({n} + {x()}, {x()})", f"logaddexp({n}, {x()}) - {x()}",
                                                          f"log(exp({n}) + exp({x()}))", f"logaddexp({x()}{point} {n}, {x()})"))  # fmt: skip
                self.downstream(s)
            case "fraction":
                a, b, c = (self.new("p", "[K]" if rows else "", self.pick(*POSITIVE)) for _ in range(3))
                self.init[n] = " = 1"
                self.lines.append(f"{n} = " + self.pick(f"1{over} ({a}{over} {n} + {b}) + {c}", f"({a}{point} {n} + {b}){over} ({n} + {c})",
                                                          f"{a}{over} ({n} + {b})", f"{n}{point} {a} + {b}{over} {n}", f"{n}{over} ({n} + {a}) + {c}"))  # fmt: skip
            case "direction":
                self.init[n] = " = ones" if s.cols else " = 1"
                body = self.pick(n, self.term(s, s), f"{n} + {self.term(s, s)}", f"{n} + {self.write(s)}")
                self.lines.append(f"{n} = {body}")
                self.lines.append(
                    f"{n} = {n}/" + self.pick(f"norm({n})", f"norm({n})", f"sqrt(norm2({n}))", f"(1 + norm({n}))")
                )
            case "common":
                self.init[n] = " = ones" if s.cols else " = 1"
                self.lines.append(f"{n} = " + self.pick(f"({self.term(s, s)})/sum({n}) + {self.write(s)}", f"({self.term(s, s)})/(1 + sum({n}))",
                                                          f"{n}/sum({n})", f"({n} + {self.write(s)})/(2 + sum({n}))"))  # fmt: skip
            case "log":
                self.init[n] = " = 1"
                w = self.write(s)
                scale = self.pick(
                    "",
                    f"{self.number()}*",
                    f"{self.number()}*",
                    f"{self.gate(s.rows)} .* " if not s.cols else f"{self.matrix_of(s.rows, s.cols)} .* ",
                )
                self.lines.append(f"{n} = softmax({scale}log({n}) - {w})")
            case "inverse":
                self.init[n] = " = I"
                k = self.new("k", "[K]", self.pick("", " unit"))
                g = self.new("g", "", " in (0, 1]")
                below = self.pick(g, g, "1", f"(2*{g})")
                top = "" if below == "1" else f"/{g}"
                self.lines.append(f"{n} = ({n} - {n} {k} ({k}^T {n})/({below} + {k}^T {n} {k})){top}")
                if self.chance(0.4):
                    self.lines.append(f"{n} = {self.pick(f'{self.number()}*{n}', f'{n} + {self.number()}*I')}")
                if self.chance(0.5):
                    r = self.state("V", "K")
                    self.lines.append(f"{r.name} = {r.name} + ({self.vec('V')} - {r.name} {k}) ({n} {k})^T")

    def downstream(self, m: State) -> None:
        """States scaled by exponentials of a running maximum."""
        if self.chance(0.5):
            return
        f = f"exp(prev({m.name}) - {m.name})"
        if m.rows:
            c = self.state("K")
            self.lines.append(f"{c.name} = {f} .* {c.name} + exp({self.vec('K')} - {m.name}) .* {self.vec('K')}")
        else:
            c = self.state("V", "K")
            self.lines.append(
                f"{c.name} = {f}*{c.name} + exp({self.number()} - {m.name})*({self.vec('V')} {self.vec('K')}^T)"
            )

    def nonlinear(self) -> None:
        s = self.state(*self.random.choice([("V", "K"), ("V", "K"), ("K", ""), ("K", "K"), ("", "")]))
        n, f = s.name, self.pick(*BENT)
        if s.cols:
            k, u = self.vec(s.cols), self.vec(s.rows)
            body = self.pick(
                f"{self.number()}*{n} + {self.number()}*{f}({u} - {n} {k}) {k}^T", f"{f}({n}) + {self.write(s)}",
                f"sigmoid(sum({n} {k}))*{n} + {self.write(s)}", f"{n} - {self.number()}*grad(0.5*norm2(layernorm({n} {k}) - {u}), {n})",
                f"{n} - grad(sum(abs({n} {k} - {u}).^3), {n})", f"where(sum({n}) > 0, {n}, {self.term(s, s)}) + {self.write(s)}",
                f"{n} + (topk({n} {k}, 4) .* {u}) {k}^T", f"{n} + ({n} {k}) ({n}^T {u})^T", f"{n} diag(softmax({n}^T {u})) + {self.write(s)}",
                f"{n} - grad(sum({f}({n} {k} - {u})), {n})", f"{n} + stopgrad({f}({n} {k})) {k}^T",
                f"{self.number()}*{n} + {u} {f}({k})^T" if self.chance(0.5) else f"rmsnorm({n} + {self.write(s)})",
            )  # fmt: skip
        elif s.rows:
            body = self.pick(f"{f}({self.gate('K')} .* {n} + {self.vec('K')})", f"{f}({self.matrix_of('K', 'K')} {n} + {self.vec('K')})",
                             f"sigmoid({self.vec('K')} + {n}) .* {n} + {self.vec('K')}", f"{n} .* {n} + {self.vec('K')}", f"softmax({n} + {self.vec('K')})",
                             f"max({n}, {self.matrix_of('K', 'K')} {n})")  # fmt: skip
        else:
            body = self.pick(
                f"{f}({self.number()}*{n} + {self.number()})",
                f"{n}*{n} + {self.number()}",
                f"sin({n}) + {self.number()}",
            )
        self.lines.append(f"{n} = {body}")
        if s.cols and self.chance(0.2):
            self.step(s)

    def frozen(self) -> None:
        s = self.state(*self.random.choice([("V", "K"), ("V", "K"), ("K", "K")]))
        n, k, v, c = s.name, self.vec(s.cols), self.vec(s.rows), self.pick("8", "16")
        f = self.pick("layernorm", "tanh", "silu", "softmax", "rmsnorm")
        old = f"frozen({n}, {c})"
        self.lines.append(f"{n} = " + self.pick(
            f"{self.number()}*{n} - {self.number()}*grad(0.5*norm2({f}({old} {k}) - {v}), {n})", f"{n} + {f}({v} - {old} {k}) {k}^T",
            f"{n} + {self.number()}*({v} - {old} {k}) {k}^T", f"{n} + {f}({v} - {old} {k} - {n} {k}) {k}^T",
            f"{n} diag({f}({old}^T {v})) + {self.write(s)}", f"{self.number()}*{n} + sigmoid(sum({old} {k}))*({v} - {n} {k}) {k}^T",
        ))  # fmt: skip
        if self.chance(0.3):
            self.step(s)

    def earlier(self) -> None:
        """Values of earlier tokens that read the state."""
        s = self.state("V", "K")
        n, k = s.name, self.vec("K")
        lag = self.pick("", "", "", ", 2")
        read = self.pick(f"{n} {self.vec('K')}", f"{n} {self.vec('K')}", f"tanh({n} {self.vec('K')})")
        above = self.chance(0.3)
        if above:
            self.lines.append(f"output o = {read}")
        self.lines.append(f"{n} = " + self.pick(
            f"{self.number()}*{n} + {self.number()}*prev(o{lag}) {k}^T", f"{n} + ({self.vec('V')} - prev(o{lag})) {k}^T",
            f"{n} + {self.number()}*({self.vec('V')} - {n} {k}) ({self.matrix_of('K', 'V')} prev(o{lag}))^T",
            f"{self.number()}*{n} + {self.vec('V')} ({self.matrix_of('K', 'V')} prev(o{lag}))^T",
        ))  # fmt: skip
        if not above:
            self.lines.append(f"output o = {read}")

    def tower(self) -> None:
        """A stratum that reads an earlier one in any way."""
        m = self.state(*self.random.choice([("K", ""), ("", ""), ("K", "K")]), letter="m")
        self.lines.append(f"{m.name} = {self.sum_of(m, [m], 0.1)}")
        s = self.state("V", "K")
        n, u = s.name, self.vec("V")
        key = (
            f"unit({m.name})"
            if m.rows and not m.cols
            else f"tanh({m.name} {self.vec('K')})"
            if m.cols
            else f"({m.name}*{self.vec('K')})"
        )
        gate = f"sigmoid(sum({m.name}))" if m.rows else f"sigmoid({m.name})"
        self.lines.append(f"{n} = " + self.pick(
            f"{gate}*{n} + {u} {self.vec('K')}^T", f"{n} + {self.number()}*({u} - {n} {key}) {key}^T", f"{n} diag({key}) + {u} {key}^T",
            f"{gate}*{n} - ({n} {key}) {self.vec('K')}^T",
        ))  # fmt: skip
        if self.chance(0.15):  # and back: one stratum
            self.lines.append(
                f"{m.name} = {m.name} + "
                + (
                    f"{n}^T {u}"
                    if m.rows and not m.cols
                    else f"dot({u}, {n} {self.vec('K')})*"
                    + ("1" if not m.rows else f"({self.vec('K')} {self.vec('K')}^T)")
                )
            )
