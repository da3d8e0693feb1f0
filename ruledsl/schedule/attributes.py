"""A node's attribute as what its operation says that it is (`chunk.program` lists them)."""

from __future__ import annotations

from ruledsl.chunk.program import Node


def integer(node: Node) -> int:
    """`sum`'s axis, `cut`'s start, `slot`'s number ..."""
    assert isinstance(node.attr, int)
    return int(node.attr)


def number(node: Node) -> float:
    """The value of a `const` or `full`."""
    assert isinstance(node.attr, int | float)
    return float(node.attr)


def is_zeros(node: Node) -> bool:
    """A tile of zeros, which no kernel reads."""
    return node.op == "full" and number(node) == 0.0


def flags(node: Node) -> tuple[bool, bool]:
    """A dot's `ta` and `tb`."""
    assert isinstance(node.attr, tuple) and len(node.attr) == 2
    return bool(node.attr[0]), bool(node.attr[1])


def place(node: Node) -> tuple[int, int]:
    """A block's row and column."""
    assert isinstance(node.attr, tuple) and len(node.attr) == 2
    i, j = node.attr
    assert isinstance(i, int) and isinstance(j, int)
    return i, j


def shifted(node: Node) -> tuple[float, int]:
    """A shift's fill and distance."""
    assert isinstance(node.attr, tuple) and len(node.attr) == 2
    fill, by = node.attr
    assert isinstance(fill, int | float) and isinstance(by, int)
    return float(fill), by


def gathered(node: Node) -> tuple[int, bool, bool]:
    """A decay_gate's parts, and whether it has cotangents of `before` and of `after`."""
    assert isinstance(node.attr, tuple) and len(node.attr) == 3
    parts, before, after = node.attr
    assert isinstance(parts, int)
    return parts, bool(before), bool(after)


def logged(node: Node) -> tuple[int, bool]:
    """A log_gate's parts, and whether it has tiles of edges."""
    assert isinstance(node.attr, tuple) and len(node.attr) == 2
    parts, edges = node.attr
    assert isinstance(parts, int)
    return parts, bool(edges)


def applied(node: Node) -> tuple[str, bool]:
    """A gram_apply's mask and whether it is the adjoint; a chain_apply's mask is always strict."""
    if not isinstance(node.attr, tuple):
        return "strict", bool(node.attr)
    kind, adjoint = node.attr
    return str(kind), bool(adjoint)
