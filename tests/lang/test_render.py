"""Diagnostics as text and as records, and the catalogue of codes."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruledsl.lang.catalogue import CATALOGUE, FOLDER, explain
from ruledsl.lang.diagnostic import Diagnostic, RuleError, Severity
from ruledsl.lang.parse import parse
from ruledsl.lang.render import render, to_json
from ruledsl.lang.source import Source, Span
from ruledsl.resources import load_source


def refused(text: str) -> RuleError:
    with pytest.raises(RuleError) as caught:
        parse(Source(text, "x.rule"))
    return caught.value


def test_one_message_word_by_word() -> None:
    assert render(refused("S = a*S\nS = S + 2 v k^T")) == (
        "error[RD107] the number `2` multiplies with `*`\n"
        " --> x.rule:2:9\n"
        "  |\n"
        "2 | S = S + 2 v k^T\n"
        "  |         ^^^ two things side by side are a matrix product\n"
        "  = help: write `2*v`\n"
    )


def carets(text: str, span: Span, width: int | None = None) -> list[tuple[str, str]]:
    """Source lines as shown, each with its carets."""
    shown = render(RuleError(Source(text), [Diagnostic("RD000", "h", span)]), width).splitlines()
    rows = [row.split(" | ", 1)[1] if " | " in row else "" for row in shown[3:]]
    return list(zip(rows[::2], rows[1::2], strict=True))


def test_carets_after_tabs_and_wide_characters() -> None:
    assert carets("\tS = @", Span(5, 6)) == [("    S = @", "        ^")]
    assert carets("\u5b57 = @", Span(4, 5)) == [("\u5b57 = @", "     ^")]
    assert carets("e\u0301 = @", Span(5, 6)) == [("e\u0301 = @", "    ^")]
    assert carets("S = \u5b57", Span(4, 5)) == [("S = \u5b57", "    ^^")]


def test_carets_over_several_lines_and_at_the_end() -> None:
    assert carets("S = (a\n    + b)\nx", Span(4, 15)) == [("S = (a", "    ^^"), ("    + b)", "    ^^^^")]
    assert carets("S = a*\r\n", Span(6, 7)) == [("S = a*", "      ^")]
    assert carets("S = a*", Span(6, 7)) == [("S = a*", "      ^")]


def test_long_spans_are_cut_in_the_middle() -> None:
    text = "\n".join(f"line {i}" for i in range(50))
    out = render(RuleError(Source(text), [Diagnostic("RD000", "h", Span(0, len(text)))]))
    assert "line 0" in out and "line 49" in out and "..." in out and out.count("\n") < 20


@pytest.mark.parametrize("at", [0, 300, 5_000, 9_998])
def test_long_lines_are_cropped_around_the_caret(at: int) -> None:
    text = "ab" * 5_000
    (line, marks), = carets(text, Span(at, at + 2), 80)
    assert len(line) <= 80 and len(marks) <= 80
    assert marks.count("^") == 2
    assert line[marks.index("^") : marks.index("^") + 2] == text[at : at + 2]


def test_width_wraps_notes_and_color_only_adds_escapes() -> None:
    error = RuleError(Source("S = S"), [Diagnostic("RD000", "h", Span(0, 1), "l", ("word " * 40,), "hint " * 40, Severity.WARNING)])
    assert max(map(len, render(error, width=60).splitlines())) <= 60
    import re

    assert re.sub(r"\x1b\[[0-9;]*m", "", render(error, color=True)) == render(error)
    assert render(error).startswith("warning[RD000]") and "note: word" in render(error) and "help: hint" in render(error)


def test_nothing_in_a_text_reaches_the_terminal_as_an_escape() -> None:
    error = RuleError(Source("S = \x1b[31m\u202eS", "a\x1b[0m"), [Diagnostic("RD000", "bad \x1b[5m", Span(4, 5), "\x07", ("\x1b",), "\x9b")])
    assert not any(ord(c) < 32 and c != "\n" or ord(c) in (0x9B, 0x202E) for c in render(error))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80), st.integers(0, 90), st.integers(0, 90), st.one_of(st.none(), st.integers(1, 60)))
def test_any_text_and_place_can_be_shown(text: str, a: int, b: int, width: int | None) -> None:
    error = RuleError(Source(text), [Diagnostic("RD000", "h", Span(min(a, b), max(a, b)))])
    assert render(error, width).endswith("\n")
    (record,) = to_json(error)
    assert (record["line"], record["column"]) <= (record["end_line"], record["end_column"])


def test_records() -> None:
    error = refused("S = a*S\nS = (S +\n 2 v) k^T\n")
    (record,) = json.loads(json.dumps(to_json(error)))
    assert record == {
        "code": "RD107", "severity": "error", "headline": "the number `2` multiplies with `*`", "file": "x.rule", "line": 3, "column": 2, "end_line": 3, "end_column": 5,
        "label": "two things side by side are a matrix product", "notes": [], "hint": "write `2*v`",
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- the catalogue

EXAMPLES = [code for code in CATALOGUE if CATALOGUE[code].example is not None and code[2] != "7"]
ABOUT_VERDICTS = [code for code in CATALOGUE if code[2] == "7"]  # the rule is one; what is told is a note
TOO_LARGE = {"RD601": "#" * 100_001, "RD602": "S = S\n" * 1_001}  # examples that are better made than stored


def codes(path_or_text: object) -> set[str]:
    """Codes of the errors that reading, parsing and, where it is there, checking raise."""
    try:
        rule = parse(load_source(path_or_text))  # type: ignore[arg-type]
        if find_spec("ruledsl.lang.check"):
            import_module("ruledsl.lang.check").check(rule)
    except RuleError as error:
        return {d.code for d in error.diagnostics if d.severity is Severity.ERROR}
    return set()


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_raises_its_code_and_the_fix_raises_none(code: str) -> None:
    if code[2] not in "16" and find_spec("ruledsl.lang.check") is None:
        pytest.skip("told by ruledsl.lang.check, which is not there")
    assert codes(FOLDER / f"{code}.rule") == {code}
    fix = CATALOGUE[code].fix
    assert codes(fix if "\n" in fix.strip() else fix + "\n") == set()


def told(text: str) -> set[str]:
    """Codes of the notes about a rule that is one."""
    from ruledsl.cli.findings import findings
    from ruledsl.cli.stages import Walk

    walk = Walk(Source(text))
    found = {d.code for d in findings(walk.verdict).diagnostics}
    try:
        assert walk.chunk
    except RuleError as error:
        found |= {d.code for d in error.diagnostics}
    return found


@pytest.mark.parametrize("code", ABOUT_VERDICTS)
def test_an_example_of_a_note_and_its_fix(code: str) -> None:
    entry = CATALOGUE[code]
    assert code in told(entry.shown) and code not in told(entry.fix)


@pytest.mark.parametrize("code", TOO_LARGE)
def test_examples_that_are_made(code: str) -> None:
    assert codes(TOO_LARGE[code]) == {code}


@pytest.mark.parametrize("code", list(CATALOGUE))
def test_entries_are_complete(code: str) -> None:
    entry = CATALOGUE[code]
    assert entry.title and len(entry.explanation) > 40 and "fix:" not in entry.explanation
    assert (entry.example is None) != (entry.sketch is None)
    assert entry.shown.strip() and entry.fix.strip() and entry.fix != entry.shown
    assert explain(code.lower()) == explain(code[2:]) == entry


def test_every_rule_has_a_text_and_unknown_codes_none() -> None:
    assert {p.stem for p in FOLDER.glob("*.rule")} <= set(CATALOGUE)
    assert explain("RD999") is None and explain("") is None


def test_every_code_that_is_raised_is_in_the_catalogue() -> None:
    import re

    package = FOLDER.parents[1]
    raised = {code for path in package.rglob("*.py") for code in re.findall(r'"(RD\d{3})"', path.read_text(encoding="utf-8"))}
    assert len(raised) > 60
    assert raised <= set(CATALOGUE)


def test_labels_are_wrapped_below_their_carets() -> None:
    label = "this sub-expression is to blame, and it is a long story"
    error = RuleError(Source("S = tanh(S)"), [Diagnostic("RD000", "h", Span(4, 11), label)])
    narrow = render(error, 40)
    assert max(map(len, narrow.splitlines())) <= 40
    assert " ".join(narrow.split("|")[-1].split()[0:]) and all(word in narrow for word in label.split())
    assert f"^^^^^^^ {label}" in render(error, 100)
