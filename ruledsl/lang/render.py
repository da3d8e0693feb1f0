"""Diagnostics for people and for programs.

    error[RD107] the number `2` multiplies with `*`
     --> delta.rule:3:5
      |
    3 | S = 2 S
      |     ^^^ two things side by side are a matrix product
      = help: write `2*S`
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator
from typing import Any

from ruledsl.lang.diagnostic import Diagnostic, RuleError, Severity
from ruledsl.lang.source import Source

_TAB = 4  # columns that a tab is shown as
_MOST_LINES = 4  # of a span over several lines
_COLOURS = {Severity.ERROR: "31", Severity.WARNING: "33", Severity.NOTE: "36"}


def render(error: RuleError, width: int | None = None, color: bool = False) -> str:
    """All diagnostics as text, ending in a newline. `width` (columns, at least 40) wraps notes and crops source lines;
    `color` adds ANSI escapes."""
    width = None if width is None else max(width, 40)
    return "\n".join("\n".join(_lines(d, error.source, width, color)) + "\n" for d in error.diagnostics)


def to_json(error: RuleError) -> list[dict[str, Any]]:
    """One record per diagnostic; lines and columns count from 1, columns in characters, the end is exclusive."""
    return [_record(d, error.source) for d in error.diagnostics]


def _record(d: Diagnostic, source: Source) -> dict[str, Any]:
    line, column = source.position(min(d.span.start, len(source.text)))
    end_line, end_column = source.position(min(d.span.end, len(source.text)))
    place = {"file": source.name, "line": line, "column": column, "end_line": end_line, "end_column": end_column}
    return {"code": d.code, "severity": str(d.severity), "headline": d.headline, **place, "label": d.label, "notes": list(d.notes), "hint": d.hint}


# -------------------------------------------------------------------------------------------------- for people


def _lines(d: Diagnostic, source: Source, width: int | None, color: bool) -> Iterator[str]:
    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if color else text

    severity = _COLOURS[d.severity]
    yield f"{paint(f'{d.severity}[{d.code}]', f'1;{severity}')} {paint(_printable(d.headline), '1')}"
    start = min(d.span.start, len(source.text))
    line, column = source.position(start)
    last = source.position(max(min(d.span.end, len(source.text)) - 1, start))[0]
    gutter = " " * len(str(last))
    if source.text:
        yield f"{gutter}{paint('-->', '34')} {_printable(source.name)}:{line}:{column}"
        yield f"{gutter} {paint('|', '34')}"
        numbers = range(line, last + 1)
        for number in numbers:
            if len(numbers) > _MOST_LINES and _MOST_LINES - 2 < number - line and number != last:
                if number - line == _MOST_LINES - 1:
                    yield f"{gutter} {paint('...', '34')}"
                continue
            text, carets = _marked(d, source, number, None if width is None else width - len(gutter) - 3)
            label = _label(_printable(d.label) if number == last else "", carets, width, len(gutter) + 3)
            yield f"{paint(str(number).rjust(len(gutter)) + ' |', '34')} {text}".rstrip()
            for part in (carets + label[0], *label[1:]):
                yield f"{gutter} {paint('|', '34')} {paint(part, severity)}"
    else:
        yield f"{gutter}{paint('-->', '34')} {_printable(source.name)}"
        if d.label:
            yield f"{gutter} {paint('=', '34')} {_printable(d.label)}"
    for kind, text in (*(("note", note) for note in d.notes), *((("help", d.hint),) if d.hint else ())):
        head = f"{gutter} = {kind}: "
        body = [part for piece in text.split("\n") for part in _wrap(_printable(piece), width, len(head))]
        yield f"{gutter} {paint('=', '34')} {paint(kind + ':', '1')} {body[0]}"
        yield from (" " * len(head) + part for part in body[1:])


def _label(label: str, carets: str, width: int | None, used: int) -> list[str]:
    """What follows the carets, and the lines below where it does not fit beside them."""
    if not label:
        return [""]
    if width is None or len(carets) + 1 + len(label) <= width - used:
        return [f" {label}"]
    indent = min(len(carets) - len(carets.lstrip()), max(width - used - 20, 0))
    return ["", *(" " * indent + part for part in _wrap(label, width - used, indent))]


def _wrap(text: str, width: int | None, used: int) -> list[str]:
    return [text] if width is None else textwrap.wrap(text, max(width - used, 20), break_on_hyphens=False) or [""]


def _marked(d: Diagnostic, source: Source, number: int, width: int | None) -> tuple[str, str]:
    """Line `number` as shown, and the carets below it; both cropped around the span when the line is too long."""
    raw = source.line(number)
    begin = _line_start(source, number)
    low = min(max(d.span.start - begin, 0), len(raw))
    high = min(max(d.span.end - begin, low), len(raw))
    if low == 0 and d.span.start < begin:  # the span came from the line above: leave the indentation unmarked
        low = len(raw) - len(raw.lstrip())
    most = width or 200
    first = 0
    if sum(map(_columns, raw)) > most:
        first = max(0, min(low - most // 4, len(raw) - most // 2))
    shown = raw[first : first + most]
    lead, dots = ("...", 3) if first else ("", 0)
    text, room = lead, most - dots
    for character in shown:
        room -= _columns(character)
        if room < 3 and first + most < len(raw):
            text += "..."
            break
        text += " " * _TAB if character == "\t" else _printable(character)
    before = dots + sum(map(_columns, raw[first:low]))
    marked = min(sum(map(_columns, raw[low:high])), max(most - before, 1))
    return text, " " * before + "^" * max(marked, 1)


def _line_start(source: Source, number: int) -> int:
    offset = 0
    for _ in range(number - 1):
        offset = source.text.index("\n", offset) + 1
    return offset


def _columns(character: str) -> int:
    """How many terminal columns a character takes."""
    if character == "\t":
        return _TAB
    if character.isascii():
        return 1
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _printable(text: str) -> str:
    """Without characters that a terminal would obey or cannot show."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else "\ufffd" for c in text)
