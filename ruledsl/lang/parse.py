"""Text -> syntax.Rule.

The grammar is `grammars/ruledsl.lark`. `scan` has already looked at the characters, the brackets and the limits, so
that the parser proper only sees text of bounded size; `refuse` finds what the grammar lets through and the language
does not. When the text as a whole does not parse, its clauses are parsed one by one and every mistake is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any, cast

from lark import Lark, Token, Transformer, UnexpectedToken
from lark.indenter import Indenter

from ruledsl.lang import syntax
from ruledsl.lang.blame import blame
from ruledsl.lang.diagnostic import Diagnostic, RuleError
from ruledsl.lang.functions import SPELLED
from ruledsl.lang.refuse import refuse
from ruledsl.lang.scan import TAB, Scan, scan
from ruledsl.lang.source import Source, Span
from ruledsl.resources import data_dir

MOST_SHOWN = 20  # diagnostics of one text
_FIRST_LINE = "\n"  # put before every text, so that the first line's indentation is seen; spans are shifted back


def parse(source: Source) -> syntax.Rule:
    """The rule as written. Raises RuleError with every mistake that can be told without names and shapes."""
    scanned = scan(source)
    if scanned.fatal:
        raise RuleError(source, scanned.diagnostics)
    if scanned.diagnostics:
        raise RuleError(source, _one_by_one(source, scanned, None))
    try:
        rule = syntax.Rule(source, _read(source.text[: scanned.end], "start"))
    except UnexpectedToken as error:
        raise RuleError(source, _one_by_one(source, scanned, error)) from None
    if found := refuse(rule.statements, source, complete=True):
        raise RuleError(source, found[:MOST_SHOWN])
    return rule


def _one_by_one(source: Source, scanned: Scan, whole: UnexpectedToken | None) -> list[Diagnostic]:
    """What is wrong with each clause, parsed by itself; or, if nothing is, with their order."""
    found = list(scanned.diagnostics)
    good: list[syntax.Statement] = []
    for clause in scanned.clauses:
        span = clause.span
        if not clause.is_readable or any(span.start <= d.span.start < span.end and d.code != "RD117" for d in scanned.diagnostics):
            continue  # already told
        try:
            good.append(_read(" " * span.start + source.slice(span), "head" if clause.is_head else "alone"))
        except UnexpectedToken as error:
            found.append(blame(clause, _offset(error)))
        if len(found) >= MOST_SHOWN:
            break
    found += refuse(good, source, complete=False)
    if not found and whole is not None:
        at = _offset(whole)
        found.append(blame(next((c for c in scanned.clauses if c.span.end >= at), scanned.clauses[-1]), at))
    return sorted(found, key=lambda d: d.span.start)[:MOST_SHOWN]


def _offset(error: UnexpectedToken) -> int:
    return int(error.token.start_pos or 0) - len(_FIRST_LINE)


def _read(text: str, start: str) -> Any:
    with _LOCK:  # the parser keeps its place in _Lines
        return _parser().parse(_FIRST_LINE + text + "\n", start=start)


_LOCK = Lock()


@cache
def _parser() -> Lark:
    grammar = (data_dir("grammars") / "ruledsl.lark").read_text(encoding="utf-8")
    names = sorted((name for name in SPELLED if name != "sum"), key=len, reverse=True)
    grammar = grammar.replace("%FUNCTIONS%", "|".join(names))
    starts = ["start", "alone", "head"]
    return Lark(grammar, parser="lalr", lexer="contextual", start=starts, postlex=_Lines(), transformer=_Build(), keep_all_tokens=True)


class _Lines(Indenter):
    """Newlines and blocks. The indentation of the first line is the outermost level; `scan` has checked the others."""

    NL_type = "_NL"
    OPEN_PAREN_types = ["LPAR", "LSQB"]
    CLOSE_PAREN_types = ["RPAR", "RSQB"]
    INDENT_type = "_INDENT"
    DEDENT_type = "_DEDENT"
    tab_len = TAB

    def process(self, stream: Any) -> Any:
        self.base: int | None = None
        return super().process(stream)

    def handle_NL(self, token: Token) -> Any:
        if self.paren_level > 0:
            return
        yield token
        blanks = token.rsplit("\n", 1)[1]
        width = blanks.count(" ") + blanks.count("\t") * self.tab_len
        if self.base is None:
            self.base = width
        width = max(width - self.base, 0)
        if width > self.indent_level[-1]:
            self.indent_level.append(width)
            yield Token.new_borrow_pos(self.INDENT_type, blanks, token)
        while width < self.indent_level[-1]:
            self.indent_level.pop()
            yield Token.new_borrow_pos(self.DEDENT_type, blanks, token)


# ------------------------------------------------------------------------------------------- rows -> nodes


def _span(child: Any) -> Span:
    if isinstance(child, Token):
        return Span(int(child.start_pos or 0) - len(_FIRST_LINE), int(child.end_pos or 0) - len(_FIRST_LINE))
    return cast(Span, child.span)


def _over(children: list[Any]) -> Span:
    return _span(children[0]).to(_span(children[-1]))


def _nodes(children: list[Any], *kinds: type) -> tuple[Any, ...]:
    return tuple(c for c in children if isinstance(c, kinds))


@dataclass(frozen=True, slots=True)
class _Range:
    """`low..high`."""

    low: syntax.Expr
    high: syntax.Expr

    @property
    def span(self) -> Span:
        return self.low.span.to(self.high.span)


class _Shape(tuple[syntax.Expr, ...]):
    """Sizes in brackets, with the place of the brackets."""

    span: Span


class _Block(tuple[syntax.Statement, ...]):
    span: Span


_EXPR = syntax.Expr.__args__  # type: ignore[attr-defined]
_STATEMENT = syntax.Statement.__args__  # type: ignore[attr-defined]
_PROMISE = syntax.Promise.__args__  # type: ignore[attr-defined]


class _Build(Transformer):  # type: ignore[type-arg]
    """One method per row of the grammar, called as the row is reduced. Every token of the row is a child."""

    def start(self, c: list[Any]) -> tuple[syntax.Statement, ...]:
        return _nodes(c, *_STATEMENT)

    def alone(self, c: list[Any]) -> syntax.Statement:
        return cast(syntax.Statement, _nodes(c, *_STATEMENT)[0])

    def head(self, c: list[Any]) -> syntax.For:
        at = next(i for i, child in enumerate(c) if child == "for")
        (bounds,) = _nodes(c, _Range)
        return syntax.For(str(c[at + 1]), bounds.low, bounds.high, (), span=_over(c[at:-1]))

    def loop(self, c: list[Any]) -> syntax.For:
        body: _Block = c[-1]
        return syntax.For(str(c[1]), c[3].low, c[3].high, tuple(body), span=_span(c[0]).to(body.span))

    def block(self, c: list[Any]) -> _Block:
        block = _Block(_nodes(c, *_STATEMENT))
        block.span = _over(list(block))
        return block

    # statements

    def declare(self, c: list[Any]) -> syntax.Declare:
        return syntax.Declare(str(c[0]), _nodes(c, syntax.Declared), span=_over(c))

    def decl(self, c: list[Any]) -> syntax.Declared:
        shape = next(iter(_nodes(c, _Shape)), None)
        init = next(iter(_nodes(c[1:], *_EXPR, syntax.Learned)), None)
        dims = None if shape is None else tuple(shape)
        return syntax.Declared(str(c[0]), dims, _nodes(c, *_PROMISE), init, span=_over(c))

    def shape(self, c: list[Any]) -> _Shape:
        shape = _Shape(_nodes(c, *_EXPR))
        shape.span = _over(c)
        return shape

    def initial(self, c: list[Any]) -> syntax.Expr | syntax.Learned:
        return cast("syntax.Expr | syntax.Learned", c[1])

    def learned(self, c: list[Any]) -> syntax.Learned:
        return syntax.Learned(span=_over(c))

    def unit(self, c: list[Any]) -> syntax.Unit:
        return syntax.Unit(span=_over(c))

    def perm(self, c: list[Any]) -> syntax.Perm:
        return syntax.Perm(span=_over(c))

    def within(self, c: list[Any]) -> syntax.Within:
        return syntax.Within(c[2], c[4], c[1] == "(", c[5] == ")", span=_over(c))

    def let(self, c: list[Any]) -> syntax.Let:
        return syntax.Let(str(c[1]), c[3], span=_over(c))

    def output(self, c: list[Any]) -> syntax.Output:
        return syntax.Output(str(c[1]), c[3], span=_over(c))

    def assign(self, c: list[Any]) -> syntax.Assign:
        return syntax.Assign(str(c[0]), c[2] if c[1] == "[" else None, c[-1], span=_over(c))

    def range(self, c: list[Any]) -> _Range:
        return _Range(c[0], c[2])

    # expressions

    def name(self, c: list[Any]) -> syntax.Name:
        return syntax.Name(str(c[0]), span=_span(c[0]))

    def number(self, c: list[Any]) -> syntax.Number:
        return syntax.Number(str(c[0]), span=_span(c[0]))

    def paren(self, c: list[Any]) -> syntax.Paren:
        return syntax.Paren(c[1], span=_over(c))

    def neg(self, c: list[Any]) -> syntax.Neg:
        return syntax.Neg(c[1], span=_over(c))

    def binary(self, c: list[Any]) -> syntax.Binary:
        return syntax.Binary(str(c[1]), c[0], c[2], span=_over(c))

    def juxtapose(self, c: list[Any]) -> syntax.Binary:
        return syntax.Binary(" ", c[0], c[1], span=_over(c))

    def power(self, c: list[Any]) -> syntax.Power | syntax.Transpose:
        if c[1] == "^" and c[2] == syntax.Name("T"):  # a blank or a newline stands within `^T`
            return self.transpose(c)
        return syntax.Power(str(c[1]), c[0], c[2], span=_over(c))

    def transpose(self, c: list[Any]) -> syntax.Transpose:
        return syntax.Transpose(c[0], span=_over(c))

    def index(self, c: list[Any]) -> syntax.Index:
        return syntax.Index(self.name(c[:1]), c[2], span=_over(c))

    def compare(self, c: list[Any]) -> syntax.Compare:
        return syntax.Compare(str(c[1]), c[0], c[2], span=_over(c))

    def call(self, c: list[Any]) -> syntax.Call:
        return syntax.Call(str(c[0]), tuple(c[2:-1:2]), span=_over(c))

    def total(self, c: list[Any]) -> syntax.Total:
        return syntax.Total(c[2], str(c[4]), c[6].low, c[6].high, span=_over(c))
