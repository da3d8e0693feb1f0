"""Reverse mode as a table: for each operation, the cotangents of its arguments from the cotangent of its value.

A row takes the builder, the node `y` and its cotangent `ct`, and gives one tile for each argument, or None for zero.
Element-wise rows come from `functions.TABLE`; at ties and kinks they follow torch.
"""

from __future__ import annotations

from collections.abc import Callable

from ruledsl.chunk.build import Builder, Functions, Tile
from ruledsl.chunk.dims import normal
from ruledsl.chunk.shapes import size_of
from ruledsl.lang.functions import TABLE as FUNCTIONS
from ruledsl.lang.typed import Dim, DimOp

Cotangents = tuple["Tile | None", ...]
Row = Callable[[Builder, Tile, Tile], Cotangents]


def _map(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    derivative = FUNCTIONS[str(y.attr)].derivative
    assert derivative is not None, f"{y.attr} has no derivative"
    partials = derivative(Functions(b), y, *y.args)
    return tuple(None if p is None else b.sum_to(ct * p, x.shape) for p, x in zip(partials, y.args, strict=True))


def _select(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    p, q, left, right = y.args
    op = str(y.attr)
    return (
        None,
        None,
        b.sum_to(b.select(op, p, q, ct, 0.0), left.shape),
        b.sum_to(b.select(op, p, q, 0.0, ct), right.shape),
    )


def _cast(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (ct,)


def _expand(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (b.sum_to(ct, y.args[0].shape),)


def _transpose(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (ct.T,)


def _cat(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    cuts, start = list[Tile](), 0
    for part in y.args:
        width = size_of(part.shape[1])
        cuts.append(b.cut(ct, start, width))
        start = normal(DimOp("+", start, width))  # type: ignore[assignment]
    return tuple(cuts)


def _cut(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    (x,) = y.args
    start: Dim = y.attr  # type: ignore[assignment]
    rest = normal(DimOp("-", size_of(x.shape[1]), DimOp("+", start, size_of(y.shape[1]))))
    sides = [b.zeros((x.shape[0], width)) if width != 0 else None for width in (start, rest)]
    return (b.cat([tile for tile in (sides[0], ct, sides[1]) if tile is not None]),)


def _pairs(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    zeros = b.zeros(ct.shape)
    return (b.make("unpairs", (ct, zeros) if y.attr == 0 else (zeros, ct)),)


def _unpairs(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return b.make("pairs", (ct,), 0), b.make("pairs", (ct,), 1)


def _kron(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    left, right = y.args
    return b.make("unkron", (ct, right), 0, left.shape), b.make("unkron", (ct, left), 1, right.shape)


def _diagonal(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (b.sum(ct * b.eye(y.shape[0]), 0),)


def _sum(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (b.expand(ct, y.args[0].shape),)


def _amax(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    (x,) = y.args
    largest = b.select("==", x, y, 1.0, 0.0)
    return (ct / b.sum(largest, int(y.attr)) * largest,)  # type: ignore[arg-type]


def _cumsum(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (b.make("cumsum", (ct,), not y.attr),)


def _scan(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    a, _ = y.args
    step = 1 if not y.attr else -1
    dx = b.make("scan", (b.shift(a, 1.0, -step), ct), not y.attr)
    return dx * b.shift(y, 0.0, step), dx


def _cumprod(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    # d a[t] = (product before t) * sum_{s>=t} ct[s] prod_{t<i<=s} a[i]: no division by a[t]
    (a,) = y.args
    step = 1 if not y.attr else -1
    return (b.make("scan", (b.shift(a, 1.0, -step), ct), not y.attr) * b.shift(y, 1.0, step),)


def _shift(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    assert isinstance(y.attr, tuple)
    return (b.shift(ct, 0.0, -int(y.attr[1])),)  # type: ignore[arg-type]


def _last(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (b.make("put_last", (ct,), None, y.args[0].shape),)


def _put_last(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (b.last(ct),)


def _interleave(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return tuple(b.make("slot", (ct,), j) for j in range(len(y.args)))


def _slot(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    slots = y.args[0].shape[0].slots  # type: ignore[union-attr]
    zeros = b.zeros(ct.shape)
    return (b.make("interleave", [ct if j == y.attr else zeros for j in range(slots)]),)


def _blocks(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    m = int(y.attr)  # type: ignore[arg-type]
    return tuple(b.make("block", (ct,), (i, j)) for i in range(m) for j in range(m))


def _block(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    m = y.args[0].shape[0].slots  # type: ignore[union-attr]
    zeros = b.zeros(ct.shape)
    return (b.make("blocks", [ct if (i, j) == y.attr else zeros for i in range(m) for j in range(m)], m),)


def _mask(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (b.mask(ct, str(y.attr)),)


def _mexp(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (ct * y,)


def _dot(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    left, right = y.args
    assert isinstance(y.attr, tuple)
    ta, tb = map(bool, y.attr)
    d_left = b.dot(right, ct, tb, True) if ta else b.dot(ct, right, False, not tb)
    d_right = b.dot(ct, left, True, ta) if tb else b.dot(left, ct, not ta, False)
    return d_left, d_right


def _gram(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    left, right, gx, gy = y.args
    d_left = b.make("gram_apply", (ct, right, gx, gy), (y.attr, False))
    d_right = b.make("gram_apply", (ct, left, gx, gy), (y.attr, True))
    return d_left, d_right, left * d_left, -(right * d_right)


def _gram_apply(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    m, x, gx, gy = y.args
    assert isinstance(y.attr, tuple)
    kind, adjoint = y.attr
    d_m = b.make("gram", (x, ct, gx, gy) if adjoint else (ct, x, gx, gy), kind)
    d_x = b.make("gram_apply", (m, ct, gx, gy), (kind, not adjoint))
    return (d_m, d_x, x * d_x, -(ct * y)) if adjoint else (d_m, d_x, ct * y, -(x * d_x))


def _chain_gram(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    left, right, a = y.args
    apply = [b.make("chain_apply", (ct, other, a), adjoint) for other, adjoint in ((right, False), (left, True))]
    return apply[0], apply[1], b.make("chain_gate", (left, right, a, ct))


def _chain_apply(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    m, x, a = y.args
    rows, columns = (x, ct) if y.attr else (ct, x)
    d_m = b.make("chain_gram", (rows, columns, a))
    return d_m, b.make("chain_apply", (m, ct, a), not y.attr), b.make("chain_gate", (rows, columns, a, m))


def _before(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (b.make("before_gate", (y.args[0], ct)),)


def _after(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (b.make("after_gate", (y.args[0], ct)),)


def _whole(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (ct * b.make("before", y.args) * b.make("after", y.args),)


def _spans(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (b.make("spans_gate", (y, y.args[0], ct)),)


def _solve(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    # one more solve; lowering to an inverse first would cost two more C x C x C products
    a, _ = y.args
    d_right = b.solve(a, ct, not y.attr)
    d_a = b.dot(y, d_right, False, True) if y.attr else b.dot(d_right, y, False, True)
    return b.mask(d_a, "strict"), d_right


def _inverse(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return (b.mask(b.dot(b.dot(y, ct, True, False), y, False, True), "strict"),)


def _implicit(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    # x solves A x = right: d right = A^-T ct, and dA = -(d right) x^T comes from the residual, right - A x
    _, _, unknown, image = y.args
    return None, b.make("conjugate", (unknown, image, ct), y.attr), None, None


def _none(b: Builder, y: Tile, ct: Tile) -> Cotangents:
    return tuple(None for _ in y.args)


TABLE: dict[str, Row] = {
    "input": _none,
    "const": _none,
    "full": _none,
    "eye": _none,
    "unknown": _none,
    "map": _map,
    "select": _select,
    "cast": _cast,
    "expand": _expand,
    "transpose": _transpose,
    "cat": _cat,
    "cut": _cut,
    "pairs": _pairs,
    "unpairs": _unpairs,
    "kron": _kron,
    "diagonal": _diagonal,
    "topk": _none,
    "sum": _sum,
    "amax": _amax,
    "cumsum": _cumsum,
    "cumprod": _cumprod,
    "scan": _scan,
    "shift": _shift,
    "last": _last,
    "put_last": _put_last,
    "interleave": _interleave,
    "slot": _slot,
    "blocks": _blocks,
    "block": _block,
    "mask": _mask,
    "mexp": _mexp,
    "dot": _dot,
    "gram": _gram,
    "gram_apply": _gram_apply,
    "chain_gram": _chain_gram,
    "chain_apply": _chain_apply,
    "before": _before,
    "after": _after,
    "whole": _whole,
    "spans": _spans,
    "solve": _solve,
    "inverse": _inverse,
    "conjugate": _none,
    "implicit": _implicit,
}
