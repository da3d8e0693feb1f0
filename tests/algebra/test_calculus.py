"""Derivatives of typed trees against central differences."""

from __future__ import annotations

import pytest

from ruledsl.algebra.calculus import gradient
from ruledsl.algebra.evaluate import evaluate
from ruledsl.algebra.judge import judge
from ruledsl.algebra.verdict import Kind
from ruledsl.lang import typed
from ruledsl.lang.functions import TABLE
from ruledsl.lang.unroll import unroll

from . import token
from .corpus import checked

STEP = 1e-5
SMOOTH = [
    n
    for n, f in TABLE.items()
    if f.kind == "map" and f.low == f.high == 1 and f.spelled and n not in ("sign", "floor", "ctz", "stopgrad")
]
LOSSES = {
    **{name: f"sum({name}(S k + 3))" for name in SMOOTH},
    "square": "0.5*norm2(S k - v)",
    "inner product": "-dot(S k, v)*a",
    "norm": "norm(S k - v)",
    "even power of abs": "sum(abs(S k - v).^4)",
    "odd power": "sum((S k - v).^3)",
    "quotient": "sum((S k) ./ (2 + (S k).^2))",
    "bilinear": "v^T S k + u^T S S^T v",
    "matrix products": "sum(Q S P)",
    "trace": "trace(S P S^T)",
    "diag": "sum(diag(S k) S)",
    "softmax of a vector": "dot(softmax(S k), v)",
    "softmax of rows": "sum(softmax(S) .* X)",
    "layernorm of a vector": "0.5*norm2(layernorm(S k) - v)",
    "layernorm of rows": "sum(layernorm(S) .* X)",
    "rmsnorm of a vector": "dot(rmsnorm(S k), v)",
    "rmsnorm of rows": "sum(rmsnorm(S) .* X)",
    "unit of a vector": "dot(unit(S k), v)",
    "unit of rows": "sum(unit(S) .* X)",
    "two layers": "norm2(silu(S k) - v) + sum(gelu(S^T u) .* w)",
    "where": "sum(where(S k > 0, (S k).^2, 3*(S k)))",
    "max and min": "sum(max(S k, v) + min(S k, u))",
    "logaddexp": "sum(logaddexp(S k, v))",
    "scalars spread": "sum(S k + sum(S))",
    "rotate": "dot(rotate(S^T u, th), w)",
    "solve on the right": "dot(solve(P + 9*I, S^T u), w)",
    "solve with the state inside": "dot(solve(S^T S + 9*I, k), w)",
    "nothing": "a + sum(k)",
}
HEAD = "state S[V, K]\ninput k[K], v[V], u[V], w[K], th[K/2], P[K, K], Q[V, V], X[V, K], a\n"


def loss_of(text: str) -> tuple[typed.Rule, typed.Grad, dict[str, typed.Expr]]:
    rule = unroll(checked(HEAD + text + "\noutput o = S k"), {})
    lets = {s.name: s.value for s in rule.body if isinstance(s, typed.Let)}
    (assign,) = (s for s in rule.body if isinstance(s, typed.Assign))
    (grad,) = (n for n in nodes(assign.value) if isinstance(n, typed.Grad))
    return rule, grad, lets


def nodes(expr: typed.Expr):  # type: ignore[no-untyped-def]
    yield expr
    for child in typed.children(expr):
        yield from nodes(child)


def compare(rule: typed.Rule, grad: typed.Grad, lets: dict[str, typed.Expr]) -> None:
    sizes = {"K": 4, "V": 3}
    env = token.sample(rule, sizes, 3)
    env |= {(n, v, m): value for (n, v, m), value in [(k, x) for k, x in env.items() if len(k) == 3]}
    made = gradient(grad.loss, grad.wrt, lets)
    found = evaluate(made, dict(env), lets, sizes)
    assert isinstance(grad.wrt, typed.StateRef)
    key = grad.wrt.name, grad.wrt.version, grad.wrt.member
    for i in range(3):
        for j in range(4):
            sides = []
            for sign in (1, -1):
                moved = [list(r) for r in env[key]]
                moved[i][j] += sign * STEP
                sides.append(evaluate(grad.loss, {**env, key: moved}, lets, sizes)[0][0])
            wanted = (sides[0] - sides[1]) / (2 * STEP)
            got = found[i][j] if len(found) > 1 else found[0][0]
            assert got == pytest.approx(wanted, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", [n for n in LOSSES if n != "nothing"])
def test_gradient(name: str) -> None:
    compare(*loss_of(f"S = S - grad({LOSSES[name]}, S)"))


def test_gradient_through_lets() -> None:
    compare(*loss_of("let y = S k\nlet z = silu(y) + y\nlet e = z - v\nS = S - grad(norm2(e) + dot(y, z), S)"))


def test_nested_squares_stay_small() -> None:
    """A square is differentiated once, not once per operand."""
    loss = "S k - v"
    for _ in range(8):
        loss = f"norm2({loss})*(u)"
    _, grad, lets = loss_of(f"S = S - grad(norm2({loss}), S)")
    assert sum(1 for _ in nodes(gradient(grad.loss, grad.wrt, lets))) < 200_000


def test_what_has_no_derivative_is_undecided() -> None:
    found = judge(checked(HEAD + "S = S - grad(sum(cat(S k, S k).^2), S)\noutput o = S k"))
    assert found.kind is Kind.UNDECIDED
    assert "no derivative" in found.reason and found.blame is not None
