"""Calls of the function table -> shapes and constraints, one case per kind of row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ruledsl.lang import syntax
from ruledsl.lang.dims import Size, TooManyParts, derive
from ruledsl.lang.functions import TABLE, Function
from ruledsl.lang.shapes import NUMBER, SCALAR, Half, NeedLarge, NeedScalar, Same, Shape, Spread, is_scalar
from ruledsl.lang.typed import Role

if TYPE_CHECKING:
    from ruledsl.lang.infer import Infer

WANTS_LARGE = frozenset(
    {"softmax", "layernorm", "rmsnorm", "unit", "topk", "dot", "outer", "kron", "diag", "trace", "solve", "rotate"}
)


class Calls:
    """Shares its caller's tables."""

    def __init__(self, infer: Infer) -> None:
        self.infer, self.report, self.solver = infer, infer.report, infer.solver
        self.pending: list[tuple[syntax.Name, Shape]] = []  # prev(x) of an x that is defined further down

    def call(self, node: syntax.Call) -> Shape:
        row = TABLE[node.function]
        if not row.low <= len(node.args) <= row.high:
            count = str(row.low) if row.low == row.high else f"{row.low} to {row.high}"
            self.report.add(
                "RD203", f"`{row.name}` takes {count} argument{'s' * (count != '1')}, not {len(node.args)}", node.span
            )
            return self.infer.nothing()
        match row.kind:
            case "time":
                return self._prev(node) if row.name == "prev" else self._frozen(node)
            case "grad":
                return self._grad(node)
        if row.name == "where":
            return self._where(node)
        shapes = [self.infer.value(arg) for arg in node.args]
        if row.kind == "reduce" or row.name in WANTS_LARGE:
            for arg, shape in list(zip(node.args, shapes, strict=True))[: 1 if row.name in ("topk", "solve") else 2]:
                self.infer.large(shape, arg)
        if row.name in WANTS_LARGE:
            for arg, shape in list(zip(node.args, shapes, strict=True))[: 1 if row.name in ("topk", "solve") else 2]:
                self.solver.require(NeedLarge(shape, arg, f"`{row.name}` of a scalar"))
        shape = self._shape(row, node, shapes)
        try:
            self.infer.sizes.bounded(shape.rows)
        except TooManyParts as error:
            self.report.add("RD605", str(error), node.span, "this vector is too long to name")
            return self.infer.nothing()
        return shape

    def _shape(self, row: Function, node: syntax.Call, shapes: list[Shape]) -> Shape:
        first = shapes[0]
        match row.name:
            case "topk":
                self.solver.require(NeedScalar(shapes[1], node.args[1], "RD308", "the count of `topk` is a number"))
                self.infer.static.require(node.args[1], "the count of topk")
                return Shape(first.rows, first.cols)
            case "softmax" | "layernorm" | "rmsnorm" | "unit":
                return Shape(first.rows, first.cols)
            case "sum" | "norm" | "norm2":
                return SCALAR
            case "trace":
                self._square(first, node)
                return SCALAR
            case "dot":
                self.solver.require(Same(first, shapes[1], node, "RD308", "`dot` wants equal shapes"))
                return SCALAR
            case "outer":
                self._vectors(node, shapes)
                return Shape(first.rows, shapes[1].rows)
            case "kron":
                self._vectors(node, shapes)
                return Shape(derive("*", first.rows, shapes[1].rows), 1)
            case "diag":
                self._vectors(node, shapes)
                return Shape(first.rows, first.rows)
            case "cat":
                return self._cat(node, shapes)
            case "rotate":
                self._vectors(node, shapes)
                self.solver.require(Half(first, shapes[1], node))
                return Shape(first.rows, first.cols)
            case "solve":
                return self._solve(node, shapes)
        if len(shapes) == 1:
            return Shape(first.rows, first.cols, (), first.number)
        for shape in shapes[1:]:
            first = self.spread(first, shape, node)
        return first

    def spread(self, left: Shape, right: Shape, node: syntax.Expr) -> Shape:
        """Two values of equal shapes, or a scalar beside anything."""
        if left.number and right.number:
            return NUMBER
        result = self.infer.result()
        self.solver.require(Spread(left, right, result, node))
        return result

    def _square(self, shape: Shape, node: syntax.Call) -> None:
        self.solver.require(
            Same(shape, Shape(shape.cols, shape.rows), node, "RD308", f"`{node.function}` wants a square matrix")
        )

    def _vectors(self, node: syntax.Call, shapes: list[Shape]) -> None:
        for shape, arg in zip(shapes, node.args, strict=True):
            self.solver.require(Same(shape, Shape(shape.rows, 1), arg, "RD308", f"`{node.function}` wants vectors"))

    def _cat(self, node: syntax.Call, shapes: list[Shape]) -> Shape:
        rows: Size = shapes[0].rows
        for shape, arg in zip(shapes[1:], node.args[1:], strict=True):
            self.solver.require(
                Same(Shape(1, shape.cols), Shape(1, shapes[0].cols), arg, "RD308", "`cat` stacks parts of equal width")
            )
            rows = derive("+", rows, shape.rows)
        return Shape(rows, shapes[0].cols)

    def _solve(self, node: syntax.Call, shapes: list[Shape]) -> Shape:
        matrix, right = shapes[0], shapes[1]
        self._square(matrix, node)
        self.solver.require(
            Same(
                Shape(matrix.cols, 1),
                Shape(right.rows, 1),
                node,
                "RD308",
                "`solve(A, x)` wants as many rows in x as A has columns",
            )
        )
        if len(shapes) == 3:
            self.solver.require(NeedScalar(shapes[2], node.args[2], "RD308", "the steps of `solve` are a number"))
            self.infer.static.require(node.args[2], "the number of steps of solve")
        return Shape(right.rows, right.cols)

    def _where(self, node: syntax.Call) -> Shape:
        condition, then, otherwise = node.args
        if not isinstance(condition, syntax.Compare):
            self.report.add(
                "RD312",
                "`where` wants a comparison first",
                condition.span,
                hint=f"`where({self.report.text(condition.span)} > 0, a, b)`",
            )
            for arg in node.args:
                self.infer.value(arg)
            return self.infer.nothing()
        test = self.spread(self.infer.value(condition.left), self.infer.value(condition.right), condition)
        self.infer.shapes[id(condition)] = test
        branches = self.spread(self.infer.value(then), self.infer.value(otherwise), node)
        if test.number and not branches.number:
            return branches
        return self.spread(branches, Shape(test.rows, test.cols, (), test.number), node)

    # ---------------------------------------------------------------------------------------- time

    def _prev(self, node: syntax.Call) -> Shape:
        target = node.args[0]
        name = target.name if isinstance(target, syntax.Index) else target
        if not isinstance(name, syntax.Name):
            self.report.add(
                "RD404",
                "`prev` takes a name",
                target.span,
                hint=f"`let y = {self.report.text(target.span)}` and then `prev(y)`",
            )
            self.infer.value(target)
            return self.infer.nothing()
        if len(node.args) == 2:
            self.solver.require(
                NeedScalar(self.infer.value(node.args[1]), node.args[1], "RD404", "the lag of `prev` is a number")
            )
            self.infer.static.require(node.args[1], "the lag of prev")
        scope = self.infer.scope
        if name.id in scope.later and name.id not in scope.entries:
            shape = self.infer.result()
            self.pending.append((name, shape))
            self.infer.shapes[id(name)] = shape
            return self.infer.member(shape, target) if isinstance(target, syntax.Index) else shape
        shape = self.infer.expr(target) if isinstance(target, syntax.Index) else self.infer.value(target)
        entry = scope.entries.get(name.id)
        if entry is None:
            if not self.infer.sizes.poisoned(shape.rows):
                self.report.add(
                    "RD404",
                    f"`prev({name.id})`: `{name.id}` is no input, let, output or state",
                    node.span,
                    hint=f"`{name.id} - 1` is last token's t" if name.id == "t" else "",
                )
            return self.infer.nothing()
        if entry.role in (Role.PARAM, Role.CONST):
            self.report.add(
                "RD404", f"`{name.id}` is a {entry.role}: it is the same at every token", node.span, hint=f"`{name.id}`"
            )
        elif entry.role is Role.STATE and len(node.args) == 2:
            self.report.add(
                "RD404",
                f"`prev({name.id})` of a state is the state as this token began; it takes no lag",
                node.span,
                hint=f"keep an older state in a state of its own, or `prev({name.id})`",
            )
        elif entry.loops:
            self.report.add(
                "RD406", f"`{name.id}` is defined inside a loop: it has no one value at the last token", node.span
            )
        return shape

    def _frozen(self, node: syntax.Call) -> Shape:
        target, chunk = node.args
        name = target.name if isinstance(target, syntax.Index) else target
        shape = self.infer.value(target)
        self.infer.value(chunk)
        entry = self.infer.scope.entries.get(name.id) if isinstance(name, syntax.Name) else None
        if entry is None or entry.role is not Role.STATE:
            if not self.infer.sizes.poisoned(shape.rows):
                self.report.add(
                    "RD505", "`frozen` takes a state", target.span, "the state at the start of the current chunk"
                )
            return self.infer.nothing()
        self.infer.static.require(chunk, "the chunk length of frozen")
        return shape

    def _grad(self, node: syntax.Call) -> Shape:
        loss, target = node.args
        scalar = self.infer.value(loss)
        self.solver.require(NeedScalar(scalar, loss, "RD504", "a loss is a scalar", "sum it: `sum(...)`, `norm2(...)`"))
        shape = self.infer.value(target)
        name = target.name if isinstance(target, syntax.Index) else target
        frozen = isinstance(target, syntax.Call) and target.function == "frozen"
        entry = self.infer.scope.entries.get(name.id) if isinstance(name, syntax.Name) else None
        if not frozen and (entry is None or entry.role not in (Role.STATE, Role.LET)):
            if not self.infer.sizes.poisoned(shape.rows):
                self.report.add(
                    "RD501",
                    "a gradient is taken with respect to a state, a let, or `frozen(S, C)`",
                    target.span,
                    "not one of these",
                )
            return self.infer.nothing()
        return Shape(shape.rows, shape.cols)

    def settle_pending(self) -> None:
        """`prev(x)` has the shape of x; called when every name is known."""
        for name, shape in self.pending:
            entry = self.infer.scope.entries.get(name.id)
            if entry is None:
                continue
            if entry.loops:
                self.report.add(
                    "RD406", f"`{name.id}` is defined inside a loop: it has no one value at the last token", name.span
                )
            elif not is_scalar(shape, self.infer.sizes):
                self.solver.require(
                    Same(
                        shape,
                        Shape(entry.shape.rows, entry.shape.cols),
                        name,
                        "RD301",
                        f"`prev({name.id})` has the shape of `{name.id}`",
                    )
                )
