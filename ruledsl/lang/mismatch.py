"""Says why a constraint cannot hold: both shapes, and the fix that the user most likely wants."""

from __future__ import annotations

from typing import assert_never

from ruledsl.lang import syntax
from ruledsl.lang.dims import Mismatch, Sizes, TooManyParts
from ruledsl.lang.report import Report
from ruledsl.lang.shapes import (
    Constraint,
    Elementwise,
    Half,
    Juxtapose,
    NeedLarge,
    NeedScalar,
    Same,
    Scale,
    Shape,
    Spread,
    Store,
    describe,
    is_matrix,
    is_scalar,
    is_vector,
)  # fmt: skip

LINEAR_FORM = "S = S + v k^T"


class Mismatches:
    """One method per kind of constraint."""

    def __init__(self, sizes: Sizes, report: Report) -> None:
        self.sizes, self.report = sizes, report

    def tell(self, c: Constraint, mismatch: Mismatch) -> None:
        if mismatch.grows:
            return self.grows(c.node, mismatch)
        match c:
            case Same(left, right, node, code, reason, hint):
                self._add(code, f"{reason}: {self._two(left, right)}", node, hint=hint)
            case NeedScalar(shape, node, code, reason, hint):
                self._add(code, f"{reason}, not a {self._show(shape)}", node, hint=hint)
            case NeedLarge(_, node, reason):
                self._add("RD308", reason, node, "this is a scalar")
            case Half(whole, half, node):
                wanted = f"{self.sizes.show(whole.rows)}/2"
                self._add(
                    "RD308",
                    f"rotate turns pairs: the angle has {wanted} entries, not {self.sizes.show(half.rows)}",
                    node,
                )
            case Store(state, value, node):
                self._store(state, value, node)
            case Juxtapose(left, right, _, node):
                self._juxtapose(left, right, node)
            case Scale(left, right, _, node):
                self._add(
                    "RD306",
                    f"`*` wants a scalar on one side, not {self._two(left, right)}",
                    node,
                    hint=self._product_hint(left, right, node),
                )
            case Elementwise(left, right, _, node):
                self._elementwise(left, right, node)
            case Spread(left, right, _, node):
                self._spread(left, right, node)
            case _:
                assert_never(c)

    def sprawling(self, c: Constraint, error: TooManyParts) -> None:
        self._add("RD605", str(error), c.node, "this vector is too long to name")

    def grows(self, node: syntax.Expr | syntax.Assign, mismatch: Mismatch) -> None:
        small, large = self.sizes.show(mismatch.left), self.sizes.show(mismatch.right)
        if len(small) > len(large):
            small, large = large, small
        self._add(
            "RD402",
            f"unbounded state: it grows with t, size {small} would have to equal {large}",
            node,
            "one more row per token",
            notes=("A state has the same size at every token; a memory that grows with t is unbounded.",),
            hint=f"write into a memory of fixed size: `state S[V, K]`, `{LINEAR_FORM}`, `output o = S q` (the linear form)",
        )

    def scalar_over_matrix(self, c: Spread) -> None:
        scalar, matrix = (c.left, c.right) if is_scalar(c.left, self.sizes) else (c.right, c.left)
        text = "the scalar"
        if isinstance(c.node, syntax.Binary):
            text = self.report.text((c.node.left if scalar is c.left else c.node.right).span)
        square = self.sizes.same(matrix.rows, matrix.cols)
        times = "" if text == "1" else f"{text}*"
        hints = [f"`{times}I` for the diagonal"] * square + [f"`{times}ones` for every entry"]
        self._add(
            "RD304",
            f"a scalar and a {self._show(matrix)} do not add",
            c.node,
            notes=("A scalar spreads over a vector in + and -, never over a matrix.",),
            hint=", ".join(hints),
        )

    # ---------------------------------------------------------------------------------------- kinds

    def _store(self, state: Shape, value: Shape, node: syntax.Assign) -> None:
        hint = ""
        if self._match(state, Shape(value.cols, value.rows)):
            hint = f"transpose the new value, or declare {node.name} with its sizes exchanged"
        elif is_scalar(value, self.sizes) and not is_matrix(state, self.sizes):
            hint = f"`{node.name} = ({self.report.text(node.value.span)})*ones` fills it"
        self._add(
            "RD309",
            f"{node.name} is a {self._show(state)}, its new value a {self._show(value)}",
            node.value,
            f"a {self._show(value)}",
            hint=hint,
        )

    def _juxtapose(self, left: Shape, right: Shape, node: syntax.Binary) -> None:
        a, b = self.report.text(node.left.span), self.report.text(node.right.span)
        if is_scalar(left, self.sizes) and is_scalar(right, self.sizes):
            self._add(
                "RD303",
                "two scalars stand side by side",
                node,
                "a product of scalars is written with `*`",
                hint=f"`{a}*{b}`",
            )
        else:
            self._add(
                "RD302",
                f"`{a} {b}` is the product of a {self._show(left)} and a {self._show(right)}",
                node,
                "the inner sizes differ",
                hint=self._product_hint(left, right, node),
            )

    def _elementwise(self, left: Shape, right: Shape, node: syntax.Binary) -> None:
        plain = node.op[1]
        a, b = self.report.text(node.left.span), self.report.text(node.right.span)
        one = any(is_scalar(s, self.sizes) for s in (left, right))
        hint = (
            f"`{a}{plain}{b}`"
            if one and (plain == "*" or is_scalar(right, self.sizes))
            else self._product_hint(left, right, node)
        )
        self._add("RD307", f"`{node.op}` wants equal shapes, not {self._two(left, right)}", node, hint=hint)

    def _spread(self, left: Shape, right: Shape, node: syntax.Expr) -> None:
        hint = ""
        if self._match(left, Shape(right.cols, right.rows)):
            hint = "transpose one side: `^T`"
            if isinstance(node, syntax.Binary):
                hint = f"`{self.report.text(node.left.span)} {node.op} {_turned(self._factor(node.right))}`"
        what = (
            "`" + node.op + "`"
            if isinstance(node, syntax.Binary | syntax.Compare)
            else f"`{node.function}`"
            if isinstance(node, syntax.Call)
            else "this"
        )
        self._add("RD301", f"{what} of different shapes: {self._two(left, right)}", node, hint=hint)

    def _product_hint(self, left: Shape, right: Shape, node: syntax.Binary) -> str:
        a, b = self._factor(node.left), self._factor(node.right)
        s, fixes = self.sizes, []
        if is_vector(left, s) and is_vector(right, s):
            if s.same(left.rows, right.rows):
                fixes += [f"`dot({a}, {b})`", f"`{a} .* {b}`"]
            fixes.append(f"`{a} {b}^T`")
        elif self._match(left, right):
            fixes.append(f"`{a} .* {b}`")
        elif node.op != " " and s.is_one(left.cols) and s.is_one(right.rows):
            fixes.append(f"`{a} {b}`")
        if is_matrix(left, s) or is_matrix(right, s):
            if s.same(left.cols, right.rows) and node.op != " ":
                fixes.append(f"`{a} {b}`")
            if (_is_diag(node.left) or _is_diag(node.right)) and s.same(left.rows, right.cols):
                return f"`{b} {a}`"
            if s.is_one(left.rows) and s.same(left.cols, right.cols):  # a row: the vector on the other side
                return f"`{b} {_turned(a)}`"
            if s.same(left.rows, right.rows) and not s.is_one(left.rows):
                fixes.append(f"`{_turned(a)} {b}`")
            if s.same(left.cols, right.cols) and not s.is_one(left.cols):
                fixes.append(f"`{a} {_turned(b)}`")
            if is_vector(left, s) and s.same(right.cols, left.rows):
                fixes.append(f"`{b} {a}`")
        if not fixes and node.op == " " and isinstance(node.left, syntax.Name) and is_vector(left, s):
            fixes.append(f"`{a}*{b}` if `{a}` is a scalar")
        return " or ".join(fixes)

    # ---------------------------------------------------------------------------------------- words

    def _factor(self, node: syntax.Expr) -> str:
        """The node's text as it may stand in a product."""
        text = self.report.text(node.span)
        return f"({text})" if isinstance(node, syntax.Binary | syntax.Neg) else text

    def _match(self, a: Shape, b: Shape) -> bool:
        return self.sizes.same(a.rows, b.rows) and self.sizes.same(a.cols, b.cols)

    def _show(self, shape: Shape) -> str:
        return describe(shape, self.sizes)

    def _two(self, left: Shape, right: Shape) -> str:
        return f"{self._show(left)} and {self._show(right)}"

    def _add(
        self,
        code: str,
        headline: str,
        node: syntax.Expr | syntax.Assign,
        label: str = "",
        *,
        notes: tuple[str, ...] = (),
        hint: str = "",
    ) -> None:
        self.report.add(code, headline, node.span, label, notes=notes, hint=hint)


def _turned(factor: str) -> str:
    """The transpose, without `^T^T`."""
    return factor.removesuffix("^T") if factor.endswith("^T") else f"{factor}^T"


def _is_diag(node: syntax.Expr) -> bool:
    return isinstance(node, syntax.Call) and node.function == "diag"
