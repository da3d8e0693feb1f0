"""Sizes under inference, and their unification.

    Size = int | name | Unknown | Derived(op, left, right)

A size name is rigid (an input, param or const is given with it) or flexible (only states mention it, so the rule must
compute it from the others). Unknowns and flexible names are bound while shapes are compared. A size is "one" or
"many" (at least two, as far as shapes are concerned); an Unknown may be neither yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ruledsl.lang.typed import Dim, DimOp


@dataclass(frozen=True, slots=True)
class Unknown:
    id: int


@dataclass(frozen=True, slots=True)
class Derived:
    op: str  # "+" "-" "*" "/"
    left: Size
    right: Size


Size = int | str | Unknown | Derived

MOST_PARTS = 64  # numbers and symbols in one derived size
MOST_TERMS = 256  # of a derived size multiplied out

Polynomial = dict[tuple[object, ...], Fraction]  # monomial (sorted atoms) -> coefficient


class Mismatch(Exception):
    """Two sizes that cannot be equal. `grows`: one is the other plus something."""

    def __init__(self, left: Size, right: Size, grows: bool = False) -> None:
        super().__init__(left, right)
        self.left, self.right, self.grows = left, right, grows


class Undecided(Exception):
    """A size that nothing determines."""


class TooManyParts(Exception):
    """A size beyond MOST_PARTS or MOST_TERMS; the message names the limit."""


def derive(op: str, left: Size, right: Size) -> Size:
    """`left op right`, folded where both are numbers and the division is exact."""
    if isinstance(left, int) and isinstance(right, int):
        if op == "+":
            return left + right
        if op == "-":
            return left - right
        if op == "*":
            return left * right
        if right and left % right == 0:
            return left // right
    if op in "*/" and right == 1:
        return left
    if op == "*" and left == 1:
        return right
    return Derived(op, left, right)


class Sizes:
    """A substitution that grows as shapes are compared."""

    def __init__(self) -> None:
        self._bound: dict[Unknown | str, Size] = {}
        self._many: set[Unknown] = set()
        self._flexible: set[str] = set()
        self._poisoned: set[Unknown] = set()
        self._count = 0

    # ---------------------------------------------------------------------------------------- making

    def fresh(self, many: bool = False) -> Unknown:
        self._count += 1
        unknown = Unknown(self._count)
        if many:
            self._many.add(unknown)
        return unknown

    def flexible(self, name: str) -> None:
        """Declare that `name` may be computed from other sizes."""
        self._flexible.add(name)

    def poison(self, size: Size) -> None:
        """Mark what a mistake left undetermined, so that it causes no second message."""
        root = self.find(size)
        if isinstance(root, Unknown):
            self._poisoned.add(root)

    # ---------------------------------------------------------------------------------------- asking

    def find(self, size: Size) -> Size:
        while isinstance(size, Unknown | str) and size in self._bound:
            size = self._bound[size]
        return size

    def is_one(self, size: Size) -> bool:
        return self.find(size) == 1

    def is_many(self, size: Size) -> bool:
        root = self.find(size)
        return root in self._many if isinstance(root, Unknown) else root != 1

    def decided(self, size: Size) -> bool:
        return self.is_one(size) or self.is_many(size)

    def poisoned(self, size: Size) -> bool:
        root = self.find(size)
        return isinstance(root, Unknown) and root in self._poisoned

    def bounded(self, size: Size) -> None:
        """TooManyParts if the size is longer than what everything else here can walk: bindings share their parts, so a
        few of them in a row name a size of millions."""
        count, stack = 0, [size]
        while stack:
            root = self.find(stack.pop())
            if isinstance(root, Derived):
                stack += (root.left, root.right)
            else:
                count += 1
            if count + len(stack) > MOST_PARTS:
                raise TooManyParts(f"a size of more than {MOST_PARTS} parts")
        if self._terms(size) > MOST_TERMS:
            raise TooManyParts(f"a size of more than {MOST_TERMS} terms")

    def _terms(self, size: Size) -> int:
        match self.find(size):
            case Derived("*", left, right):
                return self._terms(left) * self._terms(right)
            case Derived("+" | "-", left, right):
                return self._terms(left) + self._terms(right)
            case Derived("/", left, _):
                return self._terms(left)
            case _:
                return 1

    def same(self, a: Size, b: Size) -> bool:
        """Equal already, without binding anything. This and what follows raise TooManyParts."""
        return _polynomial(self.expand(a)) == _polynomial(self.expand(b))

    def expand(self, size: Size) -> Size:
        """The size with every binding applied, inside derived sizes too."""
        self.bounded(size)
        root = self.find(size)
        return derive(root.op, self.expand(root.left), self.expand(root.right)) if isinstance(root, Derived) else root

    def resolve(self, size: Size) -> Dim:
        """The finished size; Undecided if an Unknown is left in it."""
        self.bounded(size)
        match self.find(size):
            case Unknown():
                raise Undecided
            case Derived():
                folded = self.expand(size)
                if isinstance(folded, Derived):
                    return DimOp(folded.op, self.resolve(folded.left), self.resolve(folded.right))
                return self.resolve(folded)
            case root:
                return root

    def show(self, size: Size) -> str:
        self.bounded(size)
        match self.find(size):
            case Unknown():
                return "?"
            case Derived(op, left, right):
                parts = [
                    f"({self.show(s)})" if isinstance(self.find(s), Derived) and op in "*/" else self.show(s)
                    for s in (left, right)
                ]
                return op.join(parts)
            case root:
                return str(root)

    # ---------------------------------------------------------------------------------------- binding

    def make_many(self, size: Size) -> bool:
        """Require at least two; true if that was news. Mismatch if it is one."""
        root = self.find(size)
        if root == 1:
            raise Mismatch(size, 1)
        if isinstance(root, Unknown) and root not in self._many:
            self._many.add(root)
            return True
        return False

    def bind(self, unknown: Unknown, size: Size) -> None:
        root = self.find(unknown)
        assert isinstance(root, Unknown)
        if root in self._many:
            self.make_many(size)
        self._bound[root] = size

    def equate(self, a: Size, b: Size) -> bool:
        """Make two sizes equal; true if something was bound. Mismatch if they cannot be."""
        a, b = self.find(a), self.find(b)
        self.bounded(a)
        self.bounded(b)
        if a == b:
            return False
        if isinstance(b, Unknown) and not isinstance(a, Unknown):
            a, b = b, a
        if isinstance(a, Unknown):
            if self._mentions(b, a):
                raise Mismatch(a, b, grows=True)
            self.bind(a, b)
            return True
        if isinstance(a, Derived) and isinstance(b, Derived) and a.op == b.op and (self._open(a) or self._open(b)):
            left = self.equate(a.left, b.left)
            return self.equate(a.right, b.right) or left
        if self.same(a, b):
            return False
        for one, other in ((b, a), (a, b)):
            if isinstance(one, str) and one in self._flexible and other != 1 and not self._mentions(other, one):
                self._bound[one] = other
                return True
        raise Mismatch(a, b, grows=self._mentions(b, a) or self._mentions(a, b))

    def _mentions(self, size: Size, part: Size) -> bool:
        """Whether the derived size `size` contains `part`."""
        match self.find(size):
            case Derived(_, left, right):
                return any(self.find(s) == part or self._mentions(s, part) for s in (left, right))
            case _:
                return False

    def _open(self, size: Size) -> bool:
        match self.find(size):
            case Unknown():
                return True
            case Derived(_, left, right):
                return self._open(left) or self._open(right)
            case _:
                return False


def same_dim(a: Dim, b: Dim) -> bool:
    """Whether two finished sizes are equal as polynomials: `4*K` and `K*4` are."""
    return a == b or _polynomial(_from_dim(a)) == _polynomial(_from_dim(b))


def names_in(dim: Dim) -> tuple[str, ...]:
    """The size names in a finished size, left to right, without repeats."""
    match dim:
        case str():
            return (dim,)
        case DimOp(_, left, right):
            return tuple(dict.fromkeys(names_in(left) + names_in(right)))
        case _:
            return ()


def _from_dim(dim: Dim) -> Size:
    return Derived(dim.op, _from_dim(dim.left), _from_dim(dim.right)) if isinstance(dim, DimOp) else dim


def _polynomial(size: Size) -> Polynomial:
    match size:
        case int():
            return {(): Fraction(size)} if size else {}
        case Derived(op, left, right):
            a, b = _polynomial(left), _polynomial(right)
            if op in "+-":
                sign = 1 if op == "+" else -1
                total = dict(a)
                for monomial, coefficient in b.items():
                    total[monomial] = total.get(monomial, Fraction(0)) + sign * coefficient
                return {m: c for m, c in total.items() if c}
            if op == "/":
                if set(b) != {()}:  # division by a name stays an atom of its own
                    return {(size,): Fraction(1)}
                return {m: c / b[()] for m, c in a.items()}
            product: Polynomial = {}
            for m, c in a.items():
                for n, d in b.items():
                    key = tuple(sorted(m + n, key=str))
                    product[key] = product.get(key, Fraction(0)) + c * d
            return {m: c for m, c in product.items() if c}
        case _:
            return {(size,): Fraction(1)}
