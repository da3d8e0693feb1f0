"""Sequences on a device: states with gradients, packing, grouped heads, cuts, views, unwritten memory, equal bits."""

from __future__ import annotations

import pytest
import torch
from contract import (
    HEADS,
    LENGTH,
    NAMES,
    call,
    compare,
    double,
    error,
    inputs,
    poisoned,
    rule,
    states,
    tokens,
)
from device_cases import CHUNKED, DEVICE, judged, missed, run
from torch import Tensor

pytestmark = pytest.mark.gpu

CUTS = ([0, 100], [0, 5, 5, 22, 86, 100], [0, 0, 1, 65, 90], [0, 64, 80, 80, 99], [1, 17, 33, 33, 97])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_first_and_final_states_have_gradients(name: str, dtype: str) -> None:
    assert not compare(name, call(name, dtype=dtype), states(name), dtype=dtype)


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_packed_sequences_with_gaps(name: str, cuts: list[int]) -> None:
    """Empty sequences, and tokens before the first and after the last that belong to none: 0, and no gradient."""
    x, first = call(name, batch=1, length=100), states(name, len(cuts) - 1)
    start, end = cuts[0], cuts[-1]
    bounds = torch.tensor(cuts, device=DEVICE, dtype=torch.int32)
    with poisoned():
        found = run(rule(name), x, first, bounds, "triton")
    inside = run(rule(name), double(tokens(name, x, start, end)), double(first), bounds - start, "recurrent")
    # the functional is drawn anew for the shorter sequence, so gradients are compared on what is inside
    if end - start == 100:
        assert not missed(judged(rule(name), found, inside, "float32"))
        return
    assert error(found["fwd.o"][:, start:end], inside["fwd.o"]) < 1e-5
    assert error(found["fwd.S"], inside["fwd.S"]) < 1e-5
    for key in ("fwd.o", *(f"bwd.{n}" for n in inputs(name))):
        outside = torch.cat([found[key][:, :start], found[key][:, end:]], 1)
        assert not outside.any() and found[key].isfinite().all(), key


