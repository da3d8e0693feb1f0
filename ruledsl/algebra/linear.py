"""An expression as an affine map of state versions, on the typed tree.

State-free sub-expressions are atoms: only signs, scalar factors and matrix products are taken apart. Lets that read a
state are resolved where they are met. What is not affine raises `NotAffine` with the smallest sub-expression that is
not; more than `LIMIT` terms raise `TooLarge`. Which states count as states is the caller's choice (`active`); all
others are inputs.
"""

from __future__ import annotations

from dataclasses import replace

from ruledsl.algebra import build
from ruledsl.algebra.affine import Affine, Chain, Free, Marker, Term, TooLarge, flip, peel, split, tidy
from ruledsl.algebra.scalars import MINUS, UNIT, Coef
from ruledsl.algebra.scope import Scope, State
from ruledsl.lang import typed
from ruledsl.lang.source import Span
from ruledsl.lang.typed import Expr, Role, Type

MOST_LOOKS = 4000


class NotAffine(Exception):
    def __init__(self, span: Span, why: str) -> None:
        self.span, self.why = span, why
        super().__init__(why)


class Linear:
    """Affine forms of expressions over the states in `active`; every other state is an input."""

    def __init__(self, scope: Scope, active: frozenset[State]) -> None:
        self.scope, self.active = scope, active
        self._lets: dict[str, Affine | NotAffine | TooLarge] = {}

    def reads(self, expr: Expr) -> bool:
        seen = self.scope.seen(expr)
        return bool((seen.now | seen.before) & self.active)

    def of(self, expr: Expr) -> Affine:
        raw = self._of(expr)
        free = []
        for f in raw.free:
            c, chain = split(f.chain)
            free.append(Free(f.coef.times(c), chain))
        return Affine(raw.type).plus(Affine(raw.type, tuple(map(tidy, raw.terms)), tuple(free)))

    def _of(self, expr: Expr) -> Affine:
        if not self.reads(expr):
            if build.is_zero(expr):
                return Affine(expr.type)
            coef, chain = peel(expr)
            return Affine(expr.type, (), (Free(coef, chain),))
        match expr:
            case typed.StateRef(name, type, version, member):
                assert version is not None, "the rule is not unrolled"
                return Affine(type, (Term(UNIT, Marker(name, version, member, type), span=expr.span),))
            case typed.Ref(name, Role.LET | Role.OUTPUT, type, lag):
                return self._let(name) if lag is None else self._earlier(expr)
            case typed.Apply(fn, args):
                return self._apply(expr, fn, args)
            case typed.Product(x, y):
                return self._product(expr, x, y)
            case typed.Transpose(x):
                inner = self._of(x)
                free = tuple(replace(f, chain=tuple(build.transpose(g) for g in reversed(f.chain))) for f in inner.free)
                return Affine(expr.type, tuple(flip(t) for t in inner.terms), free)
            case typed.Reduce("sum", x):
                top, bottom = build.Ones(Type(1, x.type.rows)), build.Ones(Type(x.type.cols, 1))
                return self._between(
                    () if x.type.is_row else (top,), self._of(x), () if x.type.is_vector else (bottom,), expr
                )
            case typed.Reduce("trace", x):
                return self._trace(expr, self._of(x))
            case typed.Rotate(x, angle) if not self.reads(angle):
                square = Type(x.type.rows, x.type.rows)
                return self._between((typed.Rotate(typed.Eye(square), angle, square),), self._of(x), (), expr)
            case typed.Solve(matrix, right) if not self.reads(matrix):
                inner = self._of(right)
                square = matrix.type
                return self._between((typed.Solve(matrix, typed.Eye(square), square, expr.steps),), inner, (), expr)
            case typed.Diag(x):
                return self._opaque(expr, (x,))
            case typed.Concat(parts):
                return self._opaque(expr, parts)
            case typed.Kron(x, y):
                if self.reads(x) and self.reads(y):
                    raise NotAffine(expr.span, "a product of two factors that both read the state")
                return self._opaque(expr, (x, y))
            case typed.Member(base, index) if not self.reads(index):
                return self._opaque(expr, (base,))
            case typed.RowWise(fn):
                raise NotAffine(expr.span, f"{fn} of the state")
            case typed.Solve():
                raise NotAffine(expr.span, "the solution of a system whose matrix reads the state")
            case typed.Compare():
                raise NotAffine(expr.span, "a comparison that reads the state")
        raise NotAffine(expr.span, "an expression that is not linear in the state")

    def _let(self, name: str) -> Affine:
        for earlier, value in self.scope.lets.items():  # in order, so that a long chain needs no deep recursion
            if earlier not in self._lets and self.reads(value):
                try:
                    self._lets[earlier] = self.of(value)
                except (NotAffine, TooLarge) as e:
                    self._lets[earlier] = e
            if earlier == name:
                break
        found = self._lets[name]
        if isinstance(found, Affine):
            return found
        raise found

    def _earlier(self, expr: typed.Ref) -> Affine:
        """A let of an earlier token. One token ago, its reads of the last versions are reads of version 0."""
        value = self.scope.lets[expr.name]
        back = step_back(self.scope, value) if build.value_of(expr.lag or build.ZERO) == 1 else None
        if back is not None:
            inner = self._of(back)  # at the first token the let was 0, and this need not be
            return replace(
                inner, terms=tuple(replace(t, barrier="a read of the state at an earlier token") for t in inner.terms)
            )
        if self.scope.seen(value).before & self.active:
            raise NotAffine(expr.span, "a value of an earlier token that itself looks further back")
        try:
            self._let(expr.name)
        except NotAffine as e:
            raise NotAffine(expr.span, f"a value of an earlier token that holds {e.why}") from None
        return Affine(expr.type, (Term(UNIT, Marker(expr.name, -1, None, expr.type), opaque=True, span=expr.span),))

    # -- element-wise

    def _apply(self, expr: typed.Apply, fn: str, args: tuple[Expr, ...]) -> Affine:
        match fn, args:
            case "add" | "sub", (x, y):
                b = self._spread(self._of(y), expr.type)
                return self._spread(self._of(x), expr.type).plus(b.scaled(MINUS) if fn == "sub" else b)
            case "neg", (x,):
                return self._of(x).scaled(MINUS)
            case "mul", (x, y):
                if self.reads(x) and self.reads(y):
                    a, b = self._of(x), self._of(y)
                    if a.terms and b.terms:
                        raise NotAffine(expr.span, "a product of two factors that both read the state")
                    left, right = (a, b) if not a.terms else (b, a)
                    return self._weigh(self._free(left), right, expr)
                factor, rest = (y, x) if self.reads(x) else (x, y)
                if factor.type.is_scalar and Coef.of(factor).is_zero:
                    return Affine(expr.type)
                return self._weigh(factor, self._of(rest), expr)
            case "div", (x, y):
                if self.reads(y):
                    raise NotAffine(expr.span, "a division by a value that reads the state")
                one = build.ONE if y.type.is_scalar else typed.Ones(y.type)
                return self._weigh(build.div(one, y), self._of(x), expr)
            case "where", (condition, x, y):
                if self.reads(condition):
                    raise NotAffine(condition.span, "a comparison that reads the state")
                yes = typed.Apply("where", (condition, build.ONE, build.ZERO), condition.type, span=expr.span)
                no = typed.Apply("where", (condition, build.ZERO, build.ONE), condition.type, span=expr.span)
                a, b = self._spread(self._of(x), expr.type), self._spread(self._of(y), expr.type)
                return self._weigh(yes, a, expr).plus(self._weigh(no, b, expr))
            case "stopgrad", (x,):
                inner = self.of(x)
                free = build.summed(f.expr for f in inner.free)
                kept = () if free is None else (Free(UNIT, (build.apply("stopgrad", free),)),)
                return Affine(
                    expr.type,
                    tuple(replace(t, barrier="a stopgrad around a read of the state") for t in inner.terms),
                    kept,
                )
            case "pow", (x, typed.Number(1.0)):
                return self._of(x)
            case "pow", (_, e) if self.reads(e):
                raise NotAffine(expr.span, "a power whose exponent reads the state")
        named = {"pow": "a power", "max": "a maximum", "min": "a minimum", "erf_half": "gelu"}.get(fn, fn)
        raise NotAffine(expr.span, f"{named} of the state")

    def _free(self, x: Affine) -> Expr:
        parts = build.summed(f.expr for f in x.free)
        return build.ZERO if parts is None else parts

    def _spread(self, x: Affine, to: Type) -> Affine:
        """A scalar added to a vector stands in every entry."""
        if x.type == to or not x.type.is_scalar:
            return x
        if to.is_matrix:
            return Affine(
                to,
                tuple(replace(t, opaque=True) for t in x.terms),
                tuple(Free(f.coef, (*f.chain, typed.Ones(to))) for f in x.free),
            )
        ones: Chain = (typed.Ones(to),)
        if to.is_row:
            return Affine(
                to,
                tuple(replace(t, right=t.right + ones) for t in x.terms),
                tuple(Free(f.coef, f.chain + ones) for f in x.free),
            )
        return Affine(
            to,
            tuple(replace(t, left=ones + t.left) for t in x.terms),
            tuple(Free(f.coef, ones + f.chain) for f in x.free),
        )

    def _weigh(self, factor: Expr, x: Affine, expr: Expr) -> Affine:
        """`factor .* x`, or a scalar of either times the other."""
        if build.is_zero(factor):
            return Affine(expr.type)
        if factor.type.is_scalar:
            return replace(x.scaled(Coef.of(factor)), type=expr.type)
        if x.type.is_scalar:
            return self._carry(factor, x, expr)
        terms = tuple(self._hadamard(factor, t, x.type) for t in x.terms)
        free = tuple(self._peeled(build.mul(factor, build.chain(f.chain)), f.coef) for f in x.free)
        return Affine(expr.type, terms, free)

    def _peeled(self, expr: Expr, coef: Coef) -> Free:
        c, chain = peel(expr)
        return Free(coef.times(c), chain)

    def _hadamard(self, factor: Expr, t: Term, type: Type) -> Term:
        if type.is_vector:
            return replace(t, left=(build.diag(factor), *t.left))
        if type.is_row:
            return replace(t, right=(*t.right, build.diag(build.transpose(factor))))
        coef, chain = peel(factor)
        if len(chain) == 2 and chain[0].type.is_vector:
            return replace(
                t,
                coef=t.coef.times(coef),
                left=(build.diag(chain[0]), *t.left),
                right=(*t.right, build.diag(build.transpose(chain[1]))),
            )
        if all(isinstance(f, typed.Diag) for f in t.left + t.right):
            return replace(t, weight=factor if t.weight is None else build.mul(t.weight, factor))
        return replace(t, opaque=True)

    def _carry(self, factor: Expr, x: Affine, expr: Expr) -> Affine:
        """A scalar that reads the state times a state-free vector, row or matrix."""
        coef, chain = peel(self.scope.let(factor) if factor.type.is_matrix else factor)
        free = tuple(Free(f.coef.times(coef), f.chain + chain) for f in x.free)
        if factor.type.is_vector or (factor.type.is_matrix and len(chain) == 2 and chain[0].type.is_vector):
            left, right = (chain, ()) if factor.type.is_vector else (chain[:1], chain[1:])
            return Affine(
                expr.type,
                tuple(replace(t, coef=t.coef.times(coef), left=left + t.left, right=t.right + right) for t in x.terms),
                free,
            )
        if factor.type.is_row:
            return Affine(
                expr.type, tuple(replace(t, coef=t.coef.times(coef), right=t.right + chain) for t in x.terms), free
            )
        return Affine(expr.type, tuple(replace(t, opaque=True) for t in x.terms), free)

    # -- products

    def _product(self, expr: Expr, x: Expr, y: Expr) -> Affine:
        if not self.reads(y):
            return self._between((), self._of(x), (y,), expr)
        if not self.reads(x):
            return self._between((x,), self._of(y), (), expr)
        a, b = self._of(x), self._of(y)
        if a.terms and b.terms:
            raise NotAffine(expr.span, "a product of two factors that both read the state")
        if not a.terms:
            return self._between((build.full(self._free(a), x.type),), b, (), expr)
        return self._between((), a, (build.full(self._free(b), y.type),), expr)

    def _between(self, left: Chain, x: Affine, right: Chain, expr: Expr) -> Affine:
        terms = tuple(t if t.opaque else replace(t, left=left + t.left, right=t.right + right) for t in x.terms)
        return Affine(
            expr.type, tuple(tidy(t) for t in terms), tuple(Free(f.coef, left + f.chain + right) for f in x.free)
        )

    def _trace(self, expr: Expr, x: Affine) -> Affine:
        terms = []
        for t in map(tidy, x.terms):
            if not t.opaque and t.weight is None and len(t.right) == 2 and t.right[0].type.is_vector:
                terms.append(replace(t, left=(t.right[1], *t.left), right=t.right[:1]))  # trace(Y p w^T) = w^T Y p
            elif not t.opaque and t.weight is None and len(t.left) == 2 and t.left[0].type.is_vector:
                terms.append(replace(t, left=t.left[1:], right=(*t.right, t.left[0])))
            else:
                terms.append(replace(t, opaque=True))
        free = tuple(Free(f.coef.times(Coef.of(typed.Reduce("trace", build.chain(f.chain)))), ()) for f in x.free)
        return Affine(expr.type, tuple(terms), free)

    def _opaque(self, expr: Expr, parts: tuple[Expr, ...]) -> Affine:
        """Linear in each part, of a structure that is not followed: the terms lose it, the free part is not needed."""
        terms = tuple(replace(t, opaque=True) for p in parts if self.reads(p) for t in self._of(p).terms)
        return Affine(expr.type, terms, (Free(UNIT, (expr,)),))


def step_back(scope: Scope, value: Expr) -> Expr | None:
    """`value` one token ago, over version 0 and lagged inputs: only if every state it reads is at its last version.
    None if that is not so, or the value already looks further back at a state."""

    looks = 0

    def visit(expr: Expr) -> Expr | None:
        nonlocal looks
        looks += 1
        if looks > MOST_LOOKS:
            return None
        match expr:
            case typed.StateRef(name, _, version, member):
                if version != len(scope.assigns.get((name, member), [])):
                    return None
                return replace(expr, version=0)
            case typed.Frozen():
                return None
            case typed.Builtin("t"):
                return build.sub(expr, build.ONE)
            case typed.Ref(name, role, _, lag) if role in (Role.PARAM, Role.CONST):
                return expr
            case typed.Ref(name, role, _, lag):
                if scope.seen(expr).every:
                    return None if lag is not None else visit(scope.lets[name])
                return replace(expr, lag=build.number(1 if lag is None else (build.value_of(lag) or 0) + 1))
        failed = False

        def inner(child: Expr) -> Expr:
            nonlocal failed
            out = visit(child)
            failed |= out is None
            return child if out is None else out

        new = build.rebuild(expr, inner)
        return None if failed else new

    return visit(value)
