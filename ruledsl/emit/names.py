"""Names in generated Python. A rule's text enters generated code only through `identifier` and `comment`."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable, Iterable

from ruledsl.lang.typed import Dim, DimOp

RESERVED = frozenset(
    {
        "torch",
        "F",
        "math",
        "B",
        "H",
        "N",
        "C",
        "T",
        "n",
        "tiles",
        "states",
        "starts",
        "ends",
        "sizes",
        "entering",
        "douts",
        "dleaving",
        "valid",
    }
)
LONGEST = 40


def identifier(name: str) -> str:
    """A Python identifier for a name of a rule: ASCII letters, digits and `_` stand, a dot becomes `_` and other characters
    their code."""
    text = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" if c == "." else f"u{ord(c):x}" for c in name)[:LONGEST]
    if not text or not (text[0].isalpha() and text[0].isascii()):
        text = "x" + text
    return text + "_" if keyword.iskeyword(text) or keyword.issoftkeyword(text) or hasattr(builtins, text) else text


def comment(text: str) -> list[str]:
    """Text of any origin as comment lines: every line break starts a new comment, other control characters are escaped.

    Python takes `coding:` or `coding=` in a comment of a file's first two lines for the file's encoding, in which the
    other lines can be made to mean anything (PEP 263); a blank in front of the sign keeps it from that.
    """
    text = re.sub(r"coding(?=[:=])", "coding ", text)
    lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return [
        (
            "# "
            + "".join(
                c if c.isprintable() and c.isascii() else c.encode("unicode_escape").decode("ascii") for c in line
            )
        ).rstrip()
        for line in lines
    ]


def quoted(name: str) -> str:
    """A Python string literal in double quotes, ASCII only."""
    body = name.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{body}"'


def size_text(size: Dim, name: Callable[[str], str]) -> str:
    """A size as an integer expression; `name`: what stands for a size that the rule names."""
    match size:
        case int():
            return str(size)
        case str():
            return name(size)
        case DimOp(op, left, right):
            return f"({size_text(left, name)} {'//' if op == '/' else op} {size_text(right, name)})"


class Names:
    """Hands out identifiers, each once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(RESERVED) | set(keyword.kwlist) | set(taken)

    def new(self, wish: str) -> str:
        """`wish`, or `wish2`, `wish3` ... if it is taken."""
        name, number = wish, 1
        while name in self._taken:
            number += 1
            name = f"{wish}{'_' if wish[-1].isdigit() else ''}{number}"
        self._taken.add(name)
        return name