@pytest.mark.parametrize("name", NAMES)
def test_gradients_with_tokens_outside(name: str) -> None:
    x, first = call(name, batch=1, length=90), states(name, 3)
    bounds = torch.tensor([7, 20, 20, 80], device=DEVICE)
    cotangent = call(name, batch=1, length=90, seed=9)["v"]

    def gradients(own: dict[str, Tensor], at: Tensor, weights: Tensor, backend: str) -> dict[str, Tensor]:
        leaves = {n: v.clone().requires_grad_() for n, v in own.items()}
        o = rule(name)(**leaves, initial_state={"S": first["S"].to(weights.dtype)}, cu_seqlens=at, backend=backend)
        found = torch.autograd.grad((o * weights).sum(), list(leaves.values()))
        return {f"bwd.{n}": g for n, g in zip(leaves, found, strict=True)}

    found = gradients(x, bounds, cotangent, "triton")
    inside = gradients(double(tokens(name, x, 7, 80)), bounds - 7, cotangent[:, 7:80].double(), "recurrent")
    assert not missed(judged(rule(name), {n: g[:, 7:80] for n, g in found.items()}, inside, "float32"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("grouped", [{"q": 2, "k": 1}, {"b": 1}, {"v": 2}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_grouped_heads(name: str, grouped: dict[str, int], dtype: str) -> None:
    x = call(name, dtype=dtype)
    x |= {n: x[n][:, :, :heads].contiguous() for n, heads in grouped.items()}
    assert not compare(name, x, states(name), dtype=dtype)
    assert max(v.shape[2] for v in x.values()) == HEADS


@pytest.mark.parametrize("at", [0, 1, 16, 63, 64, 65, LENGTH])
@pytest.mark.parametrize("name", NAMES)
def test_cut_anywhere_is_the_whole(name: str, at: int) -> None:
    x = call(name)
    whole, last = rule(name)(**x, initial_state=states(name), return_state=True, backend="triton")
    left, middle = rule(name)(**tokens(name, x, 0, at), initial_state=states(name), return_state=True, backend="triton")
    right, end = rule(name)(**tokens(name, x, at, LENGTH), initial_state=middle, return_state=True, backend="triton")
    assert error(torch.cat([left, right], 1), whole) < 1e-5
    assert error(end, last) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_flows_from_one_call_to_the_next(name: str) -> None:
    x = call(name)

    def gradient(own: dict[str, Tensor], parts: list[tuple[int, int]], backend: str) -> dict[str, Tensor]:
        leaves = {n: v.clone().requires_grad_() for n, v in own.items()}
        state, outputs = None, []
        for start, end in parts:
            o, state = rule(name)(
                **tokens(name, leaves, start, end), initial_state=state, return_state=True, backend=backend
            )
            outputs.append(o)
        found = torch.autograd.grad(torch.cat(outputs, 1).square().sum(), list(leaves.values()))
        return {f"bwd.{n}": g for n, g in zip(leaves, found, strict=True)}

    found = gradient(x, [(0, 41), (41, 42), (42, LENGTH)], "triton")
    wanted = gradient(double(x), [(0, LENGTH)], "recurrent")
    assert not missed(judged(rule(name), found, wanted, "float32"))


@pytest.mark.parametrize("name", NAMES)
def test_views(name: str) -> None:
    """Time and heads swapped, every second column of memory that is NaN elsewhere, one row for the whole batch."""
    x = call(name)

    def strided(v: Tensor) -> Tensor:
        if v.dim() == 3:
            return v.transpose(1, 2).contiguous().transpose(1, 2)
        wide = torch.full((*v.shape[:-1], 2 * v.shape[-1]), float("nan"), dtype=v.dtype, device=DEVICE)
        wide[..., ::2] = v
        return wide.transpose(0, 1).contiguous().transpose(0, 1)[..., ::2]

    views = {n: strided(v) for n, v in x.items()}
    assert not any(v.is_contiguous() for v in views.values())
    views["v"] = x["v"][:1].expand(2, -1, -1, -1)
    leaves = {n: v.detach().requires_grad_() for n, v in views.items()}
    o, state = rule(name)(**leaves, backend="triton", return_state=True)
    cotangent = call(name, seed=5)["v"].transpose(1, 2).contiguous().transpose(1, 2)
    found = torch.autograd.grad([o, state], list(leaves.values()), [cotangent, torch.ones_like(state)])
    exact = {n: v.detach().double().contiguous().requires_grad_() for n, v in views.items()}
    o_, state_ = rule(name)(**exact, backend="recurrent", return_state=True)
    wanted = torch.autograd.grad([o_, state_], list(exact.values()), [cotangent.double(), torch.ones_like(state_)])
    assert error(o, o_) < 1e-5 and error(state, state_) < 1e-5
    assert {n: e for n, a, b in zip(x, found, wanted, strict=True) if not (e := error(a, b)) < 1e-4} == {}


@pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", [*CHUNKED, "tanh"])
def test_two_runs_give_the_same_bits(name: str, dtype: str, packed: bool) -> None:
    """The second time with NaN in fresh memory: nothing is read that was not written, and every result is written."""
    bounds = torch.tensor([0, 3, 3, LENGTH // 2, LENGTH - 10], device=DEVICE) if packed else None
    x, first = call(name, batch=1 if packed else 2, dtype=dtype), states(name, 4 if packed else 2)
    once = run(rule(name), x, first, bounds, "triton")
    with poisoned():
        again = run(rule(name), x, first, bounds, "triton")
    different = {n for n in once if not torch.equal(once[n], again[n])}
    assert not different and len(once) >= 2 + len(x)
    assert all(v.isfinite().all() for v in once.values())
