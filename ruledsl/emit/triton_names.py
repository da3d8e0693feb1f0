"""Names in generated Triton: what the rule calls its values and sizes, as identifiers that generated names never are."""

from __future__ import annotations

import builtins
import keyword
import re

from ruledsl.chunk.program import Port
from ruledsl.lang.typed import Dim, DimOp, Type

_TAKEN = frozenset("""
    C H K_ N OP IP IP_SOLVE LEVELS ROWS BLOCK BLOCKS WIDE WIDE_LEVELS row token valid place n h s block begin end back count
    start starts counts places begins ends line inside spread whole system tl triton torch x initial chunks sizes plan tables
    some tokens device dtype d_outputs d_final S
""".split())
_SHAPES = re.compile(r"(i|m|o|g|d|B|state|initial|final|enter|leave|forward|sweep|reverse|gradients)_.*|.*_(token|head|group|kernel|lag\d+|\d+t?)|.*_")


def safe(name: str) -> str:
    """A name of the rule as an identifier that generated names never are. One to one."""
    assert name.isascii() and name.isidentifier()
    taken = name in _TAKEN or keyword.iskeyword(name) or hasattr(builtins, name) or _SHAPES.fullmatch(name)
    return f"{name}_" if taken else name


def dim_name(dim: Dim) -> str:
    """A size as an identifier: K, K_by_2, ..."""
    match dim:
        case int():
            return f"N{dim}"
        case str():
            return safe(dim)
        case DimOp(op, left, right):
            word = {"+": "plus", "-": "minus", "*": "times", "/": "by"}[op]
            return f"{dim_name(left)}_{word}_{dim_name(right)}"


def dim_text(dim: Dim) -> str:
    """A size as an expression over the sizes' names."""
    match dim:
        case int():
            return str(dim)
        case str():
            return safe(dim)
        case DimOp(op, left, right):
            return f"({dim_text(left)} {'//' if op == '/' else op} {dim_text(right)})"


def width(type_: Type) -> str:
    """Elements that one token and head of a value have, as an expression."""
    return " * ".join(dim_text(d) for d in type_.dims) or "1"


def member_offset(port: Port | None, type_: Type) -> str:
    """Where a family's member starts inside its token."""
    if port is None or not port.member:
        return "0"
    member = Type(type_.rows, type_.cols, type_.family[len(port.member) :])
    offset = ""
    for place, (index, size) in enumerate(zip(port.member, type_.family, strict=False)):
        offset = f"{index - 1}" if place == 0 else f"({offset} * {dim_text(size)} + {index - 1})"
    return f"{offset} * ({width(member)})"


def tensor_key(port: Port) -> str:
    """The key of the tensor that holds a port: members of a family share one, each lag has its own."""
    return port.name + (f"@{port.lag}" if port.lag else "")


def tensor_name(port: Port) -> str:
    """The same as an identifier."""
    return safe(port.name) + (f"_lag{port.lag}" if port.lag else "")
