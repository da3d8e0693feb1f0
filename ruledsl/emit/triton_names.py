"""Names in generated Triton: what the rule calls its values and sizes, as identifiers that generated names never are."""

from __future__ import annotations

import builtins
import keyword
import re
from typing import assert_never

from ruledsl.chunk.program import Port, PortKind, Result, ResultKind
from ruledsl.emit.names import size_text
from ruledsl.emit.triton_expression import product
from ruledsl.lang.typed import Dim, DimOp, Type

_TAKEN = frozenset(
    """
    C H OP IP LEVELS FITS fits ROWS BLOCK BLOCKS STAGES
    row token valid real place position chunk sequence head block begin end back count start first last entered closes
    starts counts places begins ends firsts lasts tl triton torch inputs initial chunks sizes plan tables tokens device dtype outputs
    count sequences forward backward sweep reverse gradients strided power kernel
    halves across right_half table level spans spans_gate tabled running reach least log_sums chain_gram chain_apply chain_back
    chain_back_log log_gate shift multiply combine_scan
""".split()
)
_SHAPES = re.compile(
    r"N\d+|(i|m|d|B|BLOCK|frozen|initial|final|enter|leave|forward|sweep|reverse|gradients)_.*"
    r"|back\d+|.*_(ptr|token|head|group|kernel|next|t|lag\d+|\d+t?)|.*_(plus|minus|times|by)_.*|.*_"
)


def safe(name: str) -> str:
    """A name of the rule as an identifier that generated names never are, or `token_program.frozen_name` as one. One to one."""
    if "." in name:
        return name.replace(".", "_")
    assert name.isascii() and name.isidentifier()
    if name.startswith(("__", "dunder")):  # never a name that Python gives a meaning
        name = f"dunder{name}"
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
            return f"{_part(left)}_{word}_{_part(right)}"


def _part(dim: Dim) -> str:
    """An operand in the name of a size: a nested one between underscores, so that grouping shows."""
    return f"_{dim_name(dim)}_" if isinstance(dim, DimOp) else dim_name(dim)


def dim_text(dim: Dim) -> str:
    """A size as an expression over the sizes' names."""
    return size_text(dim, safe)


def width(type_: Type) -> str:
    """Elements that one token and head of a value have, as an expression."""
    return product(*(dim_text(d) for d in type_.dims))


def member_offset(port: Port | None, type_: Type) -> str:
    """Where a family's member starts inside its token."""
    if port is None or not port.member:
        return "0"
    member = Type(type_.rows, type_.cols, type_.family[len(port.member) :])
    offset = ""
    for place, (index, size) in enumerate(zip(port.member, type_.family, strict=False)):
        offset = f"{index - 1}" if place == 0 else f"({offset} * {dim_text(size)} + {index - 1})"
    return "0" if offset == "0" else product(offset, *(dim_text(d) for d in member.dims))


def tensor_key(port: Port) -> str:
    """The key of the tensor that holds a port: members of a family share one, each lag has its own."""
    return port.name + (f"@{port.lag}" if port.lag else "")


def tensor_name(port: Port) -> str:
    """The same as an identifier."""
    return safe(port.name) + (f"_lag{port.lag}" if port.lag else "")


def pointer(name: str) -> str:
    """The argument that points to the tensor of a value."""
    return f"{name}_ptr"


def fits_name(kernel: str) -> str:
    """What says which chunks a kernel is done with, whose decays fit one product."""
    return f"{kernel}_fits"


def cotangent_name(name: str) -> str:
    """The gradient of an output, input or state."""
    return f"d_{safe(name)}"


def result_name(result: Result) -> str:
    """An output, a state that is not carried, or the gradient of an input or param, as a tile and as a tensor."""
    if result.kind is ResultKind.OUTPUT:
        return safe(result.name)
    if result.kind is ResultKind.STATE:
        return f"final_{safe(result.name)}"
    assert result.port is not None
    return f"d_{tensor_name(result.port)}"


def port_name(port: Port) -> str:
    """The tile of a port."""
    match port.kind:
        case PortKind.VALID:
            return "real"
        case PortKind.POSITION:
            return "position"
        case PortKind.HEAD | PortKind.HEADS | PortKind.SIZE:
            return port.kind.value
        case PortKind.COTANGENT:
            return cotangent_name(port.name)
        case PortKind.INPUT | PortKind.PARAM | PortKind.STATE:
            return tensor_name(port) + "".join(f"_{j}" for j in port.member)
        case other:
            assert_never(other)
