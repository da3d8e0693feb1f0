"""CUDA graphs: a whole forward, forward and backward, and the decode step, captured once and replayed with other inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract import HEADS, NAMES, call, error, rule, sizes, states, token
from device_cases import DEVICE, named, run
from torch import Tensor

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("name", NAMES)]


def captured(function: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """The graph of a call that reads and writes fixed memory, and what the call returned."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compiles, and chooses tiles
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = function()
    return graph, found


def copy(into: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for n, x in into.items():
            x.copy_(values[n])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_forward(name: str, dtype: str) -> None:
    x, first = call(name, dtype=dtype), states(name)
    with torch.no_grad():
        graph, (o, state) = captured(lambda: rule(name)(**x, initial_state=first, return_state=True, backend="triton"))
        for seed in (5, 6):
            other, begin = call(name, dtype=dtype, seed=seed), states(name, seed=seed)
            copy(x | first, other | begin)
            graph.replay()
            wanted, last = rule(name)(**other, initial_state=begin, return_state=True, backend="triton")
            assert torch.equal(o, wanted) and torch.equal(state, last)


def test_forward_of_packed_sequences(name: str) -> None:
    """Other lengths than those of the capture: nothing about them is read on the host."""
    x, bounds = call(name, batch=1), torch.tensor([0, 30, 90, 130], device=DEVICE)
    with torch.no_grad():
        graph, (o, state) = captured(lambda: rule(name)(**x, cu_seqlens=bounds, return_state=True, backend="triton"))
        for cuts in ([0, 1, 1, 130], [0, 64, 65, 100]):
            other = call(name, batch=1, seed=cuts[1])
            copy({**x, "bounds": bounds}, {**other, "bounds": torch.tensor(cuts, device=DEVICE)})
            graph.replay()
            wanted, last = rule(name)(
                **other, cu_seqlens=torch.tensor(cuts, device=DEVICE), return_state=True, backend="triton"
            )
            assert torch.equal(o, wanted) and torch.equal(state, last)


def test_forward_and_backward(name: str) -> None:
    leaves = {n: v.requires_grad_() for n, v in (call(name, dtype="bfloat16") | states(name)).items()}
    cotangent = torch.ones_like(call(name, dtype="bfloat16")["v"])

    def both(x: dict[str, Tensor]) -> tuple[Tensor, ...]:
        own = {n: v for n, v in x.items() if n != "S"}
        o = rule(name)(**own, initial_state=x["S"], backend="triton")
        return (o.detach(), *torch.autograd.grad(o, list(x.values()), cotangent))

    graph, found = captured(lambda: both(leaves))
    other = call(name, dtype="bfloat16", seed=5) | states(name, seed=5)
    copy(leaves, other)
    graph.replay()
    wanted = both({n: v.clone().requires_grad_() for n, v in other.items()})
    for n, a, b in zip(("o", *leaves), found, wanted, strict=True):
        assert torch.equal(a, b), n


class Decode:
    """A pool of 5 states, three rows of a batch, one of them padding; everything at fixed addresses."""

    def __init__(self, name: str, dtype: str) -> None:
        self.name = name
        self.pool = states(name, 5)["S"]
        self.slots = torch.tensor([3, -1, 0], device=DEVICE, dtype=torch.int32)
        self.token = token(name, call(name, batch=3, length=1, dtype=dtype), 0)
        self.out = torch.zeros(3, HEADS, sizes(name)["V"], dtype=getattr(torch, dtype), device=DEVICE)

    def step(self) -> None:
        found, state = rule(self.name).step(self.pool, out=self.out, slots=self.slots, **self.token)
        assert found is self.out and state is self.pool


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_step(name: str, dtype: str) -> None:
    """The captured step against plain torch in float64, slots changing from token to token."""
    own = Decode(name, dtype)
    with torch.no_grad():
        graph, _ = captured(own.step)
        own.pool.copy_(states(name, 5, seed=2)["S"])
        pool = own.pool.double()
        x = call(name, batch=3, length=4, dtype=dtype)
        for at, slots in enumerate(([3, -1, 0], [0, 4, -1], [2, 3, 4], [-1, -1, -1])):
            before, held = own.pool.clone(), own.out.clone()
            now = token(name, x, at)
            copy({**own.token, "slots": own.slots}, {**now, "slots": torch.tensor(slots, device=DEVICE)})
            graph.replay()
            used = [i for i, s in enumerate(slots) if s >= 0]
            rows = [slots[i] for i in used]
            idle = [r for r in range(5) if r not in rows]
            assert torch.equal(own.pool[idle], before[idle])
            if not used:
                continue
            wanted, after = rule(name).step(pool[rows], **{n: v[used].double() for n, v in now.items()})
            pool[rows] = after
            assert error(own.out[used], wanted) < (0.005 if dtype == "bfloat16" else 1e-5)
            assert error(own.pool[rows], pool[rows]) < 1e-5
            eager = Decode(name, dtype)
            copy(
                {**eager.token, "pool": eager.pool, "slots": eager.slots, "out": eager.out},
                {**now, "pool": before, "slots": own.slots, "out": held},
            )
            eager.step()
            assert torch.equal(eager.pool, own.pool) and torch.equal(eager.out[used], own.out[used])


def test_step_allocates_nothing(name: str) -> None:
    own = Decode(name, "bfloat16")
    with torch.no_grad():
        own.step()
        torch.cuda.synchronize()
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        own.step()
        assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_step_waits_for_nothing(name: str) -> None:
    own = Decode(name, "bfloat16")
    with torch.no_grad():
        own.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            own.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"])
def test_training_waits_for_nothing(name: str, packed: bool) -> None:
    x = call(name, batch=1 if packed else 2)
    bounds = torch.tensor([0, 30, 30, 100], device=DEVICE) if packed else None
    leaves = {n: v.requires_grad_() for n, v in x.items()}

    def both() -> None:
        o = rule(name)(**leaves, cu_seqlens=bounds, backend="triton")
        torch.autograd.grad(o.sum(), list(leaves.values()))

    both()
    torch.cuda.set_sync_debug_mode("error")
    try:
        both()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_steps_are_the_sequence(name: str) -> None:
    """A prompt in chunks, then tokens one by one from its state, against the whole in one call."""
    x = call(name)
    whole = run(rule(name), {n: v.double() for n, v in x.items()}, {}, None, "recurrent")
    with torch.no_grad():
        length = x["q"].shape[1]
        prompt = {n: v[:, : length - 5] for n, v in x.items()}
        _, state = rule(name)(**prompt, return_state=True, backend="triton")
        for at in range(length - 5, length):
            o, state = rule(name).step(state, **token(name, x, at))
            assert error(o, whole["fwd.o"][:, at]) < 1e-5
    assert error(named(rule(name), o)["o"], whole["fwd.o"][:, -1]) < 1e-5
