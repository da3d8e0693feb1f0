"""Constructors of typed nodes that fold what is plain: numbers, zeros, ones, I, diag and double transposes.

Shapes are the language's: a scalar spreads in element-wise operations. Nothing here changes a value except by
re-association of literal numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ruledsl.lang import typed
from ruledsl.lang.source import NOWHERE, Span
from ruledsl.lang.trees import rebuilt
from ruledsl.lang.typed import SCALAR, Apply, Diag, Expr, Eye, Number, Ones, Product, Rotate, Transpose, Type

ONE = Number(1.0)
ZERO = Number(0.0)


def number(value: float) -> Number:
    return Number(float(value))


def value_of(expr: Expr) -> float | None:
    """The literal number, with its sign."""
    match expr:
        case Number(value):
            return value
        case Apply("neg", (Number(value),)):
            return -value
    return None


def is_zero(expr: Expr) -> bool:
    match expr:
        case Apply("mul", (a, b)):
            return is_zero(a) or is_zero(b)
        case Apply("neg" | "stopgrad", (a,)) | Transpose(a) | Diag(a):
            return is_zero(a)
    return value_of(expr) == 0


def spread(*args: Expr) -> Type:
    """The common type of element-wise operands: the first that is no scalar."""
    return next((a.type for a in args if not a.type.is_scalar), SCALAR)


def span_of(args: Iterable[Expr]) -> Span:
    out = NOWHERE
    for arg in args:
        if arg.span != NOWHERE:
            out = arg.span if out == NOWHERE else out.to(arg.span)
    return out


def apply(fn: str, *args: Expr, span: Span | None = None) -> Expr:
    return Apply(fn, args, spread(*args), span=span_of(args) if span is None else span)


def neg(x: Expr) -> Expr:
    match x:
        case Number(value):
            return number(-value)
        case Apply("neg", (y,)):
            return y
    return apply("neg", x)


def add(x: Expr, y: Expr) -> Expr:
    a, b = value_of(x), value_of(y)
    if a is not None and b is not None and x.type == y.type:
        return number(a + b)
    if a == 0 and (x.type.is_scalar or x.type == y.type):
        return y
    if b == 0 and (y.type.is_scalar or x.type == y.type):
        return x
    match y:
        case Apply("neg", (z,)):
            return apply("sub", x, z)
        case Number(value) if value < 0:
            return apply("sub", x, number(-value))
    return apply("add", x, y)


def sub(x: Expr, y: Expr) -> Expr:
    return add(x, neg(y))


def mul(x: Expr, y: Expr) -> Expr:
    """Element-wise, or by a scalar."""
    a, b = value_of(x), value_of(y)
    if a is not None and b is not None:
        return number(a * b)
    for p, q, literal in ((x, y, a), (y, x, b)):
        if literal == 1 or (isinstance(p, Ones) and p.type == q.type):
            return q
        if literal == 0 and q.type.is_scalar:
            return ZERO
        if literal == -1:
            return neg(q)
    for p, q in ((x, y), (y, x)):
        match p:
            case Apply("neg", (z,)):
                return neg(mul(z, q) if p is x else mul(q, z))
    return apply("mul", x, y)


def div(x: Expr, y: Expr) -> Expr:
    a, b = value_of(x), value_of(y)
    if b == 1:
        return x
    if a is not None and b:
        return number(a / b)
    if a == 0 and y.type.is_scalar:
        return ZERO
    return apply("div", x, y)


def power(x: Expr, exponent: float) -> Expr:
    if exponent == 1:
        return x
    if exponent == 0:
        return ONE if x.type.is_scalar else Ones(x.type)
    return apply("pow", x, number(exponent))


def transpose(x: Expr) -> Expr:
    t = Type(x.type.cols, x.type.rows)
    match x:
        case _ if x.type.is_scalar:
            return x
        case Transpose(y):
            return y
        case Diag() | Eye():
            return x
        case Ones():
            return Ones(t)
        case Rotate(Eye(), angle, type):
            return Rotate(Eye(type), neg(angle), type)
        case Product(left, right):
            return Product(transpose(right), transpose(left), t, span=x.span)
        case Apply("neg", (y,)):
            return neg(transpose(y))
        case Apply("mul", (a, b)) if a.type.is_scalar:
            return mul(a, transpose(b))
    return Transpose(x, t, span=x.span)


def product(x: Expr, y: Expr) -> Expr:
    """The matrix product; a scalar operand multiplies."""
    if x.type.is_scalar or y.type.is_scalar:
        return mul(x, y)
    match x, y:
        case Eye(), _:
            return y
        case _, Eye():
            return x
        case Diag(a), Diag(b):
            return diag(mul(a, b))
        case Diag(a), _ if y.type.is_vector:
            return mul(a, y)
        case _, Diag(a) if x.type.is_row:
            return transpose(mul(transpose(x), a))
        case Rotate(Eye(), angle, _), _ if y.type.is_vector:
            return Rotate(y, angle, y.type, span=y.span)
        case _, Rotate(Eye(), angle, _) if x.type.is_row:
            back = transpose(x)
            return transpose(Rotate(back, neg(angle), back.type, span=x.span))
    return Product(x, y, Type(x.type.rows, y.type.cols), span=span_of((x, y)))


def chain(factors: Iterable[Expr]) -> Expr:
    """The product of the factors, from the left; 1 for none."""
    out: Expr | None = None
    for factor in factors:
        out = factor if out is None else product(out, factor)
    return ONE if out is None else out


def diag(x: Expr) -> Expr:
    if isinstance(x, Ones):
        return Eye(Type(x.type.rows, x.type.rows))
    return Diag(x, Type(x.type.rows, x.type.rows), span=x.span)


def total(x: Expr) -> Expr:
    """The sum over everything."""
    return x if x.type.is_scalar else typed.Reduce("sum", x, span=x.span)


def full(x: Expr, type: Type) -> Expr:
    """`x`, a scalar spread to `type` where it is one."""
    return x if x.type == type or not x.type.is_scalar else mul(x, Ones(type))


def summed(parts: Iterable[Expr]) -> Expr | None:
    """The sum of the parts; None for none."""
    out: Expr | None = None
    for part in parts:
        out = part if out is None else add(out, part)
    return out


def rebuild(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """The node with `change` applied to each direct sub-expression; the node itself if none changed."""
    return rebuilt(expr, change)
