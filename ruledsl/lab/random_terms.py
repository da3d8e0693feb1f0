"""What random rules are made of: inputs with and without ranges, functions of them, terms that are linear in a state."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from random import Random

RANGES = ("", "", "", " in (0, 1]", " in [0, 1]", " in (-1, 1)", " in [0, 2]", " in (0, inf)", " in [0.1, 1]")


@dataclass(slots=True)
class State:
    name: str
    rows: str
    cols: str = ""  # "": a vector; rows "" too: a scalar

    @property
    def dims(self) -> str:
        inner = ", ".join(d for d in (self.rows, self.cols) if d)
        return f"[{inner}]" if inner else ""


@dataclass(slots=True)
class Ingredients:
    """A rule while it is drawn. Methods return texts, and declare the inputs they name."""

    random: Random
    inputs: dict[str, str] = field(default_factory=dict)  # name -> declaration
    states: list[State] = field(default_factory=list)
    init: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    params: set[str] = field(default_factory=set)
    numbers: count[int] = field(default_factory=lambda: count(1))

    # -------------------------------------------------------------------------------------------- ingredients

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def pick(self, *options: str) -> str:
        return self.random.choice(options)

    def new(self, letter: str, dims: str, promise: str = "") -> str:
        """A new input (or param), or an old one of the same shape."""
        same = [n for n, d in self.inputs.items() if d.removeprefix(n).startswith(dims + " ") or d == n + dims]
        same = [n for n in same if not promise or promise in self.inputs[n]]
        if same and self.chance(0.35):
            return self.random.choice(same)
        name = f"{letter}{next(self.numbers)}"
        self.inputs[name] = f"{name}{dims}{promise}"
        if self.chance(0.08):
            self.params.add(name)
        return name

    def number(self) -> str:
        """A scalar free of the state."""
        x = self.new("a", "", self.pick(*RANGES))
        lag = f"prev({x})" if x not in self.params else x
        options = [x] * 8 + ["0.5", f"sigmoid({x})", f"exp(-softplus({x}))", f"(1 - {x})", lag, f"tanh({x})"]
        if self.chance(0.15):
            y = self.new("a", "", self.pick(*RANGES))
            while y == x:
                y = self.new("a", "", self.pick(*RANGES))
            options = [
                f"({x}*{y})",
                f"where({self.condition()}, {y}, 1)",
                f"where({self.condition()}, 0, 1)",
                f"max({x}, {y})",
                f"({x} - {y})",
            ]
        if self.chance(0.06):
            k = self.vec("K")
            options = [f"dot({k}, {self.vec('K')})", f"sigmoid(sum({k}))", f"(1/(1 + norm2({k})))"]
        if self.chance(0.02):
            options = ["exp(-t/8)", "where(mod(t, 4) == 0, 0, 1)"]
        return self.random.choice(options)

    def condition(self) -> str:
        """Of inputs without a range, so that either way is taken."""
        x, y = (f"c{next(self.numbers)}" for _ in range(2))
        self.inputs |= {x: x, y: y}
        return self.pick(f"{x} > 0.5", f"{x} < 0.3", f"{x} > {y}")

    def vec(self, dim: str) -> str:
        """A vector free of the state."""
        x = self.new("k", f"[{dim}]", self.pick("", "", "", " unit", " in (0, 1)"))
        if self.chance(0.6):
            return x
        y = self.new("k", f"[{dim}]")
        lag = f"prev({x})" if x not in self.params else x
        return self.pick(
            f"softmax({x})", f"unit({x})", f"tanh({x})", f"({x} .* {y})", f"({x} + {y})", lag, f"({self.number()}*{x})",
            f"topk({x}, 4)", f"(1 - {x})", f"sigmoid({x})", f"silu({x})", f"({self.matrix_of(dim, dim)} {x})",
        )  # fmt: skip

    def gate(self, dim: str) -> str:
        x = self.new("w", f"[{dim}]", self.pick(*RANGES))
        return (
            x if self.chance(0.6) else self.pick(f"exp(-exp({x}))", f"sigmoid({x})", f"(1 - {x})", f"{self.vec(dim)}")
        )

    def matrix_of(self, rows: str, cols: str, promise: str = "") -> str:
        return self.new("P", f"[{rows}, {cols}]", promise)

    def write(self, s: State) -> str:
        """Something of the state's shape that is free of it."""
        if not s.rows:
            return self.number()
        if not s.cols:
            return self.vec(s.rows)
        if self.chance(0.1):
            return self.matrix_of(s.rows, s.cols)
        u, w = self.vec(s.rows), self.vec(s.cols)
        return f"{u} {w}^T" if self.chance(0.6) else f"{self.number()}*({u} {w}^T)"

    def read_out(self) -> str:
        s = self.states[-1] if self.chance(0.7) else self.random.choice(self.states)
        if not s.rows:
            return s.name
        if not s.cols:
            return self.pick(s.name, f"dot({self.vec(s.rows)}, {s.name})", f"tanh({s.name})")
        q = self.new("q", f"[{s.cols}]")
        return self.pick(
            *[f"{s.name} {q}"] * 4,
            f"{s.name} {q} / norm({s.name})",
            f"layernorm({s.name} {q})",
            f"{s.name}^T {self.vec(s.rows)}",
        )

    def state(self, rows: str, cols: str = "", letter: str = "") -> State:
        letter = letter or ("S" if cols else "h")
        s = State(f"{letter}{len(self.states) + 1}", rows, cols)
        self.states.append(s)
        if self.chance(0.1):
            self.init[s.name] = " = learned"
        return s

    # -------------------------------------------------------------------------------------------- linear in a state

    def term(self, y: State, s: State) -> str:
        """Linear in y, of the shape of s."""
        n, a = y.name, self.number()
        if (y.rows, y.cols) == (s.rows, s.cols):
            if not s.rows:
                return f"{a}*{n}"
            if not s.cols:
                k, p = self.vec(s.rows), self.vec(s.rows)
                return self.random.choices(
                    [f"{a}*{n}", f"{self.gate(s.rows)} .* {n}", f"{a}*{k} ({p}^T {n})", f"{self.matrix_of(s.rows, s.rows)} {n}",
                     f"diag({k}) {n}", f"rotate({n}, {self.new('th', f'[{s.rows}/2]')})", f"dot({k}, {n})*{p}", f"sum({n})*{k}"],
                    [8, 6, 4, 1.5, 1, 1, 1, 0.5],
                )[0]  # fmt: skip
            k, p, u, w = self.vec(s.cols), self.vec(s.cols), self.vec(s.rows), self.vec(s.rows)
            flip = [f"{a}*{n}^T", f"diag({u}) {n}^T"] if s.rows == s.cols else [f"{a}*{n}"]
            return self.random.choices(
                [f"{a}*{n}", f"{n} diag({self.gate(s.cols)})", f"diag({self.gate(s.rows)}) {n}", f"{a}*({n} {k}) {p}^T",
                 f"{a}*{u} ({w}^T {n})", f"{self.matrix_of(s.rows, s.cols)} .* {n}", f"{n} {self.matrix_of(s.cols, s.cols)}",
                 f"{self.matrix_of(s.rows, s.rows)} {n}", f"dot({u}, {n} {k})*({w} {p}^T)", f"{n} ({k} {p}^T)",
                 f"where({self.condition()}, {n}, 0)", f"{n} {self.matrix_of(s.cols, s.cols, ' perm')}", self.pick(*flip),
                 f"diag({u}) {n} diag({k})", f"({self.gate(s.rows)} .* ({n} {k})) {p}^T"],
                [9, 5, 3, 9, 3, 1, 1, 0.7, 0.4, 1.5, 0.7, 0.7, 1, 1, 0.6],
            )[0]  # fmt: skip
        if y.cols and s.cols:
            if (y.cols, y.rows) == (s.rows, s.cols):
                return f"{a}*{n}^T"
            if y.rows == s.rows:
                return f"{a}*({n} {self.vec(y.cols)}) {self.vec(s.cols)}^T"
            return f"{a}*{self.vec(s.rows)} ({n} {self.vec(y.cols)})^T" if y.rows == s.cols else self.write(s)
        if y.cols:
            k = f"{n} {self.vec(y.cols)}"
            if not s.rows:
                return f"{a}*dot({self.vec(y.rows)}, {k})"
            if y.rows == s.rows:
                return f"{a}*{k}"
            return f"{a}*{n}^T {self.vec(y.rows)}" if y.cols == s.rows else f"{a}*{self.vec(s.rows)}"
        if s.cols:
            if not y.rows:
                return f"{n}*({self.vec(s.rows)} {self.vec(s.cols)}^T)"
            if y.rows == s.rows:
                return f"{a}*{n} {self.vec(s.cols)}^T"
            return f"{a}*{self.vec(s.rows)} {n}^T" if y.rows == s.cols else self.write(s)
        if not y.rows:
            return f"{n}*{self.vec(s.rows)}" if s.rows else f"{a}*{n}"
        return f"{a}*dot({self.vec(y.rows)}, {n})" if not s.rows else self.write(s)

    def sum_of(self, s: State, sources: list[State], more: float = 0.25) -> str:
        parts = [self.term(self.random.choice(sources), s)]
        while len(parts) < 4 and self.chance(more):
            parts.append(self.term(self.random.choice(sources), s))
        if self.chance(0.75):
            parts.append(self.write(s))
        self.random.shuffle(parts)
        out = parts[0]
        for p in parts[1:]:
            out += self.pick(" + ", " - ") + p
        return out

    def delta(self, s: State) -> str:
        """An error-correcting step of a matrix state."""
        n, b, k, p, v = s.name, self.number(), self.vec(s.cols), self.vec(s.cols), self.vec(s.rows)
        key = k if self.chance(0.7) else p
        decay = self.pick("", "", f"{self.number()}*", f"diag({self.gate(s.rows)}) ")
        after = "" if decay or self.chance(0.6) else f" diag({self.gate(s.cols)})"
        loss = self.pick(
            f"0.5*norm2({n} {k} - {v})", f"-dot({n} {k}, {v})", f"sum(abs({n} {k} - {v}).^2)",
            f"0.5*norm2({n} {k} - {v}) + 0.5*{self.number()}*norm2({n})", f"0.5*norm2({n}^T {v} - {k})",
            f"0.5*norm2({self.gate(s.rows)} .* ({n} {k} - {v}))",
        )  # fmt: skip
        return self.random.choices(
            [f"{decay}{n}{after} + {b}*({v} - {n} {k}) {key}^T", f"{decay}{n}{after} - {b}*grad({loss}, {n})",
             f"{n} (I - {b}*{k} {key}^T) + {v} {k}^T", f"(I - {b}*{v} {v}^T) {n} + {v} {k}^T",
             f"{decay}{n}{after} - ({n} {k}) ({k} .* {p})^T + {v} {p}^T"],
            [5, 4, 2, 1, 1],
        )[0]  # fmt: skip
