"""Which mistake a clause makes, from the place where the parser stopped.

The parser is LALR(1): everything before that place begins some statement, so the word there, the word before it and
the brackets around them tell what was meant.
"""

from __future__ import annotations

from difflib import get_close_matches

from ruledsl.lang.diagnostic import Diagnostic
from ruledsl.lang.functions import KEYWORDS, SPELLED
from ruledsl.lang.refuse import unknown_function
from ruledsl.lang.scan import Clause, Word
from ruledsl.lang.source import Span

_OPERATORS = ("+", "-", "*", "/", ".*", "./", "^", ".^", "=", "<", ">", "<=", ">=", "==", "..", ",")
_DECLARES = ("state", "input", "param", "const")
_FORMS = {
    "a declaration": "`input q[K], k[K] unit, a in (0, 1]`",
    "a let": "`let x = ...`",
    "an output": "`output o = ...`",
    "a loop": "`for j in 1..n:`, then indented statements",
    "an assignment": "`S = ...`",
}


def blame(clause: Clause, at: int) -> Diagnostic:
    """The diagnostic of a clause that does not parse; `at` is where the word begins that fits nowhere."""
    words = clause.words
    place = next((i for i, w in enumerate(words) if w.end > at), len(words))
    word = words[place] if place < len(words) else None
    before = words[place - 1] if place else None
    around = _bracket(words, place)
    for guess in (_statement_form, _sign_pairs, _function_name, _in_brackets, _operand):
        if told := guess(words, place, word, before, around):
            return told
    if word is None:
        return Diagnostic("RD106", "this statement ends too early", _after(words[-1]), "something is missing here", hint=f"{_kind(words)} reads {_FORMS[_kind(words)]}")
    return Diagnostic("RD106", f"`{word.text}` cannot stand here", word.span, f"after `{before.text}`" if before else "", hint=f"{_kind(words)} reads {_FORMS[_kind(words)]}")


def _kind(words: tuple[Word, ...]) -> str:
    first = words[0].text
    return "a declaration" if first in _DECLARES else {"let": "a let", "output": "an output", "for": "a loop"}.get(first, "an assignment")


def _after(word: Word) -> Span:
    return Span(word.end, word.end + 1)


def _bracket(words: tuple[Word, ...], place: int) -> int | None:
    """Index of the innermost bracket open before `place`."""
    stack = []
    for i, word in enumerate(words[:place]):
        if word.kind == "open":
            stack.append(i)
        elif word.kind == "close" and stack:
            stack.pop()
    return stack[-1] if stack else None


def _statement_form(words: tuple[Word, ...], place: int, word: Word | None, before: Word | None, around: int | None) -> Diagnostic | None:
    """Statements of another language, or none at all."""
    first, texts = words[0], [w.text for w in words]
    if first.text == "for":
        if word is None and texts[-1] != ":" and ".." in texts:
            return Diagnostic("RD117", "the head of a loop ends with a colon", _after(words[-1]), "`:` belongs here", hint="write `for j in 1..n:`")
        if word is not None and word.text == ":" and ".." not in texts:
            return Diagnostic("RD117", "a loop runs over a range", word.span, "no `..` before this", hint="write `for j in 1..n:`")
        return None
    if first.text in KEYWORDS - {"unit", "perm", "in", "learned"} and place == 1 and (word is None or word.text in ("=", "[", "+", "-", "*", "/", ".*", "./")):
        if word is not None:
            return Diagnostic("RD111", f"`{first.text}` is a reserved name", first.span, f"`{first.text}` is a word of the language", hint="choose another name")
        return Diagnostic("RD106", f"`{first.text}` names nothing", first.span, "a name follows this", hint=f"write {_FORMS[_kind(words)]}")
    if first.text in ("let", "output") and place == 2 and (word is None or word.text != "="):
        at = _after(words[1]) if word is None else word.span
        return Diagnostic("RD120", f"`{first.text}` gives a name to one value", at, "`=` belongs here", hint=f"write {_FORMS[_kind(words)]}")
    if first.text in _DECLARES and word is not None and word.kind == "name" and before is not None and before.text not in (",", *_OPERATORS):
        if near := get_close_matches(word.text, ("unit", "perm", "learned", "in"), n=1, cutoff=0.6):
            return Diagnostic("RD106", f"`{word.text}` is no promise", word.span, "not a word of the language", hint=f"did you mean `{near[0]}`?")
    if first.text in _DECLARES or first.text in ("let", "output"):
        return None
    if "=" not in texts[: place + 1]:
        if word is not None and word.text == ":":
            return Diagnostic("RD120", "a value is given with `=`", word.span, "`=` belongs here", hint=f"write {_FORMS['an assignment']}")
        if word is not None and word.text in ("+", "-", "*", "/") and place + 1 < len(words) and words[place + 1].text == "=" and words[place + 1].start == word.end and place == 1:
            rest = f"write `{first.text} = {first.text} {word.text} ...`"
            return Diagnostic("RD120", f"there is no `{word.text}=`", Span(word.start, words[place + 1].end), "an update names its state twice", hint=rest)
        if first.kind == "name" and len(words) > 1 and words[1].kind == "name" and first.text not in SPELLED:
            if near := get_close_matches(first.text, (*_DECLARES, "let", "output", "for"), n=1, cutoff=0.6):
                return Diagnostic("RD120", f"`{first.text}` starts no statement", first.span, "not a word of the language", hint=f"did you mean `{near[0]}`?")
        if "=" in texts:
            left = Span(first.start, words[texts.index("=") - 1].end) if texts.index("=") else first.span
            return Diagnostic("RD120", "only a name stands left of `=`", left, "not a name", hint="write `S = ...` for a state, `let x = ...` for anything else")
        return Diagnostic("RD120", "this expression is given to nothing", Span(first.start, words[-1].end), "no `=` in this statement", hint="write `output o = ...` or `let x = ...` before it")
    return None


