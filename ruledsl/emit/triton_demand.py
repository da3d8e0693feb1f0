"""What a kernel's text is made of: demands, and the recipes that meet them."""

from __future__ import annotations

from dataclasses import dataclass

Demand = tuple[int, str]  # a node, and the orientation in which it is wanted: "n" or "t"


@dataclass(frozen=True, slots=True)
class Recipe:
    """`text` has `{0}`, `{1}` ... for the values of `args`."""

    args: tuple[Demand, ...]
    text: str
    inline: bool = False  # short and cheap: may stand inside the text of its only user
    accumulate: bool = False  # contracts rows of the state: added up (or maximised) over their blocks
    start: str = "0.0"  # of such a sum
    helpers: tuple[str, ...] = ()  # device functions that the text calls
