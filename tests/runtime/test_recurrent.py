"""The specification: every rule of the corpus, against loops written by hand and against itself."""

from __future__ import annotations

import math

import pytest
import torch
from cases import ACCEPTED, arguments, cut, error, gradients, parts, rule, sizes, states, token
from torch import Tensor

from ruledsl import pipeline
from ruledsl.lang import typed
from ruledsl.lang.typed import Role
from ruledsl.runtime.rule import Rule, load
from ruledsl.runtime.token import Token

CARRIES = "delta qrnn omega_linear retention mamba3 case_31 case_62 titans ttt_linear case_46b rwkv4 slstm".split()


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_rule_runs_and_has_a_gradient(name: str) -> None:
    r = rule(name)
    sized = sizes(r)
    x = arguments(r, 2, 5, 2, sized)
    declared = any(e.init is not None for e in r.typed.of(Role.STATE))  # a first value in the rule is kept
    out, last, grads = gradients(r, x, states(r, 2, 2, sized, every=not declared), backend="recurrent")
    for y in (*parts(out).values(), *parts(last).values(), *grads.values()):
        assert y.isfinite().all()
    assert any(g.abs().max() > 0 for g in grads.values())


@pytest.mark.parametrize("name", ACCEPTED)
def test_unrolling_does_not_change_the_meaning(name: str) -> None:
    r = rule(name)
    sized = sizes(r)
    unrolled = pipeline.unroll(r.typed, sized)
    x = arguments(r, 1, 4, 2, sized)
    given = token(r, x, 0)
    first = states(r, 1, 2, sized)
    opened = {n: _open(v, r.typed.symbol(n).type) for n, v in {**given, **(first or {})}.items()}
    values = {n: v if n in {e.name for e in r.spec.inputs} else v[None] for n, v in opened.items() if n in given}
    found = []
    for one in (r.typed, unrolled):
        step = Token(one, sized, 2, torch.float64, torch.device("cpu"))
        carry = step.first_carry(1, {n: v for n, v in opened.items() if n not in given})
        out, carry = step.step(values, carry)
        out, carry = step.step(values, carry)
        found.append(
            {
                **{o: out[o] for o in (y.name for y in r.typed.outputs)},
                **{f"state {n}": v for n, v in carry.states.items()},
            }
        )
    assert error(found[1], found[0]) < 1e-12


def _open(x: Tensor, type_: typed.Type) -> Tensor:
    return x[..., None, None] if type_.is_scalar else x[..., None] if type_.is_vector else x


def test_gated_delta_by_hand() -> None:
    r = rule("gated_delta")
    x = arguments(r, 1, 7, 1, {"K": 4, "V": 6})
    q, k, v, a, b = (x[n][0, :, 0] for n in "qkvab")
    S = torch.zeros(6, 4, dtype=torch.float64)
    rows = []
    for t in range(7):
        S = a[t] * S
        S = S + b[t] * torch.outer(v[t] - S @ k[t], k[t])
        rows.append(S @ q[t] / math.sqrt(4))
    out, last = r(**x, return_state=True, backend="recurrent")
    assert error(out[0, :, 0], torch.stack(rows)) < 1e-13
    assert error(last[0, 0], S) < 1e-13


def test_prev_is_zero_before_the_first_token() -> None:
    r = load("state c\ninput x\nc = c + prev(x, 2)\noutput o = c + 10*prev(x)")
    x = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).reshape(1, 4, 1)
    assert r(x=x).flatten().tolist() == [0, 10, 21, 33]


def test_prev_of_a_state_is_the_state_before_the_token() -> None:
    r = load("state a, b\ninput x\na = a + x\nb = prev(a) + 0*b\noutput o = b")
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).reshape(1, 3, 1)
    assert r(x=x, backend="recurrent").flatten().tolist() == [0, 1, 3]


def test_frozen_is_the_state_as_the_chunk_began() -> None:
    r = load("state a\ninput x\na = a + x\noutput o = frozen(a, 3)")
    x = torch.ones(1, 7, 1, dtype=torch.float64)
    assert r(x=x, backend="recurrent").flatten().tolist() == [0, 0, 0, 3, 3, 3, 6]


def test_grad_is_the_delta_rule() -> None:
    r = load("state S[V, K]\ninput q[K], k[K], v[V], b\nS = S - b*grad(0.5*norm2(S k - v), S)\noutput o = S q")
    plain = load("state S[V, K]\ninput q[K], k[K], v[V], b\nS = S + b*(v - S k) k^T\noutput o = S q")
    x = arguments(r, 2, 6, 2, {"K": 4, "V": 6})
    a, b = (gradients(y, x, None, backend="recurrent") for y in (r, plain))
    assert error(a[0], b[0]) < 1e-13 and error(a[2], b[2]) < 1e-12


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_grad_works_when_nothing_else_is_differentiated(mode: type) -> None:
    r = rule("omega_linear")
    x = arguments(r, 1, 6, 1, sizes(r))
    expected = r(**{n: v.clone().requires_grad_() for n, v in x.items()}, backend="recurrent")
    with mode():
        assert error(r(**x, backend="recurrent"), expected) < 1e-13


