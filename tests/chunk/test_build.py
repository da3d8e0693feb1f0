"""Builder: shared nodes, shapes, identities that keep the value; and the passes, the verifier and the text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.dims import normal
from ruledsl.chunk.lower_solves import lower_solves
from ruledsl.chunk.program import Port, PortKind, Program, Result, ResultKind, Rows, Shape
from ruledsl.chunk.shapes import ShapeError
from ruledsl.chunk.show import show
from ruledsl.chunk.swap_contractions import swap_contractions
from ruledsl.chunk.verify import verify
from ruledsl.lang.typed import Dim, DimOp, dim_value
from ruledsl.runtime.interpret import interpret

C = Rows(1)
SIZES = {"K": 4, "V": 3}


def leaf(b: Builder, name: str, *shape: Dim | Rows) -> Tile:
    return b.input(Port(name, PortKind.INPUT if shape[0] == C else PortKind.PARAM), (shape[0], shape[1]))


def value(b: Builder, tile: Tile, chunk: int = 4) -> Tensor:
    """The tile on fixed random inputs."""
    program = verify(b.program([(Result("y", ResultKind.STATE, 0), tile)]))
    data = {}
    for node in program.nodes:
        if node.op == "input":
            rows, cols = (chunk if axis == C else dim_value(axis, SIZES) for axis in node.shape)  # type: ignore[arg-type]
            generator = torch.Generator().manual_seed(sum(map(ord, program.port(node).name)))
            data[program.port(node)] = torch.randn(rows, cols, generator=generator, dtype=torch.float64)
    return next(
        iter(
            interpret(
                program, data or {Port("", PortKind.HEAD): torch.zeros((), dtype=torch.float64)}, SIZES, chunk
            ).values()
        )
    )


# ---------------------------------------------------------------------------------------------------- sizes

dims = st.recursive(
    st.one_of(st.integers(0, 6), st.sampled_from(["K", "V"])),
    lambda inner: (
        st.builds(DimOp, st.sampled_from(["+", "-", "*"]), inner, inner)
        | st.builds(lambda d: DimOp("*", DimOp("/", d, 2), 2), inner)
    ),
    max_leaves=6,
)


@given(dims)
def test_normal_keeps_the_number(dim: Dim) -> None:
    wanted = _exact(dim, {"K": 8, "V": 12})
    found = normal(dim)
    assert _exact(found, {"K": 8, "V": 12}) == wanted
    assert normal(found) == found
    assert normal(dim, {"K": 8, "V": 12}) == wanted


def _exact(dim: Dim, sizes: dict[str, int]) -> float:
    match dim:
        case DimOp(op, left, right):
            a, b = _exact(left, sizes), _exact(right, sizes)
            return a + b if op == "+" else a - b if op == "-" else a * b if op == "*" else a / b
        case str():
            return sizes[dim]
        case _:
            return dim


def test_equal_sizes_have_one_spelling() -> None:
    half = DimOp("/", "K", 2)
    assert normal(DimOp("+", half, half)) == "K"
    assert normal(DimOp("*", "V", "K")) == normal(DimOp("*", "K", "V"))
    assert normal(half) == half
    with pytest.raises(ValueError, match="divided by a number"):
        normal(DimOp("/", 1, "K"))


# ---------------------------------------------------------------------------------------------------- sharing, shapes


def test_equal_values_are_equal_nodes() -> None:
    b = Builder()
    x, y, z = leaf(b, "x", C, "K"), leaf(b, "y", C, 1), leaf(b, "z", C, "K")
    assert x * y * z == z * (y * x)
    assert x + (y + z) == (z + x) + y
    assert x - y == -(y - x) + 0.0
    assert (x - y) + y == x
    assert b.dot(x.T, z, False, False) == b.dot(x, z, True, False)


@pytest.mark.parametrize(
    ("op", "shapes", "attr"),
    [
        ("dot", ((C, "K"), (C, "K")), (False, False)),
        ("map", ((C, "K"), (C, "V")), "add"),
        ("map", ((C, "K"),), "add"),
        ("solve", ((C, C), ("K", C)), False),
        ("gram", ((C, "K"), (C, "K"), (C, 1), (C, "K")), "incl"),
        ("cumsum", (("K", 1),), False),
        ("mask", ((C, "K"),), "incl"),
        ("slot", ((Rows(2), "K"),), 2),
        ("nothing", ((C, "K"),), None),
    ],
)
def test_misfits_are_refused(op: str, shapes: tuple[Shape, ...], attr: object) -> None:
    b = Builder()
    args = [leaf(b, f"x{i}", *s) for i, s in enumerate(shapes)]
    with pytest.raises(ShapeError):
        b.raw(op, args, attr)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- identities


def test_neutral_elements_vanish() -> None:
    b = Builder()
    x, c = leaf(b, "x", C, "K"), leaf(b, "c", C, 1)
    assert x + 0.0 == x == x * 1.0 == b.apply("neg", -x) == b.full(1.0, (C, "K")) * x
    assert (x * 0.0).value == 0 and (x * 0.0).shape == (C, "K")
    assert (c * b.full(1.0, (C, "K"))).shape == (C, "K")
    assert b.apply("exp", b.zeros((C, "K"))) == b.full(1.0, (C, "K"))
    assert x.T.T == x and b.cast(b.cast(x)) == b.cast(x)
    assert b.expand(c, (C, "K")) * x == c * x
    assert b.apply("pow", x, 2.0) == x * x
    assert b.select(">", 1.0, 0.0, x, c) == x


def test_masks_are_absorbed() -> None:
    b = Builder()
    x, g = leaf(b, "x", C, C), leaf(b, "g", C, C)
    decay = b.make("mexp", (g,), "strict")
    assert b.mask(x, "incl") * decay == x * decay == b.mask(x * decay, "incl")
    assert b.mask(b.mask(x, "incl"), "strict") == b.mask(x, "strict")
    assert b.mask(x * b.make("mexp", (g,), "incl"), "strict").op == "mask"


def test_slots_and_pairs_undo() -> None:
    b = Builder()
    x, y = leaf(b, "x", C, "K"), leaf(b, "y", C, "K")
    both = b.make("interleave", (x, y))
    assert [b.make("slot", (both,), j) for j in (0, 1)] == [x, y]
    zero = b.zeros((C, "K"))
    assert b.make("interleave", (x, zero)) + b.make("interleave", (zero, y)) == both
    z = leaf(b, "z", C, DimOp("*", 2, "K"))
    assert b.make("unpairs", (b.make("pairs", (z,), 0), b.make("pairs", (z,), 1))) == z
    assert b.cut(b.cat([x, y]), "K", "K") == y


def test_scales_stay_inside_products() -> None:
    """A scale pulled out of one operand would change its rounding."""
    b = Builder()
    x, y, c = leaf(b, "x", C, "K"), leaf(b, "y", C, "K"), leaf(b, "c", C, 1)
    product = b.dot(c * x, y, False, True)
    assert product.op == "dot" and product.args == (c * x, y)


@st.composite
def expressions(draw: st.DrawFn) -> tuple[Tile, Tensor]:
    """A tile made with identities, and the value of the same steps in plain torch."""
    b = Builder()
    names = {"x": (C, "K"), "y": (C, "K"), "c": (C, 1), "p": (1, "K"), "s": (1, 1)}
    pool: list[tuple[Tile, Tensor]] = []
    for name, shape in names.items():
        tile = leaf(b, name, *shape)
        pool.append((tile, value(b, tile)))
    pool += [(b.const(v), torch.full((1, 1), v, dtype=torch.float64)) for v in (0.0, 1.0, -1.0, 2.0)]
    pool.append((b.zeros((C, "K")), torch.zeros(4, 4, dtype=torch.float64)))
    for _ in range(draw(st.integers(1, 10))):
        (s, u), (t, v) = (draw(st.sampled_from(pool)) for _ in range(2))
        match draw(st.sampled_from(["add", "sub", "mul", "neg", "sum0", "sum1", "gram", "mask", "select", "tanh"])):
            case "add":
                pool.append(
                    (s + t, u + v)
                    if s.shape == t.shape or 1 in s.shape + t.shape and C not in (s.shape[1], t.shape[1])
                    else (s, u)
                )
            case "sub":
                pool.append((s - t, u - v) if s.shape == t.shape else (s, u))
            case "mul":
                pool.append((s * t, u * v) if C not in (s.shape[1], t.shape[1]) or s.shape == t.shape else (s, u))
            case "neg":
                pool.append((-s, -u))
            case "sum0":
                pool.append((b.sum(s, 0), u.sum(0, keepdim=True) if s.shape[0] != 1 else u))
            case "sum1":
                pool.append((b.sum(s, 1), u.sum(1, keepdim=True) if s.shape[1] != 1 else u))
            case "gram" if s.shape == t.shape and s.shape[0] == C:
                pool.append((b.dot(s, t, False, True), u @ v.mT))
            case "mask" if s.shape == (C, C):
                pool.append((b.mask(s, "strict"), u.tril(-1)))
            case "select" if s.shape == t.shape:
                pool.append((b.select(">", s, t, t, s), torch.where(u > v, v, u)))
            case "tanh":
                pool.append((b.apply("tanh", s), u.tanh()))
    return draw(st.sampled_from(pool))


@settings(max_examples=200, deadline=None)
@given(expressions())
def test_identities_keep_the_value(pair: tuple[Tile, Tensor]) -> None:
    tile, wanted = pair
    torch.testing.assert_close(value(tile.builder, tile).expand_as(wanted), wanted)
    assert tuple(value(tile.builder, tile).shape) == tuple(wanted.shape)


# ---------------------------------------------------------------------------------------------------- passes


def test_solves_share_one_inverse() -> None:
    b = Builder()
    a, x, y = b.mask(leaf(b, "a", C, C), "strict"), leaf(b, "x", C, "K"), leaf(b, "y", C, "V")
    program = b.program(
        [(Result(n, ResultKind.STATE, 0), t) for n, t in (("x", b.solve(a, x)), ("y", b.solve(a, y, True)))]
    )
    lowered = lower_solves(program)
    assert [n.op for n in lowered.nodes].count("inverse") == 1 and "solve" not in {n.op for n in lowered.nodes}


def both_sums(b: Builder, with_product: bool) -> Program:
    m, x, y = leaf(b, "m", C, C), leaf(b, "x", C, "K"), leaf(b, "y", C, "K")
    tile = m * b.dot(x, y, False, True) * leaf(b, "scale", 1, 1)
    results = [
        (Result("rows", ResultKind.STATE, 0), b.sum(tile, 1)),
        (Result("columns", ResultKind.STATE, 0), b.sum(tile, 0)),
    ]
    products = [
        (Result("my", ResultKind.STATE, 0), b.dot(m, y)),
        (Result("mx", ResultKind.STATE, 0), b.dot(m, x, True)),
    ]
    return b.program(results + products[: 2 if with_product else 1])


def test_contractions_are_swapped_in_both_sums_or_in_none() -> None:
    swapped = swap_contractions(both_sums(Builder(), True))
    assert all(n.shape != (C, C) or n.op == "input" for n in swapped.nodes)
    kept = swap_contractions(both_sums(Builder(), False))
    assert sum(n.shape == (C, C) for n in kept.nodes) == 4  # m, x y^T and their products


def test_swapped_sums_are_equal() -> None:
    b = Builder()
    program = both_sums(b, True)
    shapes = {"m": (5, 5), "scale": (1, 1)}
    data = {p: torch.randn(shapes.get(p.name, (5, 4)), dtype=torch.float64) for p in program.ports}
    before, after = (interpret(p, data, SIZES, 5) for p in (program, swap_contractions(program)))
    for x, y in zip(before.values(), after.values(), strict=True):
        torch.testing.assert_close(x, y)


# ---------------------------------------------------------------------------------------------------- verifier, text


def small() -> Program:
    b = Builder()
    q, k = leaf(b, "q", C, "K"), b.input(Port("k", PortKind.INPUT, (2,), 1), (C, "K"))
    return b.program([(Result("o", ResultKind.OUTPUT, 0), b.mask(b.dot(q, k, False, True), "incl") * 0.5)])


def test_verifier_names_the_node() -> None:
    program = verify(small())
    wrong = replace(program.nodes[2], shape=(C, "V"))
    with pytest.raises(AssertionError, match="node 2"):
        verify(replace(program, nodes=(*program.nodes[:2], wrong, *program.nodes[3:])))
    with pytest.raises(AssertionError, match="uses a later node"):
        verify(replace(program, nodes=program.nodes[::-1]))
    with pytest.raises(AssertionError, match="listed twice"):
        verify(replace(program, results=program.results * 2))


def test_text() -> None:
    assert show(small()) == (
        "%0 : C x K = input q\n"
        "%1 : C x K = input prev(k[2])\n"
        "%2 : C x C = %0 @ %1^T\n"
        "%3 : C x C = mask(%2, incl)\n"
        "%4 : 1 x 1 = 0.5\n"
        "%5 : C x C = %3 * %4\n"
        "output o = %5\n"
    )


def test_long_products_take_no_long_time() -> None:
    """x, x*x, its square, ... : 2^60 factors if written out."""
    b = Builder()
    x = y = leaf(b, "x", C, "K")
    for _ in range(60):
        x, y = x * x, y + y * y
    assert len(b.nodes) < 1000


def test_what_a_sum_does_not_touch_is_pulled_out() -> None:
    b = Builder()
    x, y, c, p = leaf(b, "x", C, "K"), leaf(b, "y", C, "K"), leaf(b, "c", C, 1), leaf(b, "p", 1, "K")
    assert b.sum(c * x * y, 1) == c * b.sum(x * y, 1)
    assert b.sum(-(p * x), 0) == -(p * b.sum(x, 0))
