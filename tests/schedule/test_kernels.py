"""How forward and gradient programs are cut into kernels."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from ruledsl import pipeline
from ruledsl.chunk.by_products import by_products
from ruledsl.chunk.program import Program, ResultKind
from ruledsl.chunk.simplify import simplify
from ruledsl.schedule.kernels import Graph, Kernel, Kernels, cut
from ruledsl.schedule.slots import without_slots

TOP = "state S[V, K]\ninput q[K], k[K], v[V], a in (0, 1], b in [0, 1]\n"
RULES = {
    "no read": TOP + "S = a*S + v k^T\noutput o = S q",
    "reads": TOP + "S = S + b*(v - S k) k^T\noutput o = S q",
    "reads twice": TOP + "S = S + b*(v - S k) k^T\nS = S + b*(v - S q) q^T\noutput o = S q",
    "columns": TOP + "S = S diag(exp(-k .^ 2)) + v k^T\noutput o = S^T v",
    "mixed output": TOP + "S = a*S + v k^T\noutput o = softmax(S q)",
    "normaliser": "state S[V, K], z[K]\ninput q[K], k[K], v[V]\nS = S + v k^T\nz = z + k\noutput o = S q / (1 + z^T q)",
    "two": "state S[V, K], P[W, V]\ninput q[K], k[K], v[V], w[W], b in [0, 1]\nS = S + b*(v - S k) k^T\nP = P + w (S k)^T\noutput o = P (S q)",
}


@dataclass(frozen=True)
class Cut:
    forward: Program
    gradient: Program
    kernels: Kernels

    def program(self, kernel: Kernel) -> Program:
        return self.forward if kernel.program == "forward" else self.gradient

    @property
    def all(self) -> tuple[Kernel, ...]:
        return (*self.kernels.forward, *self.kernels.backward)


def made(name: str) -> Cut:
    verdict = pipeline.verdict(pipeline.check(pipeline.parse(pipeline.read(RULES[name]))))
    assert verdict.token is not None
    program = pipeline.chunk(by_products(verdict.token), verdict.rule, verdict.sizes)
    forward, gradient = (without_slots(simplify(p)) for p in (program, pipeline.gradient(program)))
    return Cut(forward, gradient, cut(forward, gradient))


def names(kernels: tuple[Kernel, ...]) -> list[str]:
    return [k.name for k in kernels]


def test_the_state_free_part_comes_first() -> None:
    found = made("reads").kernels
    assert names(found.forward) == ["forward_prepare", "forward"]
    assert names(found.backward) == ["sweep_prepare", "sweep", "reverse_prepare", "reverse", "gradients"]
    prepare, serial = found.forward
    assert prepare.mode == "chunk" and serial.mode == "serial" and serial.split and not serial.reverse
    assert {b.node for b in prepare.writes} == {b.node for b in serial.reads}
    assert all(c.keep is None for c in serial.carries)


def test_interleaved_systems_have_a_kernel_of_their_own() -> None:
    assert names(made("reads twice").kernels.forward) == ["forward_solve", "forward_prepare", "forward"]


def test_an_inverse_that_is_multiplied_ahead_is_kept_apart() -> None:
    """Its transpose must be loaded: transposing what dots made and putting it into a dot is wrong on some Triton."""
    found = made("two")
    for kernel in found.all:
        graph = Graph(found.program(kernel))
        known = frozenset(b.node for b in kernel.reads)
        targets = [b.node for b in kernel.writes] + [r.node for r in kernel.results]
        if kernel.mode == "chunk":
            assert not graph.used_inverses(targets, known), kernel.name


@pytest.mark.parametrize("name", ["mixed output", "columns"])
def test_an_output_that_mixes_rows_is_left_to_a_chunk_kernel(name: str) -> None:
    found = made(name).kernels.forward
    assert names(found)[-2:] == ["forward", "forward_after"]
    assert found[-2].carries[0].keep is not None and found[-2].split and not found[-2].results
    assert [r.kind for r in found[-1].results] == [ResultKind.OUTPUT]


def test_rows_are_split_only_where_nothing_mixes_them() -> None:
    assert all(k.split for k in made("normaliser").kernels.forward if k.mode == "serial")
    two = {k.name: k.split for k in made("two").kernels.backward if k.mode == "serial"}
    assert two["sweep"] and not two["reverse"]  # the gradient of S needs every row of the gradient of P


@pytest.mark.parametrize("name", RULES)
def test_what_a_kernel_reads_was_written_before(name: str) -> None:
    found = made(name)
    for direction in (found.kernels.forward, found.kernels.backward):
        written: set[str] = set()
        for kernel in direction:
            assert {b.name for b in kernel.reads} <= written, kernel.name
            own = [*kernel.writes, *(c.keep for c in kernel.carries if c.keep)]
            written |= {b.name for b in own}
    results = [r for k in found.kernels.forward for r in k.results]
    assert {r.name for r in results} == {r.name for r in found.forward.results if r.kind is ResultKind.OUTPUT}


@pytest.mark.parametrize("name", RULES)
def test_every_gradient_is_made_once(name: str) -> None:
    found = made(name)
    results = [r for k in found.kernels.backward for r in k.results]
    carried = {c.state for k in found.kernels.backward if k.program == "gradient" for c in k.carries}
    wanted = [r for r in found.gradient.results if r.kind is ResultKind.GRADIENT]
    assert len(results) == len(set(results))
    assert {r.name for r in results} | carried == {r.name for r in wanted}


def test_kernels_say_what_they_are_for() -> None:
    for kernel in made("two").all:
        assert re.fullmatch(r"[A-Z][^\n\"]+\.", kernel.purpose)
