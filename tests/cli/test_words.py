"""The lexer and the TextMate grammar say what the language says: both are made from its tables."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pygments import lex
from pygments.token import Comment, Error, Keyword, Name, Number, Operator

from ruledsl.cli.lexer import RuleLexer
from ruledsl.cli.textmate import textmate
from ruledsl.lang.functions import KEYWORDS, RESERVED, SPELLED
from ruledsl.lang.words import CONSTANTS, DECLARATIONS, FUNCTIONS, PROMISES, STATEMENTS, TIME

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "rules").glob("*.rule")) + sorted((ROOT / "tests" / "corpus").glob("*.rule"))


def test_every_word_of_the_language_is_in_one_list() -> None:
    assert {*DECLARATIONS, *STATEMENTS, *PROMISES} == KEYWORDS
    assert {*FUNCTIONS, *TIME} == set(SPELLED) and set(CONSTANTS) == RESERVED
    grammar = (ROOT / "grammars" / "ruledsl.lark").read_text()
    spelled = set(re.findall(r'"([a-z]+)"', grammar)) - {"sum"}
    assert spelled <= KEYWORDS


def test_the_grammar_for_editors_is_the_one_that_is_generated() -> None:
    """`make grammar` writes it."""
    committed = (ROOT / "grammars" / "ruledsl.tmLanguage.json").read_text(encoding="utf-8")
    assert committed == textmate()
    patterns = json.loads(committed)["patterns"]
    assert all(re.compile(p["match"]) and p["name"].endswith(".ruledsl") for p in patterns)
    scopes = {p["name"] for p in patterns if re.match(p["match"], "tanh(x)")}
    assert "support.function.ruledsl" in scopes


@pytest.mark.parametrize("path", RULES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_rules_are_lexed_without_error_and_without_loss(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tokens = list(lex(text, RuleLexer()))
    assert "".join(value for _, value in tokens).strip() == text.strip()
    assert not [value for kind, value in tokens if kind in Error]


def test_kinds_of_words() -> None:
    text = "input k[K] unit, a in (0, 1]  # a gate\nlet x = unit(k) + 1.5e-3*prev(k)^T tanh\noutput tanh2 = I k"
    kinds = {(value, kind) for kind, value in lex(text, RuleLexer())}
    assert ("input", Keyword.Declaration) in kinds and ("let", Keyword) in kinds
    assert ("unit", Keyword.Type) in kinds and ("unit", Name.Builtin) in kinds
    assert ("prev", Name.Builtin.Pseudo) in kinds and ("tanh", Name) in kinds and ("tanh2", Name.Variable) in kinds
    assert ("1.5e-3", Number) in kinds and ("^T", Operator) in kinds and ("I", Name.Constant) in kinds
    assert ("# a gate", Comment.Single) in kinds


@settings(max_examples=200)
@given(st.text(alphabet=st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=60))
def test_any_text_is_lexed_whole(text: str) -> None:
    options = {"ensurenl": False, "stripnl": False}
    assert "".join(value for _, value in RuleLexer(**options).get_tokens(text)) == text.removeprefix("\ufeff")


def test_the_lexer_is_found_by_its_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"]["pygments.lexers"]["ruledsl"].split(":")
    assert module == RuleLexer.__module__ and name == RuleLexer.__name__
    assert "*.rule" in RuleLexer.filenames
