"""Shapes under inference, and what the text demands of them.

    Shape      = Shape(rows, cols, family, number)          -- rows x cols; `number`: a literal or built from literals
    Constraint = Same | Juxtapose | Scale | Elementwise | Spread | NeedScalar | NeedLarge | Half | Store

Each constraint knows the node that it is about; `solve` makes them true or says why it cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.lang import syntax
from ruledsl.lang.dims import Size, Sizes


@dataclass(frozen=True, slots=True)
class Shape:
    rows: Size = 1
    cols: Size = 1
    family: tuple[Size, ...] = ()
    number: bool = False  # spreads over anything, also under `.*`


SCALAR = Shape()
NUMBER = Shape(number=True)


@dataclass(frozen=True, slots=True)
class Same:
    """Two shapes are equal; `code` and `reason` head the message when they are not."""

    left: Shape
    right: Shape
    node: syntax.Expr
    code: str
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Juxtapose:
    """The matrix product, or an inner product beside a vector or matrix."""

    left: Shape
    right: Shape
    result: Shape
    node: syntax.Binary


@dataclass(frozen=True, slots=True)
class Scale:
    """`*`: one side is a scalar."""

    left: Shape
    right: Shape
    result: Shape
    node: syntax.Binary


@dataclass(frozen=True, slots=True)
class Elementwise:
    """`.*` and `./`: equal shapes, or a number on one side."""

    left: Shape
    right: Shape
    result: Shape
    node: syntax.Binary


@dataclass(frozen=True, slots=True)
class Spread:
    """`+ -`, comparisons and functions of two values: equal shapes, or a scalar that spreads. `matrix`: over matrices too."""

    left: Shape
    right: Shape
    result: Shape
    node: syntax.Expr
    matrix: bool = True


@dataclass(frozen=True, slots=True)
class NeedScalar:
    shape: Shape
    node: syntax.Expr
    code: str
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class NeedLarge:
    """Not a scalar."""

    shape: Shape
    node: syntax.Expr
    reason: str


@dataclass(frozen=True, slots=True)
class Half:
    """An angle has half as many entries as what it turns."""

    whole: Shape
    half: Shape
    node: syntax.Expr


@dataclass(frozen=True, slots=True)
class Store:
    """A state and its new value; a number fills a state."""

    state: Shape
    value: Shape
    node: syntax.Assign


Constraint = Same | Juxtapose | Scale | Elementwise | Spread | NeedScalar | NeedLarge | Half | Store


def is_scalar(shape: Shape, sizes: Sizes) -> bool:
    return sizes.is_one(shape.rows) and sizes.is_one(shape.cols)


def is_vector(shape: Shape, sizes: Sizes) -> bool:
    return sizes.is_many(shape.rows) and sizes.is_one(shape.cols)


def is_matrix(shape: Shape, sizes: Sizes) -> bool:
    return sizes.is_many(shape.rows) and sizes.is_many(shape.cols)


def known(shape: Shape, sizes: Sizes) -> bool:
    """Whether it is decided to be a scalar, vector, row or matrix."""
    return sizes.decided(shape.rows) and sizes.decided(shape.cols)


def poisoned(shape: Shape, sizes: Sizes) -> bool:
    return sizes.poisoned(shape.rows) or sizes.poisoned(shape.cols)


def describe(shape: Shape, sizes: Sizes) -> str:
    """`vector[K]`, as messages show it."""
    rows, cols = sizes.show(shape.rows), sizes.show(shape.cols)
    family = "".join(f"{sizes.show(n)} times " for n in shape.family)
    if is_scalar(shape, sizes):
        return family + "scalar"
    if sizes.is_one(shape.cols):
        own = f"vector[{rows}]"
    elif sizes.is_one(shape.rows):
        own = f"row[{cols}]"
    else:
        own = f"matrix[{rows}, {cols}]"
    return family + (own.split("[")[0] if "?" in own else own)
