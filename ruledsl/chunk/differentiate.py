"""The gradient of a program, as a program: reverse mode over the table in `derivatives`."""

from __future__ import annotations

from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.derivatives import TABLE
from ruledsl.chunk.program import Port, PortKind, Program, Result, ResultKind

_DIFFERENTIABLE = (PortKind.INPUT, PortKind.PARAM, PortKind.STATE)


def differentiate(program: Program, keep_states: bool = False) -> Program:
    """From the same ports and a COTANGENT port for each OUTPUT and STATE result: a GRADIENT result for each INPUT,
    PARAM and STATE port (the gradient of its tile: sums over chunks, batch and shifted tiles are the caller's).
    `keep_states`: the STATE results as well."""
    b = Builder()
    made = b.copy(program)
    cotangents: dict[Tile, list[Tile]] = {}
    for result in program.results:
        assert result.kind is not ResultKind.GRADIENT, "a gradient program is not differentiated again"
        y = made[result.node]
        ct = b.input(cotangent_port(result), y.shape)
        cotangents.setdefault(y, []).append(ct)

    inputs = {made[i]: program.port(n) for i, n in enumerate(program.nodes) if n.op == "input"}
    wanted = {tile: port for tile, port in inputs.items() if port.kind in _DIFFERENTIABLE}
    varied = set(wanted)
    last = max((t.index for t in cotangents), default=-1)
    order = [Tile(i, b) for i in range(last + 1)]
    for y in order:
        if any(x in varied for x in y.args):
            varied.add(y)

    total: dict[Tile, Tile] = {}
    for y in reversed(order):
        if y not in cotangents or y not in varied:
            continue
        ct = cotangents[y][0]
        for other in cotangents[y][1:]:
            ct = ct + other
        total[y] = ct
        for x, dx in zip(y.args, TABLE[y.op](b, y, ct), strict=True):
            if dx is not None and x in varied:
                assert dx.shape == x.shape, f"{y.op}: cotangent {dx.shape} of {x.shape}"
                cotangents.setdefault(x, []).append(dx)

    results = [
        (Result(port.name, ResultKind.GRADIENT, 0, port), total.get(x, b.zeros(x.shape))) for x, port in wanted.items()
    ]
    if keep_states:
        results += [(r, made[r.node]) for r in program.results if r.kind is ResultKind.STATE]
    return b.program(results, program.types, program.chunk)


def cotangent_port(result: Result) -> Port:
    """Where the cotangent of a result comes in."""
    return Port(result.name, PortKind.COTANGENT, result.port.member if result.port else ())
