"""Explanations of the corpus: every section is made, in time, and says what is true of the rule."""

from __future__ import annotations

import re
import time

import pytest

from ruledsl.algebra.analysis import analyse
from ruledsl.algebra.explain import explain, remedies
from ruledsl.algebra.explain.counterexample import bend, growth
from ruledsl.algebra.explain.explain import caret
from ruledsl.algebra.explain.explanation import Equation
from ruledsl.algebra.explain.monoids import MONOIDS
from ruledsl.algebra.explain.numbers import Token
from ruledsl.algebra.explain.render import data, latex, plain, rows_of
from ruledsl.algebra.reparam import RECOGNISERS
from ruledsl.algebra.verdict import Kind, Verdict

from .corpus import ACCEPTED, judged, verdict

ALWAYS = {"transition", "composition law", "chunk form", "adjoint rule", "class and cost"}


def lines(v: Verdict, title: str) -> list[str]:
    """A section of the plain text, line by line."""
    body = plain(explain(v)).split(f"\n{title}\n")[1]
    return [re.sub(" +", " ", row.strip()) for row in body.split("\n\n")[0].split("\n")]


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_rule_of_the_corpus_is_explained(name: str) -> None:
    v = verdict(name)
    start = time.process_time()
    found = explain(v)
    assert time.process_time() - start < 2
    titles = {s.title for s in found.sections}
    assert titles >= ALWAYS
    assert ("what is frozen" in titles) == (v.kind is Kind.FROZEN)
    assert (titles >= {"why not", "counter-example"}) == (not v.kind.parallel)
    text = plain(found)
    assert text.split("\n")[0] == found.headline and str(v.kind) in found.headline
    assert "not followed" not in text and "@" not in text and "\u00a0" not in text
    assert [s["title"] for s in data(found)] == [s.title for s in found.sections]


@pytest.mark.parametrize("name", ACCEPTED)
def test_latex_is_balanced(name: str) -> None:
    found = explain(verdict(name), tex=True)
    text = latex(found)
    assert text.startswith("\\begin{align*}\n") and text.endswith("\\end{align*}\n") and text.count("align*") == 2
    for row in (r for s in found.sections for line in s.lines for r in rows_of(line)):
        bare = re.sub(r"\\[{}&$#%]", "", row)
        assert bare.count("&") == 1 and "\\\\" not in row
        depth = 0
        for c in bare:
            depth += (c == "{") - (c == "}")
            assert depth >= 0
        assert depth == 0 and bare.count("$") % 2 == 0
        assert not re.search(r"_\{[^{}]*\}_|\^\{?\\top\}?\^", bare), "a double subscript"


@pytest.mark.parametrize(
    "name", ["gated_delta", "rwkv7", "gla_two_sided", "case_26", "case_03", "titans", "s4d", "delta_product"]
)
def test_mathtext_reads_the_formulas(name: str) -> None:
    mathtext = pytest.importorskip("matplotlib.mathtext")
    parser = mathtext.MathTextParser("path")
    for line in (x for s in explain(verdict(name), tex=True).sections for x in s.lines):
        if isinstance(line, Equation):
            for side in filter(None, (line.left, line.right)):
                parser.parse(f"${side}$")


# ------------------------------------------------------------------------------------------------ the chunk form


def test_delta() -> None:
    """By hand from D = 1, p = w = k, alpha = -b, u = b v."""
    assert lines(verdict("delta"), "chunk form") == [
        "S_t = S_{t-1} + z_t k_t^T",
        "z_t = b_t*(v_t - S_{t-1} k_t)",
        "A[t,s] = -b_t*(k_t^T k_s) (s < t, else 0)",
        "R_t = b_t*(v_t - S_0 k_t)",
        "Z = (I - A)^-1 R (unit lower triangular: one solve per chunk; row t of a capital letter is that of token t)",
        "y_t = S_0 q_t + sum_{s<=t} (q_t^T k_s)*z_s",
        "S_C = S_0 + sum_{s} z_s k_s^T",
        "o_t = y_t/sqrt(K)",
    ]
    assert lines(verdict("delta"), "regression view") == [
        "this is one gradient step of rate b on 1/2 |S k - v|^2",
        "S = S - b*grad(0.5*norm2(S k - v), S)",
    ]


def test_a_decay_before_the_read_and_after_it() -> None:
    """Erasing from the decayed state counts the decay of the own token, erasing from the undecayed one does not."""
    after, before = lines(verdict("kda"), "chunk form"), lines(verdict("case_01"), "chunk form")
    assert "A[t,s] = -b_t*(k_t^T (exp(G_t - G_s) .* k_s)) (s < t, else 0)" in after
    assert "R_t = b_t*(v_t - S_0 (exp(G_t) .* k_t))" in after
    assert "A[t,s] = -b_t*(k_t^T k_s)*D_{t-1,s} (s < t, else 0)" in before
    assert "R_t = b_t*(v_t - D_{t-1,0}*S_0 k_t)" in before
    assert "S_C = D_{C,0}*S_0 + sum_{s} (D_{C,s}*z_s) k_s^T" in before


