"""The rule with every name, shape and product decided.

    Rule      = Rule(source, symbols, sizes, body, notes)
    Statement = Let(name, value) | Output(name, value) | Assign(state, member?, value) | For(name, low, high, body)
    Expr      = Number | SizeOf(dim) | Builtin("t" | "head" | "heads") | LoopVar
              | Ref(name, role, lag)            -- input, param, const, let, output; lag j: j tokens ago, zero before the first
              | StateRef(name, version, member) -- see below
              | Frozen(name, chunk)             -- the state at the start of the current chunk of `chunk` tokens
              | Member(base, index)             -- family member, or entry of a vector, from 1
              | Apply(fn, args)                 -- element-wise row of `functions.TABLE`; a scalar argument spreads
              | Compare(op, left, right)        -- first argument of Apply("where")
              | RowWise(fn, x)                  -- softmax layernorm rmsnorm unit topk: a vector is one row, a matrix row by row
              | Reduce(fn, x)                   -- sum trace: to a scalar, over everything
              | Product(left, right)            -- matrix product of inner size > 1, or an outer product; `kind` names it
              | Transpose | Diag | Eye | Ones | Concat(parts) | Kron(left, right) | Rotate(x, angle)
              | Solve(matrix, right, steps?) | Total(body, name, low, high) | Grad(loss, wrt)

Already gone: parentheses; `dot`, `outer`, `norm`, `norm2` (they are Product, Reduce, Apply); scalar juxtaposition
(it is Apply("mul")); inferred declarations (they are symbols with `inferred=True`); a default read-out (an Output).
`norm2(x)` is `Reduce("sum", Apply("mul", (x, x)))` and `dot(x, y)` is `Product(Transpose(x), y)`.

Versions. In a checked rule `StateRef.version` is None for "the current one" and 0 for `prev(S)`, the state as the
token began. `unroll` returns a rule without For, Total and LoopVar, in which every StateRef names its version
(k: after k assignments of that state, or of that member of a family of states, within the token; `member` is set
for families), every member index of a family is a Number, every let has a name of its own, and each Grad's `wrt` is
the one version that its loss reads.

Types compare by value; spans take no part in equality. The verifier is `verify`. Not done here: algebra.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ruledsl.lang import trees
from ruledsl.lang.source import NOWHERE, Source, Span


def _span() -> Span:
    return field(default=NOWHERE, compare=False, repr=False, kw_only=True)  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------------ sizes and types


@dataclass(frozen=True, slots=True)
class DimOp:
    """A derived size such as K/2 or 4*K."""

    op: str  # "+" "-" "*" "/"
    left: Dim
    right: Dim

    def __str__(self) -> str:
        def side(d: Dim) -> str:
            return f"({d})" if isinstance(d, DimOp) and self.op in "*/" else str(d)

        return f"{side(self.left)}{self.op}{side(self.right)}"


Dim = int | str | DimOp


def dim_value(dim: Dim, sizes: Mapping[str, int]) -> int:
    """The number a size stands for; KeyError names an unbound symbol, ValueError an inexact division."""
    match dim:
        case int():
            return dim
        case str():
            return sizes[dim]
        case DimOp(op, left, right):
            a, b = dim_value(left, sizes), dim_value(right, sizes)
            if op == "/" and a % b:
                raise ValueError(f"{dim} is not whole: {a}/{b}")
            return {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[op]


@dataclass(frozen=True, slots=True)
class Type:
    """rows x cols; a vector is K x 1, a scalar 1 x 1; `family` holds leading index sizes."""

    rows: Dim = 1
    cols: Dim = 1
    family: tuple[Dim, ...] = ()

    @property
    def is_scalar(self) -> bool:
        return self.rows == 1 and self.cols == 1

    @property
    def is_vector(self) -> bool:
        return self.rows != 1 and self.cols == 1

    @property
    def is_row(self) -> bool:
        return self.rows == 1 and self.cols != 1

    @property
    def is_matrix(self) -> bool:
        return self.rows != 1 and self.cols != 1

    @property
    def member(self) -> Type:
        """The type of one member of a family."""
        return Type(self.rows, self.cols, self.family[1:])

    @property
    def dims(self) -> tuple[Dim, ...]:
        """Trailing sizes of the user's tensor: families, then rows, then cols, without the ones of scalars and vectors."""
        own: tuple[Dim, ...] = () if self.is_scalar else (self.rows,) if self.is_vector else (self.rows, self.cols)
        return self.family + own

    def __str__(self) -> str:
        own = "scalar" if self.is_scalar else f"vector[{self.rows}]" if self.is_vector else f"row[{self.cols}]" if self.is_row else f"matrix[{self.rows}, {self.cols}]"
        return own + ("" if not self.family else " family[" + ", ".join(map(str, self.family)) + "]")


SCALAR = Type()


