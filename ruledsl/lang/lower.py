"""Expressions of the syntax, with their shapes decided -> typed trees.

Parentheses, `dot`, `outer`, `norm`, `norm2` and `clip` become the few operations of `typed`; `max` and `min` take two.
"""

from __future__ import annotations

from functools import reduce
from typing import assert_never

from ruledsl.lang import syntax, typed
from ruledsl.lang.dims import Sizes, Undecided, names_in
from ruledsl.lang.report import Report
from ruledsl.lang.scope import Scope
from ruledsl.lang.shapes import Shape
from ruledsl.lang.source import Span
from ruledsl.lang.typed import SCALAR, Role, Type

OPERATORS = {"+": "add", "-": "sub", "*": "mul", ".*": "mul", "/": "div", "./": "div"}
CONSTANTS = {"pi": 3.141592653589793, "inf": float("inf")}


class Lower:
    """Builds typed trees from nodes whose shapes `infer` remembered."""

    def __init__(self, scope: Scope, sizes: Sizes, shapes: dict[int, Shape], report: Report) -> None:
        self.scope, self.sizes, self.shapes, self.report = scope, sizes, shapes, report

    def type(self, shape: Shape, span: Span) -> Type:
        """The finished type; what stayed undecided is told."""
        try:
            rows, cols, *family = (self.sizes.resolve(s) for s in (shape.rows, shape.cols, *shape.family))
            return Type(rows, cols, tuple(family))
        except Undecided:
            self.report.add(
                "RD218",
                f"the shape of `{self.report.text(span)}` cannot be decided",
                span,
                hint="declare the inputs and states with their sizes",
            )
            return SCALAR

    def of(self, node: syntax.Expr) -> Type:
        return self.type(self.shapes[id(node)], node.span)

    def expr(self, node: syntax.Expr) -> typed.Expr:
        """The typed tree of a node."""
        span = node.span
        match node:
            case syntax.Number():
                return typed.Number(node.value, span=span)
            case syntax.Name():
                return self._name(node)
            case syntax.Paren(inside):
                return self.expr(inside)
            case syntax.Neg(syntax.Number() as number):
                return typed.Number(-number.value, span=span)
            case syntax.Neg(operand):
                inner = self.expr(operand)
                return typed.Apply("neg", (inner,), inner.type, span=span)
            case syntax.Transpose(operand):
                return transpose(self.expr(operand), span)
            case syntax.Power(_, base, exponent):
                inner = self.expr(base)
                return typed.Apply("pow", (inner, self.expr(exponent)), inner.type, span=span)
            case syntax.Binary(" ", left, right):
                return product(self.expr(left), self.expr(right), span)
            case syntax.Binary(op, left, right):
                return self._spread(OPERATORS[op], self.expr(left), self.expr(right), span)
            case syntax.Index(name, index):
                return member(self._name(name), self.expr(index), span)
            case syntax.Total(body, variable, low, high):
                low_, high_ = self.expr(low), self.expr(high)
                inner = self.expr(body)
                return typed.Total(inner, variable, low_, high_, inner.type, span=span)
            case syntax.Compare(op, left, right):
                a, b = self.expr(left), self.expr(right)
                return typed.Compare(op, a, b, b.type if a.type.is_scalar else a.type, span=span)
            case syntax.Call():
                return self._call(node)
            case _:
                assert_never(node)

    def _name(self, node: syntax.Name) -> typed.Expr:
        entry = self.scope.entries.get(node.id)
        if entry is None:
            return self._unnamed(node)
        type_ = self.type(entry.shape, node.span)
        if entry.role is Role.STATE:
            return typed.StateRef(node.id, type_, span=node.span)
        return typed.Ref(node.id, entry.role, type_, span=node.span)

    def _unnamed(self, node: syntax.Name) -> typed.Expr:
        match node.id:
            case "I":
                return typed.Eye(self.of(node), span=node.span)
            case "ones":
                return typed.Ones(self.of(node), span=node.span)
            case "t" | "head" | "heads":
                return typed.Builtin(node.id, span=node.span)
            case "pi" | "inf":
                return typed.Number(CONSTANTS[node.id], span=node.span)
        if node.id in self.scope.sizes:
            return typed.SizeOf(self.sizes.resolve(node.id), span=node.span)
        return typed.LoopVar(node.id, span=node.span)

    def _spread(self, fn: str, left: typed.Expr, right: typed.Expr, span: Span) -> typed.Expr:
        return typed.Apply(fn, (left, right), wider(left, right), span=span)

    # ---------------------------------------------------------------------------------------- calls

    def _call(self, node: syntax.Call) -> typed.Expr:
        span, name = node.span, node.function
        match name:
            case "prev":
                return self._prev(node)
            case "frozen":
                target = self.expr(node.args[0])
                chunk = self.expr(node.args[1])
                if isinstance(target, typed.Member):
                    frozen = typed.Frozen(target.base.name, target.base.type, chunk, span=span)  # type: ignore[union-attr]
                    return member(frozen, target.index, span)
                return typed.Frozen(target.name, target.type, chunk, span=span)  # type: ignore[union-attr]
            case "grad":
                loss, wrt = (self.expr(arg) for arg in node.args)
                return typed.Grad(loss, wrt, wrt.type, span=span)
        args = [self.expr(arg) for arg in node.args]
        first = args[0]
        match name:
            case "where":
                rest = wider(args[1], args[2])
                return typed.Apply("where", tuple(args), rest if not rest.is_scalar else first.type, span=span)
            case "max" | "min" | "logaddexp" | "mod":
                return reduce(lambda a, b: self._spread(name, a, b, span), args)
            case "clip":
                return self._spread("min", self._spread("max", first, args[1], span), args[2], span)
            case "softmax" | "layernorm" | "rmsnorm" | "unit":
                return typed.RowWise(name, first, first.type, span=span)
            case "topk":
                return typed.RowWise(name, first, first.type, args[1], span=span)
            case "sum" | "trace":
                return total_of(name, first, span)
            case "norm2":
                return squares(first, span)
            case "norm":
                return typed.Apply("sqrt", (squares(first, span),), SCALAR, span=span)
            case "dot":
                return dot(first, args[1], span)
            case "outer":
                return typed.Product(
                    first, transpose(args[1], args[1].span), Type(first.type.rows, args[1].type.rows), span=span
                )
            case "diag":
                return typed.Diag(first, self.of(node), span=span)
            case "kron":
                return typed.Kron(first, args[1], self.of(node), span=span)
            case "cat":
                return typed.Concat(tuple(args), self.of(node), span=span)
            case "rotate":
                return typed.Rotate(first, args[1], first.type, span=span)
            case "solve":
                return typed.Solve(first, args[1], args[1].type, args[2] if len(args) == 3 else None, span=span)
        assert len(args) == 1, name
        return typed.Apply(name, (first,), first.type, span=span)

    def _prev(self, node: syntax.Call) -> typed.Expr:
        target = self.expr(node.args[0])
        base = target.base if isinstance(target, typed.Member) else target
        lag: typed.Expr = self.expr(node.args[1]) if len(node.args) == 2 else typed.Number(1.0, span=node.span)
        back: typed.Expr
        match base:
            case typed.StateRef(name, type_):
                back = typed.StateRef(name, type_, 0, span=node.span)
            case typed.Ref(name, role, type_):
                back = typed.Ref(name, role, type_, lag, span=node.span)
            case _:
                raise AssertionError(base)
        return member(back, target.index, node.span) if isinstance(target, typed.Member) else back


