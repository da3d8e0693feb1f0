"""Expressions of the syntax -> shapes, and the constraints between them.

Every node's shape is remembered by identity (`shapes[id(node)]`); `lower` reads them once `solve` has decided.
Functions are in `calls`.
"""

from __future__ import annotations

from typing import assert_never

from ruledsl.lang import syntax
from ruledsl.lang.calls import Calls
from ruledsl.lang.dims import Mismatch, Size, Sizes
from ruledsl.lang.names import is_prev, names_of
from ruledsl.lang.report import Report
from ruledsl.lang.scope import Entry, Loop, Scope, unknown_entry
from ruledsl.lang.shapes import (
    NUMBER,
    SCALAR,
    Elementwise,
    Juxtapose,
    NeedScalar,
    Scale,
    Shape,
    Spread,
    describe,
    is_scalar,
    is_vector,
)
from ruledsl.lang.solve import Solver
from ruledsl.lang.static import Static
from ruledsl.lang.typed import Role


class Infer:
    """Shapes of one rule's expressions."""

    def __init__(self, scope: Scope, sizes: Sizes, solver: Solver, report: Report) -> None:
        self.scope, self.sizes, self.solver, self.report = scope, sizes, solver, report
        self.shapes: dict[int, Shape] = {}
        self.free: list[Shape] = []  # of every `ones`
        self.inferred: list[Shape] = []  # of undeclared names
        self.unknown: set[str] = set()  # names that were told
        self.static = Static(scope, report)
        self.calls = Calls(self)

    def expr(self, node: syntax.Expr) -> Shape:
        """The shape of a node, which may be a family."""
        shape = self.shapes[id(node)] = self._expr(node)
        return shape

    def value(self, node: syntax.Expr) -> Shape:
        """The shape of a node that must not be a family."""
        shape = self.expr(node)
        if not shape.family:
            return shape
        name = self.report.text(node.span)
        lower = name[:1].islower() and not self.sizes.is_one(shape.rows)
        notes = ("Lower-case with two sizes is a family of vectors; a matrix has an upper-case name.",) if lower else ()
        self.report.add(
            "RD213",
            f"`{name}` is {describe(shape, self.sizes)}: one member is meant here",
            node.span,
            "an index is missing",
            notes=notes,
            hint=f"`{name}[j]` inside `for j in 1..{self.sizes.show(shape.family[0])}:`"
            + (f"; if it is a matrix, call it `{name.capitalize()}`" if lower and name.isidentifier() else ""),
        )
        return self.nothing()

    def nothing(self) -> Shape:
        """The shape of a mistake that has been told: it fits everywhere."""
        shape = Shape(self.sizes.fresh(), self.sizes.fresh())
        self.sizes.poison(shape.rows)
        self.sizes.poison(shape.cols)
        return shape

    def result(self) -> Shape:
        return Shape(self.sizes.fresh(), self.sizes.fresh())

    def by_case(self, name: str) -> Shape:
        """What the case of an undeclared name says: upper-case matrix, lower-case vector or scalar."""
        shape = (
            Shape(self.sizes.fresh(many=True), self.sizes.fresh(many=True))
            if name[0].isupper()
            else Shape(self.sizes.fresh(), 1)
        )
        self.inferred.append(shape)
        return shape

    def large(self, shape: Shape, node: syntax.Expr) -> None:
        """An undeclared lower-case name that stands here is a vector."""
        if isinstance(node, syntax.Name | syntax.Index) or is_prev(node):
            try:
                if self.sizes.is_one(shape.cols) and not self.sizes.is_one(shape.rows):
                    self.sizes.make_many(shape.rows)
            except Mismatch:
                raise AssertionError("a size that is not one can be made many") from None

    # ---------------------------------------------------------------------------------------- names

    def lookup(self, name: syntax.Name) -> Entry:
        """The entry of a value name. Unknown names become inputs in a text without declarations, else are told."""
        scope, entry = self.scope, self.scope.entries.get(name.id)
        if entry is not None:
            if entry.loops and entry.loops != tuple(loop.name for loop in scope.loops)[: len(entry.loops)]:
                self.report.add(
                    "RD406",
                    f"`{name.id}` is defined inside a loop and read outside it",
                    name.span,
                    hint="keep what the loop collects in a state, or use `sum(... for j in 1..n)`",
                )
                return unknown_entry(name.id, self.nothing())
            return entry
        if name.id in scope.later:
            self.report.add(
                "RD205",
                f"`{name.id}` is read before it is defined",
                name.span,
                "not yet defined here",
                hint=f"move its definition up, or read last token's value: `prev({name.id})`",
            )
        elif scope.open:
            entry = Entry(name.id, Role.INPUT, self.by_case(name.id), name.span, inferred=True)
            if scope.add(entry):
                return entry
        elif name.id not in self.unknown:
            self.unknown.add(name.id)
            self.report.add(
                "RD201",
                f"`{name.id}` is not declared",
                name.span,
                "unknown name",
                hint=scope.near(name.id)
                or f"declare it: `input {name.id}` (given per token), `param {name.id}` (learned) or `const {name.id} = 0.9`; a vector is `{name.id}[K]`",
            )
        return unknown_entry(name.id, self.nothing())

    def _name(self, node: syntax.Name) -> Shape:
        match node.id:
            case "I":
                side = self.sizes.fresh(many=True)
                return Shape(side, side)
            case "ones":
                shape = Shape(self.sizes.fresh(many=True), self.sizes.fresh())
                self.free.append(shape)
                return shape
            case "pi" | "inf":
                return NUMBER
            case "t" | "head" | "heads":
                return SCALAR
        if self.scope.loop(node.id) or (node.id in self.scope.sizes and node.id not in self.scope.entries):
            return NUMBER
        return self.lookup(node).shape

    def _index(self, node: syntax.Index) -> Shape:
        name = node.name
        if self.scope.open and name.id not in self.scope.entries and name.id not in self.scope.later:
            self._family(node)
        index = self.value(node.index)
        self.solver.require(NeedScalar(index, node.index, "RD214", "an index is a number"))
        self.static.require(node.index, "an index")
        entry = self.lookup(name)
        self.shapes[id(name)] = entry.shape
        return self.member(entry.shape, node)

    def member(self, shape: Shape, node: syntax.Index) -> Shape:
        """The shape of `x[j]`: a member of a family, or an entry of a vector."""
        if shape.family:
            return Shape(shape.rows, shape.cols, shape.family[1:])
        if self.sizes.poisoned(shape.rows):
            return self.nothing()
        if is_vector(shape, self.sizes) or (self.sizes.is_one(shape.cols) and not self.sizes.decided(shape.rows)):
            self.sizes.make_many(shape.rows)
            return SCALAR
        self.report.add(
            "RD214",
            f"`{node.name.id}` is a {describe(shape, self.sizes)}, it has no members",
            node.span,
            notes=("An index picks a member of a family or an entry of a vector.",),
            hint=f"declare a family: `{node.name.id}[n, K]`"
            if node.name.id[0].islower()
            else f"declare a family: `{node.name.id}[n, V, K]`",
        )
        return self.nothing()

    def _family(self, node: syntax.Index) -> None:
        """Infer an undeclared family from the loop that its index runs over."""
        size = self.family_size(node.index)
        if size is None:
            self.report.add(
                "RD217",
                f"the size of the family `{node.name.id}` cannot be inferred",
                node.span,
                notes=("An undeclared family is indexed by a variable that runs over `1..n`.",),
                hint=f"declare it: `input {node.name.id}[n, K]`",
            )
            self.scope.add(Entry(node.name.id, Role.INPUT, self.nothing(), node.name.span))
            return
        member = self.by_case(node.name.id)
        self.scope.add(
            Entry(node.name.id, Role.INPUT, Shape(member.rows, member.cols, (size,)), node.name.span, inferred=True)
        )

    def family_size(self, index: syntax.Expr) -> Size | None:
        """n, if the index is a variable that runs over 1..n."""
        loop = self.scope.loop(index.id) if isinstance(index, syntax.Name) else None
        if loop is None or not isinstance(loop.low, syntax.Number) or loop.low.value != 1:
            return None
        match loop.high:
            case syntax.Name(id=name) if name in self.scope.sizes:
                return name
            case syntax.Number() as number if number.value == int(number.value):
                return int(number.value)
            case _:
                return None

    # ---------------------------------------------------------------------------------------- nodes

    def _expr(self, node: syntax.Expr) -> Shape:
        match node:
            case syntax.Number():
                return NUMBER
            case syntax.Name():
                return self._name(node)
            case syntax.Paren(inner):
                return self.expr(inner)
            case syntax.Neg(operand):
                return self.value(operand)
            case syntax.Transpose():
                return self._transpose(node)
            case syntax.Power():
                return self._power(node)
            case syntax.Binary():
                return self._binary(node)
            case syntax.Index():
                return self._index(node)
            case syntax.Total(body, name, low, high):
                self.enter(name, low, high, node)
                shape = self.value(body)
                self.scope.loops.pop()
                return Shape(shape.rows, shape.cols)
            case syntax.Call():
                return self.calls.call(node)
            case syntax.Compare():
                self.value(node.left)
                self.value(node.right)
                self.report.add(
                    "RD312",
                    "a comparison stands outside `where`",
                    node.span,
                    hint=f"`where({self.report.text(node.span)}, 1, 0)`",
                )
                return self.nothing()
            case _:
                assert_never(node)

    def enter(self, name: str, low: syntax.Expr, high: syntax.Expr, node: syntax.Total | syntax.For) -> None:
        """Check a loop's bounds and bring its variable into scope (the caller pops it)."""
        if self.scope.open:
            for used in names_of(low) + names_of(high):
                if (
                    used.id not in self.scope.entries
                    and not self.scope.loop(used.id)
                    and self.scope.free(used.id, used.span)
                ):
                    self.scope.sizes.setdefault(used.id, used.span)
        for bound in (low, high):
            self.solver.require(NeedScalar(self.value(bound), bound, "RD403", "a loop's bound is a number"))
            self.static.require_bound(bound)
        self.scope.free(name, node.span)
        self.scope.loops.append(Loop(name, low, high))

    def _transpose(self, node: syntax.Transpose) -> Shape:
        shape = self.value(node.operand)
        if node.operand == syntax.Name("ones"):
            self.sizes.equate(shape.cols, 1)
        self.large(shape, node.operand)
        if (
            is_scalar(shape, self.sizes)
            and not self.sizes.poisoned(shape.rows)
            and not isinstance(node.operand, syntax.Paren)
        ):
            self.report.add(
                "RD313",
                f"`{self.report.text(node.operand.span)}` is a scalar: it has no transpose",
                node.span,
                hint=f"declare it as a vector: `{self.report.text(node.operand.span)}[K]`, or leave out `^T`",
            )
            return self.nothing()
        return Shape(shape.cols, shape.rows)

    def _power(self, node: syntax.Power) -> Shape:
        base, exponent = self.value(node.base), self.value(node.exponent)
        if node.op == "^":
            text = self.report.text(node.base.span)
            self.solver.require(
                NeedScalar(
                    base,
                    node,
                    "RD310",
                    "`^` is for scalars",
                    f"`.^` is element-wise; an inverse is applied with `solve({text}, x)`",
                )
            )
        self.solver.require(NeedScalar(exponent, node.exponent, "RD310", "an exponent is a scalar"))
        return Shape(base.rows, base.cols, (), base.number and exponent.number)

    def _binary(self, node: syntax.Binary) -> Shape:
        if node.op == " ":
            return self._juxtaposition(node)
        left, right = self.value(node.left), self.value(node.right)
        if left.number and right.number:
            return NUMBER
        result = self.result()
        match node.op:
            case "+" | "-":
                self.solver.require(Spread(left, right, result, node, matrix=False))
            case "*":
                self.solver.require(Scale(left, right, result, node))
            case ".*" | "./":
                self.solver.require(Elementwise(left, right, result, node))
            case "/":
                return self._quotient(node, left, right)
            case _:
                raise AssertionError(node.op)
        return result

    def _quotient(self, node: syntax.Binary, left: Shape, right: Shape) -> Shape:
        hint = f"`{self.report.text(node.left.span)} ./ x` divides entry by entry"
        guessed = [
            n.id
            for n in names_of(node.right)
            if n.id in self.scope.entries and self.scope.entries[n.id].inferred and n.id[0].isupper()
        ]
        if guessed:
            hint = f"nothing is declared here, so `{guessed[0]}` was taken for a matrix; if it is a size, declare what has it: `input k[{guessed[0]}]`"
        self.solver.require(NeedScalar(right, node.right, "RD305", "`/` wants a scalar on its right", hint))
        return Shape(left.rows, left.cols)

    def _juxtaposition(self, node: syntax.Binary) -> Shape:
        sides = [(n, self.value(n)) for n in (node.left, node.right)]
        for side, shape in sides:
            if side == syntax.Name("ones"):
                self.sizes.equate(shape.cols, 1)
            self.large(shape, side)
            plain = isinstance(side, syntax.Name | syntax.Index | syntax.Number) or is_prev(side)
            if shape.number or (plain and is_scalar(shape, self.sizes)):
                a, b = self.report.text(node.left.span), self.report.text(node.right.span)
                what = "a number" if isinstance(side, syntax.Number) else "a scalar"
                self.report.add(
                    "RD303",
                    f"`{self.report.text(side.span)}` is {what}: it multiplies with `*`",
                    node.span,
                    "side by side is the matrix product",
                    hint=f"`{a}*{b}`",
                )
                return self.nothing()
        result = self.result()
        self.solver.require(Juxtapose(sides[0][1], sides[1][1], result, node))
        return result
