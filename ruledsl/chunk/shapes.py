"""The shape of a node from the shapes of its arguments: one case per operation of `program`."""

from __future__ import annotations

import operator

from ruledsl.chunk.dims import normal
from ruledsl.chunk.program import Attr, Axis, Rows, Shape
from ruledsl.lang.functions import TABLE
from ruledsl.lang.typed import Dim, DimOp

SCALAR: Shape = (1, 1)
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
KINDS = ("strict", "incl")


class ShapeError(AssertionError):
    """A node that does not fit its arguments: our mistake, never the user's."""


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ShapeError(message)


def join(*shapes: Shape) -> Shape:
    """The shape that all of them spread to."""
    result: list[Axis] = [1, 1]
    for shape in shapes:
        for axis, size in enumerate(shape):
            if size != 1:
                _need(result[axis] in (1, size), f"{_text(shapes)} do not spread to one shape")
                result[axis] = size
    return result[0], result[1]


def spreads(shape: Shape, target: Shape) -> bool:
    return all(size in (1, wanted) for size, wanted in zip(shape, target, strict=True))


def rows_of(axis: Axis) -> Rows:
    _need(isinstance(axis, Rows), f"{axis} is not the token axis")
    assert isinstance(axis, Rows)
    return axis


def size_of(axis: Axis) -> Dim:
    _need(not isinstance(axis, Rows), f"{axis} is the token axis")
    assert not isinstance(axis, Rows)
    return axis


def shape_text(shape: Shape) -> str:
    return f"{shape[0]} x {shape[1]}"


def _text(shapes: tuple[Shape, ...]) -> str:
    return ", ".join(map(shape_text, shapes))


def infer(op: str, args: tuple[Shape, ...], attr: Attr, wanted: Shape | None = None) -> Shape:
    """The shape of `op(args)`. `wanted` is needed for input, full, eye, unknown, expand, cut, unkron and put_last, and checked otherwise."""
    shape = _infer(op, args, attr, wanted)
    _need(wanted is None or wanted == shape, f"{op} has shape {shape_text(shape)}, not {wanted and shape_text(wanted)}")
    return shape


def _infer(op: str, args: tuple[Shape, ...], attr: Attr, wanted: Shape | None) -> Shape:
    match op:
        case "input" | "full" | "eye" | "unknown":
            assert wanted is not None
            _need(op != "unknown" or wanted[0] == Rows(1), "an unknown has a row for each token")
            _need(op != "eye" or wanted[0] == wanted[1], "eye is square")
            return wanted
        case "const":
            return SCALAR
        case "map":
            row = TABLE[str(attr)]
            _need(row.kind == "map" and len(args) == row.low, f"{attr} takes {row.low} arguments, not {len(args)}")
            return join(*args)
        case "select":
            _need(attr in COMPARISONS and len(args) == 4, f"select {attr}")
            return join(*args)
        case "cast" | "cumsum" | "cumprod" | "running" | "shift" | "topk":
            _need(op in ("cast", "topk") or args[0][0] == Rows(1), f"{op} runs over tokens")
            return args[0]
        case "expand":
            assert wanted is not None
            _need(spreads(args[0], wanted), f"{shape_text(args[0])} does not spread to {shape_text(wanted)}")
            return wanted
        case "transpose":
            return args[0][1], args[0][0]
        case "scan":
            _need(args[0] == args[1] and args[0][0] == Rows(1), f"scan of {_text(args)}")
            return args[0]
        case "before" | "after" | "before_gate" | "after_gate":
            _need(all(a == args[0] for a in args) and args[0][0] == Rows(1), f"{op} of {_text(args)}")
            return args[0]
        case "last" | "whole":
            rows_of(args[0][0])
            return 1, args[0][1]
        case "put_last":
            assert wanted is not None
            _need(wanted[0] == Rows(1) and args[0] == (1, wanted[1]), f"put_last of {_text(args)}")
            return wanted
        case "sum" | "amax":
            return (1, args[0][1]) if attr == 0 else (args[0][0], 1)
        case "mask" | "mexp":
            _need(attr in KINDS and args[0][0] == args[0][1] and isinstance(args[0][0], Rows), f"{op} of {_text(args)}")
            return args[0]
        case "cat" | "cut" | "pairs" | "unpairs" | "kron" | "unkron" | "diagonal":
            return _layout(op, args, attr, wanted)
        case "interleave" | "slot" | "blocks" | "block":
            return _slots(op, args, attr)
        case (
            "dot"
            | "gram"
            | "gram_apply"
            | "chain_gram"
            | "chain_apply"
            | "chain_gate"
            | "spans"
            | "spans_gate"
            | "decay_gate"
            | "log_gate"
        ):
            return _product(op, args, attr)
        case "solve":
            _need(args[0][0] == args[0][1] == args[1][0], f"solve of {_text(args)}")
            return args[1]
        case "conjugate" | "implicit":
            _need(isinstance(attr, int) and all(a == args[0] for a in args), f"{op} of {_text(args)}")
            return args[0]
        case "inverse":
            _need(args[0][0] == args[0][1], f"inverse of {_text(args)}")
            return args[0]
        case _:
            raise ShapeError(f"no operation {op}")


