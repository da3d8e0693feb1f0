"""Running emitted text, and the same programs chunk by chunk through the interpreter and torch autograd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ruledsl.chunk.program import Port, PortKind, Program, ResultKind
from ruledsl.runtime.interpret import extent, interpret
from ruledsl.schedule.keys import VALID, port_key

BATCH, HEADS, CHUNKS = 2, 3, 3


def load(text: str) -> dict[str, Any]:
    """The names that a generated module defines."""
    module: dict[str, Any] = {"__name__": "generated"}
    exec(compile(text, "generated.py", "exec"), module)
    return module


def ports(program: Program) -> dict[Port, tuple[Any, Any]]:
    """Shapes of the ports."""
    return {program.ports[n.attr]: n.shape for n in program.nodes if n.op == "input"}  # type: ignore[index]


def sample(
    program: Program, sizes: Mapping[str, int], chunk: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random tiles and states; the last two tokens of the last chunk are padding."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(1, 1, CHUNKS, chunk, 1, dtype=dtype)
    valid[:, :, -1, -2:] = 0
    tiles, states = {VALID: valid}, {}
    for port, shape in ports(program).items():
        rows, columns = (extent(s, sizes, chunk) for s in shape)
        match port.kind:
            case PortKind.INPUT:
                tiles[port_key(port)] = torch.randn(
                    BATCH, HEADS, CHUNKS, rows, columns, generator=generator, dtype=dtype
                )
            case PortKind.PARAM:
                tiles[port_key(port)] = torch.randn(1, HEADS, 1, rows, columns, generator=generator, dtype=dtype)
            case PortKind.POSITION:
                tiles["t"] = torch.arange(CHUNKS * chunk, dtype=dtype).view(1, 1, CHUNKS, chunk, 1)
            case PortKind.HEAD:
                tiles["head"] = torch.arange(HEADS, dtype=dtype).view(1, HEADS, 1, 1, 1)
            case PortKind.HEADS:
                tiles["heads"] = torch.full((1, 1, 1, 1, 1), float(HEADS), dtype=dtype)
            case PortKind.STATE:
                states[port_key(port)] = torch.randn(BATCH, HEADS, rows, columns, generator=generator, dtype=dtype)
            case _:
                pass
    return tiles, states


def reference(
    program: Program, tiles: Mapping[str, Tensor], states: Mapping[str, Tensor], sizes: Mapping[str, int], chunk: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(outputs [B, H, N, C, .], leaving states), one chunk after the other."""
    outputs: dict[str, list[Tensor]] = {}
    current = dict(states)
    for n in range(CHUNKS):
        given = {}
        for port in program.ports:
            if port.kind is PortKind.STATE:
                given[port] = current[port_key(port)]
            elif port.kind is not PortKind.SIZE:
                tile = tiles[port_key(port)]
                given[port] = tile[:, :, n if tile.shape[2] > 1 else 0]
        for result, value in interpret(program, given, sizes, chunk).items():
            if result.kind is ResultKind.OUTPUT:
                outputs.setdefault(result.name, []).append(value)
            else:
                current[port_key(result.port) if result.port else result.name] = value
    return {
        name: torch.stack([torch.as_tensor(p).expand(BATCH, HEADS, *p.shape[-2:]) for p in parts], 2)
        for name, parts in outputs.items()
    }, current
