"""The chunk-parallel torch backend against the recurrence, in float64: outputs, final states, every gradient."""

from __future__ import annotations

import pytest
import torch
from cases import ACCEPTED, CHUNKED, arguments, cut, error, gradients, parts, rule, sizes, states

from ruledsl.runtime.errors import BackendError, StateError
from ruledsl.runtime.rule import load

GATES_TO_ZERO = {
    "gated_linear": "a",
    "gated_delta": "a",
    "comba": "a",
    "gated_delta_product": "a",
    "mission": "a",
    "gla_two_sided": "a",
    "dplr": "w",
    "hgrn2": "f",
    "momentum_delta": "a",
    "titans_linear": "m",
    "log_linear": "a",
}
CARRIES = "qrnn omega_linear retention case_33 delta_product rwkv6 kda momentum_delta titans_linear mesa log_linear".split()
OUTPUT, GRADIENT = 1e-9, 1e-7


def compare(
    name: str, length: int, changes: dict[str, torch.Tensor] | None = None, seed: int = 0, **call: object
) -> None:
    r = rule(name)
    sized = sizes(r, K=16, N=16, V=24, P=24)
    x = arguments(r, 2, length, 2, sized, seed) | (changes or {})
    first = states(r, 2, 2, sized, every=True)
    found = gradients(r, x, first, backend="torch", **call)
    expected = gradients(r, x, first, backend="recurrent")
    assert error(found[0], expected[0]) < OUTPUT
    assert error(found[1], expected[1]) < OUTPUT
    assert error(found[2], expected[2]) < GRADIENT


@pytest.mark.parametrize("name", CHUNKED)
def test_the_recurrence(name: str) -> None:
    compare(name, 75)


@pytest.mark.parametrize("name", CHUNKED)
def test_one_token(name: str) -> None:
    compare(name, 1)


@pytest.mark.parametrize("name", sorted(set(ACCEPTED) - set(CHUNKED)))
def test_every_other_rule_with_a_form(name: str) -> None:
    r = rule(name)
    sized = sizes(r, K=16, N=16, V=24, P=24)
    if isinstance(r.chunkable(sized), str) and isinstance(r.scannable(sized), str):
        x = arguments(r, 1, 2, 1, sized)
        with pytest.raises(BackendError, match="no chunk form"):
            r(**x, initial_state=states(r, 1, 1, sized), backend="torch")
    else:
        compare(name, 21)


@pytest.mark.parametrize("name", GATES_TO_ZERO)
@pytest.mark.parametrize("kind", ["zero", "negative", "tiny"])
def test_gates_that_are_zero_negative_or_tiny(name: str, kind: str) -> None:
    with_gates(name, GATES_TO_ZERO[name], kind)


@pytest.mark.parametrize("kind", ["zero", "tiny"])  # a negative one leaves the system without a solution
def test_gates_of_a_system_that_are_zero_or_tiny(kind: str) -> None:
    with_gates("mesa", "g", kind)


def with_gates(name: str, gate: str, kind: str) -> None:
    r = rule(name)
    sized = sizes(r, K=16, N=16, V=24, P=24)
    a = arguments(r, 2, 40, 2, sized)[gate]
    chosen = torch.rand(a.shape, generator=torch.Generator().manual_seed(3)) < 0.3
    changed = {"zero": torch.zeros_like(a), "negative": -a, "tiny": torch.full_like(a, 1e-13)}[kind]
    compare(name, 40, {gate: torch.where(chosen, changed, a)})


@pytest.mark.parametrize("chunk", [16, 32, 64])
@pytest.mark.parametrize("name", ["gated_delta", "kda", "delta_product", "momentum_delta", "mesa", "log_linear"])
def test_chunk_size_does_not_matter(name: str, chunk: int) -> None:
    compare(name, 70, chunk_size=chunk)


