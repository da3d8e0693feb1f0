"""A layer of every rule: built from the file alone, the same however a sequence is cut, trained, saved and loaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_layers import ALL_NAMES, DIM, HEADS, OTHERS, layer, load
from torch import Tensor, nn

import ruledsl
from ruledsl.nn.layer import LayerState, RuleLayer

ALL = ALL_NAMES
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
ONE_LINE = "S = a*S + b*(v - S k) k^T"


def _stepped(module: RuleLayer, x: Tensor) -> tuple[Tensor, LayerState]:
    state, found = module.init_state(x.shape[0]), []
    for token in x.unbind(1):
        y, state = module.step(token, state)
        found.append(y)
    return torch.stack(found, 1), state


def _leaves(state: LayerState) -> list[Tensor]:
    memory = [state.memory] if isinstance(state.memory, Tensor) else list(state.memory.values())
    return [*memory, *state.taps.values()]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_forward_is_step_token_by_token_and_does_not_depend_on_cuts(name: str, dtype: torch.dtype) -> None:
    module = layer(name, conv=4, out_gate=True).to(dtype)
    x = torch.randn(2, 21, DIM, dtype=dtype)
    with torch.no_grad():
        whole, last = module(x, return_state=True)
        near = {"rtol": 0, "atol": TOLERANCE[dtype] * max(1.0, float(whole.abs().max()))}
        assert whole.shape == x.shape and whole.dtype == dtype and float(whole.abs().max()) > 1e-3
        stepped, state = _stepped(module, x)
        torch.testing.assert_close(stepped, whole, **near)
        for here, there in zip(_leaves(state), _leaves(last), strict=True):
            torch.testing.assert_close(here, there, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        for cuts in ((0, 13), (2, 3, 18), (21,)):
            state, parts = None, []
            for part in torch.tensor_split(x, cuts, dim=1):
                y, state = module(part, state, return_state=True)
                parts.append(y)
            torch.testing.assert_close(torch.cat(parts, 1), whole, **near)


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_has_a_finite_gradient_that_is_not_zero(name: str) -> None:
    module = layer(name, conv=4, out_gate=True)
    module(torch.randn(2, 12, DIM)).square().sum().backward()
    for key, param in module.named_parameters():
        assert param.grad is not None and param.grad.isfinite().all(), key
        assert param.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", OTHERS)
def test_the_rest_of_the_collection(name: str) -> None:
    module = layer(name, conv=4).double()
    x = torch.randn(2, 19, DIM, dtype=torch.float64)
    y, last = module(x, return_state=True)
    stepped, state = _stepped(module, x)
    torch.testing.assert_close(stepped, y, rtol=0, atol=1e-9)
    for here, there in zip(_leaves(state), _leaves(last), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)
    y.square().sum().backward()
    for key, param in module.named_parameters():
        assert param.grad is not None and param.grad.isfinite().all() and param.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", ALL)
def test_state_dict_round_trip(name: str) -> None:
    first, second = layer(name, seed=0, conv=4), layer(name, seed=1, conv=4)
    x = torch.randn(1, 9, DIM)
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("name", ["gated_delta", "gla", "retention", "gru"])
def test_packed_sequences_are_their_own(name: str) -> None:
    module = layer(name, conv=4).double()
    lengths = [2, 7, 0, 4]
    x = torch.randn(1, sum(lengths), DIM, dtype=torch.float64)
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    with torch.no_grad():
        packed, last = module(x, return_state=True, cu_seqlens=bounds)
        again, _ = module(x, last, return_state=True, cu_seqlens=bounds)
        assert all(leaf.shape[0] == len(lengths) for leaf in _leaves(last))
        for i, part in enumerate(x.split(lengths, 1)):
            one, state = module(part, return_state=True)
            torch.testing.assert_close(packed[:, bounds[i] : bounds[i + 1]], one, rtol=0, atol=1e-9)
            for here, there in zip(_leaves(last), _leaves(state), strict=True):
                torch.testing.assert_close(here[i : i + 1], there, rtol=0, atol=1e-9)
            two = module(part, state)
            torch.testing.assert_close(again[:, bounds[i] : bounds[i + 1]], two, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["mission", "kda"])
def test_backends_agree(name: str) -> None:
    module = layer(name).double()
    x = torch.randn(2, 40, DIM, dtype=torch.float64)
    chunked = module(x)
    module.backend = "recurrent"
    torch.testing.assert_close(module(x), chunked, rtol=0, atol=1e-9)
    module.backend, module.chunk_size = "torch", 16
    torch.testing.assert_close(module(x), chunked, rtol=0, atol=1e-9)


def test_step_keeps_the_shape_of_its_token() -> None:
    module = layer("delta")
    x = torch.randn(3, DIM)
    flat, _ = module.step(x, module.init_state(3))
    token, _ = module.step(x[:, None], module.init_state(3))
    assert flat.shape == (3, DIM) and token.shape == (3, 1, DIM)
    assert torch.equal(flat, token[:, 0])


def test_projections_are_called_through_forward() -> None:
    """What wraps a Linear (adapters, hooks) sees each of them, once per call, in training and in decoding."""
    module = layer("gated_delta", out_gate=True)
    linears = {name: sub for name, sub in module.named_modules() if isinstance(sub, nn.Linear)}
    assert {name.rpartition(".")[2] for name in linears} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "a_proj",
        "b_proj",
        "gate_proj",
        "out_proj",
    }
    seen: list[str] = []
    for name, sub in linears.items():
        sub.register_forward_hook(lambda *_, name=name: seen.append(name))
    module(torch.randn(1, 3, DIM))
    assert sorted(seen) == sorted(linears)
    state = module.init_state(1)
    seen.clear()
    module.step(torch.randn(1, DIM), state)
    assert sorted(seen) == sorted(linears)


def test_options_change_what_they_name() -> None:
    x = torch.randn(1, 5, DIM)
    plain = layer("delta", out_norm=False)
    assert plain.norm is None and plain.gate_proj is None and not plain.convolutions
    assert layer("delta", out_norm="rms").norm is not None
    assert set(layer("delta", conv=4).convolutions) == {"q_conv", "k_conv", "v_conv"}  # b is a coefficient
    scaled = layer("delta")
    with torch.no_grad():
        scaled.projections["v_proj"].weight.mul_(100)  # away from the norm's eps
        y = scaled(x)
        scaled.projections["v_proj"].weight.mul_(100)
        torch.testing.assert_close(scaled(x), y, rtol=1e-2, atol=1e-3)  # the norm takes the scale out again
        before = plain(x)
        plain.projections["v_proj"].weight.mul_(100)
        torch.testing.assert_close(plain(x), 100 * before)


def test_bfloat16_keeps_its_dtype_and_its_decays() -> None:
    module = layer("gated_delta").bfloat16()
    x = torch.randn(1, 9, DIM, dtype=torch.bfloat16)
    given, _ = module._inputs(x, None, None)
    assert given["a"].dtype is torch.float32 and given["k"].dtype is torch.bfloat16
    y, state = module(x, return_state=True)
    assert y.dtype is torch.bfloat16 and state.memory.dtype is torch.float32


def test_learned_first_states_reach_the_output_and_are_trained() -> None:
    text = "state S[V, K] = learned\ninput q[K], k[K] unit, v[V], a in (0, 1]\nS = a*S + v k^T\noutput o = S q"
    module = ruledsl.load(text).layer(dim=8, heads=2)
    x = torch.randn(3, 4, 8)
    module(x).square().sum().backward()
    assert module.initial_S.grad.abs().max() > 0
    torch.testing.assert_close(module.init_state(3).memory, module.initial_S.expand(3, 2, 4, 4))
    torch.testing.assert_close(_stepped(module, x)[0], module(x))
    packed = module(x.flatten(0, 1)[None], cu_seqlens=torch.tensor([0, 4, 8, 12]))
    torch.testing.assert_close(packed[0].view(3, 4, 8), module(x))


def test_several_outputs_and_scalars() -> None:
    text = "state s, S[V, K]\ninput a in (0, 1), q[K], k[K], v[V]\ns = a*s + sum(k)\nS = a*S + v k^T\noutput o = S q\noutput p = s"
    module = ruledsl.load(text).layer(dim=8, heads=2, value_dim=3)
    assert module.out_proj.in_features == 2 * (3 + 1)
    x = torch.randn(2, 6, 8)
    torch.testing.assert_close(_stepped(module, x)[0], module(x), rtol=0, atol=1e-5)
    only = ruledsl.load("state s\ninput a in (0, 1), x\ns = a*s + x\noutput o = s").layer(dim=8, heads=2)
    assert only.norm is None  # the norm of one number is its sign
    torch.testing.assert_close(_stepped(only, x)[0], only(x), rtol=0, atol=1e-5)


def test_matrix_inputs_are_projected() -> None:
    module = ruledsl.load(
        "state S[V, K]\ninput q[K], X[V, K], P[V, K] in [0, 1]\nS = P .* S + X\noutput o = S q"
    ).layer(dim=8, heads=2, value_dim=3)
    assert module.projections["X_proj"].out_features == 2 * 3 * 4
    x = torch.randn(2, 6, 8)
    torch.testing.assert_close(_stepped(module, x)[0], module(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("delta", {"dim": 10, "heads": 4, "head_dim": None}, "not a multiple of heads"),
        ("delta", {"sizes": {"N": 4}}, "no size `N`"),
        ("delta", {"head_dim": 0}, "K must be a positive whole number"),
        ("delta", {"out_norm": "layer"}, "out_norm"),
        ("delta", {"conv": 1}, "width of at least 2"),
        ("delta", {"consts": {"s": 1.0}}, "no open const `s`"),
        ("delta_product", {"sizes": None}, "family size `n` is open"),
        ("lightning", {"consts": None}, r"`s` \[H\]"),
        ("lightning", {"consts": {"s": torch.ones(5)}}, r"const `s`: declared \[2\], got \[5\]"),
    ],
)
def test_what_does_not_fit_is_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(name, **options)


def test_permutations_are_refused() -> None:
    with pytest.raises(ValueError, match="`P` is promised `perm`"):
        ruledsl.load("state S[V, K]\ninput q[K], P[K, K] perm, v[V], k[K]\nS = S P + v k^T\noutput o = S q").layer(
            dim=8, heads=2
        )


def test_one_line_makes_a_layer_that_trains() -> None:
    torch.manual_seed(0)
    module = ruledsl.load(ONE_LINE).layer(dim=16, heads=2)
    assert len(module.assumptions) == 3
    x = torch.randn(4, 24, 16)
    target = x.roll(1, 1)  # the token before
    target[:, 0] = 0
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = (module(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0], (losses[0], losses[-1])


def test_load_shares_the_rule() -> None:
    rule = load("delta")
    assert layer("delta").rule is rule and layer("delta").heads == HEADS
