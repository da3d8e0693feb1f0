"""Checks the checker: every node of a typed rule has the type that its operation gives it.

A failure is a mistake of ours, hence an AssertionError with the node's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from ruledsl.lang import typed
from ruledsl.lang.dims import same_dim
from ruledsl.lang.functions import TABLE
from ruledsl.lang.show import expr_text
from ruledsl.lang.typed import SCALAR, Dim, DimOp, Role, Type, dim_value
from ruledsl.lang.walk import subexpressions


def verify(rule: typed.Rule, sizes: Mapping[str, int] | None = None) -> None:
    """Assert that a checked rule, or with `sizes` an unrolled one, is well typed."""
    _Verify(rule, sizes).rule()


class _Verify:
    """Types of the names seen so far."""

    def __init__(self, rule: typed.Rule, sizes: Mapping[str, int] | None) -> None:
        self.checked, self.sizes = rule, sizes
        self.symbols = {s.name: s for s in rule.symbols}
        self.lets: dict[str, tuple[Role, Type]] = {}
        self.later: dict[str, tuple[Role, Type]] = {}
        self.loops: list[str] = []
        self.versions: dict[tuple[str, int | None], int] = {}

    def rule(self) -> None:
        assert len(self.symbols) == len(self.checked.symbols), "two symbols of one name"
        for statement in self.checked.body:
            if isinstance(statement, typed.Let | typed.Output):
                role = Role.LET if isinstance(statement, typed.Let) else Role.OUTPUT
                assert statement.name not in self.later and statement.name not in self.symbols, (
                    f"{statement.name} twice"
                )
                self.later[statement.name] = (role, statement.value.type)
        for symbol in self.checked.symbols:
            assert symbol.role in (Role.STATE, Role.INPUT, Role.PARAM, Role.CONST)
            if symbol.init is not None:
                self._expr(symbol.init)
                own = Type(symbol.type.rows, symbol.type.cols)
                assert symbol.init.type.is_scalar or self._same(symbol.init.type, own), f"first value of {symbol.name}"
        for statement in self.checked.body:
            self._statement(statement)

    def _statement(self, statement: typed.Statement) -> None:
        match statement:
            case typed.Let(name, value):
                self._expr(value)
                self.lets[name] = (Role.LET, value.type)
            case typed.Output(name, value):
                self._expr(value)
                assert not value.type.is_row, f"output {name} is a row"
                self.lets[name] = (Role.OUTPUT, value.type)
            case typed.Assign(state, member, value):
                self._expr(value)
                self._assign(state, member, value)
            case typed.For(name, low, high, body):
                assert self.sizes is None, "a loop in an unrolled rule"
                self._expr(low)
                self._expr(high)
                self.loops.append(name)
                for inner in body:
                    self._statement(inner)
                self.loops.pop()
            case _:
                assert_never(statement)

    def _assign(self, state: str, member: typed.Expr | None, value: typed.Expr) -> None:
        symbol = self.symbols[state]
        assert symbol.role is Role.STATE
        target = symbol.type
        if member is not None:
            self._expr(member)
            target = target.member if target.family else SCALAR
        assert not target.family and self._same(value.type, target), (
            f"{state} = {expr_text(value)}: {value.type} into {target}"
        )
        if self.sizes is not None:
            assert member is None or (isinstance(member, typed.Number) and symbol.type.family)
            key = (state, None if member is None else int(member.value))
            self.versions[key] = self.versions.get(key, 0) + 1

    # ---------------------------------------------------------------------------------------- expressions

    def _expr(self, root: typed.Expr) -> None:
        totals = [n for n in subexpressions(root) if isinstance(n, typed.Total)]
        self.loops += [t.name for t in totals]
        for node in subexpressions(root):
            allowed = isinstance(node, typed.Ref | typed.StateRef | typed.Frozen)
            assert allowed or not node.type.family, f"{expr_text(root)}: a family as a value"
            expected = self._type(node)
            assert self._same(node.type, expected), f"`{expr_text(node)}` has type {node.type}, not {expected}"
        del self.loops[len(self.loops) - len(totals) :]

    def _type(self, node: typed.Expr) -> Type:
        match node:
            case typed.Number() | typed.Builtin():
                return SCALAR
            case typed.SizeOf(dim):
                assert all(n in self.checked.sizes for n in _names(dim)), f"{dim} is no size"
                return SCALAR
            case typed.LoopVar(name):
                assert name in self.loops, f"{name} outside its loop"
                return SCALAR
            case typed.Ref():
                return self._ref(node)
            case typed.StateRef():
                return self._state(node)
            case typed.Frozen(name):
                return self._symbol(name, Role.STATE)
            case typed.Member(base, index):
                assert index.type.is_scalar and (base.type.family or base.type.is_vector)
                assert self.sizes is None or isinstance(index, typed.Number)
                return base.type.member if base.type.family else SCALAR
            case typed.Compare(_, left, right):
                return self._wider(left.type, right.type)
            case typed.Apply(fn, args):
                return self._apply(fn, args)
            case typed.RowWise(fn, operand, _, count):
                assert (
                    TABLE[fn].kind == "rowwise" and (count is not None) == (fn == "topk") and not operand.type.is_scalar
                )
                return operand.type
            case typed.Reduce(fn, operand):
                assert fn in ("sum", "trace") and not operand.type.is_scalar
                assert fn == "sum" or self._equal(operand.type.rows, operand.type.cols)
                return SCALAR
            case typed.Product(left, right):
                assert (
                    not left.type.is_scalar
                    and not right.type.is_scalar
                    and self._equal(left.type.cols, right.type.rows)
                )
                return Type(left.type.rows, right.type.cols)
            case typed.Transpose(operand):
                assert not operand.type.is_scalar
                return Type(operand.type.cols, operand.type.rows)
            case typed.Diag(operand):
                assert operand.type.is_vector
                return Type(operand.type.rows, operand.type.rows)
            case typed.Eye():
                return Type(node.type.rows, node.type.rows)
            case typed.Ones():
                return Type(node.type.rows, node.type.cols)
            case typed.Concat(parts):
                assert all(self._equal(p.type.cols, node.type.cols) for p in parts)
                rows: Dim = parts[0].type.rows
                for part in parts[1:]:
                    rows = DimOp("+", rows, part.type.rows)
                return Type(rows, node.type.cols)
            case typed.Kron(left, right):
                assert left.type.is_vector and right.type.is_vector
                return Type(DimOp("*", left.type.rows, right.type.rows), 1)
            case typed.Rotate(operand, angle):
                assert operand.type.is_vector and self._equal(DimOp("*", 2, angle.type.rows), operand.type.rows)
                return operand.type
            case typed.Solve(matrix, right, _, steps):
                assert self._equal(matrix.type.rows, matrix.type.cols) and self._equal(
                    matrix.type.cols, right.type.rows
                )
                assert steps is None or steps.type.is_scalar
                return right.type
            case typed.Total(body):
                assert self.sizes is None, "a sum over a range in an unrolled rule"
                return body.type
            case typed.Grad(loss, wrt):
                assert loss.type.is_scalar and not wrt.type.family
                return wrt.type
            case _:
                assert_never(node)

    def _apply(self, fn: str, args: tuple[typed.Expr, ...]) -> Type:
        row = TABLE[fn]
        assert row.kind == "map" and fn != "clip" and len(args) == (2 if fn in ("max", "min") else row.low), fn
        if fn == "where":
            assert isinstance(args[0], typed.Compare)
        result = args[0].type
        for arg in args[1:]:
            result = self._wider(result, arg.type)
        return result

    def _wider(self, left: Type, right: Type) -> Type:
        assert left.is_scalar or right.is_scalar or self._same(left, right), f"{left} beside {right}"
        return right if left.is_scalar else left

    def _symbol(self, name: str, role: Role) -> Type:
        assert self.symbols[name].role is role
        return self.symbols[name].type

    def _ref(self, node: typed.Ref) -> Type:
        assert node.lag is None or (
            node.lag.type.is_scalar and (self.sizes is None or isinstance(node.lag, typed.Number))
        )
        if node.role in (Role.LET, Role.OUTPUT):
            role, type_ = (
                (self.lets.get(node.name) or self.later[node.name]) if node.lag is not None else self.lets[node.name]
            )
            assert role is node.role
            return type_
        return self._symbol(node.name, node.role)

    def _state(self, node: typed.StateRef) -> Type:
        type_ = self._symbol(node.name, Role.STATE)
        if self.sizes is None:
            assert node.version in (None, 0) and node.member is None
            return type_
        assert node.version is not None and (node.member is not None) == bool(type_.family)
        assert 0 <= node.version <= self.versions.get((node.name, node.member), 0)
        return type_ if node.member is None else type_.member

    # ---------------------------------------------------------------------------------------- sizes

    def _same(self, a: Type, b: Type) -> bool:
        pairs = ((a.rows, b.rows), (a.cols, b.cols), *zip(a.family, b.family, strict=False))
        return len(a.family) == len(b.family) and all(self._equal(x, y) for x, y in pairs)

    def _equal(self, a: Dim, b: Dim) -> bool:
        if same_dim(a, b):
            return True
        try:
            return dim_value(a, self.sizes or {}) == dim_value(b, self.sizes or {})
        except (KeyError, ValueError):
            return False


def _names(dim: Dim) -> tuple[str, ...]:
    return (dim,) if isinstance(dim, str) else _names(dim.left) + _names(dim.right) if isinstance(dim, DimOp) else ()
