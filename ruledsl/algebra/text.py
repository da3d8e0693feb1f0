"""Typed expressions as short plain text and as LaTeX, for the verdict's transition and its explanation.

A name may carry the token that it is taken at: `k@t` is written k_t (see `dated`).
"""

from __future__ import annotations

import re
from typing import assert_never

from ruledsl.algebra import build
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr

_GREEK = {
    "alpha",
    "beta",
    "gamma",
    "delta",
    "eta",
    "theta",
    "lambda",
    "mu",
    "nu",
    "phi",
    "tau",
    "sigma",
    "omega",
    "kappa",
}
_SIGNS = {"<=": r"\leq", ">=": r"\geq", "==": "="}
AT = "@"  # no letter of a rule's names
SUM, TERM, UNARY, FACTOR, ATOM = range(5)


def plain(expr: Expr) -> str:
    return _write(expr, False)[0]


def latex(expr: Expr) -> str:
    return _write(expr, True)[0]


def factor(expr: Expr, tex: bool) -> str:
    """In parentheses where it would not stand as a factor of a product."""
    return _at(expr, FACTOR, tex)


def term(expr: Expr, tex: bool) -> str:
    return _at(expr, TERM, tex)


def name(word: str, tex: bool) -> str:
    word, _, at = word.partition(AT)
    if not tex:
        return word + (f"_{at}" if len(at) == 1 else f"_{{{at}}}" if at else "")
    stem, digits, prime = re.fullmatch(r"(.*?)(\d*)('?)", word).groups()  # type: ignore[union-attr]
    body = (
        f"\\{stem}" if stem in _GREEK else stem if len(stem) == 1 else f"\\mathrm{{{stem.replace('_', chr(92) + '_')}}}"
    )
    below = ", ".join(part for part in (digits, at) if part)
    return (f"{body}_{{{below}}}" if below else body) + prime


def _at(expr: Expr, level: int, tex: bool) -> str:
    text, own = _write(expr, tex)
    return text if own >= level else f"({text})"


def _call(fn: str, args: tuple[Expr, ...], tex: bool) -> tuple[str, int]:
    inner = ", ".join(_write(a, tex)[0] for a in args)
    if tex and fn == "sqrt":
        return rf"\sqrt{{{inner}}}", ATOM
    return (f"\\operatorname{{{fn.replace('_', chr(92) + '_')}}}({inner})" if tex else f"{fn}({inner})"), ATOM


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def _write(expr: Expr, tex: bool) -> tuple[str, int]:
    """The text and how tightly it binds."""
    match expr:
        case typed.Number(value):
            return (_number(value), ATOM) if value >= 0 else (_number(value), UNARY)
        case typed.SizeOf(dim):
            return str(dim), ATOM if not isinstance(dim, typed.DimOp) else TERM
        case typed.Builtin(word) | typed.LoopVar(word):
            return word, ATOM
        case typed.Ref(word, _, _, lag):
            own = name(word, tex)
            if lag is None:
                return own, ATOM
            steps = build.value_of(lag)
            if tex:
                return name(f"{word}{AT}t-{_write(lag, tex)[0]}", tex), ATOM
            return (f"prev({own})" if steps == 1 else f"prev({own}, {_write(lag, tex)[0]})"), ATOM
        case typed.StateRef(word, _, _, member):
            own = name(word, tex) + ("" if member is None else f"_{{{member}}}" if tex else f"[{member}]")
            return own, ATOM
        case typed.Frozen(word, _, chunk):
            return _call("frozen", (), tex)[0].replace("()", f"({name(word, tex)}, {_write(chunk, tex)[0]})"), ATOM
        case typed.Member(base, index):
            i = _write(index, tex)[0]
            inner = _at(base, ATOM, tex)
            return (f"{inner}_{{{i}}}" if tex and "_" not in inner else f"{inner}[{i}]"), ATOM
        case typed.Compare(op, x, y):
            op = _SIGNS.get(op, op) if tex else op
            return f"{_at(x, SUM, tex)} {op} {_at(y, SUM, tex)}", SUM
        case typed.Apply("add", (x, y)):
            return f"{_at(x, SUM, tex)} + {_at(y, TERM, tex)}", SUM
        case typed.Apply("sub", (x, y)):
            return f"{_at(x, SUM, tex)} - {_at(y, TERM, tex)}", SUM
        case typed.Apply("neg", (x,)):
            return f"-{_at(x, UNARY, tex)}", UNARY
        case typed.Apply("mul", (x, y)):
            scalar = x.type.is_scalar or y.type.is_scalar
            sign = (r"\," if scalar else r" \odot ") if tex else ("*" if scalar else " .* ")
            return f"{_at(x, TERM, tex)}{sign}{_at(y, UNARY, tex)}", TERM
        case typed.Apply("div", (x, y)):
            if tex:
                return f"\\frac{{{_write(x, tex)[0]}}}{{{_write(y, tex)[0]}}}", ATOM
            return f"{_at(x, TERM, tex)}{'/' if y.type.is_scalar else ' ./ '}{_at(y, FACTOR, tex)}", TERM
        case typed.Apply("pow", (x, y)):
            if tex:
                return f"{_at(x, ATOM, tex)}^{{{_write(y, tex)[0]}}}", FACTOR
            return f"{_at(x, ATOM, tex)}{'^' if x.type.is_scalar else '.^'}{_at(y, ATOM, tex)}", FACTOR
        case typed.Apply(fn, args):
            return _call(fn, args, tex)
        case typed.RowWise(fn, x):
            return _call(fn, (x,) if expr.count is None else (x, expr.count), tex)
        case typed.Reduce(fn, x):
            return _call(fn, (x,), tex)
        case typed.Product(x, y):
            return f"{_at(x, FACTOR, tex)} {_at(y, FACTOR, tex)}", FACTOR
        case typed.Transpose(x):
            return (f"{_at(x, ATOM, tex)}^\\top" if tex else f"{_at(x, ATOM, tex)}^T"), ATOM
        case typed.Diag(x):
            return _call("diag", (x,), tex)
        case typed.Eye():
            return "I", ATOM
        case typed.Ones():
            return (r"\mathbf{1}" if tex else "ones"), ATOM
        case typed.Concat(parts):
            return _call("cat", parts, tex)
        case typed.Kron(x, y):
            return _call("kron", (x, y), tex)
        case typed.Rotate(x, angle):
            return _call("rotate", (x, angle), tex)
        case typed.Solve(matrix, right):
            return _call("solve", (matrix, right), tex)
        case typed.Total(body):
            return _call("sum", (body,), tex)
        case typed.Grad(loss, wrt):
            return _call("grad", (loss, wrt), tex)
    assert_never(expr)