def test_only_what_is_there_is_written() -> None:
    assert lines(verdict("linear"), "chunk form") == [
        "S_t = S_{t-1} + v_t k_t^T",
        "y_t = S_0 q_t + sum_{s<=t} (q_t^T k_s)*v_s",
        "S_C = S_0 + sum_{s} v_s k_s^T",
        "o_t = y_t/sqrt(K)",
    ]
    assert not any("exp" in row or "Z =" in row for row in lines(verdict("case_33"), "chunk form"))


def test_a_write_that_reads_nothing_stays_out_of_the_solve() -> None:
    found = lines(verdict("rwkv7"), "chunk form")
    assert "A12[t,s] = -(kap_t^T (exp(G_{t-1} - G_s) .* kt_s)) (s < t, else 0)" in found
    assert "R1_t = -S_0 (exp(G_{t-1}) .* kap_t)" in found
    assert "z2_t = v_t (known: it reads nothing)" in found


def test_sub_steps_are_tokens_of_their_own() -> None:
    found = lines(verdict("delta_product"), "chunk form")
    assert "A[(t,j),(s,i)] = -b_t[j]*(k_t[j]^T k_s[i]) ((s,i) before (t,j), else 0)" in found


def test_the_old_state_is_read_before_the_write() -> None:
    found = lines(verdict("rwkv6"), "chunk form")
    assert "y_t = S_0 (exp(G_{t-1}) .* r_t) + sum_{s<t} (r_t^T (exp(G_{t-1} - G_s) .* k_s))*v_s" in found


# ------------------------------------------------------------------------------------------------ laws


def test_two_tokens_in_the_rule_s_names() -> None:
    assert "R_1 R_2 = a_1*a_2 I" in lines(verdict("gated_linear"), "composition law")
    assert "R_1 R_2 = I - b_2 k_2 k_2^T - b_1 k_1 k_1^T + b_1*b_2*k_1^T k_2 k_1 k_2^T" in lines(
        verdict("delta"), "composition law"
    )
    assert "L_2 L_1 = diag(c_2 .* c_1)" in lines(verdict("gla_two_sided"), "composition law")


def test_each_change_of_variable_has_a_law() -> None:
    changes = {s.structure for n in ACCEPTED for s in verdict(n).strata if s.kind is Kind.REPARAMETRISED}
    assert changes <= set(MONOIDS) and len(changes) >= 7
    assert len(MONOIDS) == len(RECOGNISERS) + 2  # clip is also max-plus and min-plus
    for text, change in (
        ("state m\ninput a, b\nm = min(m + a, b)\noutput o = m", "min-plus"),
        ("state x[K]\ninput w[K], P[K, K]\nx = P x/(dot(w, x) + 1)\noutput o = x", "common denominator"),
    ):
        v = judged(text)
        assert v.strata[0].structure == change and f"change of variables: {change}" in lines(v, "composition law")
    found = lines(verdict("case_24"), "composition law")
    assert "(alpha, beta) = (f, i) (this rule's token)" in found
    assert "(alpha, beta) = (alpha_1 + alpha_2, max(alpha_2 + beta_1, beta_2)) (two tokens, 1 and then 2)" in found


def test_the_old_value_of_another_state_is_named() -> None:
    assert "R = exp(f + prev(m) - m) I" in lines(verdict("case_26"), "composition law")


def test_what_is_frozen() -> None:
    assert (
        lines(verdict("case_46b"), "what is frozen")[0]
        == "frozen(S, 16) is S as it was when the chunk of 16 tokens began"
    )


def test_read_and_write_change_places() -> None:
    found = lines(verdict("dplr"), "adjoint rule")
    assert "dS <- dS (diag(w) + b a^T)" in found
    assert any("change places: a and b" in row for row in found)


# ------------------------------------------------------------------------------------------------ a no


NO = [n for n in ACCEPTED if verdict(n).kind in (Kind.SEQUENTIAL, Kind.UNDECIDED)]


@pytest.mark.parametrize("name", NO)
def test_the_numbers_are_those_of_the_token(name: str) -> None:
    v = verdict(name)
    analysis = analyse(v.rule)
    part, _ = next((p, s) for p, s in zip(analysis.parts, v.strata, strict=True) if s.kind is v.kind)
    found = bend(analysis, part, v.sizes)
    assert found is not None
    token = Token(analysis, found.sizes, found.inputs)
    i, j = found.entry
    half = {
        s: [
            [(a + b) / 2 for a, b in zip(x, y, strict=True)]
            for x, y in zip(found.first[s], found.second[s], strict=True)
        ]
        for s in part.states
    }
    seen = tuple(token(x)[found.state][i][j] for x in (found.first, found.second, half))
    assert seen == found.values
    assert abs((seen[0] + seen[1]) / 2 - seen[2]) > 0.01


