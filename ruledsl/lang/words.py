"""The words of the language by what they are, for editors: the lexer of Pygments and the TextMate grammar are made
from this list, and this list from the table of functions and the reserved names. Nothing else spells them.
"""

from __future__ import annotations

from ruledsl.lang.functions import KEYWORDS, RESERVED, SPELLED, TABLE

DECLARATIONS = ("state", "input", "param", "const")  # what starts a line and names symbols
STATEMENTS = ("let", "output", "for")
PROMISES = ("unit", "perm", "learned", "in")
assert {*DECLARATIONS, *STATEMENTS, *PROMISES} == KEYWORDS

CONSTANTS = tuple(sorted(RESERVED))  # t, head, I, pi, ...
TIME = tuple(n for n in SPELLED if TABLE[n].kind in ("time", "grad"))  # prev, frozen, grad: what is special to memory
FUNCTIONS = tuple(n for n in SPELLED if n not in TIME)

COMMENT = r"#[^\n]*"
NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
NAME = r"[A-Za-z_][A-Za-z0-9_]*"
TRANSPOSE = r"\^T(?![A-Za-z0-9_])"
OPERATORS = ("<=", ">=", "==", "..", ".*", "./", ".^", "+", "-", "*", "/", "^", "=", "<", ">")


def word(names: tuple[str, ...]) -> str:
    """A regular expression for whole words; longer ones first."""
    return rf"\b(?:{'|'.join(sorted(names, key=lambda n: (-len(n), n)))})\b"


def call(names: tuple[str, ...]) -> str:
    """The same before a bracket, where a name of the table is a call."""
    return rf"{word(names)}(?=\s*\()"
