"""States that one token maps jointly: their chunk programs against the rule token by token, in float64, with autograd."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_rules import Case, compare, specification

from ruledsl import pipeline
from ruledsl.algebra.judge import judge
from ruledsl.algebra.verdict import Verdict
from ruledsl.chunk.differentiate import differentiate
from ruledsl.chunk.form import form
from ruledsl.chunk.program import Program, Rows
from ruledsl.chunk.simplify import simplify
from ruledsl.chunk.verify import verify

TWO = "state S[V, K], M[V, K]\ninput q[K], k[K], p[K], v[V], u[V], a in [-1, 1], m in [0, 1], b, c, e\n"
THREE = "state S[V, K], M[V, K], R[V, K]\ninput q[K], k[K], p[K], v[V], u[V], a in [-1, 1], m in [0, 1], b, c\n"
RULES = {
    "momentum, read before": TWO + "output o = S q\nM = m*M - e*(v - S p) k^T\nS = a*S - b*M",
    "momentum, every version read": TWO
    + "let x = S q\nM = m*M - e*(v - S p) k^T\nlet y = M q\nS = a*S - b*M\noutput o = S q + 2*x + 3*y\noutput r = prev(S) p",
    "the other order: the new S moves M": TWO + "S = a*S + v k^T - b*M\nM = m*M + e*(u - S k) p^T\noutput o = S q\noutput y = M q",
    "coupled by their reads only": TWO + "S = a*S + (v - M k) k^T\nM = m*M - c*(S p) k^T\noutput o = S q + M p",
    "two rows along one key": TWO + "let x = v - S p\nM = m*M - e*x k^T\nS = a*S + (b*M + c*(u - S p) k^T)\noutput o = S q",
    "two keys, two reads": TWO
    + "M = m*M - e*(v - S k) k^T + c*(M p) p^T\nS = a*S - b*(S p) p^T + M + u k^T\noutput o = S q",
    "rotation": TWO + "let x = S\nS = a*S - b*M + v k^T\nM = b*prev(S) + a*M + u k^T\noutput o = S q + M q",
    "rotation with reads": TWO
    + "S = a*S - b*M + e*(v - S k) k^T\nM = b*prev(S) + m*M + (u - M p) p^T\noutput o = S q\noutput y = M q",
    "only multiples of each other": TWO + "S = b*M + v k^T\nM = c*prev(S)\noutput o = S q\noutput y = M q",
    "steps within a token": TWO
    + "for j in 1..2:\n  M = m*M - e*(v - S p) k^T\n  S = a*S - b*M\noutput o = S q",
    "read on the left": TWO + "M = m*M - e*(v - S p) k^T\nS = a*S - b*M\noutput o = S^T u\noutput y = M^T v",
    "low rank on the left": TWO + "M = m*M - e*u (k^T - v^T S)\nS = a*S - b*M\noutput o = S q\noutput y = S^T u",
    "one of them transposed": "state S[V, K], M[K, V]\ninput q[K], k[K], v[V], a in [-1, 1], m in [0, 1], b\n"
    "M = m*M + k (v - S k)^T\nS = a*S + b*M^T\noutput o = S q\noutput y = M v",
    "a chain of three": THREE + "R = m*R + (v - S k) k^T\nM = a*M + b*R\nS = c*S + M\noutput o = S q",
    "two in a circle, a third behind": THREE
    + "let x = v - S k\nM = a*M + b*R + x k^T\nR = m*R - c*prev(M)\nS = a*S + M + R\noutput o = S q + R p",
    "two in a circle behind a third": THREE
    + "R = m*R + (v - S k) k^T\nM = a*M + b*S + R\nS = c*prev(M) + m*S + u p^T\noutput o = S q",
    "three in a circle": THREE + "let x = v - S k\nR = a*R + b*S\nM = m*M + c*R\nS = a*S + b*M + x k^T\noutput o = S q",
    "vectors as they are": "state x[K], y[K]\ninput u[K], w[K], a in [-1, 1], b\n"
    "x = a*x - b*y + u\ny = b*prev(x) + a*y + w\noutput o = x .* y",
    "vectors in inner products": "state x[K], y[K]\ninput u[K], w[K], q[K], a in [-1, 1], b\n"
    "x = a*x - b*y + u\ny = y + b*(w - q*(q^T x))\noutput o = dot(x, q) + dot(y, w)",
    "scalars": "state x, y\ninput u, w, a in [-1, 1], b\nx = a*x - b*y + u\ny = b*prev(x) + a*y + w\noutput o = x*y",
    "inputs of earlier tokens": TWO
    + "let x = v - S p\nM = m*M - prev(e)*x k^T - (prev(v) - S prev(k)) prev(k)^T\nS = prev(a)*S - b*M\noutput o = S q + prev(u, 2)",
    "an output of an earlier token": TWO + "M = m*M - e*(v - S p) k^T\nS = a*S - b*M\nlet y = S q\noutput o = y + b*prev(y)",
    "params and the position": "state S[V, K], M[V, K]\nparam g, h\ninput q[K], k[K], v[V]\n"
    "M = sigmoid(g)*M - (v - S k) k^T / (1 + t)\nS = tanh(h)*S - M\noutput o = S q",
    "another state reads them, and they another": "state N[V, K], S[V, K], M[V, K], F[V, K]\n"
    "input q[K], k[K], v[V], a in [-1, 1], m in [0, 1], b\nN = a*N + v k^T\nM = m*M - (N k - S k) k^T\nS = a*S - b*M\n"
    "F = a*F + (S q - F k) k^T\noutput o = F q + S k",
    "a state is added to another as a whole": "state S[V, K], M[V, K]\ninput q[K], k[K], v[V], m, c\n"
    "M = m*M + v k^T\nS = S - c*M\noutput o = S q + M k",
    "a gate that all share, its logarithm safe": "state S[V, K], M[V, K]\ninput q[K], k[K], v[V], a in [0.5, 1], b\n"
    "M = a*M - (v - S k) k^T\nS = a*S - b*M\noutput o = S q",
    "sums of reads by one vector": TWO + "let w = b*(S q)\nM = m*M - e*(v - S p) k^T\nS = a*S - b*M\n"
    "output o = w - (M q)/(2 + c) + (e*(S q) - w) + (M p + S q)\noutput y = S^T u - a*(M^T u)",
    "forgotten when it is read": TWO + "M = m*M + (v - S k) k^T\nS = a*S + b*M\noutput o = M q\nM = 0*M\noutput y = S q",
}  # fmt: skip


def judged(text: str) -> Verdict:
    return judge(pipeline.check(pipeline.parse(pipeline.read(text))))


def programs(verdict: Verdict) -> tuple[Case, Program, Program]:
    assert verdict.token is not None, verdict.no_form
    assert verdict.token.coupled
    program = form(verdict.token, verdict.rule, verdict.sizes)
    return specification(verdict, program.ports), program, verify(differentiate(program))


@pytest.mark.parametrize("name", RULES)
def test_equals_the_specification(name: str) -> None:
    case, program, gradient = programs(judged(RULES[name]))
    compare(case, program, gradient)
    compare(case, simplify(program), simplify(gradient))


@pytest.mark.parametrize(
    "name", ["momentum, every version read", "rotation with reads", "two in a circle behind a third"]
)
@pytest.mark.parametrize("gate", ["where(t == 3, 0, a)", "where(t > 2, 0, -a)", "0.001*a"])
def test_gates_may_be_zero_negative_and_tiny(name: str, gate: str) -> None:
    case, program, gradient = programs(
        judged(RULES[name].replace("= a*S", f"= ({gate})*S").replace("m*M", f"({gate})*M"))
    )
    compare(case, program, gradient)


FAMILY = (
    "state S[L, V, K]\ninput q[K], k[K], v[V], a in (0, 1], w[L]\n{body}\noutput o = sum(w[l]*(S[l] q) for l in 1..L)"
)
FAMILIES = {
    "handed on every other token": "for l in 2..L: S[l] = a*where(mod(t, 2) == 1, S[l] + S[l - 1], S[l])\nS[1] = where(mod(t, 2) == 1, 0, a*S[1]) + v k^T",
    "all into the last at every fourth token": "let e = mod(t, 4)\nS[L] = a*(S[L] + where(e == 0, sum(S[l] for l in 1..L - 1), 0))\n"
    "for l in 1..L - 1: S[l] = where(e == l, v k^T, where(e == 0, 0, a*S[l]))",
    "a ring": "for l in 2..L: S[l] = where(mod(t, 3) == 0, S[l - 1], S[l])\nS[1] = a*S[1] + v k^T",
}


@pytest.mark.parametrize("levels", [3, 9])
@pytest.mark.parametrize("name", FAMILIES)
def test_families_by_position(name: str, levels: int) -> None:
    rule = pipeline.check(pipeline.parse(pipeline.read(FAMILY.format(body=FAMILIES[name]))))
    unrolled = pipeline.unroll(rule, {"L": levels})
    token, why = pipeline.token_form(unrolled)
    assert token is not None, why
    (joint,) = token.coupled
    assert len(joint.states) == levels
    verdict = replace(judge(rule), rule=unrolled, token=token, sizes={"L": levels})
    program = form(token, unrolled, verdict.sizes)
    assert sum(n.op == "dot" and n.shape == (Rows(1), "V") for n in program.nodes) == levels + 1  # the chunk's part is one product
    compare(specification(verdict, program.ports), program, verify(differentiate(program)))


def test_a_row_that_two_states_hold_is_solved_for_once() -> None:
    verdict = judged(RULES["momentum, every version read"])
    assert verdict.token is not None
    (coupled,) = verdict.token.coupled
    assert len(coupled.writes) == 1
    assert [(v.target, v.version) for v in coupled.versions] == [(0, 1), (1, 1)]
    assert [[j for j, _ in v.states] for v in coupled.versions] == [[0, 1], [1]]


def test_momentum_takes_no_system_for_its_gates() -> None:
    """Without circles the products of gates are scans; the one solve is that of the reads."""
    _, program, _ = programs(judged(RULES["momentum, read before"]))
    assert [str(n.shape[0]) for n in program.nodes if n.op == "solve"] == ["C"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TWO.replace("b,", "b[K],") + "M = m*M + v k^T\nS = S diag(b) + M - (S k) k^T\nM = M - (S k) k^T\noutput o = S q", "vectors"),
        ("state S[V, K], M[V, L]\ninput q[K], k[K], l[L], v[V], a\nS = a*S + (M l) k^T\nM = a*M + (v - S k) l^T\noutput o = S q", "shapes"),
        ("state S[n, V, K]\ninput q[K], k[n, K], v[V], a\nfor j in 1..n: S[j] = a*S[j] + sum(S[i] for i in 1..n) + v k[j]^T\noutput o = S[1] q", "more than 4"),
    ],
)  # fmt: skip
def test_what_has_no_form_says_why(text: str, why: str) -> None:
    unrolled = pipeline.unroll(pipeline.check(pipeline.parse(pipeline.read(text))), {"n": 5} if "[n" in text else {})
    token, no_form = pipeline.token_form(unrolled)
    assert token is None and why in no_form