def test_a_counter_example_by_hand() -> None:
    """S <- S S + v k^T at k = v = 1: 1, 5 and, half-way, 2."""
    found = lines(verdict("case_53"), "counter-example")
    assert found == [
        "one token as a function f of its state, with K = 1, k = 1, v = 1:",
        "f(S_1) = 1 (S = 0)",
        "f(S_2) = 5 (S = 2)",
        "(f(S_1) + f(S_2))/2 = 3 (what an affine map gives half-way)",
        "f((S_1 + S_2)/2) = 2 (S = 1)",
    ]


def test_coupled_states_share_one_row() -> None:
    found = lines(verdict("titans_linear"), "chunk form")
    for equation in (
        "S_t = (1 - al_t)*S_{t-1} + m_t*M_{t-1} + th_t*e_t k_t^T",
        "M_t = m_t*M_{t-1} + th_t*e_t k_t^T",
        "e_t = v_t - S_{t-1} k_t",
        "A[t,s] = -(k_t^T k_s*(D[S,S]_{t,s}*th_s + D[S,M]_{t,s}*th_s)) (s < t, else 0)",
        "o_t = S_t q_t",
    ):
        assert equation in found, found


def test_no_counter_example_to_an_affine_token() -> None:
    for name in ("delta", "case_09", "case_57", "momentum_delta"):
        analysis = analyse(verdict(name).rule)
        assert all(bend(analysis, part, {}) is None for part in analysis.parts)


def test_terms_grow() -> None:
    """Independent terms of both low ranks: 2, 4, 7, 11, as counted by hand."""
    analysis = analyse(verdict("case_09").rule)
    found = growth(analysis, analysis.parts[0], {})
    assert found is not None and found.terms == (2, 4, 7, 11)
    analysis = analyse(verdict("case_57").rule)
    full = growth(analysis, analysis.parts[0], {})
    assert full is not None and set(full.terms) == {1} and (full.block, full.which) == (2, "right")


@pytest.mark.parametrize("name", [n for n in ACCEPTED if not verdict(n).kind.parallel])
def test_what_would_help_does(name: str) -> None:
    """Each text is a rule, and a better one that still has a memory."""
    v = verdict(name)
    for r in remedies(v):
        better = judged(r.text)
        assert better.kind is r.kind
        assert r.kind.parallel or r.kind.number < v.kind.number


def test_remedies_of_a_nonlinear_write() -> None:
    found = {(r.says, str(r.kind), r.changed) for r in remedies(verdict("case_03"))}
    assert ("with the state of the chunk's start", "frozen", "tanh(v - frozen(S, 16) k)") in found
    assert ("without tanh", "chunkwise", "v - S k") in found


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("case_09", "S = S - g*v (v^T S)"),
        ("case_15", "S = S - (trace(frozen(S, 16)) / K)*I + P"),
        ("case_23", "output o = tanh(h)"),
        ("case_30b", "S = sigmoid(x)*S + v k^T"),
        ("case_31", "let k = x"),
        ("case_57", "input q[K], k[K], v[V], P[K, K] perm"),
        ("gru", "let z = sigmoid(xz)"),
        ("slstm", "let f = logsigmoid(xf)"),
        ("value_erase", "S = S + (b*(v - S k)) k^T"),
    ],
)
def test_a_remedy_of(name: str, line: str) -> None:
    assert any(line in r.text.split("\n") for r in remedies(verdict(name)))


def test_forgetting_everything_is_no_remedy() -> None:
    assert not any("h = relu(x)" in r.text for r in remedies(verdict("case_22")))


def test_a_parallel_rule_needs_no_remedy() -> None:
    assert remedies(verdict("delta")) == ()


def test_the_place_to_blame_is_underlined() -> None:
    v = verdict("case_03")
    assert v.blame is not None
    assert caret(v.rule.source, v.blame).split("\n") == [
        "4 | S = S + b*tanh(v - S k) k^T",
        "  |           ^^^^^^^^^^^^^",
    ]


def test_names_that_the_rule_uses_are_not_used_again() -> None:
    rule = "state S[V, K]\ninput q[K], k[K], v[V], z, A, G, D in (0, 1]\nS = D*S\nS = S + z*A*G*(v - S k) k^T\noutput o = S q"
    found = lines(judged(rule), "chunk form")
    assert "e_t = z_t*A_t*G_t*(v_t - D_t*S_{t-1} k_t)" in found
    assert "N[t,s] = -z_t*A_t*G_t*(k_t^T k_s)*DD_{t,s} (s < t, else 0)" in found
    assert any(row.startswith("E = (I - N)^-1 R") for row in found)


def test_an_explanation_is_made_of_the_text_alone() -> None:
    text = "S = a*S + b*tanh(v - S k) k^T"
    assert plain(explain(judged(text))) == plain(explain(judged(text))) == judged(text).explain()


def test_a_vector_divisor_is_no_scale_of_an_inverse() -> None:
    """The state is divided entry by entry by an input."""
    v = judged("state h[K]\ninput n[K], x[K]\nh = h ./ n + tanh(h)\noutput o = h")
    assert v.kind is Kind.SEQUENTIAL and any("without tanh" in r.says for r in remedies(v))
