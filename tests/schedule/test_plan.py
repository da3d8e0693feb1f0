"""Plans: what they choose, that they can be overridden, and that they print the same every time."""

from __future__ import annotations

import pytest
from programs import matrix_state

from ruledsl.chunk.differentiate import differentiate
from ruledsl.chunk.program import Program
from ruledsl.chunk.verify import verify
from ruledsl.schedule import show
from ruledsl.schedule.fold import Form, fold, lower
from ruledsl.schedule.labels import Label
from ruledsl.schedule.plan import CHUNKS, plan, split
from ruledsl.schedule.target import TARGETS, target

CPU = target("cpu")
DECAYS = ("", "scalar", "diagonal")


def serial_dots(program: Program) -> int:
    own = split(program)
    return sum(program.nodes[i].op == "dot" for i in own.phase(Label.SERIAL))


@pytest.mark.parametrize("decay", DECAYS)
def test_forms_shorten_the_serial_path(decay: str) -> None:
    forward = lower(matrix_state(decay, reads=True), operands=False)
    assert [serial_dots(fold(forward, form)) for form in (Form.STEPS, Form.READS, Form.TRANSITION)] == [3, 2, 1]
    backward = lower(differentiate(matrix_state(decay, reads=True)), operands=False)
    assert serial_dots(fold(backward, Form.TRANSITION)) == 1 < serial_dots(fold(backward, Form.STEPS))


@pytest.mark.parametrize("decay", DECAYS)
def test_without_reads_nothing_is_serial_but_the_sum(decay: str) -> None:
    for program in (matrix_state(decay), differentiate(matrix_state(decay))):
        assert serial_dots(lower(program, operands=False)) == 0


@pytest.mark.parametrize("form", Form)
def test_folded_programs_are_programs(form: Form) -> None:
    verify(fold(lower(matrix_state("scalar", reads=True), operands=False), form))


def test_casts_stay_where_operands_are_narrow() -> None:
    program = matrix_state("scalar", reads=True)
    assert any(n.op == "cast" for n in lower(program, operands=True).nodes)
    assert not any(n.op in ("cast", "solve") for n in lower(program, operands=False).nodes)


def test_choices_can_be_overridden() -> None:
    forward = matrix_state("diagonal", reads=True)
    gradient = differentiate(forward)
    own = plan(forward, gradient, CPU)
    assert own.chunk in CHUNKS and own.saved == ("S",)
    other = plan(forward, gradient, CPU, chunk=128, form=Form.TRANSITION)
    assert (other.chunk, other.form) == (128, Form.TRANSITION)


def test_diagonal_decays_take_shorter_chunks_than_none() -> None:
    lengths = [plan(p, differentiate(p), CPU).chunk for p in (matrix_state("diagonal"), matrix_state(""))]
    assert lengths[0] <= lengths[1]


def test_a_program_for_one_length_keeps_it() -> None:
    from dataclasses import replace

    forward = replace(matrix_state(), chunk=24)
    assert plan(forward, differentiate(forward), CPU, chunk=64).chunk == 24


@pytest.mark.parametrize("name", TARGETS)
def test_every_device_gets_a_plan(name: str) -> None:
    forward = matrix_state("scalar", reads=True)
    schedule = plan(forward, differentiate(forward), target(name))
    assert schedule.device == name


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(KeyError, match="cpu"):
        target("abacus")


def test_the_text_is_the_same_every_time_and_tells_the_choice() -> None:
    def made() -> str:
        forward = matrix_state("scalar", reads=True)
        return show.text(plan(forward, differentiate(forward), CPU, chunk=32, form=Form.TRANSITION))

    assert made() == made()
    assert "32 tokens" in made() and "transition" in made() and "S entering each chunk" in made()
