"""The names and the parts of one state's chunk equations: its writes, its decays, and how far they are counted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ruledsl.algebra import build, dated, text
from ruledsl.algebra.explain.writer import Writer, symbol
from ruledsl.algebra.scalars import Coef
from ruledsl.algebra.verdict import Decay, MatrixForm, TokenForm, Write
from ruledsl.lang import typed
from ruledsl.lang.typed import SCALAR, Expr, Ref, Role, Type

MOST_PAIRS = 6  # of writes and reads that are written out one by one
Letters = dict[tuple[str, tuple[Decay | None, ...]], str]


@dataclass(frozen=True, slots=True)
class Family:
    """Writes with one formula: at one sub-step, or at every sub-step (`turn`)."""

    write: Write
    step: int  # from 1
    name: str  # of its z
    turn: bool = False

    @property
    def reads(self) -> bool:
        return self.write.read is not None


def renamed(expr: Expr, names: dict[str, str]) -> Expr:
    if isinstance(expr, Ref) and expr.role is Role.READ:
        return replace(expr, name=names[expr.name])
    return build.rebuild(expr, lambda e: renamed(e, names))


class Frame:
    """One state's equations."""

    def __init__(
        self,
        w: Writer,
        token: TokenForm,
        form: MatrixForm,
        names: dict[str, str],
        letters: Letters,
    ) -> None:
        self.w, self.form, self.letters = w, form, letters
        self.reads = [(names[r.name], r) for r in token.reads if (r.state, r.member) == (form.state, form.member)]
        self.shown = names
        own = form.state if form.member is None else f"{form.state}[{form.member}]"
        self.own = own if not form.transposed or form.rows == 1 or form.cols == 1 else w.fresh("M", "X", "T")
        self.row = form.rows == 1 and form.cols != 1  # a vector that is read in inner products: written as a column
        self.type = Type(form.rows, form.cols) if not self.row else Type(form.cols, 1)
        self.defined: dict[tuple[str, tuple[Decay | None, ...]], bool] = {}  # by another state's equations
        self.families = self._families()
        self.turns = len(form.steps) if self.families and self.families[0].turn else 1
        self.first_only = all(s.right is None and s.left is None for s in form.steps[1:])

    # -- parts of the formulas

    def error(self, f: Family, at: str, before: bool) -> Expr:
        """z_t over the state before (S_{t-1}), or its right-hand side (over S_0)."""
        write = f.write
        assert write.read is not None and write.gain is not None
        p = self.dated(write.read, at)
        step = self.form.steps[f.step - 1]
        if before:
            s = symbol(self.own, self.before(f), self.type)
            decay = step.right if write.after_decay and not f.turn else None
            seen = s, (self.dated(decay.value, at) if decay is not None else None)
        else:
            seen = symbol(self.own, "0", self.type), self.decay("right", self.level(f.step, write.after_decay), None)
        s, factor = seen
        read = self.product(s, scaled(factor, p) if factor is not None and not factor.type.is_scalar else p)
        if factor is not None and factor.type.is_scalar:
            read = build.mul(factor, read)
        gain = self.dated(write.gain, at)
        inner = build.mul(gain, read)
        if write.value is not None:
            value = self.dated(write.value, at)
            negative = isinstance(gain, typed.Apply) and gain.fn == "neg" or (build.value_of(gain) or 0) < 0
            inner = build.sub(value, build.mul(build.neg(gain), read)) if negative else build.add(inner, value)
        return inner if write.scale is None else build.mul(self.dated(write.scale, at), inner)

    def value(self, f: Family, at: str) -> Expr:
        """u_t: what does not depend on the state, its scale included."""
        if f.write.value is None:
            return build.ZERO
        value = self.dated(f.write.value, at)
        return value if f.write.scale is None else build.mul(self.dated(f.write.scale, at), value)

    def alpha(self, f: Family) -> Expr:
        assert f.write.gain is not None
        out = Coef.of(f.write.gain)
        return (out if f.write.scale is None else out.times(Coef.of(f.write.scale))).expr()

    def gram(self, j: Family, i: Family) -> str:
        """One entry of A."""
        read, key = self.dated(j.write.read, "t"), self.key(i, "s")  # type: ignore[arg-type]
        decay = self.decay("right", self.level(j.step, j.write.after_decay), self.level(i.step, True, "s"))
        return self.scaled_inner(self.dated(self.alpha(j), "t"), read, key, decay)

    def scaled_inner(self, factor: Expr, x: Expr, y: Expr, decay: Expr | None) -> str:
        """factor (x^T y) decay, the decay inside the product where it is a vector."""
        scalar = decay is not None and decay.type.is_scalar
        number = inner(x, y if decay is None or scalar else scaled(decay, y))
        sign = "-" if build.value_of(factor) == -1 or isinstance(factor, typed.Apply) and factor.fn == "neg" else ""
        factor = build.neg(factor) if sign else factor
        shown = [] if build.value_of(factor) == 1 else [text.term(factor, self.w.tex)]
        shown.append(f"({self.w.write(number)})" if isinstance(number, typed.Product) else self.w.factor(number))
        if scalar and decay is not None:
            shown.append(self.w.write(decay))
        return sign + (r"\," if self.w.tex else "*").join(shown)

    def key(self, f: Family, at: str) -> Expr:
        return self.dated(f.write.key, at)

    def known(self, f: Family, at: str) -> Expr:
        """z, by its name if it has to be solved for (or stands in a list), else as it is."""
        if not f.reads:
            return self.value(f, at)
        return symbol(f.name, self.token(f, at), Type(self.form.rows, 1))

    def z(self, f: Family, at: str) -> str:
        return self.w.name(f.name, self.token(f, at))

    def decay(self, side: str, upper: str, lower: str | None) -> Expr | None:
        """exp(G_upper - G_lower), or the product in its place; `lower` None: since the chunk's start."""
        decays = [d for s in self.form.steps if (d := getattr(s, side)) is not None]
        if not decays:
            return None
        type = next((d.value.type for d in decays if not d.value.type.is_scalar), SCALAR)
        letter, _ = self.letter(side)
        if not self.log(side):
            return symbol(letter, f"{upper},{lower or '0'}", type)
        top = symbol(letter, upper, type)
        return build.apply("exp", top if lower is None else build.sub(top, symbol(letter, lower, type)))

    def level(self, step: int, after: bool, at: str = "t") -> str:
        """How far the decays are counted at a sub-step of token `at`, before or after its own decay."""
        if len(self.form.steps) == 1 or self.first_only:
            return at if after or step > 1 else f"{at}-1"
        if after:
            return f"({at},{step})"
        return f"({at},{step - 1})" if step > 1 else f"{at}-1"

    # -- small ones

    def _families(self) -> list[Family]:
        found = [(n, write) for n, s in enumerate(self.form.steps, start=1) for write in s.writes]
        name = self.w.fresh("z", "e", "zz")
        one = self.one_for_all(found)
        if one is not None:
            return [Family(one, 1, name, turn=True)]
        reading = [f for f in found if f[1].read is not None]
        many = len(found) > 1 and bool(reading)
        return [Family(write, n, f"{name}{i}" if many else name) for i, (n, write) in enumerate(found, start=1)]

    def one_for_all(self, found: list[tuple[int, Write]]) -> Write | None:
        """The write over members j, if every sub-step has the same one but for its number."""
        steps = self.form.steps
        if len(steps) < 2 or len(found) != len(steps) or [n for n, _ in found] != list(range(1, len(steps) + 1)):
            return None
        if any(s.right is not None or s.left is not None for s in steps[1:]):
            return None
        if steps[0].right is not None and any(w.read is not None and not w.after_decay for _, w in found[:1]):
            return None
        made = {replace(_over(write, n), after_decay=True) for n, write in found}
        return made.pop() if len(made) == 1 else None

    def reading(self) -> list[Family]:
        return [f for f in self.families if f.reads]

    def letter(self, side: str) -> tuple[str, bool]:
        """The name of the decays' sums (or products), and whether another state's equations have defined it."""
        key = side, tuple(getattr(s, side) for s in self.form.steps)
        if known := self.letters.get(key):
            return known, self.defined.setdefault(key, True)
        wanted = {("right", True): "G", ("left", True): "H", ("right", False): "D", ("left", False): "E"}
        first = self.w.fresh(wanted[side, self.log(side)], wanted[side, self.log(side)] * 2)
        used = sum(1 for name in self.letters.values() if name.rstrip("0123456789") == first)
        self.letters[key] = first if not used else f"{first}{used + 1}"
        self.defined[key] = False
        return self.letters[key], False

    def uniform(self) -> bool:
        """Many writes that see the same decays: one formula with numbers (t,j) is shorter."""
        levels = {(self.level(f.step, f.write.after_decay), self.level(f.step, True)) for f in self.families}
        return len(self.reading()) * len(self.families) > MOST_PAIRS and len(levels) == 1

    def log(self, side: str) -> bool:
        return all(d.log is not None for s in self.form.steps if (d := getattr(s, side)) is not None)

    def token(self, f: Family, at: str) -> str:
        return f"{at},{'j' if at == 't' else 'i'}" if f.turn else at

    def index(self, f: Family, at: str) -> str:
        return f"({self.token(f, at)})" if f.turn else at

    def before(self, f: Family) -> str:
        """The state that a write reads: before its own sub-step."""
        if f.turn:
            return "t,j-1"
        return "t-1" if f.step == 1 else f"t,{f.step - 1}"

    def where(self, order: str) -> str:
        if self.families[0].turn:
            order = "(s,i) before (t,j)"
        return f"{order}, else 0"

    def number(self, f: Family) -> str:
        return f.name.lstrip("".join(c for c in f.name if not c.isdigit()))

    def dated(self, expr: Expr, at: str) -> Expr:
        turned = _indexed(expr, at) if self.families_are_turns else expr
        return self.w.at(at)(renamed(turned, self.shown))

    @property
    def families_are_turns(self) -> bool:
        return bool(getattr(self, "families", None)) and self.families[0].turn

    def term(self, expr: Expr) -> str:
        """As the summand of a sum sign."""
        shown = self.w.write(expr)
        return f"({shown})" if isinstance(expr, typed.Apply) and expr.fn in ("add", "sub", "neg") else shown

    def product(self, s: Expr, vector: Expr) -> Expr:
        """M vector."""
        return inner(s, vector) if self.row else build.product(s, vector)

    def written(self, z: Expr, key: Expr) -> Expr:
        """z key^T."""
        if key == build.ONE:
            return z
        return build.mul(z, key) if self.row else build.product(z, build.transpose(key))

    def decayed(self, s: Expr, factor: Expr) -> Expr:
        """M diag(factor)."""
        return build.mul(factor, s) if factor.type.is_scalar or self.row else build.product(s, build.diag(factor))

    def through(self, s: Expr, vector: Expr, level: str, left: bool) -> Expr:
        """M vector (or M^T vector) with the decays up to `level`."""
        right, rows = self.decay("right", level, None), self.decay("left", level, None)
        if left:
            x = vector if rows is None else scaled(rows, vector)
            out = build.mul(s, x) if self.row else build.product(build.transpose(s), x)
            return out if right is None else scaled(right, out)
        scalar = right is not None and right.type.is_scalar
        out = self.product(s, vector if right is None or scalar else scaled(right, vector))
        if scalar and right is not None:
            out = build.mul(right, out)
        return out if rows is None else scaled(rows, out)


