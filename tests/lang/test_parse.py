"""Text -> tree -> text, and what is told about texts that are no rules."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruledsl.lang import syntax as s
from ruledsl.lang.diagnostic import RuleError
from ruledsl.lang.functions import ARGUMENTS, KEYWORDS, RESERVED, SPELLED
from ruledsl.lang.parse import parse
from ruledsl.lang.source import Source, Span
from ruledsl.lang.unparse import expression, unparse
from ruledsl.resources import MAX_BYTES, data_dir, load_source

RULES = sorted(data_dir("rules").glob("*.rule"))
COMMON = """state S[V, K] = learned, P[K, K] = 100*I; input q[K], k[n, K] unit, a in (0, 1], b in [-1e-3, inf)
const g = 1 - 2^(-5 - head), w[K/2], c
\tlet p = prev(k[1], 2)  # a comment
"""


def told(text: str) -> list[tuple[str, str]]:
    """Codes, with the words under the carets."""
    with pytest.raises(RuleError) as caught:
        parse(Source(text))
    return [(d.code, text[d.span.start : d.span.end]) for d in caught.value.diagnostics]


def value(text: str) -> s.Expr:
    (statement,) = parse(Source(f"let x = {text}")).statements
    assert isinstance(statement, s.Let)
    return statement.value


def nodes(node: object) -> list[object]:
    own = [node] if hasattr(node, "span") else []
    parts = [getattr(node, f.name) for f in fields(node)] if hasattr(node, "__dataclass_fields__") else []  # type: ignore[arg-type]
    flat = [x for p in parts for x in (p if isinstance(p, tuple) else (p,)) if not isinstance(x, Span | Source | str)]
    return own + [n for x in flat for n in nodes(x)]


@pytest.mark.parametrize("path", RULES, ids=lambda p: p.stem)
def test_the_collection_parses_and_comes_back(path: Path) -> None:
    rule = parse(load_source(path))
    text = unparse(rule)
    assert parse(Source(text)) == rule
    assert unparse(parse(Source(text))) == text


@pytest.mark.parametrize("path", RULES, ids=lambda p: p.stem)
def test_spans_are_exact(path: Path) -> None:
    """The text under an expression's span, read alone, is that expression; a statement's span, that statement."""
    rule = parse(load_source(path))
    kinds = s.Expr.__args__  # type: ignore[attr-defined]
    checked = 0
    for node in nodes(rule):
        text = rule.source.slice(node.span)  # type: ignore[attr-defined]
        if isinstance(node, kinds) and not isinstance(node, s.Compare | s.Total):
            assert value(text.replace("\n", " ")) == node
            checked += 1
        elif isinstance(node, s.Let | s.Output | s.Assign | s.Declare):
            assert parse(Source(text)).statements == (node,)
        elif isinstance(node, s.Declared):
            assert text.startswith(node.name)
    assert checked > 3


def test_spans_with_tabs_crlf_and_a_byte_order_mark() -> None:
    text = "\ufeffS\t=\ta*S\r\noutput o = (S\r\n   q)\r\n"
    first, second = parse(Source(text)).statements
    assert text[first.span.start : first.span.end] == "S\t=\ta*S"
    assert text[second.span.start : second.span.end] == "output o = (S\r\n   q)"
    assert parse(Source(text)) == parse(Source("S = a*S\noutput o = (S q)\n"))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("-a b", "-(a b)"), ("-a^2", "-(a^2)"), ("a*b c", "a*(b c)"), ("a b^T c", "(a (b^T)) c"), ("a/b*c", "(a/b)*c"), ("a - b - c", "(a - b) - c"), ("a b / c", "(a b) / c"),
        ("-a*b", "(-a)*b"), ("a .* b ./ c", "(a .* b) ./ c"), ("a^-b c", "(a^(-b)) c"), ("x^T y[1]^2", "(x^T) (y[1]^2)"), ("a + b*c", "a + (b*c)"), ("S (q - p)", "(S) ((q - p))"),
    ],
)  # fmt: skip
def test_precedence(written: str, meant: str) -> None:
    def bare(expr: object) -> object:
        if isinstance(expr, s.Paren):
            return bare(expr.inner)
        if not hasattr(expr, "__dataclass_fields__") or isinstance(expr, Span):
            return expr
        return (type(expr).__name__, *(bare(getattr(expr, f.name)) for f in fields(expr) if f.name != "span"))

    assert bare(value(written)) == bare(value(meant))
    assert value(written) != value(meant)


def test_a_transpose_is_one_word() -> None:
    assert value("x^T") == value("x ^ T") == s.Transpose(s.Name("x"))
    assert value("(x^\nT)") == s.Paren(s.Transpose(s.Name("x")))
    assert value("x.^T") == s.Power(".^", s.Name("x"), s.Name("T"))
    assert value("x^Tx") == s.Power("^", s.Name("x"), s.Name("Tx"))


def test_numbers_and_points() -> None:
    assert value("1 .* x") == value("1.*x") == s.Binary(".*", s.Number("1"), s.Name("x"))
    (loop,) = parse(Source("for j in 1..n: S = S")).statements
    assert isinstance(loop, s.For) and (loop.low, loop.high) == (s.Number("1"), s.Name("n"))
    assert s.Number("1e-5").value == 1e-5


def test_blocks() -> None:
    text = "    let a = 1\n    for i in 1..2:\n  # c\n\tfor j in 1..3: S = i; S = j\n\n        S = 2\n    output o = S\n  # end"
    with pytest.raises(RuleError):  # the tab is four columns: no deeper than the head
        parse(Source(text))
    first, loop, last = parse(Source(text.replace("\t", "\t\t"))).statements
    assert isinstance(loop, s.For) and isinstance(first, s.Let) and isinstance(last, s.Output)
    inner, after = loop.body
    assert isinstance(inner, s.For) and len(inner.body) == 2 and isinstance(after, s.Assign)


def test_declarations() -> None:
    state, given, const, _ = parse(Source(COMMON.replace("\t", ""))).statements
    assert isinstance(state, s.Declare) and isinstance(given, s.Declare) and isinstance(const, s.Declare)
    assert isinstance(state.items[0].init, s.Learned) and state.items[0].dims == (s.Name("V"), s.Name("K"))
    assert given.items[1].promises == (s.Unit(),)
    assert given.items[2].promises == (s.Within(s.Number("0"), s.Number("1"), True, False),)
    assert given.items[3].promises == (s.Within(s.Neg(s.Number("1e-3")), s.Name("inf"), False, True),)
    assert const.items[2] == s.Declared("c", None)


# ------------------------------------------------------------------------------------------- there and back

NAMES = st.sampled_from([*"abkqvSPTWxy", "T2", "x_1", "forx", "e5", "I", "t", "inf"])
NUMBERS = st.sampled_from(["0", "1", "2", "0.5", "1e-5", "3E+2", "16"])
_LEAF = st.one_of(NAMES.map(s.Name), NUMBERS.map(s.Number))


def _grow(inner: st.SearchStrategy[s.Expr]) -> st.SearchStrategy[s.Expr]:
    index = st.builds(s.Index, st.sampled_from("kvS").map(s.Name), inner)
    compare = st.builds(s.Compare, st.sampled_from(["<=", ">=", "==", "<", ">"]), inner, inner)
    return st.one_of(
        inner.map(s.Paren), inner.map(s.Neg), inner.map(s.Transpose), index,
        st.builds(s.Binary, st.sampled_from(["+", "-", "*", "/", ".*", "./", " "]), inner, inner),
        st.builds(s.Power, st.sampled_from(["^", ".^"]), inner, inner),
        st.builds(lambda c, a, b: s.Call("where", (c, a, b)), compare, inner, inner),
        st.builds(lambda f, a: s.Call(f, tuple(a)), st.sampled_from(SPELLED), st.lists(inner, min_size=1, max_size=3)),
        st.builds(s.Total, inner, st.sampled_from("jl"), inner, inner),
    )  # fmt: skip


EXPRESSIONS = st.recursive(_LEAF, _grow, max_leaves=12)
_DIMS = st.one_of(st.none(), st.lists(st.sampled_from([s.Name("K"), s.Binary("/", s.Name("K"), s.Number("2")), s.Binary("*", s.Number("4"), s.Name("V"))]), min_size=1, max_size=3).map(tuple))
_PROMISES = st.lists(st.one_of(st.just(s.Unit()), st.builds(s.Within, EXPRESSIONS, EXPRESSIONS, st.booleans(), st.booleans())), max_size=2, unique_by=type).map(tuple)
_DECLARES = st.one_of(
    st.builds(lambda name, dims, promises: s.Declare("input", (s.Declared(name, dims, promises),)), st.sampled_from("abq"), _DIMS, _PROMISES),
    st.builds(lambda name, dims, init: s.Declare("state", (s.Declared(name, dims, (), init), s.Declared("Z", None))), st.sampled_from("SP"), _DIMS, st.one_of(st.none(), st.just(s.Learned()), EXPRESSIONS)),
)
_SIMPLE = st.one_of(
    st.builds(s.Let, st.sampled_from("xyz"), EXPRESSIONS), st.builds(s.Output, st.sampled_from("op"), EXPRESSIONS), st.builds(s.Assign, st.sampled_from("SP"), st.one_of(st.none(), EXPRESSIONS), EXPRESSIONS)
)  # fmt: skip
_LOOPS = st.recursive(_SIMPLE, lambda body: st.builds(s.For, st.sampled_from("jl"), EXPRESSIONS, EXPRESSIONS, st.lists(body, min_size=1, max_size=2).map(tuple)), max_leaves=4)
TREES = st.builds(lambda statements: s.Rule(Source(""), tuple(statements)), st.lists(st.one_of(_DECLARES, _LOOPS), min_size=1, max_size=4))


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_unparse_is_the_inverse_of_parse(tree: s.Rule) -> None:
    """For any tree: the text is stable, and equal trees come back once the brackets that the grammar needs are in."""
    text = unparse(tree)
    try:
        first = parse(Source(text))
    except RuleError as error:  # numbers side by side are well-formed text, and refused
        assert {d.code for d in error.diagnostics} <= {"RD107"}
        return
    assert unparse(first) == text
    assert parse(Source(unparse(first))) == first
    if text.count("(") == unparse_brackets(tree):
        assert first == tree


def unparse_brackets(tree: s.Rule) -> int:
    """How many `(` the tree itself asks for."""
    kinds = (s.Paren, s.Call, s.Total)
    return sum(isinstance(n, kinds) or (isinstance(n, s.Within) and n.low_open) for n in nodes(tree))


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text(alphabet="aSk01 ()[]+-*/.^T=<>,:;\n\t#", max_size=60), st.lists(st.sampled_from([*"S a = ( ) [ ] , * / + ^T ; : 1".split(), *KEYWORDS, "exp", "sum", "..", "\n", "    "]), max_size=25).map(" ".join)))
def test_any_text_is_a_rule_or_a_refusal(text: str) -> None:
    try:
        rule = parse(Source(text))
    except RuleError as error:
        assert error.diagnostics
        for d in error.diagnostics:
            assert d.headline and 0 <= d.span.start <= d.span.end <= len(text) + 1
            assert d.hint or d.label or d.notes
    else:
        assert parse(Source(unparse(rule))) == rule


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("S = a*", [("RD103", "")]), ("S = a*S + (v - S k k^T\noutput o = S q", [("RD104", "(")]), ("S = a b)", [("RD105", ")")]), ("S = (a]", [("RD105", "]")]),
        ("S = \u0430*S", [("RD102", "\u0430")]), ("S = a\u2212b", [("RD102", "\u2212")]), ("S = a\u00b7S", [("RD102", "\u00b7")]), ("x = (T/2)\u00b2", [("RD102", "\u00b2")]),
        ("S = 2 S", [("RD107", "2 S")]), ("S = S 2 k", [("RD107", "S 2")]), ("input x\nS = foo(x)", [("RD108", "foo")]), ("S = foo(x, y)", [("RD108", "foo")]),
        ("S = a^2^3", [("RD109", "a^2^3")]), ("S = a / S k", [("RD110", "S k")]), ("S = a ./ -S k", [("RD110", "S k")]), ("# nothing", [("RD112", "")]), ("", [("RD112", "")]),
        ("S = a\0", [("RD113", "\0")]), ("S = exp + 1", [("RD114", "exp")]), ("S = a > b", [("RD115", ">")]), ("S = where(a > b > c, 1, 2)", [("RD115", ">")]),
        ("S = exp(a for j in 1..2)", [("RD116", "for")]), ("for j in 1..n\n    S = S", [("RD117", "\n")]), ("S = S\n  S = S", [("RD117", "S")]), ("for i in 1..2: for j in 1..2: S = S", [("RD117", "for")]),
        ("input a = 3", [("RD118", "3")]), ("S = .5", [("RD119", ".5")]), ("S = 1e999", [("RD119", "1e999")]), ("input a[2.5]", [("RD119", "2.5")]), ("S += 1", [("RD120", "+=")]), ("S k = v", [("RD120", "S k")]),
        ("S q", [("RD120", "S q")]), ("S = a = b", [("RD120", "=")]), ("S = a +\n    b", [("RD122", "+")]), ("input a,\n   b", [("RD122", ",")]), ("S = S k\n    + v", [("RD122", "k")]), ("S = S; ; S = S", [("RD106", ";")]),
        ("x" * 65 + " = 1", [("RD604", "x" * 64)]), ("S = k[1, 2]", [("RD106", ",")]),
    ],
)  # fmt: skip
def test_refusals_and_their_places(text: str, expected: list[tuple[str, str]]) -> None:
    assert told(text) == expected


@pytest.mark.parametrize("name", sorted((RESERVED | KEYWORDS | ARGUMENTS | set(SPELLED)) - {"learned"}))
def test_reserved_names(name: str) -> None:
    for text in (f"let {name} = 1", f"input {name}", f"for {name} in 1..2: S = S", f"S = sum(a for {name} in 1..2)", f"output {name} = S"):
        assert ("RD111", name) in told(text), text
    if name not in KEYWORDS:
        assert ("RD111", name) in told(f"{name} = a")


def test_several_mistakes_are_told_at_once() -> None:
    text = "let max = 1\nS = 2 S +\noutput o = S q)\nlet y = \u03b2\nS = a^2^3\nfor j in 1..2:\n    S = S S (\n    S = .5"
    assert [code for code, _ in told(text)] == ["RD111", "RD103", "RD105", "RD102", "RD109", "RD104", "RD119"]


def test_a_name_before_a_bracket_may_be_a_state() -> None:
    assert parse(Source("state St[V, K]\ninput q[K]\noutput o = St(q)")).statements
    assert told("state S[V, K]\ninput q[K]\noutput o = St(q)") == [("RD108", "St")]


HUGE = {
    "brackets": ("S = " + "(" * 10_000 + "a" + ")" * 10_000, "RD603"),
    "open brackets": ("S = " + "[" * 40_000, "RD603"),
    "minus": ("S = " + "-" * 9_000 + "a", "RD603"),
    "many minus": ("S = " + "-" * 50_000 + "a", "RD602"),
    "sum": ("S = " + "+".join("a" * 4_000), "RD603"),
    "product": ("S = " + "a " * 4_000, "RD603"),
    "transposes": ("S = a" + "^T" * 9_000, "RD603"),
    "calls": ("S = " + "exp(" * 3_000, "RD603"),
    "words": ("S = " + "a " * 40_000, "RD602"),
    "statements": ("S = S\n" * 1_001, "RD602"),
    "wrong statements": ("S k\n" * 1_000, "RD120"),
    "wrong signs": ("S = @ \u0430\n" * 1_000, "RD101"),
    "text": ("#" * 100_001, "RD601"),
    "name": ("S = " + "x" * 90_000, "RD604"),
    "number": ("S = " + "9" * 90_000, "RD604"),
    "points": ("S = " + "." * 90_000, "RD602"),
    "blanks": ("S =" + " " * 90_000 + "+", "RD103"),
    "newlines": ("\n" * 90_000 + "S", "RD120"),
    "loops": ("\n".join(" " * i + "for j in 1..2:" for i in range(400)), "RD"),
    "binary": (bytes(range(256)).decode("latin-1") * 300, "RD113"),
}


@pytest.mark.parametrize("kind", HUGE)
def test_hostile_texts_are_answered_quickly(kind: str) -> None:
    text, code = HUGE[kind]
    parse(Source("S = S"))  # the parser is built
    start = time.process_time()
    assert told(text)[0][0].startswith(code)
    assert time.process_time() - start < 1


# -------------------------------------------------------------------------------------------------- reading


def test_a_path_or_the_text_itself(tmp_path: Path) -> None:
    file = tmp_path / "a=b.rule"
    file.write_bytes("\ufeffS = a*S\r\n".encode())
    assert load_source(file) == load_source(str(file)) == Source("S = a*S\r\n", str(file))
    assert load_source("S = a*S") == Source("S = a*S")
    assert load_source("state S\nS = S").name == "<text>"


@pytest.mark.parametrize(
    ("data", "code"), [(b"S = \xff", "RD113"), ("S = S".encode("utf-16"), "RD113"), (b"\x7fELF\0\0", "RD113"), (b"#" * (MAX_BYTES + 1), "RD601"), (b"", "RD112")]
)
def test_files_that_are_no_rules(tmp_path: Path, data: bytes, code: str) -> None:
    file = tmp_path / "x.rule"
    file.write_bytes(data)
    with pytest.raises(RuleError) as caught:
        parse(load_source(file))
    assert [d.code for d in caught.value.diagnostics] == [code]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "delta.rule").write_text("S = S")
    for path in (tmp_path, tmp_path / "none.rule", "no_such_rule", "x" * 4000):
        with pytest.raises(RuleError) as caught:
            parse(load_source(path))
        assert [d.code for d in caught.value.diagnostics] == ["RD121"]
    with pytest.raises(RuleError) as caught:
        load_source(tmp_path / "delat.rule")
    assert str(tmp_path / "delta.rule") in caught.value.diagnostics[0].hint


def test_hand_made_trees_get_the_brackets_they_need() -> None:
    a, b = s.Name("a"), s.Name("b")
    assert expression(s.Binary("*", s.Binary("+", a, b), a)) == "(a + b)*a"
    assert expression(s.Power("^", s.Power("^", a, b), s.Name("T"))) == "(a^b)^(T)"
    assert expression(s.Binary("/", a, s.Binary(" ", a, b))) == "a / (a b)"
