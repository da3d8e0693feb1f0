"""The regression view: the loss that is named, inside grad(...), gives back the rule."""

from __future__ import annotations

import random

import pytest

from ruledsl.algebra.analysis import analyse
from ruledsl.algebra.explain import explain
from ruledsl.algebra.explain.explanation import Quote
from ruledsl.algebra.explain.regression import Descent, NoLoss, descents
from ruledsl.algebra.verdict import Verdict

from . import token
from .corpus import ACCEPTED, judged, text, verdict
from .test_explain import lines


def spelled(v: Verdict) -> list[str]:
    """The quoted assignments of the regression view."""
    return [r for s in explain(v).sections if s.title == "regression view" for x in s.lines if isinstance(x, Quote) for r in x.text.split("\n")]  # fmt: skip


def rewritten(source: str, rows: list[str]) -> str:
    """The rule with the assignments of those states replaced, where the first of each stood."""
    states = {row.split(" = ")[0] for row in rows}
    out, done = [], False
    for line in source.split("\n"):
        if line.split(" = ")[0] in states:
            out += [] if done else rows
            done = True
        else:
            out.append(line)
    assert done
    return "\n".join(out)


# loops, several strata in between and inferred declarations are left to the others
TRIED = (
    "linear gated_linear gla hgrn2 ssd delta gated_delta case_01 case_02 case_04 case_05 case_07 case_33 case_35 case_45a case_55a"
    " case_60b comba kda longhorn_exact rwkv5 rwkv6 rwkv7 momentum_delta titans_linear omega_linear case_42 rls"
).split()


@pytest.mark.parametrize("name", TRIED)
def test_a_step_on_the_loss_is_the_rule(name: str) -> None:
    v = verdict(name)
    rows = spelled(v)
    assert rows and all(" = " in row for row in rows)
    same(v, judged(rewritten(text(name), rows)))


def same(v: Verdict, other: Verdict) -> None:
    """Both tokens take the same states to the same states."""
    sizes = token.sizes_of(v.rule, v.sizes)
    for seed in range(2):
        env = token.sample(v.rule, sizes, seed)
        mine, theirs = token.run(v.rule, env, sizes)[0], token.run(other.rule, env, sizes)[0]
        assert set(mine) == set(theirs)
        for state, value in mine.items():
            scale = max(1.0, *(abs(x) for r in value for x in r))
            pairs = ((a, b) for r, q in zip(value, theirs[state], strict=True) for a, b in zip(r, q, strict=True))
            assert all(abs(a - b) < 1e-9 * scale for a, b in pairs)


@pytest.mark.parametrize("name", ["delta", "gated_delta", "case_01", "kda", "linear", "case_35"])
def test_and_has_its_transition(name: str) -> None:
    v = verdict(name)
    assert judged(rewritten(text(name), spelled(v))).transition == v.transition


def found(name: str) -> list[Descent]:
    analysis = analyse(verdict(name).rule)
    return [d for part in analysis.parts for d in descents(analysis.scope, part)[1]]


def test_where_the_decay_acts() -> None:
    before, after = found("case_01")[0], found("gated_delta")[0]
    assert not before.at_decayed and after.at_decayed
    assert "the gradient is taken at S before the decay" in lines(verdict("case_01"), "regression view")
    assert "the decay acts first: the gradient is taken at the decayed S" in lines(
        verdict("gated_delta"), "regression view"
    )


def test_a_read_along_another_vector_is_a_step_on_nothing() -> None:
    for name in ("dplr", "iplr"):
        with pytest.raises(NoLoss):
            found(name)
        assert "a step on no quadratic loss" in " ".join(lines(verdict(name), "regression view"))


def test_two_reads_that_exchange_their_vectors() -> None:
    """(S x) y^T + (S y) x^T is the gradient of <S x, S y>; one of them alone is no gradient."""
    rule = "state S[V, K]\ninput q[K], x[K], y[K], v[V], b\nS = S - b*(S x) y^T - b*(S y) x^T + v x^T\noutput o = S q"
    v = judged(rule)
    assert lines(v, "regression view")[0] == (
        "this is one gradient step on a sum of losses: of rate b on <S x, S y>; of rate 1 on -<S x, v>"
    )
    same(v, judged(rewritten(rule, spelled(v))))
    alone = judged(rule.replace(" - b*(S y) x^T", ""))
    assert "no quadratic loss" in " ".join(lines(alone, "regression view"))


def test_a_step_up_has_a_negative_rate() -> None:
    v = judged("state S[V, K]\ninput q[K], k[K], v[V], b\nS = S + b*(S k - v) k^T\noutput o = S q")
    assert lines(v, "regression view") == [
        "this is one gradient step of rate -b on 1/2 |S k - v|^2",
        "S = S + b*grad(0.5*norm2(S k - v), S)",
    ]


def test_the_derived_update_is_shown() -> None:
    said = lines(verdict("case_45a"), "regression view")
    assert said[0] == "this is one gradient step of rate 2 on 1/2 |S k - v|^2"
    assert said[-1] == "S <- S - (2*(S k - v)) k^T (the gradient written out)"
    assert not any("written out" in row for row in lines(verdict("delta"), "regression view"))


def test_momentum() -> None:
    said = lines(verdict("titans_linear"), "regression view")
    assert said[0].startswith("gradient descent with momentum: M collects the gradients by S")
    assert said[2:4] == ["M = m*M - th*grad(0.5*norm2(S k - v), S)", "S = (1 - al)*S + M"]


def test_random_rank_one_updates() -> None:
    """c (S p) w^T is called a step exactly when p and w are parallel."""
    source = random.Random(0)
    for _ in range(16):
        p, w = (source.choice(["k", "x", "2*k", "(b*k)", "(-x)"]) for _ in range(2))
        rule = f"state S[V, K]\ninput q[K], k[K], x[K], v[V], b\nS = S - (S {p if p[0] == '(' or len(p) == 1 else f'({p})'}) ({w})^T + v k^T\noutput o = S q"  # fmt: skip
        v = judged(rule)
        said = " ".join(lines(v, "regression view"))
        parallel = ("k" in p) == ("k" in w)
        assert ("no quadratic loss" in said) == (not parallel), rule
        if parallel:
            same(v, judged(rewritten(rule, spelled(v))))


def test_every_rule_of_the_corpus_says_something_or_nothing() -> None:
    assert sum(bool(spelled(verdict(n))) for n in ACCEPTED) >= 40
