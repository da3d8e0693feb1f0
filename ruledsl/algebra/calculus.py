"""`grad(loss, x)` by matrix calculus in reverse mode, tree to tree.

One rule per node gives the cotangents of its operands; lets are visited once, in reverse order of definition.
Element-wise rows take their derivative from `functions.TABLE`. A scalar cotangent of a vector or matrix stands for
the same number in every entry. New nodes carry the span of the node they differentiate, so that blame points into
the loss. Nodes without a rule raise `NoDerivative`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ruledsl.algebra import build
from ruledsl.lang import typed
from ruledsl.lang.functions import TABLE
from ruledsl.lang.source import Span
from ruledsl.lang.typed import SCALAR, Expr, Ref, Role, Type
from ruledsl.lang.walk import tree_size

LARGE = 60
ROW_EPS = {"layernorm": 1e-5, "rmsnorm": 1e-5, "unit": 1e-6}


class NoDerivative(Exception):
    def __init__(self, span: Span, what: str) -> None:
        self.span, self.what = span, what
        super().__init__(f"the checker has no derivative for {what}")


# ------------------------------------------------------------------------------------------------ overloaded values


@dataclass(frozen=True, slots=True)
class _Value:
    """An expression with the operators that a derivative in the function table is written with."""

    expr: Expr
    span: Span

    def _make(self, fn: str, *args: object) -> _Value:
        a, *rest = (x.expr if isinstance(x, _Value) else build.number(x) for x in args)  # type: ignore[arg-type]
        made = {"add": build.add, "sub": build.sub, "mul": build.mul, "div": build.div}[fn](a, *rest)
        return _Value(replace(made, span=self.span), self.span)

    def __add__(self, o: object) -> _Value:
        return self._make("add", self, o)

    def __radd__(self, o: object) -> _Value:
        return self._make("add", o, self)

    def __sub__(self, o: object) -> _Value:
        return self._make("sub", self, o)

    def __rsub__(self, o: object) -> _Value:
        return self._make("sub", o, self)

    def __mul__(self, o: object) -> _Value:
        return self._make("mul", self, o)

    def __rmul__(self, o: object) -> _Value:
        return self._make("mul", o, self)

    def __truediv__(self, o: object) -> _Value:
        return self._make("div", self, o)

    def __rtruediv__(self, o: object) -> _Value:
        return self._make("div", o, self)

    def __neg__(self) -> _Value:
        return _Value(build.neg(self.expr), self.span)


@dataclass(frozen=True, slots=True)
class _Rows:
    """`f.exp(x)` applies the row `exp`."""

    span: Span

    def __getattr__(self, name: str) -> Callable[..., _Value]:
        def row(*args: object) -> _Value:
            exprs = [a.expr if isinstance(a, _Value) else build.number(a) for a in args]  # type: ignore[arg-type]
            if name == "pow" and (n := build.value_of(exprs[1])) is not None:
                return _Value(replace(power(exprs[0], n), span=self.span), self.span)
            return _Value(build.apply(name, *exprs, span=self.span), self.span)

        return row

    def where(self, op: str, a: object, b: object, x: object, y: object) -> _Value:
        ea, eb, ex, ey = (v.expr if isinstance(v, _Value) else build.number(v) for v in (a, b, x, y))  # type: ignore[arg-type]
        test = typed.Compare(op, ea, eb, build.spread(ea, eb), span=self.span)
        return _Value(typed.Apply("where", (test, ex, ey), build.spread(test, ex, ey), span=self.span), self.span)


def power(x: Expr, n: float) -> Expr:
    """`x^n`, with the roots and absolute values gone that an even power makes void."""
    match x:
        case typed.Apply("abs", (y,)) if float(n).is_integer() and int(n) % 2 == 0:
            return power(y, n)
        case typed.Apply("sqrt", (y,)) if n == 2 and _is_square(y):
            return y
    return build.power(x, n)


def _is_square(x: Expr) -> bool:
    """Plainly not negative: a sum of squares."""
    match x:
        case typed.Reduce("sum", y):
            return _is_square(y)
        case typed.Apply("mul", (a, b)):
            return a == b or (_is_square(a) and _is_square(b))
        case typed.Product(a, b):
            return x.type.is_scalar and build.transpose(a) == b
        case typed.Number(v):
            return v >= 0
    return False


# ------------------------------------------------------------------------------------------------ reverse mode


def gradient(loss: Expr, wrt: Expr, lets: dict[str, Expr], name: Callable[[Expr], Expr] | None = None) -> Expr:
    """The derivative of a scalar by `wrt` (a StateRef, Frozen or a Ref to a let), of the type of `wrt`. `lets` in
    order of definition. Cotangents of more than `LARGE` nodes are passed to `name`, which answers with a reference to
    a new let: a cotangent is used more than once, and would double at each step."""
    depends = _Depends(wrt, lets)
    found: list[Expr] = []
    waiting: dict[str, Expr] = {}

    def back(expr: Expr, ct: Expr) -> None:
        if name is not None and tree_size(ct) > LARGE:
            ct = name(ct)
        if expr == wrt:
            found.append(build.full(ct, wrt.type))
            return
        if not depends(expr):
            return
        if isinstance(expr, Ref):
            waiting[expr.name] = (
                build.add(waiting[expr.name], build.full(ct, expr.type))
                if expr.name in waiting
                else build.full(ct, expr.type)
            )
            return
        for operand, part in pullback(expr, ct, depends):
            back(operand, part)

    back(loss, build.ONE)
    for let in reversed(list(lets)):
        if let in waiting:
            back(lets[let], waiting.pop(let))
    out = build.summed(found)
    return build.ZERO if out is None else out


class _Depends:
    def __init__(self, wrt: Expr, lets: dict[str, Expr]) -> None:
        self.wrt, self.lets = wrt, lets
        self.memo: dict[str, bool] = {}

    def __call__(self, expr: Expr) -> bool:
        if expr == self.wrt:
            return True
        if isinstance(expr, Ref) and expr.role in (Role.LET, Role.OUTPUT):
            if expr.lag is not None:
                return False
            if expr.name not in self.memo:
                self.memo[expr.name] = expr.name in self.lets and self(self.lets[expr.name])
            return self.memo[expr.name]
        return any(self(c) for c in typed.children(expr))


def pullback(expr: Expr, ct: Expr, depends: _Depends) -> list[tuple[Expr, Expr]]:
    """Cotangents of the operands that depend on the variable, given the node's own."""
    span = expr.span
    match expr:
        case typed.Apply("where", (condition, x, y)):
            yes = typed.Apply("where", (condition, build.ONE, build.ZERO), condition.type, span=span)
            no = typed.Apply("where", (condition, build.ZERO, build.ONE), condition.type, span=span)
            return [(a, _fit(build.mul(ct, m), a.type)) for a, m in ((x, yes), (y, no)) if depends(a)]
        case typed.Apply("pow", (x, e)) if (n := build.value_of(e)) is not None and (simple := power(x, n)) != expr:
            return [(simple, ct)]
        case typed.Apply(fn, args):
            return _apply(expr, fn, args, ct, depends)
        case typed.Product(x, y):
            whole = build.full(ct, expr.type)
            if expr.type.is_scalar and build.transpose(x) == y:
                return [(y, build.mul(build.mul(build.number(2), ct), y))]
            out = []
            if depends(x):
                out.append((x, build.product(whole, build.transpose(y))))
            if depends(y):
                out.append((y, build.product(build.transpose(x), whole)))
            return out
        case typed.Transpose(x):
            return [(x, build.transpose(ct))]
        case typed.Reduce("sum", x):
            return [(x, ct)]
        case typed.Reduce("trace", x):
            return [(x, build.mul(ct, typed.Eye(x.type)))]
        case typed.RowWise(fn, x):
            return _rowwise(expr, fn, x, build.full(ct, expr.type))
        case typed.Diag(x):
            on_diagonal = build.apply("mul", build.full(ct, expr.type), typed.Eye(expr.type), span=span)
            return [(x, build.product(on_diagonal, typed.Ones(Type(x.type.rows, 1))))]
        case typed.Rotate(x, angle) if not depends(angle):
            return [(x, typed.Rotate(build.full(ct, x.type), build.neg(angle), x.type, span=span))]
        case typed.Solve(matrix, right):
            a = typed.Solve(build.transpose(matrix), build.full(ct, expr.type), right.type, expr.steps, span=span)
            out = [(right, a)] if depends(right) else []
            if depends(matrix):
                out.append((matrix, build.neg(build.product(a, build.transpose(expr)))))
            return out
        case typed.Compare():
            return []
    raise NoDerivative(span, type(expr).__name__.lower())


