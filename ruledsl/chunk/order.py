"""Arguments before what is made of them, however deep, without recursion."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def bottom_up(root: T, needs: Callable[[T], Iterable[T]], known: Container[T]) -> Iterator[T]:
    """`root` and all that it needs and that is not `known` yet; the caller makes each one known before it asks for the next."""
    stack = [root]
    while stack:
        own = stack[-1]
        waiting = [] if own in known else [a for a in needs(own) if a not in known]
        stack += waiting
        if not waiting:
            stack.pop()
            if own not in known:
                yield own
