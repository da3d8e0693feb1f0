"""The first look at a text: words, brackets, clauses, indentation and the limits.

Linear in the text and without recursion, so that neither a binary file nor ten thousand brackets reach the parser.
A clause is what ends at a newline outside brackets or at a `;`, or the head of a loop up to its `:`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ruledsl.lang.characters import ascii_for
from ruledsl.lang.diagnostic import Diagnostic
from ruledsl.lang.source import Source, Span

MAX_TEXT = 100_000  # characters; the longest rule of the collection has 1,200
MAX_CLAUSES = 1_000
MAX_WORDS = 10_000  # of the whole text
MAX_BRACKETS = 100  # open at once
MAX_NAME = 64  # characters of a name or a number
TAB = 4  # columns that a tab counts in an indentation

_WORD = re.compile(
    r"""(?P<space>[ \t\r\ufeff]+|\#[^\n]*)
    |(?P<newline>\n)
    |(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>\^T(?![A-Za-z0-9_])|\.\.|\.\*|\./|\.\^|<=|>=|==|[-+*/^=<>:;,])
    |(?P<open>[(\[])
    |(?P<close>[)\]])
    |(?P<bad>.)""",
    re.VERBOSE,
)
# Only a statement starts like this, so a bracket that is still open above such a line was forgotten.
_STARTS = re.compile(r"[ \t]*(?:(?:state|input|param|const|let|output)[ \t]+[A-Za-z_]|[A-Za-z_][A-Za-z0-9_]*[ \t]*(?:\[[^\]\n]*\][ \t]*)?=(?!=))")
_FOLLOWS = re.compile(r"([ \t]+)(\.[*/]|[-+*/,]|[^ \t\r\n#])")
_JOINS = ("+", "-", "*", "/", ".*", "./", ",", "=")


@dataclass(frozen=True, slots=True)
class Word:
    kind: str  # "number" "name" "sign" "open" "close" "bad"
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def span(self) -> Span:
        return Span(self.start, self.end)


@dataclass(frozen=True, slots=True)
class Clause:
    words: tuple[Word, ...]
    indent: int | None  # columns before it; None when it does not begin its line
    is_head: bool  # of a loop; its last word is the colon, unless that was forgotten

    @property
    def span(self) -> Span:
        return Span(self.words[0].start, self.words[-1].end)

    @property
    def is_readable(self) -> bool:
        return all(w.kind != "bad" for w in self.words)


@dataclass(frozen=True, slots=True)
class Scan:
    clauses: tuple[Clause, ...]
    diagnostics: tuple[Diagnostic, ...]
    fatal: bool  # a limit is passed, or this is no text: nothing else is worth saying

    @property
    def end(self) -> int:
        """Where the last word ends."""
        return self.clauses[-1].span.end if self.clauses else 0


def scan(source: Source) -> Scan:
    """Words grouped into clauses, and what can be said against them."""
    if refusal := _not_a_text(source.text):
        return Scan((), (refusal,), fatal=True)
    scanner = _Scanner(source)
    scanner.run()
    limits = [d for d in scanner.found if d.code.startswith("RD6")]
    if limits:
        return Scan((), (limits[0],), fatal=True)
    clauses = tuple(scanner.clauses)
    if not clauses and not scanner.found:
        empty = Diagnostic("RD112", "there is no statement in this text", Span(0, 0), "nothing but blanks and comments" if source.text.strip() else "the text is empty",
                           hint="a rule has at least one update, such as `S = a*S + v k^T`")  # fmt: skip
        return Scan((), (empty,), fatal=True)
    return Scan(clauses, (*scanner.found, *_indentation(clauses)), fatal=False)


def _not_a_text(text: str) -> Diagnostic | None:
    if len(text) > MAX_TEXT:
        why = f"it has {len(text):,} characters; a rule has at most {MAX_TEXT:,}"
        return Diagnostic("RD601", "this text is too large to be a rule", Span(0, 0), notes=(why,), hint="is it the right file?")
    control = re.search(r"[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]", text)
    if control is None:
        return None
    label = "a zero byte" if control[0] == "\0" else f"character U+{ord(control[0]):04X}"
    return Diagnostic("RD113", "this is not a text file", Span(control.start(), control.end()), label, hint="a rule is plain text, saved as UTF-8")


class _Scanner:
    def __init__(self, source: Source) -> None:
        self.text = source.text
        self.found: list[Diagnostic] = []
        self.clauses: list[Clause] = []
        self.words: list[Word] = []  # of the clause under way
        self.open: list[int] = []  # brackets, as places in `words`
        self.indent: int | None = 0
        self.line_start = 0
        self.count = 0
        self.blamed: set[str] = set()  # bad characters, each told once

    def run(self) -> None:
        for match in _WORD.finditer(self.text):
            kind, text, start = str(match.lastgroup), match[0], match.start()
            if kind == "newline":
                self._newline(match.end())
            elif kind == "bad":
                self._bad(text, start)
                self._word(Word(kind, text, start))
            elif kind != "space":
                self._word(Word(kind, text, start))
            if self.found and self.found[-1].code.startswith("RD6"):
                return
        self._forgotten()
        self._end()

    def _newline(self, next_line: int) -> None:
        if self.open and _STARTS.match(self.text, next_line):
            self._forgotten()
        if not self.open and not self._goes_on(next_line):
            self._end()
            self.indent, self.line_start = 0, next_line

    def _word(self, word: Word) -> None:
        self.count += 1
        if self.count > MAX_WORDS:
            self._limit("RD602", f"this rule is longer than {MAX_WORDS:,} words", word)
        elif len(word.text) > MAX_NAME and word.kind in ("name", "number"):
            self._limit("RD604", f"this {word.kind} is longer than {MAX_NAME} characters", word, "write a shorter one")
        if word.text == ";":
            self._forgotten()
            self._end(word)
            return
        if not self.words and self.indent is not None:
            before = self.text[self.line_start : word.start]
            self.indent = before.count(" ") + TAB * before.count("\t")
        self.words.append(word)
        if word.kind == "open":
            self.open.append(len(self.words) - 1)
            if len(self.open) > MAX_BRACKETS:
                self._limit("RD603", f"more than {MAX_BRACKETS} brackets are open at once", word, "name parts of the expression with `let`")
        elif word.kind == "close":
            self._close(word)
        elif word.text == ":" and not self.open and self.words[0].text == "for":
            self._end()

    def _close(self, word: Word) -> None:
        if not self.open:
            self._say("RD105", f"`{word.text}` closes nothing", word.span, "no bracket is open here", hint=f"remove it, or open one with `{'(' if word.text == ')' else '['}`")
            return
        at = self.open.pop()
        opened = self.words[at]
        interval = at > 0 and self.words[at - 1].text == "in"  # `in (0, 1]` mixes them on purpose
        if not interval and opened.text + word.text not in ("()", "[]"):
            wanted = ")" if opened.text == "(" else "]"
            self._say("RD105", f"`{opened.text}` is closed by `{word.text}`", word.span, f"`{wanted}` belongs here", hint=f"write `{wanted}`")

    def _forgotten(self) -> None:
        """Brackets still open where a statement ends."""
        if self.open:
            last = self.words[self.open[-1]]
            wanted = {"(": ")", "[": "]"}
            missing = "".join(wanted[self.words[at].text] for at in reversed(self.open))
            self._say("RD104", f"`{last.text}` is never closed", last.span, "opened here", hint=f"the statement lacks `{missing}`")
            self.open.clear()

    def _end(self, semicolon: Word | None = None) -> None:
        if self.words:
            self.clauses.append(Clause(tuple(self.words), self.indent, self.words[0].text == "for"))
            if len(self.clauses) > MAX_CLAUSES:
                self._limit("RD602", f"this rule has more than {MAX_CLAUSES:,} statements", self.words[0])
        elif semicolon is not None:
            self._say("RD106", "`;` separates statements, and none stands before it", semicolon.span, "nothing before this", hint="remove it")
        self.words, self.indent = [], None

    def _bad(self, text: str, start: int) -> None:
        span = Span(start, start + len(text))
        if text in self.blamed:
            return
        self.blamed.add(text)
        self.found.append(ascii_for(text, span, self.text))

    def _goes_on(self, next_line: int) -> bool:
        """Whether the next line was meant to continue this one: indented, and a sign stands at the break."""
        follow = _FOLLOWS.match(self.text, next_line)
        if not self.words or follow is None or _STARTS.match(self.text, next_line):
            return False
        last, blanks = self.words[-1], follow[1]
        deeper = blanks.count(" ") + TAB * blanks.count("\t") > (self.indent or 0)
        if not deeper or not (last.text in _JOINS or follow[2] in _JOINS):
            return False
        if last.text == "," and self.words[0].text in ("state", "input", "param", "const"):
            hint = f"remove the `,` and start the next line with `{self.words[0].text}`"
        else:
            hint = "put the value in brackets: a newline inside brackets does not count"
        self._say("RD122", "a statement ends with its line", Span(last.start, last.end), "the line ends after this", hint=hint)
        return True

    def _say(self, code: str, headline: str, span: Span, label: str = "", hint: str = "") -> None:
        self.found.append(Diagnostic(code, headline, span, label, hint=hint))

    def _limit(self, code: str, headline: str, word: Word, hint: str = "is it the right file?") -> None:
        self._say(code, headline, Span(word.start, min(word.end, word.start + MAX_NAME)), "the limit is passed here", hint)


def _indentation(clauses: tuple[Clause, ...]) -> Iterator[Diagnostic]:
    """Blocks: deeper than the head above, the same within, back to a level that is open."""
    levels = [clauses[0].indent or 0] if clauses else []
    head: Clause | None = None  # the line above ends with a loop's colon
    for clause in clauses:
        if clause.indent is None:
            if clause.is_head:
                yield Diagnostic("RD117", "a loop starts a line of its own", clause.words[0].span, "not at the start of its line", hint="put it below; a loop in a loop is indented")
            head = clause if clause.is_head else None
            continue
        place = Span(clause.span.start, clause.words[0].end)
        if head is not None:
            if clause.indent > levels[-1]:
                levels.append(clause.indent)
            elif head.words[-1].text == ":":
                yield _no_body(head)
        elif clause.indent > levels[-1]:
            yield Diagnostic("RD117", "this line is indented, and no loop is open above it", place, "deeper than the line above", hint="start it in the column of the line above")
        if clause.indent < levels[-1]:
            while len(levels) > 1 and clause.indent < levels[-1]:
                levels.pop()
            if clause.indent != levels[-1]:
                yield Diagnostic("RD117", "this line stands between two levels of indentation", place, "matches no line above", hint="start it in the column of the loop's body, or of the loop")
        head = clause if clause.is_head else None
    if head is not None and head.words[-1].text == ":":
        yield _no_body(head)


def _no_body(head: Clause) -> Diagnostic:
    return Diagnostic("RD117", "this loop has no body", Span(head.span.start, head.span.end), "nothing belongs to it", hint="indent the statements of the loop below it, or write one after the `:`")