@pytest.mark.parametrize("name", CARRIES)
@pytest.mark.parametrize("at", [0, 1, 16, 17, 41])
def test_cut_anywhere_is_the_whole(name: str, at: int) -> None:
    r = rule(name)
    sized = sizes(r)
    x = arguments(r, 2, 41, 2, sized)
    whole, last = r(**x, return_state=True, backend="recurrent")
    left, middle = r(**cut(r, x, 0, at), return_state=True, backend="torch")
    right, end = r(**cut(r, x, at, 41), initial_state=middle, return_state=True, backend="torch")
    assert error(torch.cat([left, right], 1), whole) < OUTPUT
    assert error(end, last) < OUTPUT


@pytest.mark.parametrize("name", CARRIES)
@pytest.mark.parametrize("bounds", [[0, 5, 5, 22, 45], [0, 0, 1, 33, 45], [0, 16, 32, 32, 45], [0, 3, 9, 20, 40]])
def test_packed_is_separate(name: str, bounds: list[int]) -> None:
    """Empty sequences, sequences that fill chunks exactly, and tokens after the last sequence."""
    r = rule(name)
    sized = sizes(r)
    x = arguments(r, 1, 45, 2, sized)
    first = states(r, 4, 2, sized, every=True)
    cu = torch.tensor(bounds, dtype=torch.int32)
    found = gradients(r, x, first, backend="torch", cu_seqlens=cu)
    expected = gradients(r, x, first, backend="recurrent", cu_seqlens=cu)
    for a, b, bar in zip(found, expected, (OUTPUT, OUTPUT, GRADIENT), strict=True):
        assert error(a, b) < bar


def test_a_gradient_flows_from_one_call_to_the_next() -> None:
    r = rule("omega_linear")
    sized = sizes(r)
    x = arguments(r, 1, 30, 1, sized)

    def split(backend: str) -> torch.Tensor:
        k = x["k"].clone().requires_grad_()
        own = {**x, "k": k}
        _, state = r(**cut(r, own, 0, 11), return_state=True, backend=backend)
        out = r(**cut(r, own, 11, 30), initial_state=state, backend=backend)
        return torch.autograd.grad(out.square().sum(), k)[0]

    assert error(split("torch"), split("recurrent")) < GRADIENT


def test_the_default_is_what_is_said() -> None:
    assert rule("gated_delta").backend_for("cpu") == "torch"
    assert rule("gru").backend_for("cpu") == "recurrent"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    r = rule("gated_delta")
    x = arguments(r, 2, 50, 2, {"K": 16, "V": 24}, dtype=torch.float32)
    narrow = {n: v.to(dtype) if n in "qkv" else v for n, v in x.items()}
    expected, last = r(**{n: v.double() for n, v in narrow.items()}, return_state=True, backend="recurrent")
    for backend in ("torch", "recurrent"):
        out, state = r(**narrow, return_state=True, backend=backend)
        assert out.dtype is dtype and state.dtype is torch.float32
        assert error(state, last) < 1e-5
        assert error(out, expected) < (1e-5 if dtype is torch.float32 else 0.01)


def test_state_shapes_of_transposed_and_vector_states() -> None:
    r = load(
        "state S[V, K], n[K]\ninput q[K], k[K], v[V]\nS = S - v (v^T S) + v k^T\nn = n + k\noutput o = S q / (1 + dot(n, n))"
    )
    sized = {"K": 16, "V": 24}
    x = arguments(r, 1, 20, 2, sized)
    _, last = r(**x, return_state=True, backend="torch")
    assert {n: tuple(s.shape) for n, s in parts(last).items()} == {"S": (1, 2, 24, 16), "n": (1, 2, 16)}


