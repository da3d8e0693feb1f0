"""Is a Program well formed? Broken ones are our mistake: AssertionError names the node."""

from __future__ import annotations

from ruledsl.chunk import shapes
from ruledsl.chunk.program import PortKind, Program, ResultKind, Rows

_TOKEN_RESULT = (ResultKind.OUTPUT,)


def verify(program: Program) -> Program:
    """The program itself, after checking order, shapes, ports and results."""
    seen_ports: set[int] = set()
    for i, node in enumerate(program.nodes):
        assert all(0 <= a < i for a in node.args), f"node {i} ({node.op}) uses a later node"
        try:
            shapes.infer(node.op, tuple(program.nodes[a].shape for a in node.args), node.attr, node.shape)
        except shapes.ShapeError as error:
            raise AssertionError(f"node {i}: {error}") from error
        if node.op == "input":
            assert isinstance(node.attr, int) and 0 <= node.attr < len(program.ports), f"node {i}: no port {node.attr}"
            assert node.attr not in seen_ports, f"node {i}: port {node.attr} comes in twice"
            seen_ports.add(node.attr)
            _port(program, node.attr, node.shape)
    assert len(set(program.ports)) == len(program.ports), "a port is listed twice"
    keys = [(r.name, r.kind, r.port) for r in program.results]
    assert len(set(keys)) == len(keys), "a result is listed twice"
    for result in program.results:
        assert 0 <= result.node < len(program.nodes), f"{result.name}: no node {result.node}"
        assert result.kind is not ResultKind.GRADIENT or result.port is not None, f"gradient {result.name} of no port"
        assert result.kind not in _TOKEN_RESULT or program.nodes[result.node].shape[0] == Rows(1), (
            f"output {result.name} has no row for each token"
        )
    return program


def _port(program: Program, index: int, shape: shapes.Shape) -> None:
    port = program.ports[index]
    match port.kind:
        case PortKind.VALID | PortKind.POSITION:
            assert shape == (Rows(1), 1), f"{port.kind} is one column of tokens"
        case PortKind.HEAD | PortKind.HEADS | PortKind.SIZE:
            assert shape == (1, 1), f"{port.kind} is a scalar"
        case PortKind.INPUT:
            assert shape[0] == Rows(1), f"input {port.name} has no row for each token"
        case PortKind.PARAM | PortKind.STATE:
            assert not any(isinstance(axis, Rows) for axis in shape), f"{port.kind} {port.name} has a token axis"
        case PortKind.COTANGENT:
            pass
