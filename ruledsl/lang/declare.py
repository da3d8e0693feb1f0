"""Declarations -> names with shapes, promises and initial values."""

from __future__ import annotations

import math
from collections.abc import Callable

from ruledsl.lang import syntax
from ruledsl.lang.dims import Derived, Size, derive
from ruledsl.lang.fold import fold
from ruledsl.lang.functions import RESERVED
from ruledsl.lang.infer import Infer
from ruledsl.lang.names import names_of
from ruledsl.lang.report import Report
from ruledsl.lang.scope import Entry, Scope
from ruledsl.lang.shapes import Shape, Store, describe, is_matrix, is_scalar, is_vector
from ruledsl.lang.source import Span
from ruledsl.lang.typed import Expr, Interval, Role


class Declarations:
    """Reads every declaration of a rule before its other statements."""

    def __init__(self, scope: Scope, infer: Infer, report: Report, lower: Callable[[syntax.Expr], Expr]) -> None:
        self.scope, self.infer, self.report, self.lower = scope, infer, report, lower

    def read(self, statements: tuple[syntax.Declare, ...]) -> None:
        """Enter the names of all declarations, then their initial values."""
        shapes = {id(item): self._shape(item) for declare in statements for item in declare.items}
        self._flexible(statements)
        for declare in statements:
            for item in declare.items:
                self._enter(Role(declare.role), item, shapes[id(item)])
        for declare in statements:
            for item in declare.items:
                if declare.role == "state" and item.init is not None and not isinstance(item.init, syntax.Learned):
                    self._initial(item, item.init, shapes[id(item)])

    # ---------------------------------------------------------------------------------------- sizes

    def _shape(self, item: syntax.Declared) -> Shape:
        dims = [self._dim(d) for d in item.dims or ()]
        for dim, node in zip(dims, item.dims or (), strict=True):
            if isinstance(dim, int) and dim < 2:
                self.report.add(
                    "RD216",
                    f"a size is at least 2, not {dim}",
                    node.span,
                    hint=f"a scalar has no brackets: `{item.name}`",
                )
                return self.infer.nothing()
        upper = item.name[0].isupper()
        own = 2 if upper and len(dims) >= 2 else min(len(dims), 1)
        family, rest = tuple(dims[: len(dims) - own]), dims[len(dims) - own :]
        if len(family) > 1:
            kind = "matrices" if upper else "vectors"
            self.report.add(
                "RD216",
                f"`{item.name}` has too many sizes",
                item.span,
                f"a family of {kind} has {own + 1}",
                notes=("A family has one index; upper-case names matrices, lower-case vectors.",),
            )
            return self.infer.nothing()
        return Shape(rest[0] if rest else 1, rest[1] if own == 2 else 1, family)

    def _dim(self, node: syntax.Expr) -> Size:
        match node:
            case syntax.Number(text):
                return int(text)
            case syntax.Name(name):
                if name in RESERVED:
                    self.report.add(
                        "RD216",
                        f"`{name}` has a meaning of its own and is no size",
                        node.span,
                        hint="sizes are names such as `K`, or numbers",
                    )
                    return self.infer.sizes.fresh(many=True)
                self.scope.sizes.setdefault(name, node.span)
                return name
            case syntax.Paren(inner):
                return self._dim(inner)
            case syntax.Binary(op, left, right):
                size = derive(op, self._dim(left), self._dim(right))
                if isinstance(size, Derived) and isinstance(size.left, int) and isinstance(size.right, int):
                    self.report.add("RD216", f"{size.left}/{size.right} is no whole size", node.span)
                    return self.infer.sizes.fresh(many=True)
                return size
            case _:
                raise AssertionError(node)

    def _flexible(self, statements: tuple[syntax.Declare, ...]) -> None:
        """A size that only states mention may be computed from others."""
        given = {
            name.id
            for declare in statements
            for item in declare.items
            if declare.role != "state" or isinstance(item.init, syntax.Learned)
            for dim in item.dims or ()
            for name in names_of(dim)
        }
        for size in self.scope.sizes:
            if size not in given:
                self.infer.sizes.flexible(size)

    # ---------------------------------------------------------------------------------------- names

    def _enter(self, role: Role, item: syntax.Declared, shape: Shape) -> None:
        place = Span(item.span.start, item.span.start + len(item.name))
        init = None if isinstance(item.init, syntax.Learned) else item.init
        if role is Role.CONST and init is not None:
            self._initial(item, init, shape)
        interval, unit, perm = self._promises(role, item, shape)
        varies = role in (Role.INPUT, Role.STATE)
        self.scope.add(
            Entry(
                item.name, role, shape, place, varies, interval, unit, perm, init, isinstance(item.init, syntax.Learned)
            )
        )

    def _initial(self, item: syntax.Declared, init: syntax.Expr, shape: Shape) -> None:
        for name in names_of(init):
            entry = self.scope.entries.get(name.id)
            if name.id == "t" or (entry is not None and entry.role not in (Role.CONST, Role.PARAM)):
                what = "t" if name.id == "t" else f"the {entry.role} `{name.id}`" if entry is not None else ""
                self.report.add(
                    "RD211",
                    f"the value of `{item.name}` is fixed before the first token; it cannot use {what}",
                    name.span,
                    hint="numbers, sizes, consts, params, `head`, `I` and `ones` may stand here",
                )
                return
            if (
                entry is None
                and name.id not in self.scope.sizes
                and name.id not in ("I", "ones", "pi", "inf", "head", "heads")
            ):
                self.report.add(
                    "RD201",
                    f"`{name.id}` is not declared",
                    name.span,
                    "unknown name",
                    hint=self.scope.near(name.id) or "a const is declared above the value that uses it",
                )
                return
        value = self.infer.value(init)
        if not is_scalar(value, self.infer.sizes):
            member = Shape(shape.rows, shape.cols)
            self.infer.solver.require(Store(member, value, syntax.Assign(item.name, None, init, span=item.span)))

    # ---------------------------------------------------------------------------------------- promises

    def _promises(self, role: Role, item: syntax.Declared, shape: Shape) -> tuple[Interval | None, bool, bool]:
        interval, unit, perm = None, False, False
        for promise in item.promises:
            if role is Role.STATE:
                self.report.add(
                    "RD209",
                    f"`{item.name}` is a state: promises are about what is given",
                    promise.span,
                    "not about a state",
                    hint="an `input`, `param` or `const` may carry it",
                )
                continue
            match promise:
                case syntax.Within():
                    interval = self._interval(promise)
                case syntax.Unit():
                    unit = True
                    if not self.infer.sizes.poisoned(shape.rows) and not is_vector(shape, self.infer.sizes):
                        self.report.add(
                            "RD209",
                            f"`unit` is a promise about a vector; `{item.name}` is a {self._describe(shape)}",
                            promise.span,
                            hint=f"`{item.name}[K] unit`",
                        )
                case syntax.Perm():
                    perm = True
                    square = is_matrix(shape, self.infer.sizes) and self.infer.sizes.same(shape.rows, shape.cols)
                    if not self.infer.sizes.poisoned(shape.rows) and not square:
                        self.report.add(
                            "RD209",
                            f"`perm` is a promise about a square matrix; `{item.name}` is a {self._describe(shape)}",
                            promise.span,
                            hint="`P[K, K] perm`",
                        )
        return interval, unit, perm

    def _interval(self, promise: syntax.Within) -> Interval | None:
        ends = []
        for end in (promise.low, promise.high):
            value = None
            if all(name.id in ("inf", "pi") for name in names_of(end)):
                self.infer.value(end)
                value = fold(self.lower(end))
            if value is None or math.isnan(value):
                self.report.add("RD210", "the ends of a range are numbers", end.span, hint="`in (0, 1]`, `in [0, inf)`")
                return None
            ends.append(value)
        low, high = ends
        if low > high or (low == high and (promise.low_open or promise.high_open)):
            self.report.add(
                "RD210",
                f"no number lies in this range: {low:g} to {high:g}",
                promise.span,
                hint=f"`in [{high:g}, {low:g}]`" if low > high else "",
            )
            return None
        return Interval(low, high, promise.low_open or math.isinf(low), promise.high_open or math.isinf(high))

    def _describe(self, shape: Shape) -> str:
        return describe(shape, self.infer.sizes)
