"""Scans over tokens against the recurrence, in float64: outputs, final states, every gradient."""

from __future__ import annotations

import pytest
import torch
from cases import ACCEPTED, arguments, as_eager, cut, error, gradients, rule, sizes, states

from ruledsl.chunk.maps import Monoid
from ruledsl.chunk.scan import Scan
from ruledsl.runtime import scan_ops
from ruledsl.runtime.errors import BackendError
from ruledsl.runtime.rule import Rule, load
from ruledsl.runtime.scannable import scannable

OUTPUT, GRADIENT = 1e-9, 1e-8
MONOIDS = {
    "affine": "mamba1",
    "coupled": "lru",
    "look back at a let": "qrnn",
    "max-plus": "rwkv4",
    "clip": "case_19a",
    "log-sum-exp": "abc",
    "moebius": "case_40a",
    "position": "mamba3",
}
MORE = {
    "relu of the state": "state h[K]\ninput a[K], x[K]\nh = relu(a .* h + x)\noutput o = h",
    "bounds times a sign": "state h[K]\ninput a[K], x[K]\nh = a .* min(max(h + x, -0.3), 0.4)\noutput o = h",
    "a bound from an earlier state": "state c[K], h[K]\ninput a[K], x[K]\nc = a .* c + x\nh = min(0.9*h + x, c)\noutput o = h .* c",
    "gain of zero": "state h[K]\ninput a[K], x[K]\nh = min(max(where(a > 0.2, a, 0) .* h + x, -0.2), 0.2)\noutput o = h",
    "square matrix and its rows": "state S[K, K]\ninput a[K], k[K]\nS = diag(a) S + k k^T\noutput o = S^T k",
    "frozen": "state h[K]\ninput a[K], x[K]\nh = h + a .* frozen(h, 4) + x\noutput o = h",
    "a state that nothing reads": "state h[K], g[K]\ninput a[K], x[K]\nh = x - where(a < 0.3, h, 0)\ng = a .* g + x\noutput o = g",
    "matrix on the right": "state S[V, K]\ninput k[K], v[V], P[K, K]\nS = S P + v k^T\noutput o = S k",
    "matrices on both sides": "state S[V, K]\ninput k[K], v[V], P[V, V], R[K, K], a\nS = a*(P S R) + v k^T\noutput o = S k",
    "matrix of all tokens": "state h[K]\ninput x[K], a\nparam A[K, K]\nh = a*(A h) + (1 - a)*x\noutput o = h",
    "matrix and rank 1": "state S[V, K]\ninput k[K], v[V], P[K, K], c[V]\nS = diag(c) S P - (diag(c) S k) k^T + v k^T\noutput o = S^T v",
    "matrix of an earlier state": "state M[K, K], S[V, K]\ninput k[K], v[V], P[K, K]\nM = M P + k k^T\nS = 0.3*S M + v k^T\noutput o = S k",
    "looked back at what was computed": "state h[K]\ninput a[K], x[K]\nlet y = tanh(x)\nh = a .* h + prev(y, 2)\noutput o = h",
}


def scan_rule(name: str) -> Rule:
    """The rule without its chunk form, so that the torch backend scans it."""
    r = load(MORE[name]) if name in MORE else load(rule(name).source.text)
    r.chunkable = lambda sizes=None: "left out"  # type: ignore[method-assign]
    return r


def forms(r: Rule) -> tuple[Scan, Scan]:
    found = r.scannable()
    assert not isinstance(found, str), found
    return found


SCANNED = [n for n in ACCEPTED if not isinstance(scannable(rule(n).typed, sizes(rule(n))), str)]


def compare(r: Rule, length: int, **call: object) -> None:
    sized = sizes(r, K=6, N=4)
    batch = 1 if "cu_seqlens" in call else 2
    x = arguments(r, batch, length, 2, sized)
    cu = call.get("cu_seqlens")
    first = states(r, cu.shape[0] - 1 if isinstance(cu, torch.Tensor) else batch, 2, sized, every=True)
    found = gradients(r, x, first, backend="torch", **call)
    expected = gradients(r, x, first, backend="recurrent", **{k: v for k, v in call.items() if k != "chunk_size"})
    for a, b, bar in zip(found, expected, (OUTPUT, OUTPUT, GRADIENT), strict=True):
        assert error(a, b) < bar


