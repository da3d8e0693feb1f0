"""Functions of a row: softmax and the normalisations, over the columns of a tile."""

from __future__ import annotations

from ruledsl.chunk.build import Builder, Tile

NORM_EPS = 1e-5  # layernorm and rmsnorm
UNIT_EPS = 1e-6  # unit, added to the squared norm


def apply(b: Builder, fn: str, x: Tile, n: Tile, count: int | None = None) -> Tile:
    """`fn` of each row of x; `n` is the number of columns as a scalar, `count` the k of topk."""
    match fn:
        case "softmax":
            # the gradient does not depend on the shift, so the maximum is a constant
            e = b.apply("exp", x - b.apply("stopgrad", b.make("amax", (x,), 1)))
            return e * (1.0 / b.sum(e, 1))
        case "layernorm":
            centred = x - b.sum(x, 1) / n
            return centred * _rsqrt(b, b.sum(centred * centred, 1) / n + NORM_EPS)
        case "rmsnorm":
            return x * _rsqrt(b, b.sum(x * x, 1) / n + NORM_EPS)
        case "unit":
            return x * _rsqrt(b, b.sum(x * x, 1) + UNIT_EPS)
        case "topk":
            assert count is not None
            return b.make("topk", (x,), count)
        case _:
            raise AssertionError(f"no row function {fn}")


def _rsqrt(b: Builder, x: Tile) -> Tile:
    return 1.0 / b.apply("sqrt", x)
