"""An explanation as plain text, as one LaTeX align block, and as data."""

from __future__ import annotations

import textwrap
from typing import Any, assert_never

from ruledsl.algebra.explain.explanation import Equation, Explanation, Line, Quote, Section, Sentence
from ruledsl.algebra.explain.writer import HARD

WIDTH = 100
_ESCAPED = {
    "\\": "/", "_": r"\_", "^": r"\^{}", "&": r"\&", "%": r"\%", "#": r"\#", "{": r"\{", "}": r"\}", "~": "-", "`": "'",
    "<": r"$<$", ">": r"$>$", "|": r"$|$",
}  # fmt: skip


def plain(explanation: Explanation) -> str:
    """Ends in a newline."""
    out = [explanation.headline]
    for section in explanation.sections:
        out += ["", section.title, *_plain(section)]
    return ("\n".join(out) + "\n").replace(HARD, " ")


def _plain(section: Section) -> list[str]:
    """Equations of one section stand with their signs below each other."""
    out = []
    for i, line in enumerate(section.lines):
        match line:
            case Equation(left, right, relation, note):
                width = max(len(x.left) for x in _block(section.lines, i))
                out.append(f"  {left:{width}} {relation} {right}" + (f"   ({note})" if note else ""))
            case Sentence(text):
                out += textwrap.wrap(
                    text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
                )  # fmt: skip
            case Quote(text):
                out += [f"    {row}".rstrip() for row in text.rstrip("\n").split("\n")]
            case _:
                assert_never(line)
    return out


def _block(lines: tuple[Line, ...], i: int) -> list[Equation]:
    """The equations next to that one."""
    first = last = i
    while first and isinstance(lines[first - 1], Equation):
        first -= 1
    while last + 1 < len(lines) and isinstance(lines[last + 1], Equation):
        last += 1
    return [x for x in lines[first : last + 1] if isinstance(x, Equation)]


def latex(explanation: Explanation) -> str:
    r"""One align* block (amsmath), ending in a newline; MathJax takes it too. Quoted rules are \texttt rows."""
    assert explanation.tex
    rows = [rf"& \textbf{{{escaped(explanation.headline)}}}"]
    for section in explanation.sections:
        rows.append(rf"& \textbf{{{escaped(section.title)}}}")
        rows += [row for line in section.lines for row in rows_of(line)]
    return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}\n"


def rows_of(line: Line) -> list[str]:
    match line:
        case Equation(left, right, relation, note):
            sign = r"\leftarrow" if relation == "<-" else relation
            return [rf"{left} &{sign} {right}" + (rf" \qquad \text{{({escaped(note)})}}" if note else "")]
        case Sentence(text):
            pieces = textwrap.wrap(_unbroken(text), WIDTH, break_on_hyphens=False, break_long_words=False)
            return [rf"& \text{{{escaped(p.replace(HARD, ' '))}}}" for p in pieces]
        case Quote(text):
            return [rf"& \texttt{{{escaped(row)}}}" for row in text.rstrip("\n").split("\n")]
        case _:
            assert_never(line)


def _unbroken(text: str) -> str:
    """Formulas keep together."""
    parts = text.split("$")
    return "$".join(p.replace(" ", HARD) if i % 2 else p for i, p in enumerate(parts))


def escaped(text: str) -> str:
    """Words for LaTeX's text mode; what stands between $ is a formula already."""
    parts = text.split("$")
    return "$".join(p if i % 2 else "".join(_ESCAPED.get(c, c) for c in p) for i, p in enumerate(parts))


def data(explanation: Explanation) -> list[dict[str, Any]]:
    return [{"title": s.title, "lines": [_datum(line) for line in s.lines]} for s in explanation.sections]


def _datum(line: Line) -> dict[str, str]:
    match line:
        case Equation(left, right, relation, note):
            return {"left": left, "relation": relation, "right": right, "note": note.replace(HARD, " ")}
        case Sentence(text) | Quote(text):
            return {"text": text.replace(HARD, " ")}
        case _:
            assert_never(line)
