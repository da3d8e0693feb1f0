"""The TextMate grammar, for editors: `python -m ruledsl.cli.textmate grammars/ruledsl.tmLanguage.json` writes it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from ruledsl.lang import words


def textmate() -> str:
    """The grammar as JSON text, ending in a newline; a pure function of the language's words."""
    rules = [
        (words.COMMENT, "comment.line.number-sign"),
        (words.word(words.DECLARATIONS), "storage.type"),
        (words.word(words.STATEMENTS), "keyword.control"),
        (words.call(words.TIME), "support.function.time"),
        (words.call(words.FUNCTIONS), "support.function"),
        (words.word(words.PROMISES), "storage.modifier"),  # after the functions: `unit` is both
        (words.word(words.CONSTANTS), "constant.language"),
        (words.TRANSPOSE, "keyword.operator.transpose"),
        (words.NUMBER, "constant.numeric"),
        ("|".join(map(re.escape, words.OPERATORS)), "keyword.operator"),
        (words.NAME, "variable.other"),
    ]
    grammar = {
        "$schema": "https://raw.githubusercontent.com/martinring/tmlanguage/master/tmlanguage.json",
        "name": "ruledsl",
        "scopeName": "source.ruledsl",
        "fileTypes": ["rule"],
        "patterns": [{"match": match, "name": f"{scope}.ruledsl"} for match, scope in rules],
    }
    return json.dumps(grammar, indent=2) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(textmate(), encoding="utf-8")
