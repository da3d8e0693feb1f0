"""Enclosures, logarithms of decays, and what is said about stability."""

from __future__ import annotations

import math

import pytest

from ruledsl.algebra.evaluate import evaluate, spectral_radius
from ruledsl.algebra.logarithm import log_of
from ruledsl.algebra.ranges import interval
from ruledsl.algebra.scope import Scope
from ruledsl.algebra.text import plain
from ruledsl.lang import typed
from ruledsl.lang.typed import Interval
from ruledsl.lang.unroll import loop_sizes, unroll

from . import token
from .corpus import ACCEPTED, checked, judged, verdict

HEAD = "state h[K]\ninput k[K] unit, p[K] unit, x[K], c[K] in [0.5, 2], a in (0, 1], b in [-1, 3], z, q[3] in [0, 1]\nconst g = 1 - 2^(-5 - head)\n"


def expression(text: str) -> tuple[Scope, typed.Expr]:
    rule = unroll(checked(f"{HEAD}let e = {text}\nh = h + x\noutput o = h"), {})
    return Scope(rule), next(s.value for s in rule.body if isinstance(s, typed.Let) and s.name == "e")


RANGES = [
    ("g", Interval(1 - 2**-5, 1, False, True)),
    ("a", Interval(0, 1, True, False)),
    ("1 - a", Interval(0, 1, False, True)),
    ("a*b", Interval(-1, 3, False, False)),
    ("b^2", Interval(0, 9, False, False)),
    ("b*b", Interval(0, 9, False, False)),
    ("abs(b)", Interval(0, 3, False, False)),
    ("1 ./ c", Interval(0.5, 2, False, False)),
    ("sigmoid(z)", Interval(0, 1, True, True)),
    ("exp(-exp(x))", Interval(0, 1, True, True)),
    ("-softplus(z)", Interval(-math.inf, 0, True, True)),
    ("max(z, 0.1)", Interval(0.1, math.inf, False, True)),
    ("min(max(z, 0), 1)", Interval(0, 1, False, False)),
    ("clip(z, -1, 2)", Interval(-1, 2, False, False)),
    ("where(z > 0, a, 2)", Interval(0, 2, True, False)),
    ("dot(k, k)", Interval(0, 1, False, False)),
    ("dot(k, p)", Interval(-1, 1, False, False)),
    ("dot(x, x)", Interval(0, math.inf, False, True)),
    ("sum(q)", Interval(0, 3, False, False)),
    ("prev(c)", Interval(0, 2, False, False)),
    ("sqrt(c)", Interval(math.sqrt(0.5), math.sqrt(2), False, False)),
    ("relu(z)", Interval(0, math.inf, False, True)),
    ("relu(b)", Interval(0, 3, False, False)),
    ("relu(2*a - 1)", Interval(0, 1, False, False)),
    ("sign(z)", Interval(-1, 1, False, False)),
    ("1/(1 + relu(z))", Interval(0, 1, True, False)),
    ("elu(z)", Interval(-1, math.inf, True, True)),
    ("tanh(b)", Interval(math.tanh(-1), math.tanh(3), False, False)),
    ("mod(z, 4)", Interval(0, 4, False, True)),
    ("softmax(x)", Interval(0, 1, False, False)),
]


@pytest.mark.parametrize(("text", "wanted"), RANGES)
def test_range(text: str, wanted: Interval) -> None:
    assert interval(*expression(text)) == wanted


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_value_lies_in_its_range(name: str) -> None:
    """Each sub-expression of each rule, on sampled inputs."""
    found = verdict(name)
    scope, sizes = Scope(found.rule), token.sizes_of(found.rule, found.sizes)
    env = token.sample(found.rule, sizes, 5)
    for statement in found.rule.body:
        assert not isinstance(statement, typed.For)
        for node in nodes(statement.value):
            if (
                scope.seen(node).every
                or any(isinstance(n, typed.Frozen | typed.Grad | typed.Compare) for n in nodes(node))
                or node.type.family
            ):
                continue
            at = interval(scope, node)
            for v in (v for r in evaluate(node, env, scope.lets, sizes) for v in r):
                slack = 1e-9 * max(1.0, abs(v))
                assert at.low - slack <= v <= at.high + slack, plain(node)


def nodes(expr: typed.Expr):  # type: ignore[no-untyped-def]
    yield expr
    for child in typed.children(expr):
        yield from nodes(child)


LOGS = {
    "exp(-z)": "-z",
    "sigmoid(z)": "logsigmoid(z)",
    "1 - sigmoid(z)": "logsigmoid(-z)",
    "exp(x) .* sigmoid(x)": "x + logsigmoid(x)",
    "sigmoid(z)^0.25": "0.25*logsigmoid(z)",
    "sqrt(exp(z))": "0.5*z",
    "c": "log(c)",
    "g": "log(g)",
    "2*exp(z)": None,
    "exp(x) ./ c": None,
    "where(z > 0, 0.5, exp(-z))": None,
    "1 - 0.5*sigmoid(z)": "log(1 - 0.5*sigmoid(z))",
}


