"""Rules with gradients at the state of the chunk's start, chunk by chunk, against the recurrence in float64."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from cases import arguments, as_eager, cut, error, gradients, rule, sizes, states, token
from torch import Tensor

from ruledsl.algebra.verdict import Kind
from ruledsl.lab.random_rule import random_rule
from ruledsl.runtime import layout
from ruledsl.runtime.chunkable import Chunkable
from ruledsl.runtime.errors import BackendError, SecondOrderError
from ruledsl.runtime.rule import Rule, load
from ruledsl.runtime.sample import sample_states
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.triton_backend import takes_chunks
from ruledsl.runtime.triton_form import form_of

OUTPUT, GRADIENT = 1e-9, 1e-8
RULES = ("ttt_linear", "ttt_mlp", "titans", "case_46b")
HEAD = "state S[V, K]\ninput q[K], k[K], v[V], a in (0, 1], b in [0, 1]\n"
TWO = "state W[V, K], M[V, K]\ninput q[K], k[K], v[V], a in (0, 1], m in [0, 1)\n"
MORE = {
    "error at the frozen state": HEAD + "S = S + b*(v - frozen(S, 8) k) k^T\noutput o = S q",
    "pulled to the frozen state": HEAD
    + "S = a*S + (1 - a)*frozen(S, 5) + b*(tanh(frozen(S, 5) k) - S k) k^T\noutput o = S q",
    "begins again from it": HEAD + "S = a*frozen(S, 4) + b*(v - S k) k^T\noutput o = S q",
    "added with a write": HEAD + "let F = 2*frozen(S, 4) + v k^T\nS = a*S + 0.1*F\noutput o = S q",
    "read before the write": HEAD + "output o = S q\nS = a*S + b*(v - tanh(frozen(S, 3)) k) k^T",
    "read in the output": HEAD + "S = a*S + b*(v - frozen(S, 3) k) k^T\noutput o = frozen(S, 3) q + S k",
    "its norm": HEAD + "S = a*S + b*v k^T/(1 + norm2(frozen(S, 3)))\noutput o = S q",
    "chunks of one token": HEAD + "S = a*S + b*(v - frozen(S, 1) k) k^T\noutput o = S q",
    "key from the token before": HEAD + "let e = prev(k)\nS = S - b*(frozen(S, 4) e - v) k^T\noutput o = S q",
    "diagonal decay from it": "state S[V, K]\ninput q[K], k[K], v[V]\n"
    "S = S diag(sigmoid(frozen(S, 4)^T v)) + v k^T\noutput o = S q",
    "vector": "state h[K]\ninput a in (0, 1], x[K]\nh = a*h + frozen(h, 4) .* x\noutput o = h",
    "scalar": "state h\ninput a in (0, 1], x\nh = a*h + tanh(frozen(h, 4))*x\noutput o = h",
    "family": "state S[2, V, K]\ninput q[K], k[K], v[V], a in (0, 1]\nlet e = v - frozen(S[1], 4) k\n"
    "S[1] = a*S[1] + e k^T\nS[2] = a*S[2] + (e - frozen(S[2], 4) k) k^T\noutput o = S[1] q + S[2] q",
    "one state frozen for another": "state S[V, K], R[V, K]\ninput q[K], k[K], v[V], a in (0, 1]\n"
    "S = a*S + (v - frozen(S, 4) k) k^T\nR = a*R + (frozen(S, 4) k) k^T\noutput o = S q + R q",
    "normalised where a chunk begins": "state W[V, K], G[V, K]\ninput q[K], k[K], v[V], b in [0, 1]\n"
    "let N = frozen(W, 4) / (1 + norm(frozen(W, 4)))\nG = where(mod(t, 4) == 0, 0, 1)*G + (v - tanh(N k)) k^T\n"
    "W = N + b*G\noutput o = W q",
    "a function of it and a param": HEAD
    + "param A[K, K]\nS = a*S + 0.1*tanh(frozen(S, 4)) A + b*v k^T\noutput o = S q",
    "three gated layers": "state W[2*K, K], U[K, 2*K], X[2*K, K], G[2*K, K], H[K, 2*K], Y[2*K, K]\n"
    "input q[K], k[K], v[K], b in [0, 1]\n"
    "let A = frozen(W, 8) / (0.1 + norm(frozen(W, 8)))\nlet B = frozen(U, 8) / (0.1 + norm(frozen(U, 8)))\n"
    "let C = frozen(X, 8) / (0.1 + norm(frozen(X, 8)))\nlet loss = -dot(B (silu(A k) .* (C k)), v)\n"
    "let keep = where(mod(t, 8) == 0, 0, 1)\nG = keep*G + b*grad(loss, A)\nH = keep*H + b*grad(loss, B)\n"
    "Y = keep*Y + b*grad(loss, C)\nW = A - G\nU = B - H\nX = C - Y\noutput o = U (silu(W q) .* (X q))",
    "two lengths": "state S[V, K], R[V, K]\ninput q[K], k[K], v[V], a in (0, 1]\nS = a*S + (v - frozen(S, 8) k) k^T\n"
    "R = a*R + (frozen(S, 8) k - frozen(R, 12) k) k^T\noutput o = S q + R q",
    "lengths without a common divisor": "state S[V, K], R[V, K]\ninput q[K], k[K], v[V]\nS = S + (v - frozen(S, 3) k) k^T\n"
    "R = R + (v - frozen(R, 2) k) k^T\noutput o = S q + R q",
    "a stratum that is not frozen": "state Z[K, K], S[V, K]\ninput q[K], k[K], v[V], a in (0, 1]\nZ = a*Z + k k^T\n"
    "S = a*S + (v - frozen(S, 4) (Z k)) k^T\noutput o = S q + S (frozen(Z, 4) q)",
    "momentum from the frozen state": TWO
    + "M = m*M + (v - tanh(frozen(W, 4) k)) k^T\nW = a*frozen(W, 4) + M\noutput o = W q",
    "transposed": "state W[K, V], M[V, K]\ninput q[K], k[K], v[V], a in (0, 1], m in [0, 1)\n"
    "M = m*M + (v - tanh(frozen(W, 4)^T k)) k^T\nW = a*frozen(W, 4) + M^T\noutput o = W^T q",
    "one gradient for matrix and bias": "state W[V, K], c[V]\ninput q[K], k[K], v[V], a in (0, 1]\n"
    "let loss = norm2(tanh(frozen(W, 4) k + frozen(c, 4)) - v)\n"
    "W = a*W - 0.1*grad(loss, W)\nc = a*c - 0.1*grad(loss, c)\noutput o = W q + c",
}
CUTS = ([0, 1, 2, 7, 16, 17, 31, 33, 41], [0, 5, 41], [0, 16, 41], [0, 40, 41])


def named(name: str) -> Rule:
    return load(MORE[name]) if name in MORE else rule(name)


def compare(r: Rule, length: int, batch: int = 2, sequences: int | None = None, **call: object) -> None:
    sized = sizes(r)
    x = arguments(r, batch, length, 2, sized)
    first = states(r, sequences or batch, 2, sized, every=True)
    found = gradients(r, x, first, backend="torch", **call)
    expected = gradients(r, x, first, backend="recurrent", **call)
    for a, b, bar in zip(found, expected, (OUTPUT, OUTPUT, GRADIENT), strict=True):
        assert error(a, b) < bar


@pytest.mark.parametrize("name", [*RULES, *MORE])
def test_the_recurrence(name: str) -> None:
    r = named(name)
    assert not isinstance(r.chunkable(sizes(r)), str) and r.backend_for("cpu") == "torch"
    compare(r, 37)


def test_random_rules() -> None:
    texts = [text for text in map(random_rule, range(150)) if "frozen(" in text]
    rules = [r for r in map(load, texts) if r.verdict.kind is Kind.FROZEN and not isinstance(r.chunkable(), str)]
    assert len(rules) >= 5
    for r in rules:
        compare(r, 19)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 64])
def test_lengths(name: str, length: int) -> None:
    compare(rule(name), length)


@pytest.mark.parametrize(("name", "cuts"), [*product(RULES, CUTS), *product(MORE, CUTS[:1])])
@pytest.mark.parametrize("others", ["torch", "recurrent"])
def test_cut_anywhere_is_the_whole(name: str, cuts: list[int], others: str) -> None:
    """Every second piece on the chunk form, the others there or token by token: both leave the same state."""
    r = named(name)
    sized = sizes(r)
    x = arguments(r, 2, 41, 2, sized)
    first = states(r, 2, 2, sized)
    whole, last = r(**x, initial_state=first, return_state=True, backend="recurrent")
    state, outputs = first, []
    for i, (start, end) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        y, state = r(
            **cut(r, x, start, end), initial_state=state, return_state=True, backend=others if i % 2 else "torch"
        )
        outputs.append(y)
    assert error(torch.cat(outputs, 1), whole) < OUTPUT
    assert error(state, last) < OUTPUT


@pytest.mark.parametrize("name", RULES)
def test_decoding_goes_on_where_training_stopped(name: str) -> None:
    r = rule(name)
    x = arguments(r, 2, 30, 2, sizes(r))
    first = states(r, 2, 2, sizes(r))
    whole, last = r(**x, initial_state=first, return_state=True, backend="recurrent")
    out, state = r(**cut(r, x, 0, 11), initial_state=first, return_state=True, backend="torch")
    for at in range(11, 19):
        y, state = r.step(state, **token(r, x, at))
        out = torch.cat([out, y[:, None]], 1)
    rest, state = r(**cut(r, x, 19, 30), initial_state=state, return_state=True, backend="torch")
    assert error(torch.cat([out, rest], 1), whole) < OUTPUT
    assert error(state, last) < OUTPUT


def continued(r: Rule, x: dict[str, Tensor], at: list[int]) -> dict[str, Tensor]:
    """The states of sequences that have had `at` tokens each, with gradients of their own."""
    first = states(r, 1, 2, sizes(r), every=True) or {}
    found = [r(**cut(r, x, 0, n), initial_state=first, return_state=True, backend="recurrent")[1] for n in at]
    return {k: torch.cat([f[k] for f in found]) for k in found[0]}


def projected(
    r: Rule, x: dict[str, Tensor], state: dict[str, Tensor], **call: object
) -> tuple[list[Tensor], list[Tensor]]:
    """The output and every part of the state; gradients of a random projection of them by every argument and every
    part of the state that goes in."""
    leaves = {n: v.clone().requires_grad_() for n, v in x.items()}
    begin = {n: v.clone().requires_grad_(v.is_floating_point()) for n, v in state.items()}
    out, last = r(**leaves, initial_state=begin, return_state=True, **call)
    g = torch.Generator().manual_seed(3)
    seen = [out, *(v for v in last.values() if v.is_floating_point())]
    drawn = [torch.randn(y.shape, generator=g, dtype=torch.float64).to(y.dtype) for y in seen]
    loss = sum(((y * c).sum() for y, c in zip(seen, drawn, strict=True)), torch.zeros(()))
    wanted = [*leaves.values(), *(v for v in begin.values() if v.requires_grad)]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    gradients = [torch.zeros_like(v) if d is None else d for v, d in zip(wanted, found, strict=True)]
    return [*seen, last["t"]], gradients


@pytest.mark.parametrize("name", RULES)
def test_rows_of_a_batch_at_different_places(name: str) -> None:
    r = rule(name)
    state = continued(r, arguments(r, 1, 20, 2, sizes(r), seed=5), [3, 16, 9])
    x = arguments(r, 3, 22, 2, sizes(r))
    found, expected = (projected(r, x, state, backend=b) for b in ("torch", "recurrent"))
    for a, b in zip(sum(found, []), sum(expected, []), strict=True):
        assert error(a, b) < GRADIENT


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    "bounds", [[0, 5, 5, 22, 45], [0, 0, 1, 33, 45], [0, 16, 32, 32, 45], [0, 3, 9, 20, 40], [2, 4, 9, 20, 45]]
)
@pytest.mark.parametrize("at", [None, [0, 7, 16, 31]])
def test_packed_is_separate(name: str, bounds: list[int], at: list[int] | None) -> None:
    """Empty sequences, sequences that fill chunks, tokens that belong to none; from the beginning and continued."""
    r = rule(name)
    cu = torch.tensor(bounds, dtype=torch.int32)
    if at is None:
        compare(r, 45, 1, 4, cu_seqlens=cu)
        return
    state = continued(r, arguments(r, 1, 40, 2, sizes(r), seed=5), at)
    x = arguments(r, 1, 45, 2, sizes(r))
    found, expected = (projected(r, x, state, backend=b, cu_seqlens=cu) for b in ("torch", "recurrent"))
    for a, b in zip(sum(found, []), sum(expected, []), strict=True):
        assert error(a, b) < GRADIENT


@pytest.mark.parametrize("name", ["ttt_linear", "titans"])
def test_grouped_heads(name: str) -> None:
    r = rule(name)
    x = arguments(r, 2, 21, 4, sizes(r))
    narrow = {**x, "k": x["k"][:, :, :2], "v": x["v"][:, :, :1]}
    first = states(r, 2, 4, sizes(r), every=True)
    found, expected = (gradients(r, narrow, first, backend=b) for b in ("torch", "recurrent"))
    for a, b, bar in zip(found, expected, (OUTPUT, OUTPUT, GRADIENT), strict=True):
        assert error(a, b) < bar


@pytest.mark.parametrize("name", RULES)
def test_float32(name: str) -> None:
    """RMS errors over the RMS of the tensor, or 1e-3 of the largest one: 1e-5 for values, 1e-4 for gradients."""
    r = rule(name)
    sized = dict.fromkeys(r.typed.sizes, 16)
    x = arguments(r, 2, 100, 2, sized, dtype=torch.float32)
    first = sample_states(r.typed, 2, 2, sized, torch.Generator().manual_seed(1), torch.float32, only_learned=False)
    given = (x, first), ({n: v.double() for n, v in x.items()}, {n: v.double() for n, v in first.items()})
    found = projected(r, *given[0], backend="torch")
    exact = projected(r, *given[1], backend="recurrent")
    for own, expected, bar in zip(found, exact, (1e-5, 1e-4), strict=True):
        least = 1e-3 * max(float(e.detach().double().square().mean().sqrt()) for e in expected)
        for a, e in zip(own, expected, strict=True):
            off = float((a.detach().double() - e.detach()).square().mean().sqrt())
            assert off < bar * max(least, float(e.detach().double().square().mean().sqrt()))


@pytest.mark.parametrize("name", ["ttt_linear", "titans"])
def test_torch_transforms(name: str) -> None:
    r = rule(name)
    x = arguments(r, 1, 20, 2, sizes(r), dtype=torch.float32)
    x |= states(r, 1, 2, sizes(r), dtype=torch.float32) or {}
    names = list(x)
    learned = [s.name for s in r.spec.states if s.name in x]

    def loss(*given: Tensor) -> Tensor:
        given_by = dict(zip(names, given, strict=True))
        first = {n: given_by.pop(n) for n in learned}
        return r(**given_by, initial_state=first, backend="torch").square().sum()

    as_eager(loss, list(x.values()))


def test_a_continuation_under_compile() -> None:
    r = rule("titans")
    x = arguments(r, 2, 20, 2, sizes(r), dtype=torch.float32)
    first = states(r, 2, 2, sizes(r), dtype=torch.float32)
    _, state = r(**cut(r, x, 0, 5), initial_state=first, return_state=True)
    rest = cut(r, x, 5, 20)
    names = list(rest)

    def run(given: dict[str, Tensor], *tokens: Tensor) -> Tensor:
        return r(**dict(zip(names, tokens, strict=True)), initial_state=given, backend="torch")

    torch._dynamo.reset()
    found = torch.compile(run, fullgraph=True, backend="aot_eager")(state, *rest.values())
    assert torch.allclose(found, run(state, *rest.values()), atol=1e-6)


def test_second_derivatives_are_refused() -> None:
    r = rule("ttt_linear")
    x = {n: v.requires_grad_() for n, v in arguments(r, 1, 17, 1, sizes(r)).items()}
    out = r(**x, initial_state=states(r, 1, 1, sizes(r)), backend="torch")
    (d,) = torch.autograd.grad(out.square().sum(), x["k"], create_graph=True)
    with pytest.raises(SecondOrderError, match="recurrent"):
        torch.autograd.grad(d.square().sum(), x["k"])


def test_what_is_kept_is_a_state_for_each_chunk() -> None:
    r = rule("titans")
    sized = {"K": 16, "V": 16}
    x = {n: v.requires_grad_() for n, v in arguments(r, 1, 256, 1, sized, dtype=torch.float32).items()}
    first = states(r, 1, 1, sized, dtype=torch.float32)
    held: list[int] = []

    def pack(t: Tensor) -> Tensor:
        held.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        r(**x, initial_state=first, backend="torch")
    assert max(held) == 256 // 16 * 4 * 16 * 16


@pytest.mark.parametrize(
    ("name", "size", "dtype", "chunks"),
    [
        ("ttt_linear", 128, torch.bfloat16, True),
        ("ttt_linear", 256, torch.bfloat16, False),  # more states than registers
        ("titans", 32, torch.float32, True),
        ("titans", 32, torch.bfloat16, True),
        ("titans", 64, torch.float32, False),
        ("two lengths", 64, torch.bfloat16, False),  # chunks of 4 tokens
        ("a stratum that is not frozen", 64, torch.float32, False),
    ],
)
def test_which_kernels_take_it(name: str, size: int, dtype: torch.dtype, chunks: bool) -> None:
    r = named(name)
    setting = Setting(tuple((s, size) for s in r.typed.sizes), 2, torch.float32, dtype, torch.device("cuda"))
    assert takes_chunks(r, setting) is chunks


@pytest.mark.parametrize(("name", "wide"), [("ttt_linear", False), ("titans", True), ("ttt_mlp", True)])
def test_memories_of_layers_multiply_in_float32(name: str, wide: bool) -> None:
    r = named(name)
    found = r.chunkable()
    assert isinstance(found, Chunkable)
    setting = Setting(tuple((s, 32) for s in r.typed.sizes), 2, torch.float32, torch.bfloat16, torch.device("cuda"))
    assert {form_of(r, found, setting, begins).wide for begins in (True, False)} == {wide}


@pytest.mark.parametrize("chunk_size", [8, 16, 32])
def test_the_chunk_is_the_rule_s_own(chunk_size: int) -> None:
    r = rule("titans")
    x, first = arguments(r, 1, 40, 1, sizes(r)), states(r, 1, 1, sizes(r))
    assert torch.equal(r(**x, initial_state=first, backend="torch", chunk_size=chunk_size), r(**x, initial_state=first))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HEAD + "S = a*S + b*diag(v) frozen(S, 4) - b*(S k) k^T\noutput o = S q", "no outer product"),
        (HEAD + "let e = frozen(S, 4) k - v\nS = a*S - b*prev(e) k^T\noutput o = S q", "looked back at"),
    ],
)  # fmt: skip
def test_refusals_say_why(text: str, why: str) -> None:
    r = load(text)
    with pytest.raises(BackendError, match=why):
        r(**arguments(r, 1, 3, 1, sizes(r)), backend="torch")


@pytest.mark.parametrize("make", [lambda s: layout.whole(11, 4, torch.device("cpu"), s), lambda s: layout.packed(11, 4, torch.tensor([0, 2, 2, 9]), s)])  # fmt: skip
def test_shifted_chunks_hold_every_token_once(make: Callable[[Tensor], layout.Chunks]) -> None:
    chunks = make(torch.tensor([3, 0, 2]))
    x = torch.arange(11.0).reshape(1, 11, 1, 1).expand(1 if chunks.packing else 3, -1, -1, -1)
    tiles = layout.to_tile(x, chunks)
    there = layout.valid_tile(chunks, x.dtype)
    count = 9 if chunks.packing else 33
    assert int(there.sum()) == count
    assert float((tiles * there).sum()) == (36 if chunks.packing else 3 * 55)
    back = layout.from_tile(tiles, chunks)
    assert torch.equal(back[:, :9], x[:, :9])
    places = layout.position_tile(chunks, torch.tensor([3, 4, 6]), x.dtype) % 4
    row = torch.arange(4.0).reshape(1, 1, 1, 4, 1)
    assert torch.equal((places * there), (row * there))
