"""Rules whose state is an inverse compute in float64: their float32 calls are as exact as their inputs."""

from __future__ import annotations

import pytest
import torch
from cases import ACCEPTED, arguments, cut, error, rule, sizes, token

from ruledsl import pipeline
from ruledsl.runtime.rule import load

INVERSE = "state P[K, K] = I\ninput q[K], k[K], g in (0, 1]\n"


def test_which_rules_do() -> None:
    assert [n for n in ACCEPTED if rule(n).in_double] == ["case_39", "rls"]


@pytest.mark.parametrize(
    ("update", "wanted"),
    [
        ("P = (P - (P k) (k^T P)/(g + k^T P k))/g", True),
        ("let c = 1/g\nP = c*P + k k^T", False),  # affine
        ("P = (P - (P k) (k^T P)/(1 + 2*(k^T P k)))/g", False),  # no change of variables
    ],
)
def test_the_algebra_decides(update: str, wanted: bool) -> None:
    r = load(f"{INVERSE}{update}\noutput o = P q")
    assert pipeline.in_double(r.typed) is wanted
    assert any("float64" in n for n in r.verdict.notes) is wanted
    assert r.verdict.price.state_bytes == ("8*K^2" if wanted else "4*K^2")


def test_float32_calls_keep_the_digits() -> None:
    """Gates between 0 and 1: the eigenvalues of P span far more than float32 holds."""
    r = rule("rls")
    sized = sizes(r, K=8, V=12)
    x = arguments(r, 2, 45, 2, sized, dtype=torch.float32)
    wanted, last = r(**{n: v.double() for n, v in x.items()}, return_state=True)
    out, state = r(**x, return_state=True)
    assert out.dtype is torch.float32 and state["P"].dtype is torch.float64
    assert error(out, wanted) < 1e-6 and error(state, last) < 1e-12
    first, middle = r(**cut(r, x, 0, 20), return_state=True)
    second, end = r(**cut(r, x, 20, 45), initial_state=middle, return_state=True)
    assert error(torch.cat([first, second], 1), wanted) < 1e-6 and error(end, last) < 1e-12
    pool = r.init_state(2, 2, **sized)
    rows = []
    for t in range(45):
        row, pool = r.step(pool, **token(r, x, t))
        rows.append(row)
    assert rows[0].dtype is torch.float32 and error(torch.stack(rows, 1), wanted) < 1e-6


def test_gradients_of_float32_calls() -> None:
    r = rule("rls")
    x = arguments(r, 1, 30, 2, sizes(r, K=6, V=8), dtype=torch.float32)

    def gradients(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        leaves = {n: v.to(dtype).requires_grad_() for n, v in x.items()}
        return dict(zip(x, torch.autograd.grad(r(**leaves).double().sin().sum(), list(leaves.values())), strict=True))

    assert error(gradients(torch.float32), gradients(torch.float64)) < 1e-5
