"""Makes the constraints of a rule true, or says why they cannot be.

Constraints that are decided are settled first, in text order, until nothing changes. What remains is decided by one
guess at a time: an addition with one known side has equal sides; then any other open addition or product. Then an
undeclared lower-case name that is still open is a scalar.
"""

from __future__ import annotations

from typing import assert_never

from ruledsl.lang.dims import Derived, Mismatch, Sizes, TooManyParts, Unknown, derive
from ruledsl.lang.mismatch import Mismatches
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
    is_matrix,
    is_scalar,
    known,
    poisoned,
)  # fmt: skip


class Solver:
    """Holds the constraints that are not settled yet."""

    def __init__(self, sizes: Sizes, report: Report) -> None:
        self.sizes = sizes
        self.says = Mismatches(sizes, report)
        self._waiting: list[Constraint] = []
        self._spread: list[Spread] = []  # additions whose result must not turn out a matrix

    def require(self, constraint: Constraint) -> None:
        """Settle the constraint now if it is decided, else keep it."""
        if not self._settle(constraint):
            self._waiting.append(constraint)

    def finish(self, open_names: list[Shape], free: list[Shape]) -> list[Constraint]:
        """Settle everything. `open_names`: shapes of undeclared names; `free`: shapes of `ones`, a vector unless
        something says otherwise. Returns what stays undecided."""
        self._sweep()
        while guess := self._guess():
            self._waiting.remove(guess)
            self._settle(guess, force=True)
            self._sweep()
        for shape in free:
            if not self.sizes.decided(shape.cols):
                self.sizes.equate(shape.cols, 1)
        for shape in open_names:
            for size in (shape.rows, shape.cols):
                if not self.sizes.decided(size) and not self.sizes.poisoned(size):
                    self.sizes.equate(size, 1)
        self._sweep()
        for constraint in self._spread:
            scalar = any(is_scalar(s, self.sizes) for s in (constraint.left, constraint.right))
            if scalar and is_matrix(constraint.result, self.sizes):
                self.says.scalar_over_matrix(constraint)
        return [c for c in self._waiting if not isinstance(c, NeedLarge)]

    def _sweep(self) -> None:
        progress = True
        while progress:
            before = len(self._waiting)
            self._waiting = [c for c in self._waiting if not self._settle(c)]
            progress = len(self._waiting) < before

    def _guess(self) -> Constraint | None:
        def half_known(c: Constraint) -> bool:
            return isinstance(c, Spread) and (known(c.left, self.sizes) or known(c.right, self.sizes))

        first = next((c for c in self._waiting if half_known(c)), None)
        return first or next((c for c in self._waiting if isinstance(c, Spread | Juxtapose | Half)), None)

    # ---------------------------------------------------------------------------------------- one constraint

    def _settle(self, c: Constraint, force: bool = False) -> bool:
        """Whether the constraint is done with: true now, or told as a mistake."""
        shapes = [
            s
            for s in (getattr(c, n, None) for n in ("left", "right", "shape", "whole", "half", "state", "value"))
            if isinstance(s, Shape)
        ]
        if any(poisoned(s, self.sizes) for s in shapes):
            self._poison(c)
            return True
        try:
            done = self._attempt(c, force)
        except Mismatch as mismatch:
            self.says.tell(c, mismatch)
            done = True
            self._poison(c)
        except TooManyParts as error:
            self.says.sprawling(c, error)
            done = True
            self._poison(c)
        if done and isinstance(c, Spread) and not c.matrix:
            self._spread.append(c)
        return done

    def _poison(self, c: Constraint) -> None:
        result = getattr(c, "result", None)
        if result is not None:
            self.sizes.poison(result.rows)
            self.sizes.poison(result.cols)

    def _attempt(self, c: Constraint, force: bool) -> bool:
        match c:
            case Same(left, right):
                self._equate(left, right)
                return True
            case NeedScalar(shape):
                if not shape.number:
                    self._equate(shape, Shape())
                return True
            case NeedLarge(shape):
                if is_scalar(shape, self.sizes):
                    raise Mismatch(1, 1)
                return known(shape, self.sizes)
            case Half(whole, half):
                return self._half(whole, half, force)
            case Store(state, value):
                if not (value.number and is_scalar(value, self.sizes)):
                    self._equate(state, value)
                return True
            case Juxtapose():
                return self._juxtapose(c, force)
            case Scale():
                return self._scale(c)
            case Elementwise():
                return self._elementwise(c)
            case Spread():
                return self._add(c, force)
            case _:
                assert_never(c)

    def _equate(self, a: Shape, b: Shape) -> None:
        # both pairs are looked at before anything is bound, so that messages show shapes as they were
        for x, y in ((a.rows, b.rows), (a.cols, b.cols)):
            if (self.sizes.is_one(x) and self.sizes.is_many(y)) or (self.sizes.is_many(x) and self.sizes.is_one(y)):
                raise Mismatch(x, y)
        self.sizes.equate(a.rows, b.rows)
        self.sizes.equate(a.cols, b.cols)

    def _half(self, whole: Shape, half: Shape, force: bool) -> bool:
        sizes = self.sizes
        size = sizes.expand(half.rows)
        if force or not isinstance(sizes.find(whole.rows), Unknown):
            sizes.equate(size, derive("/", sizes.expand(whole.rows), 2))
        elif isinstance(size, Derived) and (size.op, size.right) == ("/", 2):
            sizes.equate(whole.rows, size.left)
        elif not isinstance(size, Unknown):
            sizes.equate(whole.rows, derive("*", 2, size))
        else:
            return False
        return True

    def _juxtapose(self, c: Juxtapose, force: bool) -> bool:
        x, y, sizes = c.left, c.right, self.sizes
        if not force and not (known(x, sizes) and known(y, sizes)):
            return False
        if is_scalar(x, sizes) and is_scalar(y, sizes):
            raise Mismatch(1, 1)
        if is_scalar(x, sizes) or is_scalar(y, sizes):
            self._equate(c.result, y if is_scalar(x, sizes) else x)
            return True
        sizes.equate(x.cols, y.rows)
        self._equate(c.result, Shape(x.rows, y.cols))
        return True

    def _scale(self, c: Scale) -> bool:
        pairs = ((c.left, c.right), (c.right, c.left))
        for factor, other in pairs:
            if factor.number or is_scalar(factor, self.sizes):
                self._equate(c.result, other)
                return True
        for large, other in pairs:
            if known(large, self.sizes):
                if known(other, self.sizes):
                    raise Mismatch(large.rows, other.rows)
                self._equate(other, Shape())
                self._equate(c.result, large)
                return True
        return False

    def _elementwise(self, c: Elementwise) -> bool:
        for number, other in ((c.left, c.right), (c.right, c.left)):
            if number.number:
                self._equate(c.result, other)
                return True
        self._equate(c.left, c.right)
        if self.sizes.is_one(c.left.cols):
            self.sizes.make_many(c.left.rows)
        self._equate(c.result, c.left)
        return True

    def _add(self, c: Spread, force: bool) -> bool:
        for scalar, other in ((c.left, c.right), (c.right, c.left)):
            if scalar.number or is_scalar(scalar, self.sizes):
                self._equate(c.result, other)
                return True
        if not force and not (known(c.left, self.sizes) and known(c.right, self.sizes)):
            return False
        self._equate(c.left, c.right)
        self._equate(c.result, c.left)
        return True
