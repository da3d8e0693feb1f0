"""Which axes are the same: followed through operations, not told by sizes."""

from __future__ import annotations

from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Port, PortKind, Program, Result, ResultKind, Rows
from ruledsl.schedule.axes import axes


def port(b: Builder, name: str, kind: PortKind, shape: tuple[object, object]) -> Tile:
    return b.input(Port(name, kind), shape)  # type: ignore[arg-type]


def square() -> tuple[Program, dict[str, int]]:
    """A state whose rows and columns have one size: o = q S^T, S' = S + z^T k."""
    b = Builder()
    state = port(b, "S", PortKind.STATE, ("K", "K"))
    q, k, z = (port(b, n, PortKind.INPUT, (Rows(1), "K")) for n in "qkz")
    o, leaving = b.dot(q, state, tb=True), state + b.dot(z, k, ta=True)
    program = b.program(
        [(Result("o", ResultKind.OUTPUT, 0), o), (Result("S", ResultKind.STATE, 0, Port("S", PortKind.STATE)), leaving)]
    )
    return program, {program.port(n).name: i for i, n in enumerate(program.nodes) if n.op == "input"}


def test_equal_sizes_do_not_make_equal_axes() -> None:
    program, at = square()
    found = axes(program)
    rows, columns = found.of[at["S"]]
    assert rows is not None and columns is not None and rows != columns
    assert found.of[at["q"]] == (None, columns) and found.of[at["k"]] == (None, columns)
    assert found.of[at["z"]] == (None, rows)
    assert found.of[program.result("o", ResultKind.OUTPUT).node] == (None, rows)


def test_a_product_contracts_the_axis_it_sums_over() -> None:
    program, at = square()
    found = axes(program)
    read = program.result("o", ResultKind.OUTPUT).node
    assert found.contracted(program, read) == found.of[at["S"]][1]
    write = next(i for i, n in enumerate(program.nodes) if n.op == "dot" and i != read)
    assert found.contracted(program, write) is None  # over tokens


def test_transposing_and_summing_keep_axes_apart() -> None:
    b = Builder()
    x = port(b, "x", PortKind.STATE, ("V", "K"))
    y = port(b, "y", PortKind.STATE, ("K", "V"))
    total = b.sum(x + y.T, 0)
    program = b.program([(Result("S", ResultKind.STATE, 0, Port("S", PortKind.STATE)), total)])
    found = axes(program)
    at = {program.port(n).name: i for i, n in enumerate(program.nodes) if n.op == "input"}
    assert found.of[at["x"]] == found.of[at["y"]][::-1]
    assert found.contracted(program, len(program.nodes) - 1) == found.of[at["x"]][0]


def test_columns_that_are_glued_are_mixed() -> None:
    b = Builder()
    x, y = (port(b, n, PortKind.INPUT, (Rows(1), s)) for n, s in (("x", "V"), ("y", "W")))
    z = port(b, "z", PortKind.INPUT, (Rows(1), "V"))
    program = b.program(
        [(Result("o", ResultKind.OUTPUT, 0), b.cat([x, y])), (Result("p", ResultKind.OUTPUT, 0), b.apply("exp", z))]
    )
    found = axes(program)
    at = {program.port(n).name: i for i, n in enumerate(program.nodes) if n.op == "input"}
    assert found.of[at["x"]][1] in found.mixed and found.of[at["y"]][1] in found.mixed
    assert found.of[at["z"]][1] not in found.mixed