def _layout(op: str, args: tuple[Shape, ...], attr: Attr, wanted: Shape | None) -> Shape:
    rows = args[0][0]
    match op:
        case "cat":
            _need(all(a[0] == rows for a in args), f"cat of {_text(args)}")
            width: Dim = 0
            for a in args:
                width = DimOp("+", width, size_of(a[1]))
            return rows, normal(width)
        case "cut":
            assert wanted is not None
            _need(wanted[0] == rows, f"cut of {_text(args)} to {shape_text(wanted)}")
            return wanted
        case "pairs":
            return rows, normal(DimOp("/", size_of(args[0][1]), 2))
        case "unpairs":
            _need(args[0] == args[1], f"unpairs of {_text(args)}")
            return rows, normal(DimOp("*", 2, size_of(args[0][1])))
        case "kron":
            _need(args[1][0] == rows, f"kron of {_text(args)}")
            return rows, normal(DimOp("*", size_of(args[0][1]), size_of(args[1][1])))
        case "unkron":
            assert wanted is not None
            widths = normal(DimOp("*", size_of(wanted[1]), size_of(args[1][1])))
            _need(args[0] == (rows, widths) and args[1][0] == rows == wanted[0], f"unkron of {_text(args)}")
            return wanted
        case _:
            _need(rows == 1, "diagonal takes one row")
            return args[0][1], args[0][1]


def _slots(op: str, args: tuple[Shape, ...], attr: Attr) -> Shape:
    match op:
        case "interleave":
            _need(all(a == args[0] for a in args) and args[0][0] == Rows(1), f"interleave of {_text(args)}")
            return Rows(len(args)), args[0][1]
        case "slot":
            _need(isinstance(attr, int) and 0 <= attr < rows_of(args[0][0]).slots, f"slot {attr} of {_text(args)}")
            return Rows(1), args[0][1]
        case "blocks":
            assert isinstance(attr, int)
            _need(len(args) == attr * attr and all(a == (Rows(1), Rows(1)) for a in args), f"blocks of {_text(args)}")
            return Rows(attr), Rows(attr)
        case _:
            _need(rows_of(args[0][0]) == rows_of(args[0][1]), f"block of {_text(args)}")
            return Rows(1), Rows(1)


def _product(op: str, args: tuple[Shape, ...], attr: Attr) -> Shape:
    tokens = Rows(1)
    match op:
        case "dot":
            assert isinstance(attr, tuple)
            (m, k), (k2, n) = (shape[:: -1 if flag else 1] for shape, flag in zip(args, attr, strict=True))
            _need(k == k2, f"dot{attr} of {_text(args)}")
            return m, n
        case "gram" | "chain_gram":
            _need(all(a == args[0] for a in args) and args[0][0] == tokens, f"{op} of {_text(args)}")
            return tokens, tokens
        case "gram_apply" | "chain_apply":
            _need(args[0] == (tokens, tokens) and all(a == args[1] for a in args[1:]), f"{op} of {_text(args)}")
            return args[1]
        case "chain_gate":
            _need(all(a == args[0] for a in args[:3]) and args[3] == (tokens, tokens), f"{op} of {_text(args)}")
            return args[0]
        case "decay_gate" | "log_gate":
            _need(all(a in (args[0], (tokens, tokens)) for a in args), f"{op} of {_text(args)}")
            return args[0]
        case "spans":
            _need(args[0] == (tokens, 1), f"spans of {_text(args)}")
            return tokens, tokens
        case _:
            _need(args == ((tokens, tokens), (tokens, 1), (tokens, tokens)), f"{op} of {_text(args)}")
            return tokens, 1