def _fit(ct: Expr, to: Type) -> Expr:
    """The cotangent of a scalar that was spread is the sum of the entries'."""
    return build.total(ct) if to == SCALAR else ct


def _apply(expr: Expr, fn: str, args: tuple[Expr, ...], ct: Expr, depends: _Depends) -> list[tuple[Expr, Expr]]:
    row = TABLE[fn].derivative
    if row is None:
        raise NoDerivative(expr.span, fn)
    if fn == "mul" and args[0] == args[1]:  # one visit, not two: squares of squares would double at each level
        return [(args[0], build.mul(build.mul(build.number(2), ct), args[0]))]
    if fn == "pow" and depends(args[1]):
        raise NoDerivative(expr.span, "a power with a varying exponent (write `exp(x*log(a))` for `a^x`)")
    partials = row(_Rows(expr.span), _Value(expr, expr.span), *(_Value(a, expr.span) for a in args))
    out = []
    for arg, partial in zip(args, partials, strict=True):
        if partial is None or not depends(arg):
            continue
        factor = partial.expr if isinstance(partial, _Value) else build.number(partial)
        whole = ct if not arg.type.is_scalar or expr.type.is_scalar else build.full(ct, expr.type)
        out.append((arg, _fit(build.mul(whole, factor), arg.type)))
    return out


