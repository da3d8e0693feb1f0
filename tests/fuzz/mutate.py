"""Texts that are nearly rules: words, expressions and lines of known texts exchanged, grown, repeated and spoilt."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

from ruledsl.lang.functions import ARGUMENTS, KEYWORDS, RESERVED, SPELLED

MOST_BYTES = 30_000
_WORD = re.compile(r"[A-Za-z_]\w*|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\^T\b|\.\.|\.[*/^]|[<>=]=|\s+|.", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_GROUP = re.compile(r"[\w.]*(?:\([^()]*\)|\[[^\[\]]*\])")

# fmt: off
NUMBERS = (
    *("0", "1", "2", "3", "7", "16", "17", "64", "255", "1024", "1000000", "99999999999999999999", "0.0", "0.5", "1.5"),
    *("1e-30", "1e-308", "1e-400", "1e30", "1e308", "1e309", "1e999", "9" * 64, "9" * 65, "0." + "0" * 50 + "1", "inf"),
    *("-1", "(-1)", "-0.0", "(1 - 1)", "pi", "3.0", "1e0", "00", "0x10", "1_000", "1.", ".5", "t", "head", "heads", "K"),
)
NAMES = (
    *("__import__", "__class__", "os", "torch", "tl", "triton", "F", "math", "self", "exec", "eval", "lambda", "None"),
    *("True", "print", "state", "like", "sizes", "token", "x", "row", "head", "B", "T", "H", "C", "N", "I", "ones", "_"),
    *("valid", "inverse", "forward", "backward", "S2", "S_", "k_ptr", "d_S", "m_K", "i_K", "B_K", "initial_S", "q_lag1"),
    *("N1", "K_by_2", "class", "match", "async", "x" * 64, "x" * 41, "Grad", "E1", "e", "RULE", "gram", "k_2", "o2"),
    *sorted(KEYWORDS | RESERVED | ARGUMENTS),
)
# Expressions for holes: s scalars, k and v vectors of the sizes K and V, m a matrix V x K, w one K x K.
SCALARS = """a|b|t|{n}|sigmoid({s})|exp(-exp({s}))|exp({s})|log({s})|{s}*{s}|{s}/{s}|{s} + {s}|-{s}|{s}^{n}|sqrt({s})|dot({k}, {k})
|{k}^T {k}|norm({k})|norm2({v})|sum({k})|prev({s})|prev(a, {n})|where({s} > {s}, {s}, {s})|max({s}, {s})|min({s}, {s})|clip({s}, 0, 1)
|k[{n}]|stopgrad({s})|softplus({s})|ctz(t)|mod(t, {n})|trace({w})|logaddexp({s}, {s})|floor({s})|abs({s})|sum(k[j] for j in 1..{n})
|sum({s} for j in 1..{n})|norm({m})|norm2({m} {k} - {v})|sum({m})|tanh({s})|silu({s})|elu({s})|relu({s})|sign({s})|sin({s})|K|V""".replace("\n", "").split("|")
KEYS = """k|q|k|{s}*{k}|{k} + {k}|{k} - {k}|{k} .* {k}|unit({k})|softmax({k})|layernorm({k})|rmsnorm({k})|tanh({k})|{m}^T {v}|{w} {k}|topk({k}, {n})
|rotate({k}, {s})|prev({k})|prev(k, {n})|where({k} > 0, {k}, {k})|solve({w}, {k})|-{k}|{k} ./ (1 + {k} .* {k})|stopgrad({k})|ones[K]|{k}.^{n}
|sum(k[j]*{k} for j in 1..{n})|exp({k})|(1 - {k})|grad({s}, k)|max({k}, {k})|cat({k}, {k})|kron({k}, {k})|{k}/norm({k})""".replace("\n", "").split("|")
VALUES = """v|v|{m} {k}|{s}*{v}|{v} - {m} {k}|{v} .* {v}|tanh({v})|silu({v})|S k|S q|prev(v)|frozen(S, {n}) {k}|layernorm({v})|ones[V]|solve({m} {m}^T, {v})
|prev(S) {k}|prev(o)|{v} + {v}|diag({v}) {v}|relu({v})|softmax({v})""".replace("\n", "").split("|")
MATRICES = """S|S|{s}*{m}|{m} + {v} {k}^T|{v} {k}^T|{m} + {m}|{m} - {m}|{m} .* {m}|{m} {w}|diag({v}) {m}|{m} diag({k})|S - (S {k}) {k}^T|outer({v}, {k})|prev(S)
|frozen(S, {n})|grad(0.5*norm2({m} {k} - {v}), S)|grad({s}, S)|tanh({m})|{m}/norm({m})|softmax({m})|ones[V, K]|max({m}, {m})|stopgrad({m})|{w}^T|-{m}
|{m} ./ (1 + {m} .* {m})|where({m} > 0, {m}, {m})|{v} ({m}^T {v})^T|sum({v} {k}^T for j in 1..{n})|rmsnorm({m})|kron({v}, {k}^T)""".replace("\n", "").split("|")
SQUARES = """I|{s}*I|{w} + {w}|{k} {k}^T|diag({k})|{w} {w}|I - {k} {k}^T|{m}^T {m}|{w}^T|solve({w}, {w})|I - {s}*{k} {k}^T""".replace("\n", "").split("|")
KINDS = {"s": SCALARS, "k": KEYS, "v": VALUES, "m": MATRICES, "w": SQUARES}
STATEMENTS = (
    *("S = {m}", "S = {s}*S + {v} {k}^T", "S = S {w} + {v} {k}^T", "S = diag({v}) S diag({k}) + {m}", "output o = S {k}"),
    *("let x = {k}", "let y = {v}", "let z = {s}", "let S1 = {m}", "output p = {s}", "output o = {v}", "output o = {m}"),
    *("S = S - {s}*grad({s}, S)", "for j in 1..{n}: S = S + {v} {k}^T", "input c in [{s}, {s}]", "state h[K], z", "const g = {s}"),
    *("h = {k}", "h[{n}] = {s}", "z = {s}", "param P[K, K] perm, u[K] unit", "state R[{n}, V, K]", "R[{n}] = R[{n}] + {m}"),
    *("input f[{n}, K], x[K/{n}], y[{n}*K]", "S = max({m}, {m})", "M = {s}*M + {m}", "S = S + sum(f[j] f[j]^T for j in 1..{n})"),
    *("state S[V, K] = {m}", "state S[V, K] = learned", "let x[{n}] = {s}", "S = ({m}) / ({s})", "for j in 1..K: z = z + k[j]"),
)
ODD = (
    *("\0", "\x01", "\x07", "\x08", "\x0b", "\x0c", "\x1a", "\x1b[2J", "\x1c", "\x1d", "\x1e", "\x7f", "\x85", "\xa0", "\xad"),
    *("\u2028", "\u2029", "\u200b", "\u202e", "\ufeff", "\ufffe", "\U0001f600", "\u0301" * 9, "−", "×", "К", "ᵀ", "ſ", "ﬁ"),
    *("\r", "\r\n", "\n", "\t", "\\", '"""', "'''", "'", '"', "`", "{", "}", "{0}", "%s", "$(id)", "#", "# ", ";", ":", "@"),
    *("# coding: utf-7\n", "#coding=latin-1\n", "# -*- coding: rot13 -*-\n", "# +AAo-import os\n", "# \u2028import os\n"),
    *("# \x0cimport os\n", "# \\\nimport os\n", '# """ + __import__("os").system("id") + """\n', "# noqa\n", "# type: ignore\n"),
    *("import os\n", "\x0bimport os\n", "# \\N{LINE FEED}import os\n", "# \\u000aimport os\n", "#!/bin/sh\n", "\ud7ff", "\uff08"),
)

# fmt: on


def mutate(data: bytes, rng: Random, donors: Sequence[str]) -> bytes:
    """One to four changes. `donors`: texts to take words, expressions and lines from."""
    text = data.decode("utf-8", errors="replace")
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        text = rng.choice(_ALL)(text, rng, donors)[:MOST_BYTES]
    out = text.encode("utf-8", errors="replace")[:MOST_BYTES]
    return _bytes(out, rng) if rng.random() < 0.02 else out


def grown(kind: str, rng: Random, depth: int = 3) -> str:
    """A random expression of a kind, or the text of a statement's holes."""

    def fill(hole: re.Match[str]) -> str:
        if hole[1] == "n":
            return rng.choice(NUMBERS) if rng.random() < 0.2 else str(rng.randint(0, 4))
        table = KINDS[hole[1]]
        form = rng.choice(table) if depth > 0 else table[0]
        inner = re.sub(r"\{(\w)\}", fill, form) if depth <= 0 else grown(form, rng, depth - 1)
        return inner if re.fullmatch(r"[\w.]+(?:[(\[][^()\[\]]*[)\]])?", inner) else f"({inner})"

    return re.sub(r"\{(\w)\}", fill, kind)


def _bytes(data: bytes, rng: Random) -> bytes:
    """Not even text."""
    at = rng.randrange(len(data) + 1)
    return (
        data[:at]
        + rng.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5", b"\x80", b"\0\0", data[at:][::-1]))
        + data[at:]
    )


def _cut(text: str, rng: Random, pattern: re.Pattern[str]) -> tuple[int, int] | None:
    found = [m.span() for m in pattern.finditer(text)]
    return rng.choice(found) if found else None


def _exchange(pattern: re.Pattern[str], choose: Callable[[str, Random, Sequence[str]], str]) -> Callable[..., str]:
    def change(text: str, rng: Random, donors: Sequence[str]) -> str:
        place = _cut(text, rng, pattern)
        if place is None:
            return text
        new = choose(text, rng, donors)
        if pattern is _NAME and rng.random() < 0.4:  # everywhere
            return re.sub(rf"\b{text[slice(*place)]}\b", lambda m: new, text)
        return text[: place[0]] + new + text[place[1] :]

    return change


def _name(text: str, rng: Random, donors: Sequence[str]) -> str:
    which = rng.random()
    if which < 0.8:
        return rng.choice(_NAME.findall(text) or ["k"])
    return rng.choice(NAMES) if which < 0.93 else rng.choice(SPELLED)


def _number(text: str, rng: Random, donors: Sequence[str]) -> str:
    return rng.choice(NUMBERS)


def _group(text: str, rng: Random, donors: Sequence[str]) -> str:
    if rng.random() < 0.5:
        return f"({grown('{' + rng.choice('skvmw') + '}', rng)})"
    return rng.choice(_GROUP.findall(rng.choice(donors)) or ["(a)"])


def _words(text: str, rng: Random, donors: Sequence[str]) -> str:
    """A run of words replaced by a run of a donor's."""
    own, other = _WORD.findall(text), _WORD.findall(rng.choice(donors))
    at, start = rng.randrange(len(own) + 1), rng.randrange(len(other) + 1)
    gone, came = rng.choice((0, 1, 2, 5)), rng.choice((0, 1, 3, 8))
    return "".join([*own[:at], *other[start : start + came], *own[at + gone :]])


def _lines(text: str, rng: Random, donors: Sequence[str]) -> str:
    lines = text.split("\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            lines.insert(to, lines[at])
        case 1:
            del lines[at]
        case 2:
            lines[at], lines[to] = lines[to], lines[at]
        case 3:
            lines.insert(at, rng.choice(rng.choice(donors).split("\n")))
        case 4:
            lines[at] = f"for j in {rng.choice(NUMBERS)}..{rng.choice(NUMBERS)}:\n  {lines[at]}"
        case _:
            lines[at : at + 1] = [lines[at]] * rng.choice((2, 9, 200))
    return "\n".join(lines)


def _statement(text: str, rng: Random, donors: Sequence[str]) -> str:
    lines = text.split("\n")
    lines.insert(rng.randrange(len(lines) + 1), grown(rng.choice(STATEMENTS), rng, rng.choice((1, 2, 3, 4))))
    return "\n".join(lines)


def _fresh(text: str, rng: Random, donors: Sequence[str]) -> str:
    """A whole new rule."""
    head = rng.choice(("state S[V, K]\ninput q[K], k[K], v[V], a, b\n", "state S[V, K]\ninput q[K], k[K] unit, v[V], a in (0, 1], b in [0, 1]\n",
                       "state S[K, K]\ninput q[K], k[K], v[K], a in (-1, 1), b\n", ""))  # fmt: skip
    body = [grown(rng.choice(STATEMENTS), rng, rng.choice((1, 2, 2, 3))) for _ in range(rng.randint(1, 5))]
    return head + "\n".join(body) + rng.choice(("\n", "\noutput o = S q\n"))


def _wrap(text: str, rng: Random, donors: Sequence[str]) -> str:
    """A group inside calls or brackets, a few times or far too often."""
    place = _cut(text, rng, _GROUP) or _cut(text, rng, _NAME)
    if place is None:
        return text
    before, after = rng.choice((("(", ")"), ("-", ""), (f"{rng.choice(SPELLED)}(", ")"), ("", "^T"), ("(1 + ", ")"), ("sum(", " for j in 1..2)"), ("", "^2"), ("", "[1]"), ("prev(", ")"), ("2*", "")))  # fmt: skip
    times = rng.choice((1, 1, 1, 2, 3, 30, 99, 101, 149, 600))
    return text[: place[0]] + before * times + text[slice(*place)] + after * times + text[place[1] :]


def _repeat(text: str, rng: Random, donors: Sequence[str]) -> str:
    """A run of words again and again."""
    own = _WORD.findall(text)
    at = rng.randrange(len(own) + 1)
    run = "".join(own[at : at + rng.choice((1, 2, 4, 9))])
    return "".join(own[:at]) + run * rng.choice((2, 3, 10, 140, 1000)) + "".join(own[at:])


def _chain(text: str, rng: Random, donors: Sequence[str]) -> str:
    """Lets or updates that each use the one before."""
    kind = rng.choice("skvm")
    form = grown(rng.choice(KINDS[kind]), rng, 1)
    name, first = f"c{rng.randrange(9)}_", {"s": "a", "k": "k", "v": "v", "m": "S"}[kind]
    count = rng.choice((3, 10, 40, 200, 900))
    lines = [f"let {name}0 = {first}"]
    for i in range(count):
        lines.append(f"let {name}{i + 1} = " + re.sub(rf"\b{first}\b", f"{name}{i}", form))
    use = {"s": "S = {0}*S", "k": "S = S + v {0}^T", "v": "S = S + {0} k^T", "m": "S = S + {0}"}[kind]
    parts = text.split("\n")
    at = rng.randrange(len(parts) + 1)
    return "\n".join([*parts[:at], *lines, use.format(f"{name}{count}"), *parts[at:]])


def _odd(text: str, rng: Random, donors: Sequence[str]) -> str:
    at = rng.choice((0, len(text), rng.randrange(len(text) + 1)))
    if rng.random() < 0.3:  # inside a comment of the first lines
        return f"# {rng.choice(ODD)}{rng.choice(ODD)}\n" + text
    return text[:at] + rng.choice(ODD) + text[at:]


def _ends(text: str, rng: Random, donors: Sequence[str]) -> str:
    """Other line ends, a long line, one line, no blanks."""
    match rng.randrange(5):
        case 0:
            return text.replace("\n", rng.choice(("\r\n", "\r", "\n\n", ";", "\n \t", "\x0b", "\x85")))
        case 1:
            return text + "# " + "x" * rng.choice((100, 5000, 20_000))
        case 2:
            return text.replace(" ", rng.choice(("", "  ", "\t", "\n")))
        case 3:
            return text.replace("\n", rng.choice((" \n", "\n\t", "\n    ")))
        case _:
            return "\ufeff" + text


_ALL = (
    *(_words,) * 2,
    *(_statement,) * 10,
    *(_lines,) * 4,
    *(_exchange(_NAME, _name),) * 8,
    *(_exchange(_NUMBER, _number),) * 6,
    *(_exchange(_GROUP, _group),) * 10,
    *(_fresh,) * 4,
    *(_wrap, _repeat, _chain, _chain, _odd, _ends),
)
