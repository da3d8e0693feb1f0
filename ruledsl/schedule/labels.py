"""What each node of a chunk program has to do with the carried state.

    free      does not depend on the carried value that enters the chunk
    serial    depends on it, and the carried value that leaves the chunk depends on the node
    after     depends on it, and does not feed what leaves

Carried are the states in a forward program, and the cotangents of the states in a gradient program: there the entering
states are values that the forward pass kept. Labels are facts about a graph; which kernels they make is the plan's affair.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ruledsl.chunk.program import Port, PortKind, Program, Result, ResultKind
from ruledsl.schedule.keys import port_key


class Label(StrEnum):
    FREE = "free"
    SERIAL = "serial"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Carry:
    """A value that goes from chunk to chunk: the state `key`, or its cotangent."""

    key: str
    enter: int | None  # the node of its port; None: the chunk does not read it
    leave: int


def depends_on(program: Program, sources: Iterable[int]) -> frozenset[int]:
    """The sources and every node computed from them."""
    inside = set(sources)
    for index, node in enumerate(program.nodes):
        if any(a in inside for a in node.args):
            inside.add(index)
    return frozenset(inside)


def needed_by(program: Program, targets: Iterable[int], known: Iterable[int] = ()) -> frozenset[int]:
    """The targets and every node they are computed from, without looking behind `known`."""
    stop, seen, todo = frozenset(known), set(), list(targets)
    while todo:
        index = todo.pop()
        if index not in seen:
            seen.add(index)
            if index not in stop:
                todo += program.nodes[index].args
    return frozenset(seen)


def port_of(program: Program, index: int) -> Port | None:
    """The port of an `input` node."""
    node = program.nodes[index]
    return program.ports[node.attr] if node.op == "input" and isinstance(node.attr, int) else None


def state_key(result: Result) -> str:
    return port_key(result.port) if result.port is not None else result.name


def carries(program: Program) -> tuple[Carry, ...]:
    """What a program carries, in the order of its results: states, or, for a gradient program, their cotangents."""
    ports = {(p.kind, port_key(p)): i for i in range(len(program.nodes)) if (p := port_of(program, i)) is not None}
    found = []
    for result in program.results:
        match result.kind:
            case ResultKind.STATE:
                found.append(Carry(state_key(result), ports.get((PortKind.STATE, state_key(result))), result.node))
            case ResultKind.GRADIENT if result.port is not None and result.port.kind is PortKind.STATE:
                found.append(Carry(state_key(result), ports.get((PortKind.COTANGENT, state_key(result))), result.node))
            case _:
                pass
    return tuple(found)


def labels(program: Program, carried: tuple[Carry, ...]) -> tuple[Label, ...]:
    """One label per node."""
    dependent = depends_on(program, (c.enter for c in carried if c.enter is not None))
    feeding = needed_by(program, (c.leave for c in carried))
    return tuple(
        Label.FREE if i not in dependent else Label.SERIAL if i in feeding else Label.AFTER
        for i in range(len(program.nodes))
    )
