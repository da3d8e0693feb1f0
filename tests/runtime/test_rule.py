"""The op's contract: layouts, errors, states, pools, files."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import CORPUS, arguments, error, rule, sizes, states
from torch import Tensor

import ruledsl
from ruledsl.runtime import op
from ruledsl.runtime.errors import (
    BackendError,
    DeviceError,
    DtypeError,
    MissingInput,
    ShapeError,
    StateError,
    UnknownInput,
)
from ruledsl.runtime.rule import load
from ruledsl.runtime.setting import Setting

SIZES = {"K": 8, "V": 6}


@pytest.fixture
def x() -> dict[str, Tensor]:
    return arguments(rule("gated_delta"), 2, 9, 4, SIZES, dtype=torch.float32)


def test_the_card() -> None:
    assert str(rule("comba").spec).splitlines() == [
        "inputs   q [B, T, H, K]",
        "         k [B, T, H, K] unit",
        "         v [B, T, H, V]",
        "         a [B, T, H]    in (0, 1]",
        "         b [B, T, H]    in [0, 1]",
        "         c [B, T, H]    in (0, 1)",
        "params   d [H]",
        "states   S [B, H, V, K]",
        "outputs  o [B, T, H, V]",
    ]


CALLS = [
    ({"kk": ("q", slice(None))}, UnknownInput, "no input `kk`; did you mean `k`"),
    ({"q": 3}, DtypeError, "input `q`: expected a tensor"),
    ({"q": torch.zeros(2, 9, 4)}, ShapeError, r"input `q`: declared \[B, T, H, K\], got \[2, 9, 4\]"),
    (
        {"k": torch.zeros(2, 9, 4, 5)},
        ShapeError,
        r"input `k`: declared \[B, T, H, K\], got \[2, 9, 4, 5\]; K = 8 in `q`",
    ),
    (
        {"a": torch.zeros(2, 5, 4)},
        ShapeError,
        r"input `a`: declared \[B, T, H\], got \[2, 5, 4\]; `q` has \[2, 9, 4, 8\]",
    ),
    ({"k": torch.zeros(2, 9, 3, 8)}, ShapeError, "3 heads do not divide the 4"),
    ({"q": torch.zeros(2, 9, 4, 8, dtype=torch.int64)}, DtypeError, "floating-point"),
    ({"q": torch.zeros(2, 9, 4, 8, dtype=torch.float64)}, DtypeError, "float64 runs with float64 only"),
    ({"q": torch.zeros(2, 9, 4, 8).half(), "k": torch.zeros(2, 9, 4, 8).bfloat16()}, DtypeError, "one narrow dtype"),
    ({"q": torch.zeros(2, 9, 4, 8, device="meta")}, DeviceError, "`k` is on cpu, `q` on meta"),
    ({"initial_state": torch.zeros(2, 4, 6, 9)}, ShapeError, r"state `S`: declared \[B, H, V, K\], got \[2, 4, 6, 9\]"),
    ({"initial_state": torch.zeros(3, 4, 6, 8)}, StateError, r"expected \[2, 4, 6, 8\], got \[3, 4, 6, 8\]"),
    ({"initial_state": torch.zeros(2, 4, 6, 8).double()}, StateError, "expected torch.float32, got torch.float64"),
    ({"initial_state": {"s": torch.zeros(2, 4, 6, 8)}}, StateError, "has no `s`"),
    ({"initial_state": 0}, StateError, "expected a tensor or a dict"),
    ({"cu_seqlens": torch.tensor([0, 9])}, ShapeError, "B = 1"),
    ({"cu_seqlens": torch.tensor([0.0, 9.0])}, DtypeError, "int32 or int64"),
    ({"backend": "torhc"}, BackendError, "did you mean `torch`"),
    ({"chunk_size": 0}, ShapeError, "positive"),
]


@pytest.mark.parametrize(
    ("changes", "kind", "text"), CALLS, ids=[f"{i}-{next(iter(c[0]))}" for i, c in enumerate(CALLS)]
)
def test_errors_name_what_is_wrong(
    x: dict[str, Tensor], changes: dict[str, object], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        rule("gated_delta")(**{**x, **changes})


def test_missing_inputs_are_listed(x: dict[str, Tensor]) -> None:
    with pytest.raises(MissingInput, match=r"missing input `k` \[B, T, H, K\], input `b` \[B, T, H\]"):
        rule("gated_delta")(q=x["q"], v=x["v"], a=x["a"])


def test_derived_sizes() -> None:
    r = rule("mamba3")
    x = arguments(r, 1, 3, 1, {"N": 4, "P": 2})
    with pytest.raises(
        ShapeError, match=r"input `w`: declared \[B, T, H, N/2\], got \[1, 3, 1, 1\]; N/2 is 2, as N = 4 in `B`"
    ):
        r(**{**x, "w": x["w"][..., :1]})
    with pytest.raises(ShapeError, match="5/2"):
        r(**{**x, "B": torch.zeros(1, 3, 1, 5, dtype=torch.float64), "C": torch.zeros(1, 3, 1, 5, dtype=torch.float64)})


def test_a_learned_first_state_must_be_given() -> None:
    r = rule("titans")
    sized = sizes(r)
    x = arguments(r, 2, 3, 1, sized)
    with pytest.raises(MissingInput, match="`W1`, `W2` is learned"):
        r(**x)
    assert r(**x, initial_state=states(r, 2, 1, sized)).isfinite().all()


def test_a_continuation_needs_every_part() -> None:
    r = rule("omega_linear")
    x = arguments(r, 2, 3, 1, sizes(r))
    _, state = r(**x, return_state=True)
    assert isinstance(state, dict)
    with pytest.raises(StateError, match="prev.k missing"):
        r(**x, initial_state={n: v for n, v in state.items() if n != "prev.k"})
    fresh = r(**x, initial_state={"S": torch.zeros_like(state["S"])})
    assert error(fresh, r(**x)) == 0


@pytest.mark.parametrize("backend", ["torch", "recurrent"])
def test_grouped_heads(x: dict[str, Tensor], backend: str) -> None:
    r = rule("gated_delta")
    grouped = {**x, "q": x["q"][:, :, :2], "k": x["k"][:, :, :1]}
    wide = {**x, "q": grouped["q"][:, :, [0, 0, 1, 1]], "k": grouped["k"][:, :, [0, 0, 0, 0]]}
    assert error(r(**grouped, backend=backend), r(**wide, backend="recurrent")) < 1e-5


@pytest.mark.parametrize("backend", ["torch", "recurrent"])
@pytest.mark.parametrize("length", [0, 1, 63])
def test_lengths(backend: str, length: int) -> None:
    r = rule("gated_delta")
    x = arguments(r, 2, length, 4, SIZES)
    first = torch.ones(2, 4, 6, 8, dtype=torch.float64, requires_grad=True)
    out, last = r(**x, initial_state=first, return_state=True, backend=backend)
    assert out.shape == (2, length, 4, 6) and last.shape == first.shape
    assert torch.autograd.grad(last.sum(), first)[0].isfinite().all()


@pytest.mark.parametrize(("K", "V"), [(80, 160), (1, 3), (5, 1)])
def test_free_sizes(K: int, V: int) -> None:
    r = rule("gated_delta")
    x = arguments(r, 1, 20, 1, {"K": K, "V": V})
    assert error(r(**x, backend="torch"), r(**x, backend="recurrent")) < 1e-9


def test_a_default_that_has_no_form_here_gives_way(x: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(rule: ruledsl.Rule, setting: Setting) -> None:
        raise BackendError("backend 'torch': too large; backend 'recurrent' runs it")

    monkeypatch.setitem(op.BACKENDS, "torch", replace(op.BACKENDS["torch"], prepare=refuse))
    r = load(rule("gated_delta").source.text)
    with pytest.warns(UserWarning, match="backend 'recurrent' runs it"):
        found = r(**x)
    assert torch.equal(found, r(**x, backend="recurrent"))
    with pytest.raises(BackendError, match="too large"):
        r(**x, backend="torch")


def test_consts_are_numbers_or_one_per_head() -> None:
    r = rule("lightning")
    x = arguments(r, 1, 5, 2, SIZES)
    del x["s"]
    for backend in ("torch", "recurrent"):
        assert (
            error(
                r(**x, s=0.5, backend=backend),
                r(**x, s=torch.tensor([0.5, 0.5], dtype=torch.float64), backend="recurrent"),
            )
            < 1e-12
        )
    with pytest.raises(MissingInput, match=r"const `s` \[H\]"):
        r(**x)
    with pytest.raises(ShapeError, match="has 2 heads"):
        r(**x, s=torch.zeros(3, dtype=torch.float64))


def test_several_outputs_and_states_are_dicts() -> None:
    r = load(
        "state S[V, K], z[K]\ninput q[K], k[K], v[V]\nS = S + v k^T\nz = z + k\noutput o = S q\noutput n = dot(z, q)"
    )
    x = arguments(r, 2, 5, 3, SIZES)
    out, state = r(**x, return_state=True)
    assert {n: tuple(y.shape) for n, y in out.items()} == {"o": (2, 5, 3, 6), "n": (2, 5, 3)}
    assert {n: tuple(y.shape) for n, y in state.items()} == {"S": (2, 3, 6, 8), "z": (2, 3, 8)}


def test_autocast_casts_vectors_and_keeps_gates_and_states(x: dict[str, Tensor]) -> None:
    r = rule("gated_delta")
    with torch.autocast("cpu", torch.bfloat16):
        out, state = r(**x, return_state=True)
        one, after = r.step(state, **{n: v[:, 0] for n, v in x.items()})
    assert out.dtype is one.dtype is torch.bfloat16
    assert state.dtype is after.dtype is torch.float32
    rounded = {n: v.bfloat16().float() if n in "qkv" else v for n, v in x.items()}
    assert error(state, r(**rounded, return_state=True, backend="recurrent")[1]) < 1e-5


def test_pooled_states(x: dict[str, Tensor]) -> None:
    r = rule("gated_delta")
    pool = torch.randn(5, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    before = pool.clone()
    tokens = {n: torch.cat([v[:, 0], v[:1, 1]]) for n, v in x.items()}
    out = torch.empty(3, 4, 6)
    found, state = r.step(pool, out=out, slots=torch.tensor([3, -1, 0]), **tokens)
    expected, after = r.step(before[[3, 1, 0]], **tokens)
    assert found is out and state is pool
    assert torch.equal(out[[0, 2]], expected[[0, 2]])
    assert torch.equal(pool[[3, 0]], after[[0, 2]]) and torch.equal(pool[[1, 2, 4]], before[[1, 2, 4]])
    r.step(pool, slots=torch.tensor([-1, -1, -1]), **tokens)
    assert torch.equal(pool[[1, 2, 4]], before[[1, 2, 4]]) and torch.equal(pool[[3, 0]], after[[0, 2]])


def test_out_updates_the_state_in_place(x: dict[str, Tensor]) -> None:
    r = rule("qrnn")
    y = arguments(r, 2, 1, 2, sizes(r))
    one = {n: v[:, 0] for n, v in y.items()}
    state = r.init_state(2, 2, dtype=torch.float64, **sizes(r))
    expected, after = r.step(state, **one)
    assert isinstance(state, dict)
    kept = dict(state)
    out = torch.empty_like(expected)
    _, same = r.step(state, out=out, **one)
    assert same is state and all(state[n] is kept[n] for n in kept)
    assert error(state, after) == 0 and error(out, expected) == 0


def test_saved_states_know_their_rule(tmp_path: Path) -> None:
    for name in ("gated_delta", "omega_linear"):
        r = rule(name)
        _, state = r(**arguments(r, 2, 5, 2, sizes(r)), return_state=True)
        r.save_state(tmp_path / "state", state)
        back = r.load_state(tmp_path / "state")
        assert type(back) is type(state) and error(back, state) == 0
        with pytest.raises(StateError, match="another rule"):
            rule("delta").load_state(tmp_path / "state")
    commented = load("# a comment\n" + (CORPUS / "omega_linear.rule").read_text())
    assert error(commented.load_state(tmp_path / "state"), state) == 0


def test_first_states() -> None:
    assert rule("rls").init_state(2, 3, K=4, V=5)["P"][1, 2].equal(100 * torch.eye(4, dtype=torch.float64))
    r = rule("ttt_linear")
    learned = {"W": torch.rand(2, 4, 4), "c": torch.rand(2, 4)}
    state = r.init_state(3, 2, learned=learned, K=4)
    assert state["W"].shape == (3, 2, 4, 4) and state["t"].tolist() == [0, 0, 0]
    assert torch.equal(state["frozen.W"], state["W"])


def test_a_rule_without_a_state_runs() -> None:
    r = load("input q[K], k[K]\noutput o = q + prev(k)")
    x = arguments(r, 1, 4, 1, {"K": 3})
    out, state = r(**x, return_state=True)
    assert torch.equal(out[:, 1:], x["q"][:, 1:] + x["k"][:, :-1])
    assert list(state) == ["prev.k"]


def test_a_path_a_text_and_no_file() -> None:
    text = (CORPUS / "delta.rule").read_text()
    assert load(text).hash == load(str(CORPUS / "delta.rule")).hash == load(CORPUS / "delta.rule").hash
    with pytest.raises(ruledsl.RuleError, match="no_such"):
        load("no_such.rule")


def test_checking_does_not_import_torch() -> None:
    code = (
        f"import sys, ruledsl; v = ruledsl.check({str(CORPUS / 'delta.rule')!r}); print(v.kind, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["chunkwise", "False"]