class Role(StrEnum):
    STATE = "state"
    INPUT = "input"
    PARAM = "param"
    CONST = "const"
    LET = "let"
    OUTPUT = "output"
    READ = "read"  # a linear read of a state, named by the algebra (`verdict.Read`); never in a checked rule


# ------------------------------------------------------------------------------------------------ expressions


@dataclass(frozen=True, slots=True)
class Number:
    value: float
    type: Type = SCALAR
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class SizeOf:
    dim: Dim
    type: Type = SCALAR
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Builtin:
    name: str  # "t": position of the token, 0 first; "head": 0 first; "heads": their number
    type: Type = SCALAR
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class LoopVar:
    name: str
    type: Type = SCALAR
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Ref:
    name: str
    role: Role
    type: Type
    lag: Expr | None = None  # None: this token's
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class StateRef:
    name: str
    type: Type
    version: int | None = None
    member: int | None = None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Frozen:
    name: str
    type: Type
    chunk: Expr  # a Number, or a Ref to a const with a value
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Member:
    base: Expr
    index: Expr
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Compare:
    op: str  # "<=" ">=" "==" "<" ">"
    left: Expr
    right: Expr
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Apply:
    fn: str
    args: tuple[Expr, ...]
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class RowWise:
    fn: str  # "softmax" "layernorm" "rmsnorm" "unit" "topk"
    operand: Expr
    type: Type
    count: Expr | None = None  # topk's k
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Reduce:
    fn: str  # "sum" "trace"
    operand: Expr
    type: Type = SCALAR
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Product:
    left: Expr
    right: Expr
    type: Type
    span: Span = _span()

    @property
    def kind(self) -> str:
        """"inner", "outer", "matvec", "vecmat" or "matmul"."""
        if self.type.is_scalar:
            return "inner"
        if self.left.type.cols == 1:
            return "outer"
        return "matvec" if self.type.is_vector else "vecmat" if self.type.is_row else "matmul"


@dataclass(frozen=True, slots=True)
class Transpose:
    operand: Expr
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Diag:
    operand: Expr
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Eye:
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Ones:
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Concat:
    parts: tuple[Expr, ...]
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Kron:
    left: Expr
    right: Expr
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Rotate:
    operand: Expr  # entries 2i-1, 2i turn by angle[i]
    angle: Expr
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Solve:
    matrix: Expr
    right: Expr
    type: Type
    steps: Expr | None = None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Total:
    body: Expr
    name: str
    low: Expr
    high: Expr
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Grad:
    loss: Expr
    wrt: Expr  # StateRef, Frozen, or a Ref to a let
    type: Type
    span: Span = _span()


Expr = (
    Number | SizeOf | Builtin | LoopVar | Ref | StateRef | Frozen | Member | Compare | Apply | RowWise | Reduce | Product
    | Transpose | Diag | Eye | Ones | Concat | Kron | Rotate | Solve | Total | Grad
)  # fmt: skip


def children(expr: Expr) -> Iterator[Expr]:
    """Direct sub-expressions, in text order."""
    return trees.children(expr)


# ------------------------------------------------------------------------------------------------ statements and rule


@dataclass(frozen=True, slots=True)
class Let:
    name: str
    value: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Output:
    name: str
    value: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Assign:
    state: str
    member: Expr | None
    value: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class For:
    name: str
    low: Expr
    high: Expr
    body: tuple[Statement, ...]
    span: Span = _span()


Statement = Let | Output | Assign | For


@dataclass(frozen=True, slots=True)
class Interval:
    """Declared or derived range of a value; infinite ends are open."""

    low: float
    high: float
    low_open: bool = False
    high_open: bool = False


@dataclass(frozen=True, slots=True)
class Symbol:
    """A state, input, param or const."""

    name: str
    role: Role
    type: Type
    interval: Interval | None = None  # `in (0, 1]`
    unit: bool = False
    perm: bool = False
    init: Expr | None = None  # a state's first value, a const's value; None: zero, or given with the call
    learned: bool = False  # `state S[V, K] = learned`
    inferred: bool = False
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Rule:
    source: Source = field(compare=False, repr=False)
    symbols: tuple[Symbol, ...]
    sizes: tuple[str, ...]  # free sizes, in order of appearance
    body: tuple[Statement, ...]
    notes: tuple[str, ...] = ()  # what was assumed: the default read-out, inferred roles

    def symbol(self, name: str) -> Symbol:
        return next(s for s in self.symbols if s.name == name)

    def of(self, role: Role) -> tuple[Symbol, ...]:
        return tuple(s for s in self.symbols if s.role is role)

    @property
    def outputs(self) -> tuple[Output, ...]:
        return tuple(s for s in self.body if isinstance(s, Output))

    def let(self, name: str) -> Let | Output:
        """The let or output of that name (outside loops)."""
        return next(s for s in self.body if isinstance(s, Let | Output) and s.name == name)