def test_grad_inside_a_rule_is_differentiated_again() -> None:
    r = rule("case_45b")
    x = arguments(r, 1, 3, 1, {"K": 3, "V": 2})
    assert torch.autograd.gradcheck(
        lambda q, k, v: r(q=q, k=k, v=v, backend="recurrent"), tuple(x[n].requires_grad_() for n in "qkv")
    )


def test_row_wise_functions() -> None:
    x = torch.randn(1, 1, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    names = {
        "softmax": torch.softmax(x, -1),
        "layernorm": torch.nn.functional.layer_norm(x, (6,)),
        "unit": x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6),
    }
    names["rmsnorm"] = torch.nn.functional.rms_norm(x, (6,), eps=1e-5)
    names["topk"] = (x >= x.sort(-1).values[..., -2:-1]).double()
    for name, expected in names.items():
        second = ", 2" if name == "topk" else ""
        r = load(f"state h[K]\ninput x[K]\nh = 0*h\noutput o = h + {name}(x{second})")
        assert error(r(x=x, backend="recurrent"), expected) < 1e-12, name


def test_ctz_counts_trailing_zeros() -> None:
    r = load("state h\ninput x\nh = 0*h\noutput o = h + 0*x + ctz(t)")
    out = r(x=torch.zeros(1, 17, 1, dtype=torch.float64), backend="recurrent").flatten().tolist()
    assert out == [0, 0, 1, 0, 2, 0, 1, 0, 3, 0, 1, 0, 2, 0, 1, 0, 4]


def test_heads_and_positions() -> None:
    r = load("state h\ninput x\nh = 0*h\noutput o = h + 0*x + 100*heads + 10*head + t")
    out = r(x=torch.zeros(1, 3, 2, dtype=torch.float64), backend="recurrent")
    assert out[0].tolist() == [[200, 210], [201, 211], [202, 212]]


@pytest.mark.parametrize("name", CARRIES)
@pytest.mark.parametrize("at", [0, 1, 17, 40, 41])
def test_cut_anywhere_is_the_whole(name: str, at: int) -> None:
    r = rule(name)
    sized = sizes(r)
    x = arguments(r, 2, 41, 2, sized)
    first = states(r, 2, 2, sized)
    whole, last = r(**x, initial_state=first, return_state=True, backend="recurrent")
    left, middle = r(**cut(r, x, 0, at), initial_state=first, return_state=True, backend="recurrent")
    right, end = r(**cut(r, x, at, 41), initial_state=middle, return_state=True, backend="recurrent")
    assert error(torch.cat([left, right], 1), whole) < 1e-12
    assert error(end, last) < 1e-12


@pytest.mark.parametrize("name", CARRIES)
def test_packed_is_separate(name: str) -> None:
    r = rule(name)
    sized = sizes(r)
    x = arguments(r, 1, 30, 2, sized)
    bounds = [0, 5, 5, 22, 30]
    first = states(r, 4, 2, sized, every=True)
    out, last = r(**x, initial_state=first, return_state=True, cu_seqlens=torch.tensor(bounds), backend="recurrent")
    for i, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        own = {n: v[i : i + 1] for n, v in (first or {}).items()}
        alone, state = r(**cut(r, x, start, end), initial_state=own or None, return_state=True, backend="recurrent")
        assert error(out[:, start:end], alone) < 1e-12
        assert error({n: v[i : i + 1] for n, v in parts(last).items()}, parts(state)) < 1e-12


@pytest.mark.parametrize("name", CARRIES)
def test_steps_are_the_sequence(name: str) -> None:
    r = rule(name)
    sized = sizes(r)
    x = arguments(r, 2, 20, 2, sized)
    first = states(r, 2, 2, sized)
    whole, last = r(**x, initial_state=first, return_state=True, backend="recurrent")
    state, outs = first, []
    for i in range(20):
        out, state = r.step(state, **token(r, x, i))
        outs.append(out)
    assert error(torch.stack(outs, 1), whole) < 1e-12
    assert error(state, last) < 1e-12


def test_second_derivatives() -> None:
    r: Rule = rule("gated_delta")
    x = arguments(r, 1, 3, 1, {"K": 3, "V": 2})
    assert torch.autograd.gradgradcheck(
        lambda a, b: r(**{**x, "a": a, "b": b}, backend="recurrent"), (x["a"].requires_grad_(), x["b"].requires_grad_())
    )
