"""Verdicts against numbers: is a token affine in the state, and does the product of tokens stay one L (x) R term?

Independent of how the checker gets there: the token is run as the rule says it.
"""

from __future__ import annotations

import random

import pytest

from ruledsl.algebra.verdict import Kind
from ruledsl.lang import typed

from . import token
from .corpus import ACCEPTED, verdict


def flat(states: dict, order: list) -> list[float]:  # type: ignore[type-arg]
    return [v for key in order for r in states[key] for v in r]


def runner(name: str, names: tuple[str, ...], seed: int, k: int = 4, other: int = 6):  # type: ignore[no-untyped-def]
    """The token as a function of the entries of the states `names`, everything else fixed; `k` for K, `other` for the
    other free sizes."""
    found = verdict(name)
    sizes = token.sizes_of(found.rule, found.sizes)
    sizes = {name_: v if name_ in found.sizes else k if name_ == "K" else other for name_, v in sizes.items()}
    env = token.sample(found.rule, sizes, seed)
    order = [(k[0], k[2]) for k in env if len(k) == 3 and k[0] in names]

    def step(entries: list[float]) -> list[float]:
        values, at = dict(env), 0
        for key in order:
            shape = env[key[0], 0, key[1]]
            m = [[entries[at + i * len(shape[0]) + j] for j in range(len(shape[0]))] for i in range(len(shape))]
            at += len(shape) * len(shape[0])
            values[key[0], 0, key[1]] = m
        after, _ = token.run(found.rule, values, sizes)
        return flat({k: after.get(k, values[k[0], 0, k[1]]) for k in order}, order)

    n = sum(len(env[k[0], 0, k[1]]) * len(env[k[0], 0, k[1]][0]) for k in order)
    return step, n


def affine(step, n: int) -> bool:  # type: ignore[no-untyped-def]
    """f half-way between x and y is half-way between f(x) and f(y); positive, where roots and logarithms are defined."""
    source = random.Random(n)
    x = [source.uniform(0.02, 0.5) for _ in range(n)]
    y = [source.uniform(1.0, 4.0) for _ in range(n)]
    half = [(a + b) / 2 for a, b in zip(x, y, strict=True)]
    fx, fy, middle = step(x), step(y), step(half)
    scale = max(1.0, *map(abs, fx), *map(abs, fy))
    return all(abs((a + b) / 2 - c) < 1e-9 * scale for a, b, c in zip(fx, fy, middle, strict=True))


def strata(*kinds: Kind) -> list[tuple[str, tuple[str, ...]]]:
    out = []
    for name in ACCEPTED:
        rule = verdict(name).rule
        if any(isinstance(n, typed.Frozen) for s in rule.body if not isinstance(s, typed.For) for n in nodes(s.value)):
            continue
        out += [(name, s.states) for s in verdict(name).strata if s.kind in kinds]
    return out


def nodes(expr: typed.Expr):  # type: ignore[no-untyped-def]
    yield expr
    for child in typed.children(expr):
        yield from nodes(child)


@pytest.mark.parametrize(("name", "states"), strata(Kind.CLOSED, Kind.CHUNKWISE, Kind.DENSE))
def test_affine_kinds_are_affine(name: str, states: tuple[str, ...]) -> None:
    for seed in range(2):
        assert affine(*runner(name, states, seed))


@pytest.mark.parametrize(("name", "states"), strata(Kind.SEQUENTIAL, Kind.REPARAMETRISED))
def test_other_kinds_are_not(name: str, states: tuple[str, ...]) -> None:
    if any(
        isinstance(n, typed.Ref) and n.role is typed.Role.OUTPUT
        for s in verdict(name).rule.body
        for n in nodes(s.value)
    ):  # type: ignore[union-attr]
        pytest.skip("what an earlier token's read-out carries is no input of one token")
    assert not all(affine(*runner(name, states, seed)) for seed in range(20))


def operator(name: str, seed: int, rows: int) -> list[list[float]]:
    """The linear part of a token on the row-major entries of S."""
    step, n = runner(name, ("S",), seed, 4, rows)
    zero = step([0.0] * n)
    columns = [[a - b for a, b in zip(step([float(i == j) for i in range(n)]), zero, strict=True)] for j in range(n)]
    return [list(r) for r in zip(*columns, strict=True)]


def terms(m: list[list[float]], rows: int) -> int:
    """The number of independent L (x) R terms: the rank of the entries ordered by (row to row, column to column)."""
    cols = len(m) // rows
    table = [
        [m[i * cols + j][r * cols + c] for j in range(cols) for c in range(cols)]
        for i in range(rows)
        for r in range(rows)
    ]
    return rank(table)


def rank(m: list[list[float]]) -> int:
    m, found = [list(r) for r in m], 0
    scale = max(abs(v) for r in m for v in r)
    for c in range(len(m[0])):
        pivot = max(range(found, len(m)), key=lambda i: abs(m[i][c]), default=None)
        if pivot is None or abs(m[pivot][c]) < 1e-9 * scale:
            continue
        m[found], m[pivot] = m[pivot], m[found]
        for i in range(found + 1, len(m)):
            f = m[i][c] / m[found][c]
            m[i] = [a - f * b for a, b in zip(m[i], m[found], strict=True)]
        found += 1
        if found == len(m):
            break
    return found


ONE_TERM = [
    "linear",
    "gla",
    "gla_two_sided",
    "delta",
    "gated_delta",
    "rwkv7",
    "dplr",
    "omega_linear",
    "case_07",
    "case_56",
    "case_57",
    "case_12",
    "case_58",
]
SEVERAL = ["case_09", "value_erase"]


@pytest.mark.parametrize("name", ONE_TERM)
def test_one_factored_term_stays_one(name: str) -> None:
    one, two = operator(name, 0, 2), operator(name, 1, 2)
    assert terms(one, 2) == terms(token.matmul(two, one), 2) == 1


@pytest.mark.parametrize("name", SEVERAL)
def test_terms_that_do_not_factor_multiply(name: str) -> None:
    one, two = operator(name, 0, 3), operator(name, 1, 3)
    assert 1 < terms(one, 3) < terms(token.matmul(two, one), 3)


@pytest.mark.parametrize(("name", "added"), [("delta", 1), ("case_58", 3), ("rwkv7", 1), ("iplr", 1)])
def test_rank_is_what_a_token_adds(name: str, added: int) -> None:
    """The right factor minus a diagonal has the stated rank."""
    m = operator(name, 0, 2)
    right = [[m[c][d] for d in range(4)] for c in range(4)]  # rows of S do not mix: the block of the first row
    if name == "rwkv7":
        found = verdict(name)
        sizes = {"K": 4, "V": 2}
        env = token.sample(found.rule, sizes, 0)
        lets = {s.name: s.value for s in found.rule.body if isinstance(s, typed.Let)}
        w = token.evaluate(lets["w"], env, lets, sizes)
        diagonal = [r[0] for r in w]
    else:
        diagonal = [1.0] * 4
    rest = [[v - diagonal[i] * (i == j) for j, v in enumerate(r)] for i, r in enumerate(right)]
    assert rank(rest) == added == verdict(name).strata[0].rank
