"""A program as text for people: one line per node, deterministic."""

from __future__ import annotations

from dataclasses import replace

from ruledsl.chunk.program import Attr, Node, Port, Program, ResultKind
from ruledsl.chunk.scan import Scan
from ruledsl.chunk.shapes import shape_text

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "^"}


def show(program: Program) -> str:
    """Nodes in order (`%3 : C x K = ...`), then what leaves the chunk."""
    lines = []
    width = max((len(shape_text(n.shape)) for n in program.nodes), default=0)
    digits = len(str(max(len(program.nodes) - 1, 0)))
    for i, node in enumerate(program.nodes):
        lines.append(f"%{i:<{digits}} : {shape_text(node.shape):<{width}} = {_node(program, node)}")
    for result in program.results:
        name = port_text(result.port) if result.kind is ResultKind.GRADIENT and result.port else result.name
        if result.kind is ResultKind.STATE and result.port:
            name = port_text(result.port)
        lines.append(f"{result.kind} {name} = %{result.node}")
    return "\n".join(lines) + "\n"


def port_text(port: Port) -> str:
    """`k[2]`, `prev(v)`, ..."""
    name = port.name + "".join(f"[{m}]" for m in port.member)
    return name if not port.lag else f"prev({name})" if port.lag == 1 else f"prev({name}, {port.lag})"


def _node(program: Program, node: Node) -> str:
    args = [f"%{a}" for a in node.args]
    match node.op:
        case "input":
            port = program.port(node)
            return f"{port.kind} {port_text(port)}" if port.name else str(port.kind)
        case "const":
            return _number(node.attr)
        case "full":
            return f"full {_number(node.attr)}"
        case "map" if node.attr in _INFIX:
            return f" {_INFIX[str(node.attr)]} ".join(args)
        case "map" if node.attr == "neg":
            return f"-{args[0]}"
        case "map":
            return f"{node.attr}({', '.join(args)})"
        case "select":
            return f"{args[0]} {node.attr} {args[1]} ? {args[2]} : {args[3]}"
        case "transpose":
            return f"{args[0]}^T"
        case "dot":
            assert isinstance(node.attr, tuple)
            ta, tb = node.attr
            return f"{args[0]}{'^T' if ta else ''} @ {args[1]}{'^T' if tb else ''}"
        case op:
            return f"{op}({', '.join(args + _attributes(node.attr))})"


def _attributes(attr: Attr) -> list[str]:
    parts = attr if isinstance(attr, tuple) else () if attr is None else (attr,)
    return [_number(p) if isinstance(p, float) else str(p).lower() if isinstance(p, bool) else str(p) for p in parts]


def _number(value: Attr) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else repr(value)


def show_scan(scan: Scan) -> str:
    """A scan: what its maps are made of, then the maps, those that others read first."""
    program = replace(scan.program, results=tuple(r for r in scan.program.results if r.kind is not ResultKind.PART))
    lines = [show(program).rstrip("\n")]
    for stratum in scan.strata:
        for i, parts in zip(stratum.states, stratum.parts, strict=True):
            lines.append(f"scan {scan.states[i].kind} {port_text(scan.states[i])}: {stratum.monoid.value} ({', '.join(f'%{n}' for n in parts)})")
    return "\n".join(lines) + "\n"