@pytest.mark.parametrize("name", [*SCANNED, *MORE])
def test_the_recurrence(name: str) -> None:
    compare(scan_rule(name), 37, chunk_size=16)


@pytest.mark.parametrize("name", MONOIDS.values())
@pytest.mark.parametrize("length", [1, 2, 9, 19])
def test_lengths_and_one_chunk(name: str, length: int) -> None:
    compare(scan_rule(name), length)


@pytest.mark.parametrize("name", [*MONOIDS.values(), "frozen", "looked back at what was computed", "matrix and rank 1"])
@pytest.mark.parametrize("bounds", [[0, 5, 5, 22, 45], [0, 0, 1, 33, 45], [0, 16, 32, 32, 45], [0, 3, 9, 20, 40]])
def test_packed_is_separate(name: str, bounds: list[int]) -> None:
    compare(scan_rule(name), 45, chunk_size=16, cu_seqlens=torch.tensor(bounds, dtype=torch.int32))


@pytest.mark.parametrize("name", [*MONOIDS.values(), "frozen", "looked back at what was computed", "matrix and rank 1"])
@pytest.mark.parametrize("at", [0, 1, 16, 17, 41])
def test_cut_anywhere_is_the_whole(name: str, at: int) -> None:
    r = scan_rule(name)
    sized = sizes(r)
    x = arguments(r, 2, 41, 2, sized)
    first = states(r, 2, 2, sized)
    whole, last = r(**x, initial_state=first, return_state=True, backend="recurrent")
    left, middle = r(**cut(r, x, 0, at), initial_state=first, return_state=True, backend="torch", chunk_size=8)
    right, end = r(**cut(r, x, at, 41), initial_state=middle, return_state=True, backend="torch", chunk_size=8)
    assert error(torch.cat([left, right], 1), whole) < OUTPUT
    assert error(end, last) < OUTPUT


def test_grouped_heads() -> None:
    r = scan_rule("mamba1")
    sized = sizes(r)
    x = arguments(r, 2, 11, 4, sized)
    narrow = {**x, "B": x["B"][:, :, :2], "C": x["C"][:, :, :1]}
    found, expected = (gradients(r, narrow, None, backend=b) for b in ("torch", "recurrent"))
    for a, b, bar in zip(found, expected, (OUTPUT, OUTPUT, GRADIENT), strict=True):
        assert error(a, b) < bar


@pytest.mark.parametrize("name", MONOIDS.values())
def test_wide_states_go_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_ops, "_WIDE", 1)
    compare(scan_rule(name), 21, chunk_size=16)


MATRICES = [name for name in MORE if name.startswith("matri")]


@pytest.mark.parametrize("name", MATRICES)
def test_matrices_are_composed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_ops, "_DEAR", ())
    compare(scan_rule(name), 37, chunk_size=19)
    compare(scan_rule(name), 37, chunk_size=16, cu_seqlens=torch.tensor([0, 5, 5, 22, 37], dtype=torch.int32))


@pytest.mark.parametrize("name", MATRICES)
def test_the_monoid_of_matrices(name: str) -> None:
    forward, gradient = forms(scan_rule(name))
    assert {s.monoid for s in (*forward.strata, *gradient.strata)} == {Monoid.MATRIX} and not forward.by_entries


def test_vectors_that_read_a_state_make_no_matrix() -> None:
    r = load("state S[V, K]\ninput k[K], v[V], c[V]\nS = diag(c) S - (diag(c) S k) k^T + v k^T\noutput o = S^T v")
    assert "mixes the entries" in str(r.scannable())


@pytest.mark.parametrize("name", ["mamba1", "lru", "rwkv4", "matrix on the right"])
def test_torch_transforms(name: str) -> None:
    r = scan_rule(name)
    x = arguments(r, 1, 10, 2, sizes(r), dtype=torch.float32)
    names = list(x)

    def loss(*given: torch.Tensor) -> torch.Tensor:
        return r(**dict(zip(names, given, strict=True)), backend="torch").square().sum()

    as_eager(loss, list(x.values()))