@pytest.mark.parametrize("text", LOGS)
def test_log_of_a_decay(text: str) -> None:
    scope, expr = expression(text)
    log = log_of(scope, expr)
    assert log is not None
    if LOGS[text] is not None:
        assert plain(log) == LOGS[text]
    sizes = {"K": 4}
    env = token.sample(scope.rule, sizes, 1)
    value, logarithm = evaluate(expr, env, scope.lets, sizes), evaluate(log, env, scope.lets, sizes)
    for r, s in zip(value, logarithm, strict=True):
        assert math.log(r[0]) == pytest.approx(s[0], abs=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "z",
        "b",
        "1 - a",
        "x",
        "where(z > 0, 0, 1)",
        "abs(b)",
        "a*exp(z)",
        "softmax(x)",
        "1 - exp(-abs(z))",
        "prev(c)",
        "tanh(z)",
    ],
)
def test_no_log_where_it_is_not_safe(text: str) -> None:
    """Touching 0, open at 0, signed, or undeclared."""
    assert log_of(*expression(text)) is None


CLAIMS = {
    "delta": "marginal",
    "delta_product": "marginal",  # b in [0, 2]: |1 - b| <= 1
    "gated_delta": "marginal",
    "kda": "marginal",
    "comba": "marginal",
    "longhorn_exact": "marginal",  # no promise on k is needed
    "linear": "marginal",
    "gla": "contractive",
    "retention": "contractive",
    "ssd": "contractive",
    "rwkv6": "contractive",
    "mamba1": "marginal",
    "rwkv7": "can grow",
    "iplr": "can grow",
    "dplr": "can grow",
    "mission": "can grow",
    "momentum_delta": "can grow",
    "case_03": "not applicable",
    "ttt_linear": "not applicable",
    "case_42": "not proven",
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claim(name: str) -> None:
    assert verdict(name).stability.claim == CLAIMS[name]


def test_bound_of_parallel_keys_is_exact() -> None:
    """Interval arithmetic on norms would give |a| + |b| = 2."""
    found = judged(
        "state S[V, K]\ninput q[K], k[K] unit, v[V], a in (0, 1], b in [0, 1]\nS = a*S + b*(v - S k) k^T\noutput o = S q"
    ).stability
    assert found.claim == "marginal"
    assert found.bound == "max(a, |a - b|) <= 1"
    assert set(found.assumptions) == {"a in (0, 1]", "b in [0, 1]", "k unit"}


def test_implicit_step_is_below_one() -> None:
    """b|k|^2/(1 + b|k|^2) lies in [0, 1) whatever k is."""
    text = (
        "state S[V, K]\ninput q[K], k[K], v[V], b in [0, 1]\nS = -S - (b/(1 + b*dot(k, k)))*(S k) k^T\noutput o = S q"
    )
    assert judged(text).stability.bound.endswith("< 2")


def test_promises_are_named_and_missing_ones_too() -> None:
    found = verdict("mission").stability
    assert found.assumptions == ()
    assert "nothing is declared about a, b, k" in found.proof
    assert "k unit" in found.proof
    assert verdict("delta").stability.assumptions == ("b in [0, 1]", "k unit")


def test_b_up_to_two_is_the_edge() -> None:
    text = "state S[V, K]\ninput q[K], k[K] unit, v[V], b in [0, {}]\nS = S + b*(v - S k) k^T\noutput o = S q"
    assert judged(text.format(2)).stability.claim == "marginal"
    assert judged(text.format(2.1)).stability.claim == "can grow"


def test_assumptions_of_the_bound_are_those_it_uses() -> None:
    found = judged("state S[V, K]\ninput q[K] unit, k[K], v[V], a in [0, 1)\nS = a*S + v k^T\noutput o = S q").stability
    assert found.claim == "contractive"
    assert found.assumptions == ("a in [0, 1)",)


@pytest.mark.parametrize("name", [n for n in ACCEPTED if verdict(n).stability.claim in ("marginal", "contractive")])
def test_proven_claims_hold_on_samples(name: str) -> None:
    """The token's linear part, taken from the rule itself, has no eigenvalue outside the circle."""
    found = verdict(name)
    sizes = {s: found.sizes.get(s, 4 if s == "K" else 2) for s in found.rule.sizes}
    for seed in range(4):
        env = token.sample(found.rule, sizes, seed)
        keys = [(k[0], k[2]) for k in env if len(k) == 3]

        def step(entries: list[float], env: token.Env = env, keys: list = keys) -> list[float]:  # type: ignore[type-arg]
            values, at = dict(env), iter(entries)
            for name, member in keys:
                values[name, 0, member] = [[next(at) for _ in r] for r in env[name, 0, member]]
            after, _ = token.run(found.rule, values, sizes)
            return [v for name, member in keys for r in after.get((name, member), values[name, 0, member]) for v in r]

        n = sum(len(r) for name, member in keys for r in env[name, 0, member])
        zero = step([0.0] * n)
        if len(keys) > 1:
            continue  # strata: one may read another in ways that are not linear
        m = [[a - b for a, b in zip(step([float(i == j) for i in range(n)]), zero, strict=True)] for j in range(n)]
        assert spectral_radius(m) <= 1 + 1e-3


def test_spectral_radius() -> None:
    assert spectral_radius([[0.0, 2.0], [-2.0, 0.0]]) == pytest.approx(2.0)
    assert spectral_radius([[0.5, 7.0], [0.0, -0.25]]) == pytest.approx(0.5)
    assert spectral_radius([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [8.0, 0.0, 0.0]]) == pytest.approx(2.0, rel=1e-3)
    assert spectral_radius([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]) == 0.0


def test_loop_sizes_are_bound() -> None:
    found = verdict("delta_product")
    assert found.sizes == {"n": 3}
    assert loop_sizes(found.rule) == ("n",)
