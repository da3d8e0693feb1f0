"""What torch may do with the op: opcheck, compile, export, checkpoint, func.grad, vmap; and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import arguments, error, rule
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ruledsl.runtime import registration
from ruledsl.runtime.errors import SecondOrderError
from ruledsl.runtime.rule import load

SIZES = {"K": 8, "V": 6}


@pytest.fixture
def x() -> dict[str, Tensor]:
    return arguments(rule("gated_delta"), 2, 20, 2, SIZES)


def run(x: dict[str, Tensor], backend: str = "torch", **changes: Tensor) -> Tensor:
    out: Tensor = rule("gated_delta")(**{**x, **changes}, backend=backend)
    return out


def test_opcheck(x: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    real = registration.run
    monkeypatch.setattr(
        registration, "run", lambda key, tensors: seen.update(key=key, tensors=tensors) or real(key, tensors)
    )
    run(x)
    key, tensors = seen["key"], [t.detach() for t in seen["tensors"]]
    plan = registration.registered(key)
    assert plan is not None
    outs = torch.ops.ruledsl.chunk_forward(tensors, key)
    leaves = [t.clone().requires_grad_() for t in tensors]
    checks = [
        torch.library.opcheck(torch.ops.ruledsl.chunk_forward.default, (tensors, key)),
        torch.library.opcheck(torch.ops.ruledsl.chunk_forward.default, (leaves, key)),
        torch.library.opcheck(
            torch.ops.ruledsl.chunk_backward.default,
            (tensors, list(outs[plan.results :]), [torch.ones_like(y) for y in outs[: plan.results]], key),
        ),
    ]
    assert all(result == "SUCCESS" for check in checks for result in check.values())


@pytest.mark.parametrize("reduce", [torch.sum, lambda o: o.square().sum()])
def test_second_order_is_refused(x: dict[str, Tensor], reduce: Callable[[Tensor], Tensor]) -> None:
    q, a = x["q"].clone().requires_grad_(), x["a"].clone().requires_grad_()
    (first,) = torch.autograd.grad(reduce(run(x, q=q, a=a)), q, create_graph=True)
    with pytest.raises(SecondOrderError, match="recurrent"):
        torch.autograd.grad(first.sum(), a)


def test_jvp_is_refused(x: dict[str, Tensor]) -> None:
    with pytest.raises(SecondOrderError, match="forward-mode"):
        torch.func.jvp(lambda q: run(x, q=q), (x["q"],), (x["q"],))


@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)], ids=["output", "state", "both"])
def test_what_is_not_used_has_no_gradient_of_its_own(x: dict[str, Tensor], used: tuple[int, ...]) -> None:
    """What a call keeps for the backward pass gets none either."""

    def gradients(backend: str) -> list[Tensor]:
        leaves = {n: v.detach().requires_grad_() for n, v in x.items()}
        found = rule("gated_delta")(**leaves, backend=backend, return_state=True)
        given = torch.autograd.grad(
            sum(found[i].square().sum() for i in used), list(leaves.values()), allow_unused=True
        )
        return [torch.zeros_like(v) if g is None else g for g, v in zip(given, leaves.values(), strict=True)]

    for found, wanted in zip(gradients("torch"), gradients("recurrent"), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


def test_func_grad(x: dict[str, Tensor]) -> None:
    a, b = (torch.func.grad(lambda q, be=be: run(x, be, q=q).square().sum())(x["q"]) for be in ("torch", "recurrent"))
    assert error(a, b) < 1e-12


def test_vmap(x: dict[str, Tensor]) -> None:
    q, a = torch.randn(*x["q"].shape, 3, dtype=torch.float64), torch.rand(3, *x["a"].shape, dtype=torch.float64)
    found, expected = (
        torch.vmap(lambda q, a, be=be: run(x, be, q=q, a=a), in_dims=(-1, 0))(q, a) for be in ("torch", "recurrent")
    )
    assert error(found, expected) < 1e-12


def test_vmap_of_a_gradient_keeps_elements_apart(x: dict[str, Tensor]) -> None:
    """The gradient of k, which is shared, is one for each element; so is that of a parameter."""
    r = load("state S[V, K]\ninput q[K], k[K], v[V]\nparam d[K]\nS = S + v (k .* d)^T\noutput o = S q")
    y = {n: x[n] for n in "qkv"}
    d = torch.rand(2, 8, dtype=torch.float64)
    q = torch.randn(3, *x["q"].shape, dtype=torch.float64)

    def both(backend: str) -> tuple[Tensor, ...]:
        one = torch.func.grad(
            lambda q, k, d: r(**{**y, "q": q, "k": k}, d=d, backend=backend).square().sum(), argnums=(0, 1, 2)
        )
        found: tuple[Tensor, ...] = torch.vmap(one, in_dims=(0, None, None))(q, x["k"], d)
        return found

    for a, b in zip(both("torch"), both("recurrent"), strict=True):
        assert a.shape[0] == 3 and error(a, b) < 1e-12


def test_vmap_over_packed_sequences() -> None:
    r = rule("gated_delta")
    x = arguments(r, 1, 20, 2, SIZES)
    cu = torch.tensor([0, 7, 20])
    q = torch.randn(3, *x["q"].shape, dtype=torch.float64)
    found = torch.vmap(lambda q: r(**{**x, "q": q}, cu_seqlens=cu, backend="torch"))(q)
    expected = torch.stack([r(**{**x, "q": one}, cu_seqlens=cu, backend="recurrent") for one in q])
    assert error(found, expected) < 1e-12


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(x: dict[str, Tensor], reentrant: bool) -> None:
    q = x["q"].clone().requires_grad_()
    (a,) = torch.autograd.grad(run(x, q=q).square().sum(), q)
    checkpoint(lambda q: run(x, q=q), q, use_reentrant=reentrant).square().sum().backward()
    assert q.grad is not None and torch.equal(q.grad, a)


def test_compile_with_dynamic_length() -> None:
    r = load(rule("gated_delta").source.text + "\n# compiled before any eager call")
    torch._dynamo.reset()
    graphs = []

    def count(gm: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., object]:
        graphs.append(gm)
        return gm.forward

    compiled = torch.compile(lambda x: r(**x, backend="torch"), fullgraph=True, backend="aot_eager")
    counted = torch.compile(lambda x: r(**x, backend="torch"), fullgraph=True, backend=count)
    for length in (20, 33, 47, 64):
        x = arguments(r, 2, length, 2, SIZES, seed=length)
        q = x["q"].requires_grad_()
        out = compiled(x)
        counted(x)
        (a,) = torch.autograd.grad(out.square().sum(), q)
        expected = r(**x, backend="recurrent")
        (b,) = torch.autograd.grad(expected.square().sum(), q)
        assert error(out, expected) < 1e-9 and error(a, b) < 1e-7
    assert len(graphs) <= 2  # one for the first length, one for every other


def test_compile_with_packed_sequences_and_state() -> None:
    r = rule("omega_linear")
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, cu: r(**x, cu_seqlens=cu, return_state=True, backend="torch"), fullgraph=True, backend="aot_eager"
    )
    x = arguments(r, 1, 30, 2, SIZES)
    for bounds in ([0, 10, 10, 30], [0, 1, 29, 30]):
        cu = torch.tensor(bounds)
        out, state = compiled(x, cu)
        expected, last = r(**x, cu_seqlens=cu, return_state=True, backend="recurrent")
        assert error(out, expected) < 1e-9 and error(state, last) < 1e-9


def test_compile_of_the_step() -> None:
    r = rule("retention")
    torch._dynamo.reset()
    sized = dict.fromkeys(r.typed.sizes, 8)
    x = arguments(r, 2, 1, 2, sized)
    one = {n: v[:, 0] if n in "qkv" else v for n, v in x.items()}
    state = r.init_state(2, 2, dtype=torch.float64, **sized)
    out, after = torch.compile(lambda s, x: r.step(s, **x), fullgraph=True, backend="aot_eager")(state, one)
    expected, last = r.step(state, **one)
    assert error(out, expected) < 1e-12 and error(after, last) < 1e-12


def test_export_with_dynamic_length(x: dict[str, Tensor]) -> None:
    class Model(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
            return run({"q": q, "k": k, "v": v, "a": a, "b": b})

    length = torch.export.Dim("T", min=17, max=4096)
    exported = torch.export.export(Model(), (), kwargs=dict(x), dynamic_shapes={n: {1: length} for n in x})
    other = arguments(rule("gated_delta"), 2, 51, 2, SIZES)
    assert error(exported.module()(**other), run(other, "recurrent")) < 1e-9


def test_a_key_of_another_process_is_named() -> None:
    with pytest.raises(Exception, match="no compiled rule has the key"):
        torch.ops.ruledsl.chunk_forward([torch.zeros(1)], "nowhere")
