"""Each operation: its value against the definition written out, its derivative row against torch's autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ruledsl.chunk.build import Builder
from ruledsl.chunk.derivatives import TABLE as DERIVATIVES
from ruledsl.chunk.differentiate import cotangent_port, differentiate
from ruledsl.chunk.program import Attr, Port, PortKind, Program, Result, ResultKind, Rows, Shape
from ruledsl.chunk.verify import verify
from ruledsl.lang.functions import TABLE as FUNCTIONS
from ruledsl.runtime import tile_ops
from ruledsl.runtime.interpret import extent, interpret

C = Rows(1)
SIZES = {"K": 4, "V": 3}
LENGTHS = st.sampled_from([1, 2, 3, 4, 5, 8, 13])


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


# ---------------------------------------------------------------------------------------------------- definitions


def below(n: int, kind: str) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool).tril(-1 if kind == "strict" else 0)


def decays(gx: Tensor, gy: Tensor, kind: str) -> Tensor:
    """[..., t, s, d]: exp(gx[t] - gy[s]) under the mask."""
    difference = gx.unsqueeze(-2) - gy.unsqueeze(-3)
    return difference.masked_fill(~below(gx.shape[-2], kind).unsqueeze(-1), -torch.inf).exp()


def chains(a: Tensor) -> Tensor:
    """[..., t, s, d]: the product of a over s < i < t, for s < t."""
    n = a.shape[-2]
    rows = []
    for t in range(n):
        row = [a[..., s + 1 : t, :].prod(-2) if s < t else a[..., 0, :] * 0 for s in range(n)]
        rows.append(torch.stack(row, -2))
    return torch.stack(rows, -3)


def gates(n: int, width: int, seed: int, batch: tuple[int, ...] = (2,)) -> tuple[Tensor, Tensor]:
    """Log decays and their running sum."""
    g = torch.log(uniform(*batch, n, width, seed=seed) * 0.49 + 0.5)
    return g, g.cumsum(-2)


@settings(max_examples=25, deadline=None)
@given(LENGTHS, st.sampled_from(["strict", "incl"]), st.booleans(), st.integers(0, 99))
def test_gram(n: int, kind: str, before: bool, seed: int) -> None:
    g, total = gates(n, 3, seed)
    gx = total - g if before else total
    x, y, m = uniform(2, n, 3, seed=seed + 1), uniform(n, 3, seed=seed + 2), uniform(2, n, n, seed=seed + 3)
    factor = decays(gx, total, kind)
    torch.testing.assert_close(tile_ops.gram(x, y, gx, total, kind), torch.einsum("btd,sd,btsd->bts", x, y, factor))
    torch.testing.assert_close(
        tile_ops.gram_apply(m, y, gx, total, kind, False), torch.einsum("bts,sd,btsd->btd", m, y, factor)
    )
    torch.testing.assert_close(
        tile_ops.gram_apply(m, y, gx, total, kind, True), torch.einsum("bts,td,btsd->bsd", m, y, factor)
    )


@settings(max_examples=25, deadline=None)
@given(LENGTHS, st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 99))
def test_chain(n: int, zeros: float, seed: int) -> None:
    a = uniform(2, n, 3, seed=seed)
    a = torch.where(uniform(2, n, 3, seed=seed + 9).abs() < zeros, 0.0, a).requires_grad_()
    x, y, m = uniform(2, n, 3, seed=seed + 1), uniform(2, n, 3, seed=seed + 2), uniform(2, n, n, seed=seed + 3)
    factor = chains(a)
    gram = torch.einsum("btd,bsd,btsd->bts", x, y, factor)
    torch.testing.assert_close(tile_ops.chain_gram(x, y, a), gram)
    torch.testing.assert_close(tile_ops.chain_apply(m, y, a, False), torch.einsum("bts,bsd,btsd->btd", m, y, factor))
    torch.testing.assert_close(tile_ops.chain_apply(m, y, a, True), torch.einsum("bts,btd,btsd->bsd", m, y, factor))
    (wanted,) = torch.autograd.grad((gram * m).sum(), a, allow_unused=True)
    wanted = torch.zeros_like(a) if wanted is None else wanted
    torch.testing.assert_close(tile_ops.chain_gate(x, y, a, m), wanted)


@settings(max_examples=25, deadline=None)
@given(LENGTHS, st.integers(0, 99))
def test_the_gates_of_one_decay_are_added(n: int, seed: int) -> None:
    x, y, a, ct = (uniform(2, n, 3, seed=seed + i) for i in range(4))
    m = uniform(2, n, n, seed=seed + 4)
    parts = tile_ops.chain_gate(x, y, a, m) + tile_ops.before_gate(a, ct) + tile_ops.after_gate(a, x)
    torch.testing.assert_close(tile_ops.decay_gate(a, x, y, m, ct, x, (1, 1, 1)), parts)
    torch.testing.assert_close(tile_ops.decay_gate(a, ct, (0, 0, 1)), tile_ops.after_gate(a, ct))


@settings(max_examples=25, deadline=None)
@given(LENGTHS, st.booleans(), st.integers(0, 99))
def test_spans(n: int, zeros: bool, seed: int) -> None:
    a = uniform(2, n, 1, seed=seed)
    a = (torch.where(a.abs() < 0.4, 0.0, a) if zeros else a).requires_grad_()
    ct = uniform(2, n, n, seed=seed + 1)
    wanted = chains(a).squeeze(-1)
    spans = tile_ops.spans(a)
    torch.testing.assert_close(spans, wanted)
    (gate,) = torch.autograd.grad((wanted * ct).sum(), a, allow_unused=True)
    torch.testing.assert_close(tile_ops.spans_gate(spans, a, ct), torch.zeros_like(a) if gate is None else gate)


@settings(max_examples=20, deadline=None)
@given(LENGTHS, st.booleans(), st.integers(0, 99))
def test_scan(n: int, reverse: bool, seed: int) -> None:
    a, x = uniform(2, n, 3, seed=seed), uniform(2, n, 3, seed=seed + 1)
    state, rows = torch.zeros(2, 3, dtype=torch.float64), [torch.zeros(0)] * n
    for t in reversed(range(n)) if reverse else range(n):
        state = rows[t] = a[:, t] * state + x[:, t]
    torch.testing.assert_close(tile_ops.scan(a, x, reverse), torch.stack(rows, 1))
    ones = torch.ones_like(a)
    torch.testing.assert_close(tile_ops.cumsum(x, reverse), tile_ops.scan(ones, x, reverse))
    first = torch.zeros_like(x)
    first[:, -1 if reverse else 0] = a[:, -1 if reverse else 0]
    torch.testing.assert_close(tile_ops.cumprod(a, reverse), tile_ops.scan(a, first, reverse))


@pytest.mark.parametrize("n", [1, 4, 6])
def test_solve(n: int) -> None:
    a, b = uniform(2, n, n).tril(-1), uniform(2, n, 3, seed=1)
    eye = torch.eye(n, dtype=torch.float64)
    torch.testing.assert_close((eye - a) @ tile_ops.solve(a, b, False), b)
    torch.testing.assert_close((eye - a).mT @ tile_ops.solve(a, b, True), b)
    torch.testing.assert_close((eye - a) @ tile_ops.inverse(a), eye.expand(2, n, n))


@pytest.mark.parametrize("n", [1, 5])
def test_conjugate(n: int) -> None:
    """The solution of a system for each row, also where a row of the right side is 0; and the gradient of one in a program."""
    root = uniform(3, n, n)
    matrix, right = root @ root.mT + 0.5 * torch.eye(n, dtype=torch.float64), uniform(3, n, seed=1)
    right[1] = 0.0
    wanted = torch.linalg.solve(matrix, right)

    def apply(x: Tensor) -> Tensor:
        return (matrix @ x.unsqueeze(-1)).squeeze(-1)

    torch.testing.assert_close(tile_ops.conjugate(apply, right, 0), wanted)
    torch.testing.assert_close(tile_ops.conjugate(apply, right, n), wanted)
    right[0, 0] = torch.nan
    found = tile_ops.conjugate(apply, right, 0)
    assert found[0].isnan().all() and not found[1:].isnan().any()
    right[0, 0] = 1.0
    one = tile_ops.conjugate(apply, right, 1)
    assert n == 1 or not torch.allclose(one[2], wanted[2])


def test_slots() -> None:
    m, n = 3, 4
    tiles = [uniform(n, 2, seed=i) for i in range(m)]
    rows = tile_ops.interleave(*tiles)
    for t in range(n):
        for j in range(m):
            assert torch.equal(rows[t * m + j], tiles[j][t])
    assert all(torch.equal(tile_ops.slot(rows, m, j), tiles[j]) for j in range(m))
    squares = [uniform(n, n, seed=i) for i in range(m * m)]
    whole = tile_ops.blocks(*squares)
    for i in range(m):
        for j in range(m):
            assert torch.equal(tile_ops.block(whole, m, i, j), squares[i * m + j])
            assert whole[2 * m + i, 1 * m + j] == squares[i * m + j][2, 1]


def test_columns() -> None:
    x, y = uniform(3, 2), uniform(3, 4, seed=1)
    product = tile_ops.kron(x, y)
    assert all(product[t, i * 4 + j] == x[t, i] * y[t, j] for t in range(3) for i in range(2) for j in range(4))
    assert torch.equal(tile_ops.unpairs(tile_ops.pairs(y, 0), tile_ops.pairs(y, 1)), y)
    assert torch.equal(tile_ops.pairs(y, 1), y[:, [1, 3]])
    assert torch.equal(tile_ops.topk(torch.tensor([[3.0, 1.0, 2.0]]), 2), torch.tensor([[1.0, 0.0, 1.0]]))
    assert torch.equal(tile_ops.shift(x, 7.0, 1), torch.cat([torch.full((1, 2), 7.0, dtype=x.dtype), x[:-1]]))
    assert torch.equal(tile_ops.shift(x, 7.0, -2), torch.cat([x[2:], torch.full((2, 2), 7.0, dtype=x.dtype)]))
    assert torch.equal(tile_ops.shift(x, 7.0, 5), torch.full_like(x, 7.0))
    assert tile_ops.ctz(torch.tensor([0.0, 1.0, 2.0, 12.0, 1024.0])).tolist() == [0, 0, 1, 2, 10]


@pytest.mark.parametrize("strength", [0.05, 3.0, 200.0, 1e4])
def test_strong_decays_stay_finite_and_exact(strength: float) -> None:
    """float32, no positive exponent: also where a chunk decays by e^-6400 and more."""
    n, width = 64, 8
    g = -strength * (uniform(n, width).abs() + 0.1)
    total = g.cumsum(0)
    x, y = uniform(n, width, seed=1), uniform(n, width, seed=2)
    for kind, gx in (("incl", total), ("strict", total - g)):
        exact = torch.einsum("td,sd,tsd->ts", x, y, decays(gx, total, kind))
        found = tile_ops.gram(x.float(), y.float(), gx.float(), total.float(), kind)
        assert torch.isfinite(found).all()
        torch.testing.assert_close(
            found.double(), exact, rtol=0, atol=max(1e-5, 3e-7 * strength * n) if kind == "strict" else 1e-5
        )


# ---------------------------------------------------------------------------------------------------- derivatives

K, V = "K", "V"
ROWS: dict[str, tuple[tuple[Shape, ...], Attr, Shape | None]] = {
    "add": (((C, K), (C, 1)), None, None),
    "select": (((C, 1), (1, 1), (C, K), (1, K)), ">", None),
    "cast": (((C, K),), None, None),
    "expand": (((1, K),), None, (C, K)),
    "transpose": (((C, K),), None, None),
    "cat": (((C, K), (C, V)), None, None),
    "cut": (((C, K),), 1, (C, 2)),
    "pairs": (((C, K),), 1, None),
    "unpairs": (((C, K), (C, K)), None, None),
    "kron": (((C, K), (C, V)), None, None),
    "diagonal": (((1, K),), None, None),
    "sum": (((C, K),), 0, None),
    "amax": (((C, K),), 1, None),
    "cumsum": (((C, K),), False, None),
    "cumsum_reverse": (((C, K),), True, None),
    "cumprod": (((C, K),), False, None),
    "cumprod_reverse": (((C, K),), True, None),
    "scan": (((C, K), (C, K)), False, None),
    "scan_reverse": (((C, K), (C, K)), True, None),
    "shift": (((C, K),), (2.0, 1), None),
    "shift_back": (((C, K),), (0.0, -2), None),
    "last": (((C, K),), None, None),
    "put_last": (((1, K),), None, (C, K)),
    "interleave": (((C, K), (C, K)), None, None),
    "slot": (((Rows(2), K),), 1, None),
    "blocks": (((C, C), (C, C), (C, C), (C, C)), 2, None),
    "block": (((Rows(2), Rows(2)),), (1, 0), None),
    "mask": (((C, C),), "strict", None),
    "mexp": (((C, C),), "incl", None),
    "dot": (((C, K), (K, V)), (False, False), None),
    "dot_left": (((C, K), (C, V)), (True, False), None),
    "dot_right": (((C, K), (V, K)), (False, True), None),
    "dot_both": (((C, K), (C, C)), (True, True), None),
    "gram": (((C, K),) * 4, "incl", None),
    "gram_strict": (((C, K),) * 4, "strict", None),
    "gram_apply": (((C, C), (C, K), (C, K), (C, K)), ("incl", False), None),
    "gram_apply_adjoint": (((C, C), (C, K), (C, K), (C, K)), ("strict", True), None),
    "chain_gram": (((C, K),) * 3, None, None),
    "chain_apply": (((C, C), (C, K), (C, K)), False, None),
    "chain_apply_adjoint": (((C, C), (C, K), (C, K)), True, None),
    "before": (((C, K),), None, None),
    "after": (((C, K),), None, None),
    "whole": (((C, K),), None, None),
    "spans": (((C, 1),), None, None),
    "solve": (((C, C), (C, K)), False, None),
    "solve_adjoint": (((C, C), (C, K)), True, None),
    "inverse": (((C, C),), None, None),
}  # fmt: skip


def test_every_derivative_has_a_row_here() -> None:
    none = {"input", "const", "full", "eye", "topk", "map", "unknown", "conjugate", "implicit"}  # the last three: test_conjugate
    assert {op_of(name) for name in ROWS} | none == set(DERIVATIVES) | {"add"} | none


def op_of(name: str) -> str:
    return (
        name
        if name in DERIVATIVES
        else next((op for op in sorted(DERIVATIVES, key=len, reverse=True) if name.startswith(op + "_")), name)
    )


def single(name: str) -> tuple[Program, list[Port]]:
    shapes, attr, shape = ROWS[name]
    b = Builder()
    ports = [Port(f"x{i}", PortKind.INPUT if s[0] == C else PortKind.PARAM) for i, s in enumerate(shapes)]
    args = [b.input(p, s) for p, s in zip(ports, shapes, strict=True)]
    tile = b.raw("map", args, "add") if name == "add" else b.raw(op_of(name), args, attr, shape)
    return b.program([(Result("y", ResultKind.GRADIENT, 0, None), tile)]), ports


def check_row(program: Program, data: dict[Port, Tensor], chunk: int) -> None:
    forward = Program(
        program.nodes, program.ports, tuple(Result(r.name, ResultKind.STATE, r.node) for r in program.results)
    )
    leaves = {p: x.clone().requires_grad_() for p, x in data.items()}
    (y,) = interpret(forward, leaves, SIZES, chunk).values()
    ct = uniform(*y.shape, seed=77)
    wanted = torch.autograd.grad((y * ct).sum(), list(leaves.values()), allow_unused=True)
    gradient = verify(differentiate(forward))
    found = interpret(gradient, {**data, cotangent_port(forward.results[0]): ct}, SIZES, chunk)
    by_port = {r.port: x for r, x in found.items()}
    for port, x, w in zip(data, data.values(), wanted, strict=True):
        torch.testing.assert_close(
            by_port[port].expand_as(x), torch.zeros_like(x) if w is None else w, msg=lambda m, p=port: f"{p.name}: {m}"
        )


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("chunk", [4, 5])
def test_derivative(name: str, chunk: int) -> None:
    program, ports = single(name)
    data = {}
    for i, (port, shape) in enumerate(zip(ports, ROWS[name][0], strict=True)):
        x = uniform(2, extent(shape[0], SIZES, chunk), extent(shape[1], SIZES, chunk), seed=i)
        if op_of(name) in ("solve", "inverse") and i == 0:
            x = x.tril(-1)
        if op_of(name) in ("gram", "gram_apply") and i >= 2:
            x = -x.abs().cumsum(-2)
        data[port] = x
    if op_of(name) in ("solve", "inverse"):  # torch would also count the entries that are not there
        _check_strictly_lower(program, data, chunk)
    else:
        check_row(program, data, chunk)


def _check_strictly_lower(program: Program, data: dict[Port, Tensor], chunk: int) -> None:
    b = Builder()
    made = b.copy(
        program,
        replace=lambda node, args: (
            b.raw(node.op, (b.mask(args[0], "strict"), *args[1:]), node.attr)
            if node.op in ("solve", "inverse")
            else None
        ),
    )
    masked = b.program([(r, made[r.node]) for r in program.results])
    check_row(masked, data, chunk)


FLAT = ("ctz", "stopgrad")  # no graph in torch
MAPS = [
    name for name, row in FUNCTIONS.items() if row.kind == "map" and row.torch and row.derivative and name not in FLAT
]


@pytest.mark.parametrize("name", MAPS)
def test_derivative_of_map(name: str) -> None:
    b = Builder()
    arity = FUNCTIONS[name].low
    ports = [Port(f"x{i}", PortKind.INPUT) for i in range(arity)]
    shapes: list[Shape] = [(C, K), (C, 1)][:arity]
    args = [b.input(p, s) for p, s in zip(ports, shapes, strict=True)]
    program = b.program([(Result("y", ResultKind.STATE, 0), b.raw("map", args, name))])
    positive = name in ("log", "sqrt", "pow", "mod")
    data = {p: uniform(5, extent(s[1], SIZES, 5), seed=i) for i, (p, s) in enumerate(zip(ports, shapes, strict=True))}
    if positive:
        data = {p: x.abs() + 0.3 for p, x in data.items()}
    if name == "mod":  # torch.remainder's own derivative in its second argument is not a row
        program_ports = list(data)
        leaf = data[program_ports[0]].clone().requires_grad_()
        (wanted,) = torch.autograd.grad(torch.remainder(leaf, data[program_ports[1]]).sum(), leaf)
        assert torch.equal(wanted, torch.ones_like(leaf))
        return
    check_row(program, data, 5)


@pytest.mark.parametrize("name", ["max", "min", "relu", "abs"])
def test_ties_follow_torch(name: str) -> None:
    b = Builder()
    ports = [Port(f"x{i}", PortKind.INPUT) for i in range(FUNCTIONS[name].low)]
    args = [b.input(p, (C, K)) for p in ports]
    program = b.program([(Result("y", ResultKind.STATE, 0), b.raw("map", args, name))])
    check_row(program, {p: torch.zeros(5, 4, dtype=torch.float64) for p in ports}, 5)
