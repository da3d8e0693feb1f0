"""What every tree of this floor has in common, as written or typed: a node is a dataclass whose parts have spans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, TypeVar

Node = TypeVar("Node")


def children(node: Any) -> Iterator[Any]:
    """The parts directly below a node, in text order."""
    for f in fields(node):
        value = getattr(node, f.name)
        if isinstance(value, tuple):
            yield from (v for v in value if hasattr(v, "span"))
        elif hasattr(value, "span"):
            yield value


def rebuilt(node: Node, change: Callable[[Any], Any]) -> Node:
    """The node with `change` applied to each part directly below it; the node itself if none changed."""
    new: dict[str, Any] = {}
    for f in fields(node):  # type: ignore[arg-type]
        value = getattr(node, f.name)
        if isinstance(value, tuple):
            out: Any = tuple(change(v) if hasattr(v, "span") else v for v in value)
            same = all(a is b for a, b in zip(value, out, strict=True))
        elif hasattr(value, "span"):
            out = change(value)
            same = out is value
        else:
            continue
        if not same:
            new[f.name] = out
    return replace(node, **new) if new else node  # type: ignore[type-var]
