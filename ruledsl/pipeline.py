"""The walk from a rule's text to source text, one call per stage. No stage here imports torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # each stage imports what it needs when it runs: a check loads nothing from the chunk floor on
    from ruledsl.algebra.verdict import TokenForm, Verdict
    from ruledsl.chunk.program import Program
    from ruledsl.emit.standalone_kernels import KernelForm
    from ruledsl.lang import syntax, typed
    from ruledsl.lang.source import Source
    from ruledsl.schedule.plan import Schedule

MOST_KERNEL_NODES = 600  # of a chunk program that kernels are made of; the collection's have up to 200
STAGES = ("syntax", "typed", "verdict", "chunk", "gradient", "schedule", "source")


def read(path_or_text: str | os.PathLike[str]) -> Source:
    """A path, or the text itself."""
    from ruledsl.resources import load_source

    return load_source(path_or_text)


def parse(source: Source) -> syntax.Rule:
    from ruledsl.lang.parse import parse

    return parse(source)


def check(rule: syntax.Rule) -> typed.Rule:
    from ruledsl.lang.check import check

    return check(rule)


def verdict(rule: typed.Rule) -> Verdict:
    from ruledsl.algebra.judge import judge

    return judge(rule)


def unroll(rule: typed.Rule, sizes: Mapping[str, int]) -> typed.Rule:
    """Loops written out at given sizes; `unroll_sizes` names those it needs."""
    from ruledsl.lang.unroll import unroll

    return unroll(rule, sizes)


def unroll_sizes(rule: typed.Rule) -> tuple[str, ...]:
    from ruledsl.lang.unroll import loop_sizes

    return loop_sizes(rule)


def token_form(unrolled: typed.Rule) -> tuple[TokenForm | None, str]:
    """The linear reads and writes of one token, or why there are none."""
    from ruledsl.algebra.readout import token_form

    return token_form(unrolled)


def in_double(rule: typed.Rule) -> bool:
    """Whether the rule computes in float64 whatever its inputs are."""
    from ruledsl.algebra.precision import in_double

    return in_double(rule)


def chunk(token: TokenForm, unrolled: typed.Rule, sizes: Mapping[str, int]) -> Program:
    """Raises UnsupportedForm for what has linear reads and writes but no chunk program."""
    from ruledsl.chunk.form import form

    return form(token, unrolled, sizes)


def gradient(program: Program) -> Program:
    from ruledsl.chunk.differentiate import differentiate

    return differentiate(program)


def schedule(
    forward: Program,
    backward: Program,
    *,
    device: str = "cpu",
    sizes: Mapping[str, int] | None = None,
    chunk: int | None = None,
) -> Schedule:
    from ruledsl.schedule.plan import plan
    from ruledsl.schedule.target import target

    return plan(forward, backward, target(device), sizes, chunk)


def kernel_programs(token: TokenForm, unrolled: typed.Rule, sizes: Mapping[str, int]) -> tuple[Program, Program]:
    """The forward and gradient programs that Triton kernels are cut from. Raises UnsupportedForm and Unsupported."""
    from ruledsl.chunk.by_products import by_products
    from ruledsl.chunk.differentiate import differentiate
    from ruledsl.chunk.pull_scales import pull_scales
    from ruledsl.chunk.simplify import PASSES, simplify
    from ruledsl.schedule.gather_gates import gather_gates
    from ruledsl.schedule.row_products import row_products
    from ruledsl.schedule.slots import without_slots
    from ruledsl.schedule.swap_rows import swap_rows
    from ruledsl.schedule.unsupported import unsupported

    if token.solves:
        raise unsupported("a system that is solved for each token has no Triton form")
    program = chunk(by_products(token), unrolled, sizes)
    if program.chunk is not None:
        raise unsupported("a state of the chunk's start has no chunk kernels: its chunks are at the rule's own places")
    if len(program.nodes) > MOST_KERNEL_NODES:
        raise unsupported(f"a token of more than {MOST_KERNEL_NODES:,} operations has no Triton form")
    program = row_products(program)
    first, *rest = PASSES
    forward, backward = (
        without_slots(simplify(p, (first, pull_scales, *rest)))
        for p in (program, differentiate(program, keep_states=True))
    )
    bounds = {s.name: s.interval.low for s in unrolled.symbols if s.interval is not None}
    return forward, gather_gates(swap_rows(backward), bounds)


def kernels(
    token: TokenForm, forward: Program, backward: Program, sizes: Mapping[str, int], lines: Mapping[str, int]
) -> KernelForm:
    """The Triton schedule. Raises Unsupported. `sizes`: what the tiles are chosen for; `lines`: see `rule_lines`."""
    from ruledsl.emit.standalone_kernels import KernelForm
    from ruledsl.schedule.cut import cut
    from ruledsl.schedule.tiles import tiles
    from ruledsl.schedule.unsupported import unsupported

    if token.families:
        raise unsupported("a family of states has no Triton form")
    return KernelForm(cut(forward, backward), forward, backward, tiles((forward, backward), sizes, 4), lines)


def rule_lines(rule: typed.Rule, source: Source) -> dict[str, int]:
    """Where names stand in the rule's text, for marks in its kernels."""
    from ruledsl.emit.rule_lines import rule_lines

    return rule_lines(rule, source)


def kernel_source(form: KernelForm, rule: Source) -> str:
    """Kernels and launchers for any sizes. Raises Unsupported."""
    from ruledsl.emit.names import comment

    head = "\n".join([*comment(rule.text), "", "import torch", "import triton", "import triton.language as tl"])
    return "\n\n\n".join(p.rstrip() for p in [head, *form.text]) + "\n"


def source(schedule: Schedule, rule: Source) -> str:
    from ruledsl.emit.torch_text import torch_text

    return torch_text(schedule, rule.text)


def module(
    unrolled: typed.Rule,
    sizes: Mapping[str, int],
    rule: Source,
    token: TokenForm | None,
    schedule: Schedule | KernelForm | None,
) -> str:
    """The rule as a file of its own: chunks (if there is a schedule), token step, reference loop, self-test."""
    from ruledsl.emit.standalone import standalone

    return standalone(unrolled, sizes, rule.text, token, schedule)
