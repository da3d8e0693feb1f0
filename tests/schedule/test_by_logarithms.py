"""Which decays kernels take by their logarithms, and what becomes of their gradients."""

from __future__ import annotations

import pytest

from ruledsl import pipeline
from ruledsl.chunk.program import Program
from ruledsl.schedule.cut import cut
from ruledsl.schedule.kernels import Kernels, Mode

RULE = "state S[V, K]\ninput q[K], k[K], v[V], {}\nS = S diag(a) + v k^T\noutput o = S q"


def programs(decay: str) -> tuple[Program, Program]:
    declared, _, let = decay.partition("; ")
    top, body = RULE.format(declared).split("\nS =")
    text = "\n".join([top, *([let] if let else []), f"S ={body}"])
    verdict = pipeline.verdict(pipeline.check(pipeline.parse(pipeline.read(text))))
    assert verdict.token is not None
    return pipeline.kernel_programs(verdict.token, verdict.rule, verdict.sizes)


def grows(program: Program) -> list[bool]:
    """Of each decay that kernels take by its logarithm: may it exceed 1?"""
    return [bool(n.attr) for n in program.nodes if n.op == "running"]


def modes(kernels: Kernels) -> set[Mode]:
    return {k.mode for k in (*kernels.forward, *kernels.backward)}


@pytest.mark.parametrize(
    ("decay", "wanted"),
    [
        ("a[K] in (0, 1]", [False]),
        ("a[K] in [0, 1]", [False]),
        ("a[K] in [0, 2]", [True]),
        ("g[K] in (-inf, 0]; let a = exp(g)", [False]),
        ("g[K]; let a = exp(g)", [True]),
        ("g[K]; let a = exp(-softplus(g))", [False]),
        ("g[K]; let a = exp(-exp(g))", [False]),
        ("g[K]; let a = sigmoid(g)", [False]),
        ("f[K] in [0, 1]; let a = 1 - f", [False]),
        ("a[K] in [-1, 1]", []),
        ("a[K]", []),
        ("f[K] in [0, 1]; let a = 1 - 2*f", []),
    ],
)
def test_decays_that_are_not_negative_have_logarithms(decay: str, wanted: list[bool]) -> None:
    forward, backward = programs(decay)
    assert grows(forward) == grows(backward) == wanted


@pytest.mark.parametrize(
    ("decay", "tables"),
    [
        ("g[K] in (-inf, 0]; let a = exp(g)", False),
        ("g[K]; let a = sigmoid(g)", False),
        ("a[K] in [0.01, 1]", False),
        ("a[K] in [0, 1]", True),  # its gradient is not divided by what may be 0
        ("a[K]", True),
    ],
)
def test_only_decays_without_divisible_gradients_have_tables(decay: str, tables: bool) -> None:
    assert ({Mode.LEVELS, Mode.GATE} <= modes(cut(*programs(decay)))) == tables


def test_kernels_with_products_run_twice() -> None:
    kernels = cut(*programs("g[K] in (-inf, 0]; let a = exp(g)"))
    twice = {k.name for k in (*kernels.forward, *kernels.backward) if k.twice}
    assert twice == {"forward_prepare", "gradients_2"}


@pytest.mark.parametrize(
    ("decay", "divided"),
    [("g[K] in (-inf, 0]; let a = exp(g)", False), ("g[K]; let a = sigmoid(g)", False), ("a[K] in [0.01, 1]", True)],
)
def test_the_derivative_of_the_function_undoes_the_division(decay: str, divided: bool) -> None:
    _, backward = programs(decay)
    tiles = [n for n in backward.nodes if n.op == "map" and n.attr == "div" and 1 not in n.shape]
    assert bool(tiles) == divided
