"""The normal form of a token against the rule itself, on random numbers."""

from __future__ import annotations

import pytest

from ruledsl.algebra.judge import judge
from ruledsl.algebra.readout import token_form
from ruledsl.algebra.verdict import TokenForm
from ruledsl.lang import typed
from ruledsl.lang.unroll import loop_sizes, unroll

from . import token
from .corpus import ACCEPTED, checked, rule, verdict

MATMUL = (
    "linear retention lightning ssd gated_linear gla gla_two_sided hgrn2 rwkv5 rwkv6 mission delta gated_delta "
    "delta_product gated_delta_product kda comba iplr dplr rwkv7 longhorn_exact linear_normalised based gsa hgrn qrnn "
    "mamba3 omega_linear momentum_delta titans_linear case_35"
).split()

HEAD = "state S[V, K]\ninput q[K], k[K], v[V], p[K], w[K], u[V], a, b, g\n"
WRITTEN = {
    "an error computed before the decay": "let e = v - S k; S = a*S; S = S + b*e k^T\noutput o = S q",
    "a product with a matrix": "S = S (a*I - b*k k^T) + v k^T\noutput o = S q",
    "a matrix in a let": "let A = I - b*k k^T\nS = a*S A + v k^T\noutput o = S q",
    "two erases with one key": "S = a*S - b*(S k - v) k^T - g*(S p) k^T\noutput o = S q",
    "a gradient": "S = S - b*grad(0.5*norm2(S k - v) + 0.5*a*norm2(S), S)\noutput o = S q",
    "a squared norm": "S = S - b*grad(norm(S k - v)^2, S)\noutput o = S q",
    "write, then erase": "S = (S + v k^T) (I - b*p w^T)\noutput o = S q",
    "write, then decay": "S = S + b*(v - S k) k^T\nS = S diag(w)\noutput o = S q",
    "a read between decay and write": "S = a*S\noutput y = S q\nS = S + b*(v - S k) k^T\noutput o = S p",
    "reads of three versions": "output x = S q\nS = S diag(w)\noutput y = S q\nS = S - b*(S k) p^T\noutput o = S q + x .* y",
    "both sides read": "S = a*S + v k^T\noutput o = S q\noutput r = S^T u\noutput s = dot(u, S k)",
    "low rank on the left": "S = a*S - b*u (v^T S) + v k^T\noutput o = S q\noutput r = S^T u",
    "decays on the left": "S = diag(u) S + v k^T\noutput o = S q",
    "left decay and low rank on the left": "S = diag(u) S - b*(v (v^T S)) + v k^T\noutput o = S q",
    "a scalar read as a key": "let s = dot(u, S q)\nS = S + b*v k^T\noutput o = s*(S q)",
    "linear reads in a sum": "S = a*S + v k^T\noutput o = (a*S + 2*u k^T) q - (S^T)^T p",
    "the whole update replaced": "S = v k^T\noutput o = S q",
    "two decays": "S = a*S\nS = S diag(w)\nS = S + b*(v - S k) k^T\noutput o = S q",
    "a read through prev(S)": "S = a*S\nS = S + b*(v - prev(S) k) k^T\noutput o = S q",
    "a write before a read through prev(S)": "S = S + v k^T\nS = S diag(w) - b*(prev(S) k) p^T\noutput o = S q",
    "a transposed matrix in a let": "let A = b*k p^T\nS = a*S - S A^T + v (2*w)^T\noutput o = S q",
    "an erase in the other order": "S = S - ((p^T) S^T)^T w^T + v k^T\noutput o = S q",
    "a constant times I": "S = S*(2*a) + S*b + v k^T\noutput o = S q",
    "a condition": "S = where(a > 0, S, b*S) + v k^T\noutput o = S q",
    "a zero stopgrad": "S = a*S + v k^T + stopgrad(0*(S k)) k^T\noutput o = S q",
    "a quotient": "S = S/(1 + a^2) + (v - S k) k^T*b/(1 + dot(k, k))\noutput o = S q",
}  # fmt: skip
VECTORS = {
    "a vector with low rank": "state h[K]\ninput x[K], k[K], q[K], b\nh = h - b*k (k^T h) + x\noutput o = h",
    "a vector read in products": "state h[K]\ninput x[K], f[K], q[K]\nh = f .* h + x\noutput o = dot(h, q)",
    "a vector read both ways": "state h[K]\ninput x[K], f[K], q[K]\nh = f .* h + x\noutput o = dot(q, h)*h",
    "a scalar state": "state n\ninput x, f\nn = f*n + x\noutput o = n*n + x",
    "one state feeds another": "state n[K], S[V, K]\ninput q[K], k[K], v[V], b\nn = n + k\nS = S + b*(v - S k) (k ./ (1 + n .* n))^T\noutput o = S q",
    "a family of states": "state S[n, V, K]\ninput q[K], k[n, K], v[V], b[n]\nfor j in 1..n: S[j] = b[j]*S[j] + v k[j]^T\noutput o = sum(S[j] q for j in 1..n)",
}  # fmt: skip


