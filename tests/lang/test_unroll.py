"""Loops and sums written out: versions, members, names, gradient points, limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ruledsl.lang import typed
from ruledsl.lang.check import check
from ruledsl.lang.diagnostic import RuleError
from ruledsl.lang.parse import parse
from ruledsl.lang.show import expr_text, statement_text
from ruledsl.lang.source import Source
from ruledsl.lang.unroll import loop_sizes, unroll
from ruledsl.lang.verify import verify
from ruledsl.lang.walk import expressions, subexpressions

CORPUS = sorted(
    p for p in (Path(__file__).parent.parent / "corpus").glob("*.rule") if p.stem not in ("softmax", "case_61")
)
HEAD = "state S[V, K]\ninput q[K], k[K], v[V], a, b\n"


def checked(text: str) -> typed.Rule:
    return check(parse(Source(text)))


def unrolled(text: str, **sizes: int) -> typed.Rule:
    flat = unroll(checked(text), sizes)
    verify(flat, sizes)
    return flat


def nodes(rule: typed.Rule) -> Iterator[typed.Expr]:
    for statement in rule.body:
        for expr in expressions(statement):
            yield from subexpressions(expr)


def lines(rule: typed.Rule) -> list[str]:
    return [statement_text(s, plain=True) for s in rule.body]


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("path", CORPUS, ids=lambda p: p.stem)
def test_contract(path: Path, size: int) -> None:
    rule = checked(path.read_text())
    sizes = dict.fromkeys(loop_sizes(rule), size)
    flat = unroll(rule, sizes)
    verify(flat, sizes)
    assert not any(isinstance(s, typed.For) for s in flat.body)
    for node in nodes(flat):
        match node:
            case typed.Total() | typed.LoopVar():
                pytest.fail(expr_text(node))
            case typed.StateRef(name, _, version, member):
                assert version is not None and (member is not None) == bool(rule.symbol(name).type.family)
            case typed.Member(_, index):
                assert isinstance(index, typed.Number)
            case typed.Ref(_, _, _, lag):
                assert lag is None or isinstance(lag, typed.Number)
            case typed.Frozen(_, _, chunk):
                assert isinstance(chunk, typed.Number)
    names = [s.name for s in flat.body if isinstance(s, typed.Let | typed.Output)]
    assert len(names) == len(set(names))
    assert flat.symbols == rule.symbols and flat.sizes == rule.sizes


def test_a_rule_without_loops_only_gains_versions() -> None:
    flat = unrolled(HEAD + "S = a*S\nS = S + b*(v - S k) k^T\noutput o = S q + prev(S) q")
    versions = [[n.version for n in subexpressions(s.value) if isinstance(n, typed.StateRef)] for s in flat.body]  # type: ignore[union-attr]
    assert versions == [[0], [1, 1], [2, 0]]


def test_loops_are_written_out() -> None:
    text = "state S[V, K]\ninput q[K], k[n, K], v[n, V]\nfor j in 1..n:\n    let e = v[j] - S k[j]\n    S = S + e k[j]^T\noutput o = S q"
    rule = checked(text)
    assert loop_sizes(rule) == ("n",)
    assert lines(unroll(rule, {"n": 2})) == [
        "let e_1 = v[1] - S k[1]",
        "S = S + e_1 k[1]^T",
        "let e_2 = v[2] - S k[2]",
        "S = S + e_2 k[2]^T",
        "output o = S q",
    ]


def test_names_in_loops_do_not_clash() -> None:
    text = "state S[V, K]\ninput q[K], k[n, K], v[V], e_1\nfor i in 1..2:\n    for j in 1..n:\n        let e = v - S k[j]\n        S = S + e_1*e k[j]^T\noutput o = S q"
    names = [s.name for s in unrolled(text, n=2).body if isinstance(s, typed.Let)]
    assert names == ["e_1_1", "e_1_2", "e_2_1", "e_2_2"]
    text = "state S[V, K]\ninput q[K], k[n, K], v[V], e_1\nfor j in 1..n:\n    let e = v - S k[j]\n    S = S + e_1*e k[j]^T\noutput o = S q"
    assert [s.name for s in unrolled(text, n=1).body if isinstance(s, typed.Let)] == ["e_1_"]


def test_families_have_versions_per_member() -> None:
    text = (Path(__file__).parent.parent / "corpus" / "case_62.rule").read_text()
    flat = unrolled(text, L=3)
    stores = [(s.state, s.member) for s in flat.body if isinstance(s, typed.Assign)]
    assert stores == [("S", typed.Number(2.0)), ("S", typed.Number(3.0)), ("S", typed.Number(1.0))]
    read = [(n.member, n.version) for n in subexpressions(flat.outputs[0].value) if isinstance(n, typed.StateRef)]
    assert read == [(1, 1), (2, 1), (3, 1)]
    before = [(n.member, n.version) for n in subexpressions(flat.let("M").value) if isinstance(n, typed.StateRef)]
    assert before == [(1, 0), (2, 0), (3, 0)]


def test_loop_arithmetic_is_folded_and_dead_branches_are_dropped() -> None:
    head = "state S[V, K]\ninput q[K], k[n, K], v[V]\n"
    flat = unrolled(head + "for j in 1..n: S = S + (2^j/4)*v (where(j > 1, k[j - 1], 0))^T\noutput o = S q", n=2)
    assert lines(flat)[:2] == ["S = S + 0.5*v (0*ones)^T", "S = S + 1*v k[1]^T"]


def test_numbers_that_the_user_wrote_stay() -> None:
    flat = unrolled(HEAD + "S = exp(-exp(-0.5))*S + v k^T\noutput o = S q/sqrt(K)")
    assert lines(flat)[0] == "S = exp(-exp(-0.5))*S + v k^T"


def test_lags_are_numbers_and_no_lag_is_this_token() -> None:
    flat = unrolled(HEAD + "const c = 3\nS = a*S + sum(prev(v, j) prev(k, j)^T for j in 0..c - 1)\noutput o = S q")
    assert lines(flat)[0] == "S = a*S + (v k^T + prev(v) prev(k)^T + prev(v, 2) prev(k, 2)^T)"


def test_long_sums_stay_shallow() -> None:
    flat = unrolled(
        "state S[V, K]\ninput q[K], k[K], v[V]\nS = S + sum(prev(v, j) k^T for j in 0..999)\noutput o = S q"
    )

    def depth(expr: typed.Expr) -> int:
        return 1 + max((depth(c) for c in typed.children(expr)), default=0)

    assert depth(flat.body[0].value) < 40  # type: ignore[union-attr]
    assert sum(isinstance(n, typed.Product) for n in nodes(flat)) == 1000 + 1


def test_empty_sums_are_zero() -> None:
    flat = unrolled(
        "state S[V, K]\ninput q[K], k[n, K], v[n, V]\nS = S + sum(v[j] k[j]^T for j in 2..n)\noutput o = S q", n=1
    )
    assert lines(flat)[0] == "S = S + 0*ones"


def test_entries_of_a_vector_state() -> None:
    flat = unrolled("state s[n]\ninput x[n]\nfor j in 2..n: s[j] = s[j - 1] + x[j]\noutput o = s", n=3)
    assert lines(flat) == ["s = cat(s[1], s[1] + x[2], s[3])", "s = cat(s[1], s[2], s[2] + x[3])", "output o = s"]
    stores = [s for s in flat.body if isinstance(s, typed.Assign)]
    assert all(s.member is None for s in stores)


# ------------------------------------------------------------------------------------------------ gradients


def points(rule: typed.Rule) -> list[typed.Expr]:
    return [n.wrt for n in nodes(rule) if isinstance(n, typed.Grad)]


def state(rule: typed.Rule, version: int, name: str = "S", member: int | None = None) -> typed.StateRef:
    type_ = rule.symbol(name).type
    return typed.StateRef(name, type_ if member is None else type_.member, version, member)


def test_a_gradient_is_taken_at_the_version_that_the_loss_reads() -> None:
    flat = unrolled(HEAD + "S = a*S\nS = S - b*grad(0.5*norm2(S k - v), S)\noutput o = S q")
    assert points(flat) == [state(flat, 1)]
    flat = unrolled(HEAD + "let y = S k\nS = a*S\nS = S - b*grad(0.5*norm2(y - v), S)\noutput o = S q")
    assert points(flat) == [state(flat, 0)]
    flat = unrolled(HEAD + "S = a*S\nS = S - b*grad(0.5*norm2(prev(S) k - v), S)\noutput o = S q")
    assert points(flat) == [state(flat, 0)]


def test_a_gradient_at_a_frozen_state() -> None:
    frozen_in_loss = (
        HEAD + "const C = 16\nlet W = frozen(S, C)\nlet l = norm2(W k - v)\nS = S - b*grad(l, {})\noutput o = S q"
    )
    for wrt in ("S", "W", "frozen(S, C)", "frozen(S, 16)"):
        (point,) = points(unrolled(frozen_in_loss.format(wrt)))
        assert isinstance(point, typed.Frozen) and point.chunk == typed.Number(16.0)


def test_a_gradient_with_respect_to_a_let() -> None:
    (point,) = points(unrolled(HEAD + "let y = S k\nS = S - b*grad(norm2(y - v), y) k^T\noutput o = S q"))
    assert isinstance(point, typed.Ref) and point.name == "y"


def test_gradients_in_loops() -> None:
    text = "state S[V, K]\ninput q[K], k[n, K], v[n, V]\nfor j in 1..n: S = S - grad(0.5*norm2(S k[j] - v[j]), S)\noutput o = S q"
    flat = unrolled(text, n=3)
    assert points(flat) == [state(flat, 0), state(flat, 1), state(flat, 2)]


def test_a_gradient_for_one_member() -> None:
    text = "state S[L, V, K]\ninput q[K], k[K], v[V], w[L]\nfor l in 1..L: S[l] = S[l] - w[l]*grad(norm2(S[l] k - v), S[l])\noutput o = S[1] q"
    flat = unrolled(text, L=2)
    assert points(flat) == [state(flat, 0, member=1), state(flat, 0, member=2)]


# ------------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(("sizes", "code"), [({"n": 3000}, "RD408"), ({"n": 60}, None)])
def test_expansion_is_limited(sizes: dict[str, int], code: str | None) -> None:
    rule = checked("state S[V, K]\ninput q[K], k[n, K], v[V]\nfor j in 1..n: S = S + v k[j]^T\noutput o = S q")
    if code is None:
        assert len(unroll(rule, sizes).body) == 61
        return
    with pytest.raises(RuleError) as error:
        unroll(rule, sizes)
    (told,) = error.value.diagnostics
    assert told.code == code and "n = 3000" in told.headline and "2000 statements" in told.headline


def test_lets_keep_the_expansion_linear() -> None:
    chain = "\n".join(f"let y{i} = y{i - 1} .* y{i - 1}" for i in range(1, 200))
    flat = unrolled(HEAD + f"let y0 = v\n{chain}\nS = S + y199 k^T\noutput o = S q")
    assert sum(1 for _ in nodes(flat)) < 1500


def test_unbound_sizes_are_our_mistake() -> None:
    rule = checked("state S[V, K]\ninput q[K], k[n, K], v[V]\nfor j in 1..n: S = S + v k[j]^T\noutput o = S q")
    with pytest.raises(AssertionError, match="n"):
        unroll(rule, {})
