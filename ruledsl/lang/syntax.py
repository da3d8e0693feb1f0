"""The rule as written: every word of the text, with its place, nothing decided yet.

    Rule       = Rule(source, statements)
    Statement  = Declare(role, items) | Let(name, value) | Output(name, value)
               | Assign(name, index?, value) | For(name, low, high, body)
    Declared   = Declared(name, dims, promises, init?)     dims: Expr over sizes and integers; None = no brackets
    Promise    = Unit | Perm | Within(low, high, low_open, high_open)
    Expr       = Number | Name | Paren | Neg | Binary(op) | Power(op) | Transpose | Index | Call
               | Total(body, name, low, high)  -- sum(e for j in a..b)
               | Compare(op, left, right)      -- only inside where(...)

Spans do not take part in equality, so `parse(unparse(r)) == r`.
Not done here: names, shapes, roles, meaning of products (see `typed`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ruledsl.lang.source import NOWHERE, Source, Span


def _span() -> Span:
    return field(default=NOWHERE, compare=False, repr=False, kw_only=True)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Number:
    text: str  # as written: unparse gives it back
    span: Span = _span()

    @property
    def value(self) -> float:
        return float(self.text)


@dataclass(frozen=True, slots=True)
class Name:
    id: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Paren:
    inner: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Neg:
    operand: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Binary:
    op: str  # "+" "-" "*" "/" ".*" "./" or " " for juxtaposition (the matrix product)
    left: Expr
    right: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Power:
    op: str  # "^" or ".^"
    base: Expr
    exponent: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Transpose:
    operand: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Index:
    name: Name
    index: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Compare:
    op: str  # "<=" ">=" "==" "<" ">"
    left: Expr
    right: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    args: tuple[Expr, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Total:
    body: Expr
    name: str
    low: Expr
    high: Expr
    span: Span = _span()


Expr = Number | Name | Paren | Neg | Binary | Power | Transpose | Index | Compare | Call | Total


@dataclass(frozen=True, slots=True)
class Unit:
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Perm:
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Within:
    low: Expr
    high: Expr
    low_open: bool
    high_open: bool
    span: Span = _span()


Promise = Unit | Perm | Within


@dataclass(frozen=True, slots=True)
class Learned:
    """`= learned`: the initial state is a parameter."""

    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Declared:
    name: str
    dims: tuple[Expr, ...] | None
    promises: tuple[Promise, ...] = ()
    init: Expr | Learned | None = None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Declare:
    role: str  # "state" "input" "param" "const"
    items: tuple[Declared, ...]
    span: Span = _span()


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
    name: str
    index: Expr | None
    value: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class For:
    name: str
    low: Expr
    high: Expr
    body: tuple[Statement, ...]
    span: Span = _span()


Statement = Declare | Let | Output | Assign | For


@dataclass(frozen=True, slots=True)
class Rule:
    source: Source = field(compare=False, repr=False)
    statements: tuple[Statement, ...] = ()