SYSTEM = "state H[K, K], G[V, K]\ninput q[K], k[K], v[V], g in (0, 1], b in [0, 1], l[K] in [0.5, 2]\n"
SYSTEMS = {
    "no bound on the steps": "H = g*H + b*k k^T\nG = g*G + v k^T\noutput o = G solve(H + diag(l), q)",
    "vector gates on both sides": "let a = sigmoid(l)\nH = diag(a) H diag(a) + k k^T\nG = G + v k^T\noutput o = G solve(H + diag(l), q)",
    "several terms of the matrix": "let p = 2*H\nH = g*H + b*k k^T\nG = G + v k^T\n"
    "output o = G solve(0.5*p + H + 3*b*(q q^T) + 0.1*I + b*diag(l), q + k)",
    "the state before the token": "output o = G solve(H + diag(l), q)\nH = g*H + b*k k^T\nG = g*G + v k^T",
    "two systems": "H = g*H + b*k k^T\nG = G + v k^T\nlet x = solve(H + diag(l), q)\noutput o = G (x + solve(2*H + I, x))",
    "a solution is written": "H = g*H + b*k k^T\nG = g*G + v solve(H + diag(l), k)^T\noutput o = G q",
    "a solution is a key that is read": "H = g*H + b*k k^T\nG = G + (v - G k) solve(H + diag(l), k)^T\noutput o = G q",
    "momentum": "let m = H + prev(H)\nH = g*H + b*k k^T\nG = G + v k^T\noutput o = G solve(m + diag(l), q)",
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems(name: str) -> None:
    r = load(SYSTEM + SYSTEMS[name])
    sized = sizes(r, K=6, V=8)
    x = arguments(r, 2, 37, 2, sized)
    first = states(r, 2, 2, sized, every=True)
    found, expected = (gradients(r, x, first, backend=b) for b in ("torch", "recurrent"))
    for a, b, bar in zip(found, expected, (OUTPUT, OUTPUT, GRADIENT), strict=True):
        assert error(a, b) < bar


@pytest.mark.parametrize(
    ("matrix", "why"),
    [
        ("H", "no positive diagonal is added"),
        ("H - diag(l)", "no sum of such matrices"),
        ("G^T G + diag(l)", "both read"),
        ("F + diag(l)", "F need not stay symmetric"),
    ],
)
def test_a_matrix_that_is_not_positive_is_refused(matrix: str, why: str) -> None:
    head = "state F[K, K], H[K, K], G[V, K]\ninput q[K], k[K], v[V], w[K], b in [0, 1], l[K] in [0.5, 2]\n"
    r = load(f"{head}H = H + b*k k^T\nF = F + w k^T\nG = G + v k^T\noutput o = G solve({matrix}, q) + G F q")
    assert why in r.verdict.no_form
    assert r.backend_for("cpu") == "recurrent"


def test_systems_in_float32_with_grouped_heads() -> None:
    r = rule("mesa")
    x = arguments(r, 2, 50, 4, {"K": 16, "V": 24}, dtype=torch.float32)
    x = {**x, "q": x["q"][:, :, :2], "k": x["k"][:, :, :1], "g": 0.9 + 0.1 * x["g"]}

    def run(dtype: torch.dtype, backend: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        leaves = {n: v.to(dtype).requires_grad_() for n, v in x.items()}
        out = r(**leaves, backend=backend)
        grads = torch.autograd.grad(out.double().sin().sum(), list(leaves.values()))
        return out, dict(zip(leaves, grads, strict=True))

    for a, b, bar in zip(run(torch.float32, "torch"), run(torch.float64, "recurrent"), (1e-5, 1e-4), strict=True):
        assert error(a, b) < bar


def test_a_first_state_that_is_not_symmetric_is_refused() -> None:
    r = rule("mesa")
    x = arguments(r, 1, 5, 1, {"K": 4, "V": 6})
    first = states(r, 1, 1, {"K": 4, "V": 6}, every=True)
    assert first is not None
    r(**x, initial_state=first)
    first["H"][..., 0, 1] += 0.1
    with pytest.raises(StateError, match="`H`.* symmetric"):
        r(**x, initial_state=first)
    r(**x, initial_state=first, backend="recurrent")
