"""Local identities: what a node equals when its arguments are of a certain form. One function per operation.

Only identities that keep the rounding of dot operands are here: a scale is not pulled out of a product, because a
decay's gradient is a difference of sums that must see the same rounded operands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ruledsl.chunk.arithmetic import factors, product, terms
from ruledsl.chunk.dims import normal
from ruledsl.chunk.shapes import COMPARISONS, infer
from ruledsl.lang.typed import DimOp

if TYPE_CHECKING:
    from ruledsl.chunk.build import Builder, Tile
    from ruledsl.chunk.program import Attr, Shape

Identity = Callable[["Builder", "tuple[Tile, ...]", "Attr", "Shape"], "Tile | None"]


def apply(b: Builder, op: str, args: tuple[Tile, ...], attr: Attr, shape: Shape | None) -> Tile | None:
    """What op(args) equals, or None."""
    rule = TABLE.get(op)
    if rule is None:
        return None
    return rule(b, args, attr, infer(op, tuple(a.shape for a in args), attr, shape))


def _zero(tile: Tile) -> bool:
    return tile.value == 0


def _select(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    p, q, x, y = args
    if x == y:
        return b.expand(x, shape)
    if p.value is not None and q.value is not None:
        return b.expand(x if COMPARISONS[str(attr)](p.value, q.value) else y, shape)
    if any(a.op == "expand" for a in args):
        plain = tuple(a.args[0] if a.op == "expand" else a for a in args)
        return b.expand(b.make("select", plain, attr), shape)
    return None


def _cast(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    return args[0] if args[0].op in ("cast", "const", "full", "eye") else None


def _expand(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    (x,) = args
    if x.shape == shape:
        return x
    if x.value is not None:
        return b.full(x.value, shape)
    return b.expand(x.args[0], shape) if x.op == "expand" else None


def _transpose(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    (x,) = args
    if x.op == "transpose":
        return x.args[0]
    if x.value is not None:
        return b.full(x.value, shape)
    if x.op == "expand":
        return b.expand(x.args[0].T, shape)
    if x.op == "map" and x.attr == "neg":
        return -x.args[0].T
    if x.op == "map" and x.attr in ("add", "sub") and all(a.op == "transpose" for a in x.args):
        return b.make("map", [a.args[0] for a in x.args], x.attr)
    return x if x.op == "eye" or x.shape == (1, 1) else None


def _sum(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    (x,) = args
    if x.shape == shape:
        return x
    if _zero(x):
        return b.zeros(shape)
    axis = int(attr)  # type: ignore[arg-type]
    number, parts = factors(x)
    outside = [f for f in parts if f.shape[axis] == 1] if x.shape[0] != x.shape[1] else []
    if x.op == "map" and (number != 1 or outside):
        inside = [f for f in parts if f not in outside]
        return product(b, number, [*outside, b.sum(product(b, 1.0, inside), axis)])
    if x.op == "eye":
        return b.full(1.0, shape)
    return None


def _amax(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    (x,) = args
    if x.value is not None:
        return b.full(x.value, shape)
    return x if x.shape == shape else None


def _running(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    return args[0] if _zero(args[0]) else None


def _cumprod(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    return args[0] if args[0].value in (0.0, 1.0) else None


def _scan(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    a, x = args
    if _zero(x) or _zero(a):
        return x
    return b.make("cumsum", (x,), attr) if a.value == 1 else None


def _shift(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    assert isinstance(attr, tuple)
    fill, by = attr
    return args[0] if by == 0 or args[0].value == fill else None


def _last(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    (x,) = args
    if x.value is not None:
        return b.full(x.value, shape)
    if x.op == "expand" and x.args[0].shape[0] == 1:
        return b.expand(x.args[0], shape)
    return None


def _put_last(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    return b.zeros(shape) if _zero(args[0]) else None


def _interleave(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    if len(args) == 1:
        return args[0]
    if all(x.value is not None and x.value == args[0].value for x in args):
        return b.full(args[0].value or 0.0, shape)
    whole = args[0].args[0] if args[0].op == "slot" else None
    same = (
        whole is not None
        and whole.shape == shape
        and all(x.op == "slot" and x.args[0] == whole and x.attr == j for j, x in enumerate(args))
    )
    return whole if same else None


def _slot(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    (x,) = args
    if x.shape == shape:
        return x
    if x.value is not None:
        return b.full(x.value, shape)
    return x.args[int(attr)] if x.op == "interleave" else None  # type: ignore[arg-type]


def _blocks(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    if attr == 1:
        return args[0]
    return b.zeros(shape) if all(map(_zero, args)) else None


def _block(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    (x,) = args
    assert isinstance(attr, tuple)
    i, j = attr
    if x.shape == shape:
        return x
    if x.value is not None:
        return b.full(x.value, shape)
    return x.args[int(i) * int(x.attr) + int(j)] if x.op == "blocks" else None  # type: ignore[arg-type]


def _pairs(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    (x,) = args
    if x.value is not None:
        return b.full(x.value, shape)
    return x.args[int(attr)] if x.op == "unpairs" else None  # type: ignore[arg-type]


def _unpairs(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    x, y = args
    if x.value is not None and x.value == y.value:
        return b.full(x.value, shape)
    if x.op == y.op == "pairs" and x.args == y.args and (x.attr, y.attr) == (0, 1):
        return x.args[0]
    return None


def _cat(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    if len(args) == 1:
        return args[0]
    if all(x.value is not None and x.value == args[0].value for x in args):
        return b.full(args[0].value or 0.0, shape)
    return None


def _cut(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    (x,) = args
    if x.shape == shape:
        return x
    if x.value is not None:
        return b.full(x.value, shape)
    if x.op == "cat":
        at = 0
        for part in x.args:
            if at == attr and part.shape == shape:
                return part
            at = normal(DimOp("+", at, part.shape[1]))  # type: ignore[arg-type, assignment]
    return None


def _mask(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    (x,) = args
    if _zero(x):
        return x
    if x.op == "mask":
        return b.mask(x.args[0], "strict" if "strict" in (attr, x.attr) else "incl")
    return x if attr in held(x) else None


def held(tile: Tile) -> tuple[str, ...]:
    """The masks that `tile` is already 0 outside of."""
    match tile.op:
        case "mask" | "mexp" | "gram":
            kind = str(tile.attr)
        case "spans" | "chain_gram":
            kind = "strict"
        case "map" if tile.attr in ("mul", "neg"):
            _, parts = factors(tile)
            return tuple(sorted({k for f in parts if f != tile for k in held(f)}))
        case "map" if tile.attr in ("add", "sub"):
            parts = [t for _, t in terms(tile)]
            return tuple(sorted(set.intersection(*(set(held(t)) if t != tile else set() for t in parts))))
        case _:
            return ()
    return ("incl", "strict") if kind == "strict" else ("incl",)


def _mexp(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    return b.mask(b.full(1.0, shape), str(attr)) if _zero(args[0]) else None


def _dot(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    x, y = args
    assert isinstance(attr, tuple)
    ta, tb = bool(attr[0]), bool(attr[1])
    if _zero(x) or _zero(y):
        return b.zeros(shape)
    if x.op == "transpose":
        return b.dot(x.args[0], y, not ta, tb)
    if y.op == "transpose":
        return b.dot(x, y.args[0], ta, not tb)
    if x.op == "map" and x.attr == "neg":
        return -b.dot(x.args[0], y, ta, tb)
    if y.op == "map" and y.attr == "neg":
        return -b.dot(x, y.args[0], ta, tb)
    if x.op == "eye":
        return y.T if tb else y
    if y.op == "eye":
        return x.T if ta else x
    contracted = x.shape[0 if ta else 1]
    if contracted == 1:  # an outer product spreads
        return (x.T if ta else x) * (y.T if tb else y)
    if shape[1] == 1:
        return b.sum(x * y, 0).T if ta and not tb else b.sum((x.T if ta else x) * (y if tb else y.T), 1)
    if shape[0] == 1:
        return b.sum(y * x, 1).T if tb and not ta else b.sum((y.T if tb else y) * (x if ta else x.T), 0)
    return None


def _gram(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    return b.zeros(shape) if _zero(args[0]) or _zero(args[1]) else None


def _gram_apply(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    m, *rest = args
    if _zero(m) or _zero(rest[0]):
        return b.zeros(shape)
    assert isinstance(attr, tuple)
    if m.op == "mask" and (m.attr == attr[0] or attr[0] == "strict"):
        return b.make("gram_apply", (m.args[0], *rest), attr)
    return None


def _chain_apply(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    m, *rest = args
    if _zero(m) or _zero(rest[0]):
        return b.zeros(shape)
    return b.make("chain_apply", (m.args[0], *rest), attr) if m.op == "mask" else None


def _chain_gate(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    return b.zeros(shape) if any(_zero(args[i]) for i in (0, 1, 3)) else None


def _spans_gate(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    return b.zeros(shape) if _zero(args[2]) else None


def _solve(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    return args[1] if _zero(args[0]) or _zero(args[1]) else None


def _inverse(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    return b.eye(shape[0]) if _zero(args[0]) else None


def _conjugate(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    return b.zeros(shape) if _zero(args[2]) else None


def _kron(b: Builder, args: tuple[Tile, ...], attr: Attr, shape: Shape) -> Tile | None:
    return b.zeros(shape) if _zero(args[0]) or _zero(args[1]) else None


TABLE: dict[str, Identity] = {
    "select": _select,
    "cast": _cast,
    "expand": _expand,
    "transpose": _transpose,
    "sum": _sum,
    "amax": _amax,
    "cumsum": _running,
    "cumprod": _cumprod,
    "scan": _scan,
    "shift": _shift,
    "last": _last,
    "put_last": _put_last,
    "interleave": _interleave,
    "slot": _slot,
    "blocks": _blocks,
    "block": _block,
    "pairs": _pairs,
    "unpairs": _unpairs,
    "cat": _cat,
    "cut": _cut,
    "kron": _kron,
    "unkron": _kron,
    "mask": _mask,
    "mexp": _mexp,
    "dot": _dot,
    "gram": _gram,
    "gram_apply": _gram_apply,
    "chain_gram": _gram,
    "chain_apply": _chain_apply,
    "chain_gate": _chain_gate,
    "spans_gate": _spans_gate,
    "solve": _solve,
    "inverse": _inverse,
    "conjugate": _conjugate,
}
