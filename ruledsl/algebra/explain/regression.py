"""The regression view: which loss a token takes a gradient step on, where there is one.

A sub-step  S <- S D + sum_j c_j (S p_j) w_j^T + sum_i e_i u_i w_i^T  is  S D - sum rate * grad(loss)  when each read is
along its own write, p = rho w:  c (S p) w^T = -beta (S w) w^T with beta = -c rho, which is a step of rate beta on
1/2 |S w|^2; together with the values written along the same w, on 1/2 |S w - y|^2 with beta y = sum e u. A value alone
is a step on -<S w, u>. Two reads that exchange their vectors with the same factor are a step on <S p, S w>. Where the
write is M p, with M a diagonal, a matrix or an inverse, the gradient is multiplied by M^T from the right. The gradient of
a quadratic is symmetric, so anything else is a step on no loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ruledsl.algebra import build, dated, text
from ruledsl.algebra.affine import Affine, Chain, TooLarge, peel
from ruledsl.algebra.analysis import Part
from ruledsl.algebra.explain.explanation import Equation, Line, Quote, Sentence
from ruledsl.algebra.explain.writer import Writer, inlined
from ruledsl.algebra.normal import NoForm, offset
from ruledsl.algebra.scalars import MINUS, UNIT, Coef, common, over
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.sides import Part as SidePart
from ruledsl.algebra.sides import PartKind, parts
from ruledsl.algebra.steps import Factored, Step
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Type


@dataclass(frozen=True, slots=True)
class Pull:
    """rate * gradient of: scale/2 |S key - target|^2, or scale/2 |S key|^2 - <S key, value>, or <S key, S other>."""

    rate: Expr
    key: Expr
    target: Expr | None = None  # of the square
    value: Expr | None = None  # of the inner product
    square: Expr | None = None  # scale of the square; None: there is none
    other: Expr | None = None
    metric: Expr | None = None  # the gradient is multiplied by it from the right

    def map(self, change: dated.Change) -> Pull:
        rest = (self.target, self.value, self.square, self.other, self.metric)
        return Pull(change(self.rate), change(self.key), *(dated.maybe(x, change) for x in rest))

    def loss(self, s: Expr) -> Expr:
        """The loss as an expression of S (form orientation)."""
        read = build.product(s, self.key)
        if self.other is not None:
            return _dot(read, build.product(s, self.other))
        parts = []
        if self.square is not None:
            error = read if self.target is None else build.sub(read, self.target)
            parts.append(build.mul(build.mul(build.number(0.5), self.square), _dot(error, error)))
        if self.value is not None:
            parts.append(build.neg(_dot(read, self.value)))
        out = build.summed(parts)
        assert out is not None
        return out


@dataclass(frozen=True, slots=True)
class Descent:
    """One sub-step: S D - sum of the pulls, with the gradients at S, or at the decayed S."""

    decay: Expr | None  # scalar or diagonal; None: 1
    pulls: tuple[Pull, ...]
    at_decayed: bool = False

    def map(self, change: dated.Change) -> Descent:
        return Descent(dated.maybe(self.decay, change), tuple(p.map(change) for p in self.pulls), self.at_decayed)


class NoLoss(Exception):
    """Why the token is no gradient step."""


def descents(scope: Scope, part: Part) -> tuple[bool, list[Descent]]:
    """The sub-steps of a single state as gradient steps, and whether they are about the transposed state. Raises
    NoLoss."""
    if not part.steps or any(not isinstance(m, Factored) or m.transposed for m in part.maps):
        raise NoLoss("")
    maps = [m for m in part.maps if isinstance(m, Factored)]
    on_left = any(p.kind is PartKind.RANK for m in maps for p in m.left)
    on_right = any(p.kind is PartKind.RANK for m in maps for p in m.right)
    if on_left and on_right:
        raise NoLoss("")
    out: list[Descent] = []
    for step, m in zip(part.steps, maps, strict=True):
        found = _descent(scope, step, m, on_left)
        before = out[-1] if out else None
        if before is not None and not before.pulls and found.decay is None:
            out[-1] = replace(found, decay=before.decay, at_decayed=True)
        else:
            out.append(found)
    return on_left, out


def _descent(scope: Scope, step: Step, m: Factored, flipped: bool) -> Descent:
    left, right = (m.right, m.left) if flipped else (m.left, m.right)
    if any(p.kind is not PartKind.IDENTITY or not p.coef.literal == 1 for p in left) or not left:
        raise NoLoss("")
    ranks = [replace(p, matrix=p.key, key=p.matrix) if flipped else p for p in right if p.kind is PartKind.RANK]
    flat = [p for p in right if p.kind is not PartKind.RANK]
    if any(p.kind not in (PartKind.IDENTITY, PartKind.DIAGONAL) for p in flat):
        raise NoLoss("")
    decay = build.summed(build.mul(p.coef.expr(), p.matrix) if p.matrix is not None else p.coef.expr() for p in flat)
    try:
        written = offset(scope, step.value, flipped)
    except NoForm:
        raise NoLoss("") from None
    pulls = _pulls(scope, ranks, written)
    return Descent(None if decay is not None and build.value_of(decay) == 1 else decay or build.ZERO, tuple(pulls))


def _pulls(scope: Scope, ranks: list[SidePart], written: list[tuple[Coef, Expr, Expr]]) -> Iterator[Pull]:
    waiting = list(ranks)
    rest = list(written)
    while waiting:
        r = waiting.pop(0)
        p, w = r.matrix, r.key
        assert p is not None and w is not None
        found = _metric(scope, p, w)
        if found is None:
            twin = next((o for o in waiting if (o.matrix, o.key) == (w, p) and o.coef == r.coef), None)
            if twin is None:
                raise NoLoss("read")
            waiting.remove(twin)
            yield Pull(r.coef.times(MINUS).expr(), p, other=w)
            continue
        ratio, metric = found  # key = M (p / ratio)
        read = w if metric is None else p
        beta = r.coef.times(ratio).times(MINUS) if metric is None else r.coef.times(MINUS)
        values = [(c, u) for c, u, key in rest if key == w]
        rest = [x for x in rest if x[2] != w]
        yield _square(beta, read, values if metric is None else values, metric)
    for key in dict.fromkeys(w for _, _, w in rest):
        values = [(c, u) for c, u, w in rest if w == key]
        rate = common([c for c, _ in values])
        yield Pull(rate.expr(), key, value=_sum([(over(c, rate), u) for c, u in values]))


def _square(beta: Coef, read: Expr, values: list[tuple[Coef, Expr]], metric: Expr | None) -> Pull:
    """-beta (S p) p^T + sum e u p^T."""
    if len(beta.terms) == 1 and beta.terms[0][0] < 0:  # a step up
        up = _square(beta.times(MINUS), read, [(c.times(MINUS), u) for c, u in values], metric)
        return replace(up, rate=build.neg(up.rate))
    shares = [over(c, beta) for c, _ in values] if len(beta.terms) == 1 else []
    if values and (not shares or any(p < 0 for s in shares for _, powers in s.terms for _, p in powers)):
        rate = common([beta, *(c for c, _ in values)])
        value = _sum([(over(c, rate), u) for c, u in values])
        return Pull(rate.expr(), read, value=value, square=over(beta, rate).expr(), metric=metric)
    target = _sum(list(zip(shares, (u for _, u in values), strict=True))) if values else None
    return Pull(beta.expr(), read, target=target, square=build.ONE, metric=metric)


def _metric(scope: Scope, p: Expr, w: Expr) -> tuple[Coef, Expr | None] | None:
    """(rho, None) if p = rho w; (1, M) if w = M p."""
    (c, x), (e, y) = peel(inlined(scope, p)), peel(inlined(scope, w))
    if x == y and len(e.terms) == 1:
        return over(c, e), None
    if c != UNIT:
        return None
    factor = _matrix(build.chain(x), y, w.type)
    return None if factor is None else (UNIT, build.mul(e.expr(), factor))


def _matrix(p: Expr, chain: Chain, type: Type) -> Expr | None:
    """M with M p the chain."""
    square = Type(type.rows, type.rows)
    whole = build.chain(chain)
    match whole:
        case typed.Apply("mul", (a, b)) if b == p and a.type == p.type:
            return build.diag(a)
        case typed.Apply("mul", (a, b)) if a == p and b.type == p.type:
            return build.diag(b)
        case typed.Product(m, x) if x == p and m.type == square:
            return m
        case typed.Solve(m, x) if x == p:
            return typed.Solve(m, typed.Eye(square), square)
    return None


def _sum(parts: list[tuple[Coef, Expr]]) -> Expr:
    out = build.summed(build.mul(c.expr(), x) for c, x in parts)
    assert out is not None
    return out


def _dot(x: Expr, y: Expr) -> Expr:
    return build.total(build.mul(x, y))


# ------------------------------------------------------------------------------------------------ as text


def regression(w: Writer) -> Iterator[Line]:
    for part in w.analysis.parts:
        if part.found is None or part.too_large or part.frozen:
            continue
        if part.blocks:
            yield from _momentum(w, part)
            continue
        try:
            flipped, found = descents(w.scope, part)
        except (NoLoss, TooLarge) as e:
            if str(e) == "read":
                yield Sentence(
                    f"{w.inline(w.own(part.states[0]))}: a step on no quadratic loss: the gradient of one is symmetric, but a read"
                    f" is along another vector than its write"
                )
            continue
        if any(d.pulls for d in found):
            yield from _told(w, part.states[0], flipped, [d.map(w.today(part)) for d in found])


def _told(w: Writer, state: State, flipped: bool, found: list[Descent]) -> Iterator[Line]:
    steps = [d for d in found if d.pulls]
    own = w.own(state)
    s = typed.Ref(state[0] if state[1] is None else f"{state[0]}[{state[1]}]", typed.Role.INPUT, w.type_of(state))
    shown: Expr = build.transpose(s) if flipped else s
    if len(steps) > 1:
        yield Sentence(f"each of the token's {len(steps)} sub-steps is a gradient step:")
    for d in steps:
        yield Sentence(_step(w, d, shown, len(steps) == 1))
        if d.decay is not None and not build.is_zero(d.decay):
            yield Sentence(_point(d, w.inline(own)))
    yield Quote("\n".join(line for d in found for line in spelled(s, flipped, d)))


def _momentum(w: Writer, part: Part) -> Iterator[Line]:
    """Two coupled states, one of which collects gradients by the other."""
    try:
        found = momentum(w.scope, part)
    except (NoLoss, NoForm, TooLarge):
        return
    if found is None:
        return
    x, y, keep, gain, kept, pulls = found
    s = typed.Ref(x[0], typed.Role.INPUT, w.type_of(x))
    each = "; ".join(f"rate {w.inline(w.write(p.rate))} on {w.inline(_loss(w, p, s))}" for p in pulls)
    yield Sentence(
        f"gradient descent with momentum: {w.inline(w.own(y))} collects the gradients by {w.inline(w.own(x))}, which then moves"
        f" by {w.inline(w.own(y))}: {each}"
    )
    rows = [f"{y[0]} = {_scaled(keep, y[0])} " + " ".join(_grad(s, False, p) for p in pulls)]
    sign = "-" if _negative(gain) else "+"
    rows.append(f"{x[0]} = {_scaled(kept, x[0])} {sign} {_scaled(build.neg(gain) if sign == '-' else gain, y[0])}")
    yield Quote("\n".join(rows))


def _scaled(factor: Expr, name: str) -> str:
    return name if build.value_of(factor) == 1 else f"{text.term(factor, False)}*{name}"


def _negative(x: Expr) -> bool:
    return (build.value_of(x) or 0) < 0 or (isinstance(x, typed.Apply) and x.fn == "neg")


def momentum(scope: Scope, part: Part) -> tuple[State, State, Expr, Expr, Expr, list[Pull]] | None:
    """X -> kept X + gain Y', Y' = keep Y - sum of the pulls at X: (X, Y, keep, gain, kept, pulls). None if it is not."""
    if len(part.blocks) != 2:
        return None
    for (x, new_x), (y, new_y) in (part.blocks, part.blocks[::-1]):
        own = _multiple(new_y, y)
        across = _multiple(new_x, y)
        if own is None or across is None or len(own.terms) != 1 and own not in (across, across.times(MINUS)):
            continue
        gain = over(across, own) if len(own.terms) == 1 else UNIT if own == across else MINUS
        rest = new_x.plus(new_y.scaled(gain.times(MINUS)))
        kept = _multiple(rest, x)
        if rest.free or kept is None or len(rest.terms) > 1 or any(n < 0 for _, ps in gain.terms for _, n in ps):
            continue
        reads = [t for t in new_y.terms if t.marker.state == x]
        if any(t.opaque or t.transposed or t.left or t.weight is not None for t in reads):
            continue
        ranks = [p.times(t.coef) for t in reads for p in parts(scope, t.right)]
        if any(p.kind is not PartKind.RANK for p in ranks):
            continue
        pulls = list(_pulls(scope, ranks, offset(scope, new_y, False)))
        return x, y, own.expr(), gain.expr(), kept.expr(), pulls
    return None


def _multiple(value: Affine, state: State) -> Coef | None:
    """The factor of the state itself, if that is the only way it stands there; 0 if it does not."""
    mine = [t for t in value.terms if t.marker.state == state and not (t.left or t.right)]
    if any(t.opaque or t.transposed or t.weight is not None for t in mine) or len(mine) > 1:
        return None
    return mine[0].coef if mine else None


def _step(w: Writer, d: Descent, s: Expr, alone: bool) -> str:
    start = "this is one gradient step" if alone else "a step"
    decay = ""
    if d.decay is not None:
        shown = w.write(d.decay if d.decay.type.is_scalar else build.diag(d.decay))
        decay = ", from a state of 0" if build.is_zero(d.decay) else f" with decay {w.inline(shown)}"
    if len({(p.rate, p.metric) for p in d.pulls}) == 1:
        loss = " + ".join(_loss(w, p, s) for p in d.pulls).replace("+ -", "- ")
        return f"{start} of {_rate(w, d.pulls[0])} on {w.inline(loss)}{decay}"
    each = "; ".join(f"of {_rate(w, p)} on {w.inline(_loss(w, p, s))}" for p in d.pulls)
    return f"{start} on a sum of losses{decay}: {each}"


def _rate(w: Writer, p: Pull) -> str:
    metric = "" if p.metric is None else f" (the gradient multiplied from the right by {w.inline(w.write(build.transpose(p.metric)))})"  # fmt: skip
    return f"rate {w.inline(w.write(p.rate))}{metric}"


def _point(d: Descent, own: str) -> str:
    if all(p.square is None and p.other is None for p in d.pulls):
        return "the loss is linear in the state: its gradient is the same before and after the decay"
    if d.at_decayed:
        return f"the decay acts first: the gradient is taken at the decayed {own}"
    return f"the gradient is taken at {own} before the decay"


def spelled(s: Expr, flipped: bool, d: Descent) -> list[str]:
    """The sub-step in the language, with its losses inside grad."""
    own = text.plain(s)
    kept = own
    if d.decay is not None:
        factor = text.plain(d.decay)
        if build.is_zero(d.decay):
            kept = "0"
        elif d.decay.type.is_scalar:
            kept = f"{text.term(d.decay, False)}*{own}"
        else:
            kept = f"diag({factor}) {own}" if flipped or s.type.is_vector else f"{own} diag({factor})"
    out = []
    if d.at_decayed and d.decay is not None:
        out.append(f"{own} = {kept}")
        kept = own
    pulls = "".join(f" {_grad(s, flipped, p)}" for p in d.pulls)
    return [*out, f"{own} = {kept}{pulls}"] if pulls or not out else out


def _grad(s: Expr, flipped: bool, p: Pull) -> str:
    rate = p.rate
    sign = "+" if isinstance(rate, typed.Apply) and rate.fn == "neg" or (build.value_of(rate) or 0) < 0 else "-"
    rate = build.neg(rate) if sign == "+" else rate
    read = text.plain(_read(build.transpose(s) if flipped else s, p.key))
    parts = []
    if p.other is not None:
        parts.append(f"dot({read}, {text.plain(_read(build.transpose(s) if flipped else s, p.other))})")
    if p.square is not None:
        scale = "" if build.value_of(p.square) == 1 else f"{text.term(p.square, False)}*"
        error = read if p.target is None else f"{read} - {text.term(p.target, False)}"
        parts.append(f"0.5*{scale}norm2({error})")
    if p.value is not None:
        parts.append(f"-dot({read}, {text.plain(p.value)})")
    grad = f"grad({' + '.join(parts).replace('+ -', '- ')}, {text.plain(s)})"
    if p.metric is not None:
        metric = text.factor(p.metric if flipped else build.transpose(p.metric), False)
        grad = f"({metric} {grad})" if flipped else f"({grad} {metric})"
    return f"{sign} {grad}" if build.value_of(rate) == 1 else f"{sign} {text.term(rate, False)}*{grad}"


def _read(s: Expr, key: Expr) -> Expr:
    """S key; an inner product where the state is a vector, itself where the key is 1."""
    if key == build.ONE or key.type.is_scalar:
        return build.mul(s, key)
    return build.product(build.transpose(s) if s.type.is_vector else s, key)


def _loss(w: Writer, p: Pull, s: Expr) -> str:
    read = w.write(build.product(s, p.key)) if p.key != build.ONE else w.write(s)
    dot, bar = (r"\langle {}, {} \rangle", r"\lVert {} \rVert^2") if w.tex else ("<{}, {}>", "|{}|^2")
    if p.other is not None:
        return dot.format(read, w.write(build.product(s, p.other)))
    out = []
    if p.square is not None:
        inner = read if p.target is None else w.write(build.sub(build.product(s, p.key), p.target))
        half = r"\frac{1}{2} " if w.tex else "1/2 "
        scale = "" if build.value_of(p.square) == 1 else w.factor(p.square) + " "
        out.append(half + scale + bar.format(inner))
    if p.value is not None:
        out.append("-" + dot.format(read, w.write(p.value)))
    return " + ".join(out).replace("+ -", "- ")


def derived(w: Writer) -> Iterator[Line]:
    """What grad(...) stands for in a rule that is written with it."""
    before = list(w.analysis.written.body)
    for s in w.analysis.rule.body:
        assert not isinstance(s, typed.For)
        old = before[0] if before else None
        given = old is not None and _same(old, s)
        if given:
            before.pop(0)
        if not given or old != s:
            name = s.state if isinstance(s, typed.Assign) else s.name
            yield Equation(
                w.name(name),
                w.write(s.value),
                "<-" if isinstance(s, typed.Assign) else "=",
                "the gradient written out" if given else "",
            )


def _same(old: typed.Statement, new: typed.Statement) -> bool:
    match old, new:
        case (typed.Assign(x), typed.Assign(y)) | (typed.Let(x), typed.Let(y)) | (typed.Output(x), typed.Output(y)):
            return x == y
    return False