def signs(shown: str) -> str:
    return shown.replace("+ -", "- ")


def _over(write: Write, turn: int) -> Write:
    """Members `turn` become member j."""

    def change(e: Expr) -> Expr:
        match e:
            case typed.Member(base, typed.Number(n)) if n == turn:
                return typed.Member(base, typed.LoopVar("j"), e.type)
        return build.rebuild(e, change)

    value, gain, read, scale = (dated.maybe(x, change) for x in (write.value, write.gain, write.read, write.scale))
    return Write(change(write.key), value, gain, read, scale)


def _indexed(expr: Expr, at: str) -> Expr:
    match expr:
        case typed.Member(base, typed.LoopVar("j")):
            return typed.Member(base, typed.LoopVar("j" if at == "t" else "i"), expr.type)
    return build.rebuild(expr, lambda e: _indexed(e, at))


def inner(x: Expr, y: Expr) -> Expr:
    return build.mul(x, y) if x.type.is_scalar or y.type.is_scalar else build.product(build.transpose(x), y)


def scaled(factor: Expr, x: Expr) -> Expr:
    return build.mul(factor, x)


def spread(rows: Expr, s: Expr) -> Expr:
    return build.product(build.diag(rows), s) if not rows.type.is_scalar else build.mul(rows, s)
