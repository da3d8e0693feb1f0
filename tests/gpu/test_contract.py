"""What torch may do with the op on a device: opcheck, compile, export, checkpoint, func.grad, vmap, autocast; and refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract import NAMES, call, double, error, inputs, rule, states, tokens
from device_cases import DEVICE
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import ruledsl
from ruledsl.runtime import registration
from ruledsl.runtime.errors import BackendError, SecondOrderError

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("name", NAMES)]

OUTPUT, GRADIENT = 1e-5, 1e-4  # float32


def loss(name: str, x: dict[str, Tensor], **changes: Any) -> Tensor:
    return rule(name)(**{**x, **changes}, backend="triton").square().sum()


def exact(name: str, x: dict[str, Tensor], **changes: Any) -> Tensor:
    """The same of the float64 recurrence."""
    return rule(name)(**double(x | changes), backend="recurrent").square().sum()


def test_opcheck(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    real = registration.run
    monkeypatch.setattr(registration, "run", lambda key, given: seen.update(key=key, tensors=given) or real(key, given))
    rule(name)(**call(name), initial_state=states(name), backend="triton")
    key, tensors = seen["key"], [t.detach() for t in seen["tensors"]]
    plan = registration.registered(key)
    assert plan is not None
    outs = torch.ops.ruledsl.chunk_forward(tensors, key)
    leaves = [t.clone().requires_grad_(w) for t, w in zip(tensors, plan.differentiable, strict=True)]
    cotangents = [torch.ones_like(y) for y in outs[: plan.results]]
    checks = [
        torch.library.opcheck(torch.ops.ruledsl.chunk_forward.default, (tensors, key)),
        torch.library.opcheck(torch.ops.ruledsl.chunk_forward.default, (leaves, key)),
        torch.library.opcheck(
            torch.ops.ruledsl.chunk_backward.default, (tensors, list(outs[plan.results :]), cotangents, key)
        ),
    ]
    assert all(result == "SUCCESS" for check in checks for result in check.values()), checks


def test_compile_with_dynamic_length(name: str) -> None:
    """One graph for both lengths, forward and backward, called before any eager call of the rule."""
    own = ruledsl.load(rule(name).source.text + "\n# another rule object")
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("inductor")

    def block(x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        output, state = own(**{**x, "q": torch.tanh(x["q"])}, backend="triton", return_state=True)
        return torch.tanh(output), state

    compiled = torch.compile(block, fullgraph=True, backend=counter)
    for length in (70, 150):
        leaves = {n: x.requires_grad_() for n, x in call(name, length=length, seed=length).items()}
        for x in leaves.values():
            torch._dynamo.mark_dynamic(x, 1)
        pairs = []
        for function in (compiled, block):
            output, state = function(leaves)
            gradients = torch.autograd.grad(output.square().sum() + state.square().sum(), list(leaves.values()))
            pairs.append((output, state, *gradients))
        for n, found, wanted in zip(("o", "S", *leaves), *pairs, strict=True):
            assert error(found, wanted) < OUTPUT, (length, n)
    assert counter.frame_count == 1


def test_compile_of_a_sum(name: str) -> None:
    """The gradient of a sum is one number seen from every entry: a tensor with strides of 0 inside the graph."""
    torch._dynamo.reset()
    own, leaves = rule(name), {n: x.requires_grad_() for n, x in call(name).items()}

    def total(x: dict[str, Tensor]) -> Tensor:
        found: Tensor = own(**x, backend="triton").sum()
        return found

    found = torch.autograd.grad(torch.compile(total, fullgraph=True)(leaves), list(leaves.values()))
    exact_leaves = {n: x.detach().double().requires_grad_() for n, x in leaves.items()}
    wanted = torch.autograd.grad(own(**exact_leaves, backend="recurrent").sum(), list(exact_leaves.values()))
    assert {n: e for n, a, b in zip(leaves, found, wanted, strict=True) if not (e := error(a, b)) < GRADIENT} == {}


def test_compile_with_packed_sequences(name: str) -> None:
    torch._dynamo.reset()
    own = rule(name)

    def packed(x: dict[str, Tensor], bounds: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = own(**x, cu_seqlens=bounds, return_state=True, backend="triton")
        return found

    compiled = torch.compile(packed, fullgraph=True)
    x = call(name, batch=1, length=100)
    for cuts in ([0, 30, 30, 100], [0, 1, 64, 90]):
        bounds = torch.tensor(cuts, device=DEVICE)
        for found, wanted in zip(compiled(x, bounds), packed(x, bounds), strict=True):
            assert error(found, wanted) < OUTPUT, cuts


def test_export_with_dynamic_length(name: str) -> None:
    own = rule(name)

    class Model(torch.nn.Module):
        def forward(self, x: dict[str, Tensor]) -> Tensor:
            found: Tensor = own(**x, backend="triton")
            return found

    length = torch.export.Dim("T", min=2, max=4096)
    x = call(name, length=40)
    exported = torch.export.export(Model(), (x,), dynamic_shapes=({n: {1: length} for n in x},))
    for tokens_ in (17, 111):
        other = call(name, length=tokens_, seed=1)
        assert error(exported.module()(other), own(**double(other), backend="recurrent")) < OUTPUT


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(name: str, reentrant: bool) -> None:
    leaves = {n: x.requires_grad_() for n, x in call(name).items()}
    wanted = torch.autograd.grad(loss(name, leaves), list(leaves.values()))
    names = list(leaves)

    def layer(*given: Tensor) -> Tensor:
        return loss(name, dict(zip(names, given, strict=True)))

    checkpoint(layer, *leaves.values(), use_reentrant=reentrant).backward()
    for (n, x), gradient in zip(leaves.items(), wanted, strict=True):
        assert x.grad is not None and torch.equal(x.grad, gradient), n


def test_func_grad(name: str) -> None:
    x = call(name)
    found = torch.func.grad(lambda given: loss(name, given))(x)
    wanted = torch.func.grad(lambda given: exact(name, given))(double(x))
    assert {n: e for n in x if not (e := error(found[n], wanted[n])) < GRADIENT} == {}


def test_vmap(name: str) -> None:
    x = call(name)
    q = torch.stack([call(name, seed=s)["q"] for s in (1, 2, 3)], -1)
    b = torch.stack([call(name, seed=s)["b"] for s in (4, 5, 6)])
    found = torch.vmap(lambda q, b: rule(name)(**{**x, "q": q, "b": b}, backend="triton"), in_dims=(-1, 0))(q, b)
    for i in range(3):
        wanted = rule(name)(**double({**x, "q": q[..., i], "b": b[i]}), backend="recurrent")
        assert error(found[i], wanted) < OUTPUT


def test_vmap_of_a_gradient_keeps_elements_apart(name: str) -> None:
    """The gradient of k, which is shared, is one for each element."""
    x = call(name)
    q = torch.stack([call(name, seed=s)["q"] for s in (1, 2)])

    def gradient(of: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        return torch.func.grad(lambda q, k, b: of(name, x, q=q, k=k, b=b), argnums=(0, 1, 2))

    found = torch.vmap(gradient(loss), in_dims=(0, None, None))(q, x["k"], x["b"])
    for i in range(2):
        wanted = gradient(exact)(q[i].double(), x["k"].double(), x["b"].double())
        for one, other in zip(found, wanted, strict=True):
            assert error(one[i], other) < GRADIENT


def test_vmap_over_packed_sequences(name: str) -> None:
    x = call(name, batch=1, length=40)
    bounds = torch.tensor([0, 17, 17, 40], device=DEVICE)
    q = torch.stack([call(name, batch=1, length=40, seed=s)["q"] for s in (1, 2)])
    found = torch.vmap(lambda q: rule(name)(**{**x, "q": q}, cu_seqlens=bounds, backend="triton"))(q)
    for i in range(2):
        wanted = rule(name)(**double({**x, "q": q[i]}), cu_seqlens=bounds, backend="recurrent")
        assert error(found[i], wanted) < OUTPUT


def test_second_order_and_forward_mode_are_refused(name: str) -> None:
    x = call(name, length=20)
    q, b = x["q"].requires_grad_(), x["b"].requires_grad_()
    (first,) = torch.autograd.grad(loss(name, x), q, create_graph=True)
    with pytest.raises(SecondOrderError, match="recurrent"):
        torch.autograd.grad(first.sum(), b)
    plain = call(name, length=20)
    with pytest.raises(SecondOrderError, match="forward-mode"):
        torch.func.jvp(lambda q: loss(name, plain, q=q), (plain["q"],), (plain["q"],))


def test_autocast(name: str) -> None:
    """Vectors go to bf16, gates and the state stay float32; gradients come back in float32. The same bits as by hand."""
    low = call(name, dtype="bfloat16")
    wide = {n: x.float().clone().requires_grad_() for n, x in low.items()}
    with torch.autocast(DEVICE.type, torch.bfloat16):
        output, state = rule(name)(**wide, backend="triton", return_state=True)
        one, after = rule(name).step(None, **{n: x.detach()[:, 0] for n, x in wide.items()})
    assert output.dtype is one.dtype is torch.bfloat16
    assert state.dtype is after.dtype is torch.float32
    leaves = {n: x.requires_grad_() for n, x in low.items()}
    wanted, last = rule(name)(**leaves, backend="triton", return_state=True)
    assert torch.equal(output, wanted) and torch.equal(state, last)
    found = torch.autograd.grad(output.float().square().sum(), list(wide.values()))
    own = torch.autograd.grad(wanted.float().square().sum(), list(leaves.values()))
    for n, a, b in zip(wide, found, own, strict=True):
        assert a.dtype is torch.float32 and torch.equal(a, b.float()), n


def test_the_default_on_the_device(name: str) -> None:
    x = call(name, length=20)
    assert rule(name).backend_for(DEVICE) == "triton"
    assert torch.equal(rule(name)(**x), rule(name)(**x, backend="triton"))


@pytest.mark.parametrize("wide", ["K", "V"])
def test_a_size_beyond_the_limit(name: str, wide: str) -> None:
    """Kernels of chunks name their limit and a backend that runs the call; those of tokens may do it."""
    x = call(name, length=4)
    axes = {"K": ("q", "k", "a") if name == "kda" else ("q", "k"), "V": ("v",)}[wide]
    x |= {n: torch.nn.functional.normalize(torch.rand(2, 4, x[n].shape[2], 300, device=DEVICE), dim=-1) for n in axes}
    if name == "tanh":
        wanted = rule(name)(**double(x), backend="recurrent")
        assert error(rule(name)(**x, backend="triton"), wanted) < OUTPUT
        return
    with pytest.raises(BackendError, match="has a size of 300, kernels go to 256; backend 'torch' runs it"):
        rule(name)(**x, backend="triton")
    assert error(rule(name)(**x, backend="torch"), rule(name)(**double(x), backend="recurrent")) < OUTPUT


def test_no_tokens(name: str) -> None:
    x = tokens(name, call(name), 0, 0)
    first = states(name)
    output, state = rule(name)(**x, initial_state=first, return_state=True, backend="triton")
    assert output.shape[1] == 0 and torch.equal(state, first["S"]) and set(inputs(name)) <= set(x)