@pytest.mark.parametrize(("what", "name"), MONOIDS.items())
def test_the_monoid(what: str, name: str) -> None:
    forward, gradient = forms(scan_rule(name))
    found = {s.monoid for s in forward.strata}
    expected = {"max-plus": Monoid.CLIP, "clip": Monoid.CLIP, "log-sum-exp": Monoid.LOG_SUM, "moebius": Monoid.MOEBIUS}
    assert expected.get(what, Monoid.AFFINE) in found
    assert {s.monoid for s in gradient.strata} == {Monoid.AFFINE}


def test_states_that_depend_on_each_other_stand_together() -> None:
    assert [len(s.states) for s in forms(scan_rule("lru"))[0].strata] == [2]
    assert [len(s.states) for s in forms(scan_rule("rwkv4"))[0].strata] == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("state h[K]\ninput x[K]\nh = tanh(h) + x\noutput o = h", "tanh of a state"),
        ("state h[K]\ninput x[K]\nh = h .* h + x\noutput o = h", "pow of|product of states"),
        ("state h[K]\ninput x[K]\nh = where(h > 0, x, -x)\noutput o = h", "decides"),
        ("state S[K, K]\ninput a[K], k[K]\nS = diag(a) S^T + k k^T\noutput o = S k", "transpose"),
        ("state h[K]\ninput x[K]\nh = softmax(h) + x\noutput o = h", "mixes the entries"),
    ],
)
def test_refusals_say_why(text: str, why: str) -> None:
    r = load(text)
    x = arguments(r, 1, 3, 1, sizes(r))
    assert r.backend_for("cpu") == "recurrent"
    with pytest.raises(BackendError, match=why):
        r(**x, backend="torch")


def test_the_default_is_what_is_said() -> None:
    assert rule("mamba1").backend_for("cpu") == "torch"
    assert rule("rwkv4").backend_for("cpu") == "torch"
    assert rule("gru").backend_for("cpu") == "recurrent"


def test_what_is_kept_does_not_grow_with_tokens_times_state() -> None:
    """The states that enter chunks, and nothing of the size of a state for every token."""
    r = rule("mamba1")
    sized = {"V": 32, "N": 16}
    x = {n: v.requires_grad_() for n, v in arguments(r, 1, 256, 1, sized, dtype=torch.float32).items()}
    held: list[int] = []

    def pack(t: torch.Tensor) -> torch.Tensor:
        held.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        r(**x, backend="torch", chunk_size=32)
    assert max(held) <= 256 * 32  # as many as the input x has; a state for every token would be 256 * 32 * 16


@pytest.mark.parametrize("length", [1, 7, 8, 9, 40, 41])
def test_prefixes_of_clipped_maps_with_gains_of_every_sign(length: int) -> None:
    g = torch.Generator().manual_seed(length)
    shape = (2, 1, length, 1, 5)

    def draw() -> torch.Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    a = draw() * (torch.rand(shape, generator=g) < 0.8)
    low = torch.where(torch.rand(shape, generator=g) < 0.5, draw() - 1, -torch.inf)
    high = torch.where(torch.rand(shape, generator=g) < 0.5, draw() + 3, torch.inf)
    b, start = draw(), torch.randn(2, 1, 1, 5, generator=g, dtype=torch.float64)
    (into,), (out,) = scan_ops.entering_tokens(Monoid.CLIP, [[a, b, low, high]], [start], length)
    h = start
    for t in range(length):
        assert torch.allclose(into[:, :, t], h, atol=1e-12)
        h = (a[:, :, t] * h + b[:, :, t]).maximum(low[:, :, t]).minimum(high[:, :, t])
    assert torch.allclose(out, h, atol=1e-12)


def test_moebius_maps_do_not_overflow() -> None:
    """x / (1 + x) doubles its entries with every pair of tokens that is joined."""
    r = scan_rule("case_40a")
    x = arguments(r, 1, 400, 1, sizes(r), dtype=torch.float32)
    found, expected = (r(**x, backend=b) for b in ("torch", "recurrent"))
    assert error(found, expected) < 1e-4
