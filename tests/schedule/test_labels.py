"""The three labels, on a program small enough to see."""

from __future__ import annotations

from ruledsl.chunk.build import Builder
from ruledsl.chunk.differentiate import differentiate
from ruledsl.chunk.program import Port, PortKind, Program, Result, ResultKind, Rows
from ruledsl.schedule.keys import port_key
from ruledsl.schedule.labels import Label, carries, labels

TOKENS = Rows(1)


def program() -> Program:
    b = Builder()
    q, k, v = (b.input(Port(n, PortKind.INPUT), (TOKENS, c)) for n, c in (("q", "K"), ("k", "K"), ("v", "V")))
    state = b.input(Port("S", PortKind.STATE), ("V", "K"))
    written = b.dot(v, k, ta=True)
    read = b.dot(q, state, tb=True)
    return b.program(
        [
            (Result("o", ResultKind.OUTPUT, 0), read),
            (Result("S", ResultKind.STATE, 0, Port("S", PortKind.STATE)), state + written),
        ]
    )


def by_label(p: Program) -> dict[Label, list[str]]:
    found: dict[Label, list[str]] = {label: [] for label in Label}
    for node, label in zip(p.nodes, labels(p, carries(p)), strict=True):
        found[label].append(f"{node.op}:{port_key(p.ports[node.attr])}" if node.op == "input" else node.op)  # type: ignore[index]
    return found


def test_forward_labels() -> None:
    found = by_label(program())
    assert sorted(found[Label.FREE]) == ["dot", "input:k", "input:q", "input:v"]
    assert found[Label.SERIAL] == ["input:S", "map"]
    assert found[Label.AFTER] == ["dot"]


def test_gradient_carries_the_cotangent_and_reads_saved_states() -> None:
    gradient = differentiate(program())
    (carry,) = carries(gradient)
    assert carry.key == "S" and gradient.ports[gradient.nodes[carry.enter].attr].kind is PortKind.COTANGENT  # type: ignore[index]
    found = by_label(gradient)
    assert sum(name == "input:S" for name in found[Label.FREE]) == 1  # the state that the forward pass saved
    assert sum(name == "input:S" for name in found[Label.SERIAL]) == 1  # its cotangent
    assert found[Label.AFTER].count("dot") == 2  # dv and dk


def test_a_state_that_is_overwritten_has_no_entering_node() -> None:
    b = Builder()
    k, v = (b.input(Port(n, PortKind.INPUT), (TOKENS, c)) for n, c in (("k", "K"), ("v", "V")))
    p = b.program([(Result("S", ResultKind.STATE, 0, Port("S", PortKind.STATE)), b.dot(v, k, ta=True))])
    (carry,) = carries(p)
    assert carry.enter is None
    assert set(labels(p, (carry,))) == {Label.FREE}


def test_keys() -> None:
    assert port_key(Port("k", PortKind.INPUT, (2,), 1)) == "k.2@1"
    assert port_key(Port("valid", PortKind.INPUT)) != port_key(Port("valid", PortKind.VALID))
    assert port_key(Port("K", PortKind.SIZE)) == "size:K"
