"""The names under which tiles, states and gradients travel between the runtime and generated code."""

from __future__ import annotations

from typing import assert_never

from ruledsl.chunk.program import Port, PortKind

VALID = ":valid"  # no name of a rule starts with a colon


def port_key(port: Port) -> str:
    """`k`, `k.2` for member 2 of a family, `k@1` for the value one token ago, `size:K`, `:valid`, `t`, `head`, `heads`."""
    match port.kind:
        case PortKind.VALID:
            return VALID
        case PortKind.POSITION:
            return "t"
        case PortKind.HEAD:
            return "head"
        case PortKind.HEADS:
            return "heads"
        case PortKind.SIZE:
            return f"size:{port.name}"
        case PortKind.INPUT | PortKind.PARAM | PortKind.STATE | PortKind.COTANGENT:
            member = "".join(f".{j}" for j in port.member)
            return f"{port.name}{member}" + (f"@{port.lag}" if port.lag else "")
        case other:
            assert_never(other)