def _sign_pairs(words: tuple[Word, ...], place: int, word: Word | None, before: Word | None, around: int | None) -> Diagnostic | None:
    """`**`, `//`, `==` and a second `=`."""
    if word is None or before is None:
        return None
    pair = before.text + word.text
    if before.end == word.start and pair in ("**", "//", "+*", "<-", "->", "=>", "=<"):
        meant = {"**": "write `^`, or `.^` entry by entry", "//": "write `floor(a/b)`"}.get(pair, "write `=`, or a comparison inside `where(...)`")
        return Diagnostic("RD106", f"there is no `{pair}`", Span(before.start, word.end), "two signs in a row", hint=meant)
    if word.text == "=" and "=" in [w.text for w in words[:place]]:
        inside = around is not None
        hint = "compare with `==`; arguments have no names" if inside else "one `=` per statement: write two statements"
        return Diagnostic("RD120", "a second `=` in one statement", word.span, "", hint=hint)
    if word.text == "=" and around is not None:
        return Diagnostic("RD120", "`=` stands inside a bracket", word.span, "", hint="compare with `==`, inside `where(...)`")
    return None


def _function_name(words: tuple[Word, ...], place: int, word: Word | None, before: Word | None, around: int | None) -> Diagnostic | None:
    """A function without arguments, or something else that looks like a call."""
    promise = before is not None and before.text == "unit" and words[0].text in _DECLARES
    if before is not None and before.text in SPELLED and not promise and (word is None or word.text != "("):
        return Diagnostic("RD114", f"`{before.text}` is a function and needs its arguments", before.span, "no `(` after this", hint=f"write `{before.text}(...)`")
    if word is not None and before is not None and around is not None and word.text == "," and before.kind != "open" and words[around].text == "(":
        caller = words[around - 1] if around else None
        if caller is not None and caller.kind == "name" and caller.text not in SPELLED and caller.text != "in":
            return unknown_function(caller.text, caller.span)
        return Diagnostic("RD106", "a comma stands in a bracket that is no call", word.span, "", hint="commas separate the arguments of a function, sizes and declarations")
    if word is not None and word.text == ")" and before is not None and before.text == "(":
        caller = words[place - 2] if place > 1 else None
        name = f"`{caller.text}`" if caller is not None and caller.text in SPELLED else "a bracket"
        return Diagnostic("RD103", f"{name} holds nothing", Span(before.start, word.end), "a value belongs here", hint="write it between the brackets")
    return None


def _in_brackets(words: tuple[Word, ...], place: int, word: Word | None, before: Word | None, around: int | None) -> Diagnostic | None:
    """Comparisons, ranges and indices outside their places."""
    if word is None:
        return None
    if word.text in ("<", ">", "<=", ">=", "==") and before is not None and before.text not in _OPERATORS:
        if around is not None and any(w.text in ("<", ">", "<=", ">=", "==") for w in words[around:place]):
            return Diagnostic("RD115", "one comparison at a time", word.span, "a second comparison", hint="put one `where(...)` inside another")
        return Diagnostic("RD115", "a comparison stands only in `where(...)`", word.span, "not an argument of `where`", hint="write `where(x > 0, a, b)`")
    if word.text == "for" or (word.text == "in" and around is not None):
        return Diagnostic("RD116", "only `sum` runs over a range", word.span, "not inside `sum(...)`", hint="write `sum(e for j in 1..n)`")
    if around is not None and words[around].text == "[" and word.text == ",":
        return Diagnostic("RD106", "an index is one number", word.span, "a second index", hint="write `x[j]`: a member of a family, or an entry of a vector")
    if word.text == "[":
        return Diagnostic("RD106", "only a name has members", word.span, "not after a name", hint="give the value a name with `let`, then write `x[j]`")
    if word.text == "..":
        return Diagnostic("RD106", "a range stands only in `for` and in `sum(e for j in a..b)`", word.span, "not a loop", hint=_dots(words, place))
    if word.text == ":" and words[0].text != "for":
        return Diagnostic("RD106", "`:` ends the head of a loop and stands nowhere else", word.span, "no `for` before this", hint="write `S = ...` with `=`, and ranges as `1..n`")
    return None


def _dots(words: tuple[Word, ...], place: int) -> str:
    return "write `for j in 1..n:`" if words[0].text == "for" else "write `sum(x[j] for j in 1..n)`"


def _operand(words: tuple[Word, ...], place: int, word: Word | None, before: Word | None, around: int | None) -> Diagnostic | None:
    """A sign that lacks what it works on."""
    if before is not None and (before.text in _OPERATORS or before.kind == "open") and (word is None or word.kind in ("sign", "close")):
        side, where, sign = "right", _after(before), before
        if word is not None and before.kind == "open":
            side, where, sign = "left", word.span, word
        elif word is not None:
            where = word.span
        label = f"a value belongs {'before' if side == 'left' else 'here, before'} `{word.text}`" if word is not None else "a value belongs here"
        hint = "write the missing value" + (f", or remove `{sign.text}`" if sign.text not in ("=", "in", "..") and sign.kind == "sign" else "")
        return Diagnostic("RD103", f"`{sign.text}` has nothing on its {side}", where, label, hint=hint)
    return None
