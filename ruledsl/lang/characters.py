"""Characters that the language lacks, and what was probably meant by them."""

from __future__ import annotations

import unicodedata

from ruledsl.lang.diagnostic import Diagnostic
from ruledsl.lang.source import Span

# Letters of other alphabets drawn like ASCII ones: Cyrillic, then Greek.
_TWINS = dict(zip("АВСЕНІЈКМОРЅТХУаеорсухіјѕԁһԛԝ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧοϲϳ", "ABCEHIJKMOPSTXYaeopcyxijsdhqw" + "ABEZHIKMNOPTYXocj", strict=True))

_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "·": "*", "⋅": "*", "∙": "*", "•": "*", "×": "*", "∗": "*", "⊙": ".*", "∘": ".*", "⊗": "outer(x, y)", "÷": "/", "∕": "/", "⁄": "/",
    "ᵀ": "^T", "⊤": "^T", "⊺": "^T", "′": "^T", "’": "^T", "∞": "inf", "π": "pi", "≤": "<=", "≥": ">=", "⩽": "<=", "⩾": ">=", "←": "=", "≔": "=", "∈": "in", "…": "..", "√": "sqrt(x)",
    "∑": "sum(e for j in 1..n)", "Σ": "sum(e for j in 1..n)", "∇": "grad(loss, S)", "‖": "norm(x)", "∥": "norm(x)", "⟨": "dot(x, y)", "⟩": "dot(x, y)", "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\xad": "",
}  # fmt: skip

_ASCII = {
    "@": "write `A B`: the matrix product is two things side by side", "'": "write `x^T` for the transpose", "{": "write `(` or `[`", "}": "write `)` or `]`", "%": "write `mod(x, n)`",
    "!": "comparisons are `< <= == > >=`", "&": "put one `where(...)` inside another", "|": "write `abs(x)`, or `norm(x)`", "~": "write `1 - x`", "\"": "a rule has no quotes",
    "?": "write `where(x > 0, a, b)`", "\\": "a statement goes on inside brackets: no sign is needed at the end of a line", "$": "a rule is not LaTeX: write the plain name", "`": "a rule has no quotes",
    ".": "`.` stands only in numbers, `.*`, `./`, `.^` and `..`",
}  # fmt: skip


def ascii_for(character: str, span: Span, text: str) -> Diagnostic:
    """The diagnostic of one character that no word has; names it and the ASCII one that was meant."""
    if character.isascii():
        return _plain(character, span, text)
    name = unicodedata.name(character, f"U+{ord(character):04X}").lower()
    meant = _meant(character)
    hint = "remove it" if meant == "" else f"write `{meant}`" if meant else "use ASCII letters, digits and signs"
    if meant and meant.startswith("^") and text[: span.start].rstrip()[-1:] == "^":
        hint = f"write `{meant[1:]}`"
    label = f"U+{ord(character):04X}, {name}"
    if character in _TWINS:
        headline = f"this `{character}` only looks like the ASCII letter `{meant}`"
    elif character.isspace():
        headline, hint = "this blank is not an ordinary space", "write a space"
    else:
        headline = f"`{character}` is not part of the language" if character.isprintable() else "an invisible character stands here"
    more = text.count(character) - 1
    return Diagnostic("RD102", headline, span, label, notes=(f"it occurs {more} more time{'s' * (more > 1)} in this text",) if more else (), hint=hint)


def _plain(character: str, span: Span, text: str) -> Diagnostic:
    hint = _ASCII.get(character, "remove it")
    before, after = text[: span.start], text[span.end : span.end + 1]
    if character == "." and after.isdigit() and not before[-1:].isalnum():
        digits = len(text[span.end :]) - len(text[span.end :].lstrip("0123456789"))
        number = text[span.end : span.end + digits]
        return Diagnostic("RD119", "a number starts with a digit", Span(span.start, span.end + digits), f"write `0.{number}`", hint=f"write `0.{number}`")
    if character == "." and before[-1:].isdigit():
        return Diagnostic("RD119", "digits follow the point of a number", span, "no digit after this", hint="write `1.0`, or `1`")
    return Diagnostic("RD101", f"`{character}` is not part of the language", span, "no word of the language has it", hint=hint)


def _meant(character: str) -> str | None:
    """The ASCII spelling; empty for what should go away, None when nothing is known."""
    if character in _TWINS:
        return _TWINS[character]
    if character in _SIGNS:
        return _SIGNS[character]
    name = unicodedata.name(character, "")
    plain = unicodedata.normalize("NFKC", character)
    if plain.isascii() and plain.strip():
        return f"^{plain}" if name.startswith("SUPERSCRIPT") or name.startswith("MODIFIER LETTER") else plain
    if name.startswith(("GREEK SMALL LETTER ", "GREEK CAPITAL LETTER ")):
        word = name.split()[-1]
        return word.lower() if "SMALL" in name else word.capitalize()
    stripped = unicodedata.normalize("NFD", character)[0]
    return stripped if stripped.isascii() and stripped.isalnum() else None
