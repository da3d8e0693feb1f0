"""Putting texts together: parentheses only where Python needs them.

Binary operators stand between spaces in every text, and nothing else does. An argument keeps its own grouping: `a + (b + c)`
stays as it is, so that sums are rounded as the program says.
"""

from __future__ import annotations

import re

_OPERATORS = {"==": 0, "<": 0, "<=": 0, ">": 0, ">=": 0, "&": 0, "+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2}
_UNARY, _ATOM = 3, 9
_PLACE = re.compile(r"\{(\d+)\}")
_BEFORE = re.compile(r" (\S+) $")
_AFTER = re.compile(r"^ (\S+) ")


def level(text: str) -> int:
    """How tightly the loosest operator of a text binds."""
    depth, found, start = 0, _UNARY if text.startswith("-") else _ATOM, 0
    for i, c in enumerate(text):
        if c in "([":
            depth += 1
        elif c in ")]":
            depth -= 1
        elif c == " " and depth == 0:
            found = min(found, _OPERATORS.get(text[start:i], _ATOM))
        if c == " ":
            start = i + 1
    return found


def fill(template: str, args: list[str]) -> str:
    """`{0}`, `{1}` ... of a template replaced by texts."""

    def put(match: re.Match[str]) -> str:
        text = args[int(match[1])]
        needed = _needed(template[: match.start()], template[match.end() :])
        return f"({text})" if level(text) < needed else text

    return _PLACE.sub(put, template)


def _needed(before: str, after: str) -> int:
    """How tightly an argument must bind between two texts."""
    left, right = (_OPERATORS.get(m[1]) if m else None for m in (_BEFORE.search(before), _AFTER.match(after)))
    if left is not None:
        left += 1
    elif not before or before.endswith(("(", ", ")):
        left = 0
    else:
        left = _UNARY + 1 if before.endswith("-") else _ATOM
    if right is None:
        right = 0 if not after or after.startswith((")", ",")) else _ATOM
    return max(left, right)


def product(*factors: str) -> str:
    """The product of texts, without ones."""
    kept = [f"({f})" if level(f) < _OPERATORS["*"] else f for f in factors if f != "1"]
    return " * ".join(kept) or "1"


def total(*terms: str) -> str:
    """The sum of texts, without zeros."""
    return " + ".join(t for t in terms if t != "0") or "0"


def wrapped(opening: str, items: list[str], closing: str, width: int = 118) -> list[str]:
    """A call or signature, its items on as many indented lines as they take."""
    if len(opening) + len(closing) + sum(len(i) + 2 for i in items) <= width:
        return [f"{opening}{', '.join(items)}{closing}"]
    lines, line = [opening], "   "
    for item in items:
        if len(line) + len(item) + 2 > width:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return [*lines, line, closing]
