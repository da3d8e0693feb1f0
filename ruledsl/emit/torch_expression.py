"""One node of a chunk program as a torch expression.

Text  = Text(code, level, number)     level: how tightly it binds, 1 sums ... 5 names and calls
Scope = the names of sizes, and the functions of `tile_ops` that were called
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ruledsl.chunk.program import Axis, Node, Program, Rows
from ruledsl.emit.names import size_text
from ruledsl.lang.functions import TABLE
from ruledsl.lang.typed import Dim, DimOp

SUM, PRODUCT, UNARY, POWER, ATOM = 1, 2, 3, 4, 5
MATMUL = PRODUCT
_OPERATORS = {"add": ("+", SUM), "sub": ("-", SUM), "mul": ("*", PRODUCT), "div": ("/", PRODUCT)}
_MATH = frozenset({"sqrt", "exp", "log", "sin", "cos", "tanh"})  # spelled `math.` on plain numbers
_BARE = frozenset(
    {
        "cat",
        "interleave",
        "blocks",
        "kron",
        "unpairs",
        "diagonal",
        "last",
        "chain_gram",
        "chain_gate",
        "spans",
        "spans_gate",
        "inverse",
    }
)
_WITH_ATTR = frozenset(
    {
        "cumsum",
        "cumprod",
        "scan",
        "pairs",
        "unkron",
        "topk",
        "mask",
        "mexp",
        "gram",
        "gram_apply",
        "chain_apply",
        "solve",
        "shift",
    }
)


@dataclass(frozen=True, slots=True)
class Text:
    code: str
    level: int = ATOM
    number: bool = False  # a Python number, not a tensor

    def inside(self, level: int) -> str:
        """In parentheses where the surroundings bind at least as tightly."""
        return self.code if self.level > level else f"({self.code})"


def number(value: float) -> Text:
    if math.isinf(value) or math.isnan(value):
        return Text(f'float("{value}")', ATOM, True)
    return Text(repr(value), ATOM if value >= 0 else UNARY, True)


@dataclass(frozen=True, slots=True)
class Scope:
    sizes: Mapping[str, str]  # size of the rule -> variable
    like: str = "valid"  # a tensor that new ones are like
    called: set[str] = field(default_factory=set)

    def call(self, function: str) -> str:
        self.called.add(function)
        return function

    def dim(self, size: Dim) -> str:
        """A size as an integer expression."""
        return size_text(size, self.sizes.__getitem__)

    def axis(self, size: Axis) -> str:
        if isinstance(size, Rows):
            return "C" if size.slots == 1 else f"C * {size.slots}"
        return (
            self.dim(size).removeprefix("(").removesuffix(")")
            if isinstance(size, DimOp) and not isinstance(size.left, DimOp) and not isinstance(size.right, DimOp)
            else self.dim(size)
        )

    def extent(self, node: Node) -> str:
        return f"{self.axis(node.shape[0])}, {self.axis(node.shape[1])}"


def tensor(text: Text, scope: Scope) -> Text:
    """A number as a 1 x 1 tile."""
    return Text(f"{scope.like}.new_full((1, 1), {text.code})") if text.number else text


def expression(program: Program, node: Node, args: list[Text], scope: Scope) -> Text:
    """The node over its arguments' texts."""
    attr = node.attr
    match node.op:
        case "const":
            return number(float(attr))  # type: ignore[arg-type]
        case "full":
            return Text(f"{scope.like}.new_full(({scope.extent(node)}), {number(float(attr)).code})")  # type: ignore[arg-type]
        case "eye":
            return Text(f"torch.eye({scope.axis(node.shape[0])}, dtype={scope.like}.dtype, device={scope.like}.device)")
        case "map":
            return apply(str(attr), args, scope)
        case "select":
            return select(str(attr), args, scope)
        case "cast":
            return args[0]
        case "expand":
            (x,) = args
            if x.number:
                return Text(f"{scope.like}.new_full(({scope.extent(node)}), {x.code})")
            return Text(f"{scope.call('spread')}({x.code}, {scope.extent(node)})")
        case "transpose":
            return args[0] if args[0].number else Text(f"{args[0].inside(POWER)}.mT")
        case "sum" | "amax":
            return (
                args[0]
                if args[0].number
                else Text(f"{args[0].inside(POWER)}.{node.op}({-2 if attr == 0 else -1}, keepdim=True)")
            )
        case "cut":
            start = attr if isinstance(attr, (int, str, DimOp)) else 0
            width = node.shape[1]
            assert not isinstance(width, Rows)
            end = scope.dim(DimOp("+", start, width)) if start != 0 else scope.dim(width)
            return Text(f"{tensor(args[0], scope).inside(POWER)}[..., {scope.dim(start) if start != 0 else ''}:{end}]")
        case "dot":
            ta, tb = attr  # type: ignore[misc, str-unpack]
            x, y = (_turned(tensor(t, scope), flag) for t, flag in zip(args, (ta, tb), strict=True))
            return Text(f"{x.inside(MATMUL)} @ {y.inside(MATMUL)}", MATMUL)
        case op:
            return _call(program, node, op, [tensor(a, scope).code for a in args], scope)