def _rowwise(y: Expr, fn: str, x: Expr, ct: Expr) -> list[tuple[Expr, Expr]]:
    """A vector is one row; softmax, and x times a row's own scale."""
    n = typed.SizeOf(x.type.rows if x.type.cols == 1 else x.type.cols)

    def over(z: Expr) -> Expr:  # the sum of each row, spread over it
        if z.type.cols == 1:
            return build.total(z)
        ones = typed.Ones(Type(z.type.cols, 1))
        return build.product(build.product(z, ones), build.transpose(ones))

    def mean(z: Expr) -> Expr:
        return build.div(over(z), n)

    inner = over(build.mul(ct, y))
    match fn:
        case "softmax":
            dx = build.mul(y, build.sub(ct, inner))
        case "layernorm" | "rmsnorm" | "unit":
            centred = build.sub(x, mean(x)) if fn == "layernorm" else x
            square = over(build.mul(centred, centred)) if fn == "unit" else mean(build.mul(centred, centred))
            scale = build.apply("sqrt", build.apply("add", square, build.number(ROW_EPS[fn]), span=y.span), span=y.span)
            pulled = build.mul(y, inner if fn == "unit" else build.div(inner, n))
            dx = build.sub(ct, pulled)
            if fn == "layernorm":
                dx = build.sub(dx, mean(ct))
            one = typed.Ones(scale.type) if not scale.type.is_scalar else build.ONE
            dx = build.mul(build.div(one, scale), dx)
        case "topk":
            return []  # a 0/1 mask
        case _:
            raise NoDerivative(y.span, fn)
    return [(x, replace(dx, span=y.span))]


# ------------------------------------------------------------------------------------------------ whole rules


def expand(rule: typed.Rule) -> typed.Rule:
    """The unrolled rule with every Grad replaced by what it stands for; large cotangents are lets of their own."""
    lets: dict[str, Expr] = {}
    taken = {s.name for s in rule.symbols} | set(rule.sizes)
    taken |= {s.name for s in rule.body if isinstance(s, typed.Let | typed.Output)}
    body: list[typed.Statement] = []

    def name(value: Expr) -> Expr:
        own, number = "cotangent", 1
        while f"{own}{number}" in taken:
            number += 1
        taken.add(f"{own}{number}")
        body.append(typed.Let(f"{own}{number}", value, span=value.span))
        lets[f"{own}{number}"] = value
        return Ref(f"{own}{number}", Role.LET, value.type, span=value.span)

    def visit(expr: Expr) -> Expr:
        if isinstance(expr, typed.Grad):
            made = gradient(visit(expr.loss), expr.wrt, dict(lets), name)
            return build.mul(made, typed.Ones(expr.type)) if made.type != expr.type else made
        return build.rebuild(expr, visit)

    for statement in rule.body:
        if isinstance(statement, typed.Let | typed.Output | typed.Assign):
            statement = replace(statement, value=visit(statement.value))
        if isinstance(statement, typed.Let | typed.Output):
            lets[statement.name] = statement.value
        body.append(statement)
    return replace(rule, body=tuple(body))