def wider(left: typed.Expr, right: typed.Expr) -> Type:
    """The type of two values of which one may be a scalar that spreads."""
    return right.type if left.type.is_scalar else left.type


def transpose(x: typed.Expr, span: Span) -> typed.Expr:
    """x^T; a scalar is its own transpose."""
    return x if x.type.is_scalar else typed.Transpose(x, Type(x.type.cols, x.type.rows), span=span)


def product(left: typed.Expr, right: typed.Expr, span: Span) -> typed.Expr:
    """Two things side by side."""
    if left.type.is_scalar or right.type.is_scalar:
        return typed.Apply("mul", (left, right), wider(left, right), span=span)
    return typed.Product(left, right, Type(left.type.rows, right.type.cols), span=span)


def member(base: typed.Expr, index: typed.Expr, span: Span) -> typed.Expr:
    return typed.Member(base, index, base.type.member if base.type.family else SCALAR, span=span)


def total_of(fn: str, x: typed.Expr, span: Span) -> typed.Expr:
    """Sum or trace; of a scalar, itself."""
    return x if x.type.is_scalar else typed.Reduce(fn, x, span=span)


def squares(x: typed.Expr, span: Span) -> typed.Expr:
    """Sum of squares over everything."""
    return total_of("sum", typed.Apply("mul", (x, x), x.type, span=span), span)


def dot(x: typed.Expr, y: typed.Expr, span: Span) -> typed.Expr:
    """Sum of products of two values of the same shape."""
    if x.type.is_vector:
        return typed.Product(transpose(x, x.span), y, SCALAR, span=span)
    if x.type.is_row:
        return typed.Product(x, transpose(y, y.span), SCALAR, span=span)
    return total_of("sum", typed.Apply("mul", (x, y), x.type, span=span), span)


def sizes_of(type_: Type) -> tuple[str, ...]:
    """Size names in a type, in the order of the user's tensor."""
    return tuple(dict.fromkeys(n for dim in (*type_.family, type_.rows, type_.cols) for n in names_in(dim)))