def _turned(x: Text, flag: object) -> Text:
    return Text(f"{x.inside(POWER)}.mT") if flag else x


def apply(fn: str, args: list[Text], scope: Scope) -> Text:
    """A row of `lang.functions.TABLE`."""
    plain = all(a.number for a in args)
    if fn in _OPERATORS:
        sign, level = _OPERATORS[fn]
        x, y = args
        left = x.inside(level - 1) if level == SUM or "@" not in x.code else x.inside(level)
        return Text(f"{left} {sign} {y.inside(level)}", level, plain)
    if fn == "neg":
        return Text(f"-{args[0].inside(PRODUCT)}", UNARY, plain)
    if fn == "pow":
        return Text(f"{args[0].inside(POWER)} ** {args[1].inside(UNARY)}", POWER, plain)
    if fn == "stopgrad":
        return args[0]
    if plain and fn in _MATH:
        return Text(f"math.{fn}({args[0].code})", ATOM, True)
    if fn in ("max", "min") and not plain and any(a.number for a in args):
        x, bound = args if args[1].number else args[::-1]
        return Text(f"{x.inside(POWER)}.clamp({'min' if fn == 'max' else 'max'}={bound.code})")
    if fn == "ctz":
        return Text(f"{scope.call('ctz')}({tensor(args[0], scope).code})")
    texts = [tensor(a, scope) for a in args]
    form = TABLE[fn].torch
    if form.startswith(("torch.", "F.")):
        return Text(form.format(*(t.code for t in texts)))
    return Text(form.format(*(t.inside(UNARY) for t in texts)), SUM)


def select(op: str, args: list[Text], scope: Scope) -> Text:
    """a op b ? x : y."""
    a, b, x, y = args
    if a.number and b.number:
        a = tensor(a, scope)
    if x.number and y.number:
        x = tensor(x, scope)
    return Text(f"torch.where({a.inside(SUM)} {op} {b.inside(SUM)}, {x.code}, {y.code})")


def _call(program: Program, node: Node, op: str, args: list[str], scope: Scope) -> Text:
    attr = node.attr
    match op:
        case "put_last":
            args = [*args, scope.axis(node.shape[0])]
        case "slot" | "block":
            source = program.nodes[node.args[0]].shape[0]
            assert isinstance(source, Rows)
            args = [*args, str(source.slots), *map(repr, attr if isinstance(attr, tuple) else (attr,))]
        case _ if op in _WITH_ATTR:
            args = [*args, *(_attr(a) for a in (attr if isinstance(attr, tuple) else (attr,)))]
        case _:
            assert op in _BARE, f"no torch text for {op}"
    return Text(f"{scope.call(op)}({', '.join(args)})")


def _attr(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return number(value).code if isinstance(value, float) else repr(value)
