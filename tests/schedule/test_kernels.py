"""How forward and gradient programs are cut into kernels."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from ruledsl import pipeline
from ruledsl.chunk.program import Program, ResultKind, Rows
from ruledsl.schedule.cut import cut
from ruledsl.schedule.graph import Graph
from ruledsl.schedule.kernels import Kernel, Kernels, Mode
from ruledsl.schedule.stages import MOST_SUMS

TOP = "state S[V, K]\ninput q[K], k[K], v[V], a in (0, 1], b in [0, 1]\n"
RULES = {
    "no read": TOP + "S = a*S + v k^T\noutput o = S q",
    "reads": TOP + "S = S + b*(v - S k) k^T\noutput o = S q",
    "reads twice": TOP + "S = S + b*(v - S k) k^T\nS = S + b*(v - S q) q^T\noutput o = S q",
    "columns": TOP + "S = S diag(exp(-k .^ 2)) + v k^T\noutput o = S^T v",
    "mixed output": TOP + "S = a*S + v k^T\noutput o = softmax(S q)",
    "normaliser": "state S[V, K], z[K]\ninput q[K], k[K], v[V]\nS = S + v k^T\nz = z + k\noutput o = S q / (1 + z^T q)",
    "apart": "state S[V, K], P[W, U]\ninput q[K], k[K], v[V], a in (0, 1], x[U], y[U], w[W]\nS = a*S + v k^T\nP = P + 0.5*(w - P x) x^T\noutput o = S q\noutput p = P y",
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
    forward, gradient = pipeline.kernel_programs(verdict.token, verdict.rule, verdict.sizes)
    return Cut(forward, gradient, cut(forward, gradient))


def names(kernels: tuple[Kernel, ...]) -> list[str]:
    return [re.sub(r"_\d+$", "", k.name) if k.mode not in (Mode.CHUNK, Mode.SERIAL) else k.name for k in kernels]


def test_the_state_free_part_comes_first() -> None:
    found = made("reads").kernels
    assert names(found.forward) == ["forward_prepare", "forward_prepare_solve", "forward"]
    assert names(found.backward) == ["sweep", "reverse", "gradients", "gradients_2"]
    prepare, solve, serial = found.forward
    assert prepare.mode is Mode.CHUNK and solve.mode is Mode.SOLVE
    assert serial.mode is Mode.SERIAL and serial.split and not serial.reverse
    assert {b.node for b in serial.reads} <= {b.node for b in (*prepare.writes, *solve.writes)}
    assert all(c.keep is None for c in serial.carries)


@pytest.mark.parametrize("name", RULES)
def test_serial_kernels_make_nothing_that_could_be_made_ahead(name: str) -> None:
    """Without an axis of state rows and without the carried state: such values are loaded, unless the caller has them."""
    found = made(name)
    for kernel in found.all:
        if kernel.mode is not Mode.SERIAL:
            continue
        graph = Graph(found.program(kernel))
        carried = {c.enter for c in kernel.carries}
        depends = graph.dependents(carried)
        memory = {b.node for b in kernel.reads}
        targets = [c.leave for c in kernel.carries] + [r.node for r in kernel.results] + [b.node for b in kernel.writes]
        for i in graph.ancestors(targets, carried | memory) - memory - carried:
            free = (
                i not in depends and kernel.rows not in graph.axes.of[i] and not graph.trivial(graph.bare(i)) and graph.op(i) != "block"
            )
            assert not free or graph.op(i) in ("select", "cast", "transpose"), (kernel.name, i, graph.op(i))


def test_interleaved_systems_are_solved_like_others() -> None:
    forward = made("reads twice").kernels.forward
    assert names(forward) == ["forward_prepare", "forward_prepare_solve", "forward"]


@pytest.mark.parametrize("name", RULES)
def test_library_kernels_stand_between_those_that_feed_and_those_that_use_them(name: str) -> None:
    found = made(name)
    for kernel in found.all:
        if kernel.mode not in (Mode.CHUNK, Mode.SERIAL):
            continue
        graph = Graph(found.program(kernel))
        memory = {b.node for b in kernel.reads if not b.levels}
        tables = {b.node for b in kernel.reads if b.levels}
        gates = [a for b in kernel.writes if b.levels for a in graph.args(b.node)[1:]]
        targets = [*(b.node for b in kernel.writes if not b.levels), *(r.node for r in kernel.results), *gates]
        stop = memory | {c.enter for c in kernel.carries}
        seen, todo = set(stop), targets
        while todo:
            i = todo.pop()
            if i in seen:
                continue
            seen.add(i)
            assert graph.op(i) not in ("inverse", "decay_gate"), (kernel.name, i)
            place = graph.table(i)
            assert place is None or graph.args(i)[place] in tables, (kernel.name, i)
            todo += [a for k, a in enumerate(graph.args(i)) if k != place]


def test_states_that_have_nothing_to_do_with_each_other_are_cut_apart() -> None:
    found = made("apart").kernels
    serial = {k.name: [c.state for c in k.carries] for k in (*found.forward, *found.backward) if k.mode is Mode.SERIAL}
    both = {name: ["S"] for name in ("forward", "sweep", "reverse")}
    assert serial == both | {f"{name}_of_P": ["P"] for name in both}
    assert all(k.split for k in (*found.forward, *found.backward) if k.mode is Mode.SERIAL)
    assert all(len(k.carries) == 2 for k in made("two").kernels.forward if k.mode is Mode.SERIAL)


def test_a_gradient_with_state_rows_is_made_beside_the_chain() -> None:
    found = {k.name: [r.name for r in k.results] for k in made("no read").kernels.backward}
    assert found["reverse"] == ["v"]


def test_scaled_keys_are_no_tiles_of_their_own() -> None:
    found = made("reads")
    for kernel in (*found.kernels.forward, *found.kernels.backward):
        if "prepare" in kernel.name:
            shapes = [found.program(kernel).nodes[b.node].shape for b in kernel.writes]
            assert all(isinstance(axis, Rows) for shape in shapes for axis in shape), kernel.name


def test_products_of_states_are_parted_where_there_are_many() -> None:
    reads = "\n".join(f"S = S + b*(v - S k{i}) k{i}^T" for i in range(3))
    text = f"state S[V, K]\ninput q[K], k0[K], k1[K], k2[K], v[V], b in [0, 1]\n{reads}\noutput o = S q"
    verdict = pipeline.verdict(pipeline.check(pipeline.parse(pipeline.read(text))))
    assert verdict.token is not None
    programs = pipeline.kernel_programs(verdict.token, verdict.rule, verdict.sizes)
    parts = [k for k in cut(*programs).backward if "_part_" in k.name]
    states = [{b.name for b in k.reads} & {"enter_S", "leave_S"} for k in parts]
    assert parts and all(len(own) <= 1 for own in states)


def test_products_of_serial_kernels_are_kept_for_the_gradients() -> None:
    found = made("reads")
    serial = {k.name: k for k in found.kernels.backward if k.mode is Mode.SERIAL}
    assert [len(serial[n].writes) for n in ("sweep", "reverse")] == [1, 1]
    assert [r.name for r in serial["reverse"].results] == ["v"]


@pytest.mark.parametrize("name", RULES)
def test_many_sums_over_rows_have_a_kernel_of_their_own(name: str) -> None:
    found = made(name)
    graph = Graph(found.gradient)
    for kernel in found.kernels.backward:
        if kernel.mode is not Mode.CHUNK or not kernel.name.startswith("gradients"):
            continue
        memory = {b.node for b in kernel.reads}
        targets = [*(b.node for b in kernel.writes if not b.levels), *(r.node for r in kernel.results)]
        made_here = graph.ancestors(targets, memory) - memory
        sums = [i for i in made_here if graph.contracts_rows(i) and graph.large(i)]
        assert len(sums) <= MOST_SUMS or set(sums) <= {b.node for b in kernel.writes}, kernel.name


@pytest.mark.parametrize("name", ["mixed output", "columns"])
def test_an_output_that_mixes_rows_is_left_to_a_chunk_kernel(name: str) -> None:
    found = made(name).kernels.forward
    (serial,) = (k for k in found if k.mode is Mode.SERIAL)
    assert serial.carries[0].keep is not None and serial.split and not serial.results
    assert found[-1].mode is Mode.CHUNK and [r.kind for r in found[-1].results] == [ResultKind.OUTPUT]


def test_rows_are_split_only_where_nothing_mixes_them() -> None:
    assert all(k.split for k in made("normaliser").kernels.forward if k.mode is Mode.SERIAL)
    two = {k.name: k.split for k in made("two").kernels.backward if k.mode is Mode.SERIAL}
    assert two["sweep"] and not two["reverse"]  # the gradient of S needs every row of the gradient of P


@pytest.mark.parametrize("name", RULES)
def test_what_a_kernel_reads_was_written_before(name: str) -> None:
    found = made(name)
    handed = {b.name for _, b in found.kernels.kept}
    for direction, there in ((found.kernels.forward, set[str]()), (found.kernels.backward, handed)):
        written = set(there)
        for kernel in direction:
            assert {b.name for b in kernel.reads} <= written, kernel.name
            own = [*kernel.writes, *(c.keep for c in kernel.carries if c.keep)]
            written |= {b.name for b in own}
    results = [r for k in found.kernels.forward for r in k.results]
    assert {r.name for r in results} == {r.name for r in found.forward.results if r.kind is ResultKind.OUTPUT}


@pytest.mark.parametrize("name", RULES)
def test_what_is_kept_is_the_same_value_and_small(name: str) -> None:
    found = made(name)
    written = {b for k in found.kernels.forward for b in k.writes}
    read = {b for k in found.kernels.backward for b in k.reads}
    for ours, theirs in found.kernels.kept:
        assert ours in written and theirs in read
        assert found.forward.nodes[ours.node].op == found.gradient.nodes[theirs.node].op
        assert all(isinstance(axis, Rows) for axis in found.forward.nodes[ours.node].shape)


def test_inverses_and_gram_matrices_are_kept() -> None:
    assert [b.name.split("_")[1] for _, b in made("reads").kernels.kept] == ["mask", "inverse"]


@pytest.mark.parametrize(
    "gate, op",
    [
        ("g[K]\nlet a = exp(-softplus(g))", "log_gate"),
        ("a[K] in [0.01, 1]", "log_gate"),
        ("a[K] in (0, 1]", "decay_gate"),
        ("a[K] in [0, 1]", "decay_gate"),
        ("a[K] in [-1, 1]", "decay_gate"),
    ],
)
def test_the_gradient_goes_through_logarithms_where_the_decay_is_well_above_zero(gate: str, op: str) -> None:
    text = f"state S[V, K]\ninput q[K], k[K], v[V], {gate}\nS = S diag(a) + v k^T\noutput o = S q"
    verdict = pipeline.verdict(pipeline.check(pipeline.parse(pipeline.read(text))))
    assert verdict.token is not None
    _, gradient = pipeline.kernel_programs(verdict.token, verdict.rule, verdict.sizes)
    assert {n.op for n in gradient.nodes} & {"log_gate", "decay_gate"} == {op}


@pytest.mark.parametrize("name", RULES)
def test_every_gradient_is_made_once(name: str) -> None:
    found = made(name)
    results = [r for k in found.kernels.backward for r in k.results]
    carried = {c.state for k in found.kernels.backward if k.reverse for c in k.carries}
    wanted = [r for r in found.gradient.results if r.kind is ResultKind.GRADIENT]
    assert len(results) == len(set(results))
    assert {r.name for r in results} | carried == {r.name for r in wanted}


def test_kernels_say_what_they_are_for() -> None:
    for kernel in made("two").all:
        assert re.fullmatch(r"[A-Z][^\n\"]+\.", kernel.purpose)
