"""The language for Pygments: an entry point in `pyproject.toml`, so `pygmentize delta.rule` and documentation tools find
it. Every character of a text is in a token, also of a text that is no rule."""

from __future__ import annotations

import re

from pygments.lexer import RegexLexer, bygroups, words
from pygments.token import Comment, Error, Keyword, Name, Number, Operator, Punctuation, Whitespace

from ruledsl.lang.words import (
    COMMENT,
    CONSTANTS,
    DECLARATIONS,
    FUNCTIONS,
    NAME,
    NUMBER,
    OPERATORS,
    PROMISES,
    STATEMENTS,
    TIME,
    TRANSPOSE,
    call,
    word,
)


class RuleLexer(RegexLexer):
    name = "ruledsl"
    aliases = ["ruledsl", "rule"]
    filenames = ["*.rule"]
    url = ""
    version_added = ""

    tokens = {
        "root": [
            (r"[ \t\r\n\ufeff]+", Whitespace),
            (COMMENT, Comment.Single),
            (word(DECLARATIONS), Keyword.Declaration),
            (r"(\boutput\b)([ \t]+)(" + NAME + ")", bygroups(Keyword, Whitespace, Name.Variable)),
            (word(STATEMENTS), Keyword),
            (call(TIME), Name.Builtin.Pseudo),
            (call(FUNCTIONS), Name.Builtin),  # before the promises: `unit` is both
            (word(PROMISES), Keyword.Type),
            (word(CONSTANTS), Name.Constant),
            (TRANSPOSE, Operator),
            (NUMBER, Number),
            (words(OPERATORS), Operator),
            (r"[\[\](),;:]", Punctuation),
            (NAME, Name),
            (r".", Error),
        ]
    }
    flags = re.MULTILINE


__all__ = ["RuleLexer"]