def close(x: token.Matrix, y: token.Matrix) -> bool:
    assert (len(x), len(x[0])) == (len(y), len(y[0]))
    scale = max(1.0, max(abs(v) for r in x for v in r))
    return all(abs(a - b) <= 1e-9 * scale for r, s in zip(x, y, strict=True) for a, b in zip(r, s, strict=True))


def assert_same(checked_rule: typed.Rule, loops: int = 3) -> TokenForm:
    unrolled = unroll(checked_rule, dict.fromkeys(loop_sizes(checked_rule), loops))
    form, why = token_form(unrolled)
    assert form is not None, why
    sizes = token.sizes_of(unrolled, dict.fromkeys(loop_sizes(checked_rule), loops))
    for seed in range(2):
        env = token.sample(unrolled, sizes, seed)
        states, outputs = token.run(unrolled, env, sizes)
        form_states, form_outputs = token.run_form(form, env, sizes)
        for key, value in states.items():
            assert close(value, form_states[key]), key
        assert outputs.keys() == form_outputs.keys()
        for key, value in outputs.items():
            assert close(value, form_outputs[key]), key
    return form


@pytest.mark.parametrize("name", MATMUL)
def test_form_is_the_rule(name: str) -> None:
    assert_same(rule(name))


@pytest.mark.parametrize("name", [n for n in ACCEPTED if n not in MATMUL])
def test_every_other_form_is_the_rule(name: str) -> None:
    form = verdict(name).token
    if form is None:
        assert verdict(name).no_form
    else:
        assert_same(rule(name))


@pytest.mark.parametrize("name", WRITTEN)
def test_ways_to_write_a_matrix_rule(name: str) -> None:
    assert_same(checked(HEAD + WRITTEN[name]))


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_scalars_families(name: str) -> None:
    assert_same(checked(VECTORS[name]))


@pytest.mark.parametrize("loops", [1, 2, 5])
def test_form_at_other_sizes(loops: int) -> None:
    form = assert_same(rule("gated_delta_product"), loops)
    assert len(form.forms[0].steps) == loops  # the decay joins the first sub-step


def test_shared_scale_is_pulled_out() -> None:
    (step,) = token_form(unroll(rule("delta"), {}))[0].forms[0].steps  # type: ignore[union-attr]
    (write,) = step.writes
    assert write.gain == typed.Number(-1.0)
    assert isinstance(write.scale, typed.Ref) and write.scale.name == "b"
    assert isinstance(write.value, typed.Ref) and write.value.name == "v"
    assert write.key == write.read
    assert step.right is None and step.left is None


def test_gradient_reaches_the_delta_rule() -> None:
    text = HEAD + "S = S - b*grad(0.5*norm2(S k - v), S)\noutput o = S q / sqrt(K)"
    by_gradient = judge(checked(text)).token
    by_hand = judge(checked(HEAD + "S = S + b*(v - S k) k^T\noutput o = S q / sqrt(K)")).token
    assert by_gradient is not None and by_gradient == by_hand


def test_read_points() -> None:
    before, after = verdict("mission").token, verdict("gated_delta").token
    assert before is not None and after is not None
    assert [w.after_decay for w in before.forms[0].steps[0].writes] == [False]
    assert [w.after_decay for w in after.forms[0].steps[0].writes] == [True]


def test_steps_stay_apart_where_an_output_looks_between() -> None:
    form = assert_same(checked(HEAD + WRITTEN["a read between decay and write"]))
    assert [s.version for s in form.forms[0].steps] == [1, 2]


def test_rank_two_without_a_read() -> None:
    form = verdict("rwkv7").token
    assert form is not None
    reads = [w.read is not None for w in form.forms[0].steps[0].writes]
    assert reads == [True, False]


def test_low_rank_on_the_left_is_transposed() -> None:
    form = verdict("case_07").token
    assert form is not None and form.forms[0].transposed
    assert [r.left for r in form.reads] == [True]


NO_FORM = {
    "case_11": "entry by entry",
    "case_14": "transposed",
    "case_18": "other than in a product",
    "lru": "coupled",
    "case_56": "monomial",
    "case_42": "positive",
}


@pytest.mark.parametrize("name", NO_FORM)
def test_no_form_says_why(name: str) -> None:
    found = verdict(name)
    assert found.token is None
    assert NO_FORM[name] in found.no_form


@pytest.mark.parametrize(
    "body",
    [
        "S = S + b*stopgrad(v - S k) k^T\noutput o = S q",  # the gradient takes another way than the value
        "S = a*S + v k^T\noutput o = S (S^T u)",
        "S = diag(u) S (I - b*k k^T) + v k^T\noutput o = S q",
        "S = (I - g*u u^T) S (I - b*k k^T)\noutput o = S q",
        "S = a*S + v k^T\noutput o = sum(S)*q",
    ],
)
def test_linear_rules_without_a_form(body: str) -> None:
    found = judge(checked(HEAD + body))
    assert found.kind.number <= 2
    assert found.token is None and found.no_form
