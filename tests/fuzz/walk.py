"""The whole walk over one text, as `ruledsl check` and `ruledsl compile` take it. No torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ruledsl import pipeline
from ruledsl.algebra.explain import explain
from ruledsl.algebra.explain.render import latex, plain
from ruledsl.algebra.verdict import Verdict
from ruledsl.chunk.token_program import token_program
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.cli.verdict_text import verdict_text
from ruledsl.emit.names import comment
from ruledsl.emit.standalone_kernels import KernelForm
from ruledsl.emit.token_text import carried
from ruledsl.emit.triton_token import triton_token
from ruledsl.lang import typed
from ruledsl.lang.diagnostic import RuleError
from ruledsl.lang.render import render, to_json
from ruledsl.lang.source import Source
from ruledsl.lang.unparse import unparse
from ruledsl.resources import decode
from ruledsl.schedule.plan import Schedule
from ruledsl.schedule.token_split import split
from ruledsl.schedule.unsupported import Unsupported

REFUSALS = (RuleError, UnsupportedForm, Unsupported)


@dataclass
class Walked:
    """`stage`: the last one that was entered; `watch` is called as it is. `rule`: unrolled. `said`: texts for people. `written`: generated modules by kind."""

    watch: Callable[[], None] = lambda: None
    stage: str = ""
    source: Source | None = None
    rule: typed.Rule | None = None
    said: list[str] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)

    def enter(self, stage: str) -> None:
        self.stage = stage
        self.watch()


def walk(data: bytes, walked: Walked) -> None:
    """Fills `walked` on the way, so that it tells where an exception came from."""
    walked.enter("parse")
    try:
        source = walked.source = decode(data, "<text>")
        syntax = pipeline.parse(source)
        walked.enter("unparse")
        unparse(syntax)
        walked.enter("check")
        rule = pipeline.check(syntax)
        walked.enter("judge")
        verdict = pipeline.verdict(rule)
        walked.rule = verdict.rule
        walked.enter("verdict text")
        walked.said.append(verdict_text(verdict))
        walked.enter("explain")
        walked.said.append(plain(explain(verdict)))
        walked.enter("explain as LaTeX")
        walked.said.append(latex(explain(verdict, tex=True)))
    except RuleError as error:
        walked.stage += ", told"
        walked.said += [render(error), render(error, 40, color=True)]
        to_json(error)
        return
    for kind, text in _texts(verdict, source, walked):
        walked.written[kind] = text
    walked.enter("done")


def _texts(verdict: Verdict, source: Source, walked: Walked) -> Iterator[tuple[str, str]]:
    """Every module that can be generated. A refusal is an answer; it leaves that module out."""
    rule, sizes, token = verdict.rule, verdict.sizes, verdict.token
    schedule: Schedule | KernelForm | None = None
    if token is not None:
        try:
            walked.enter("chunk")
            program = pipeline.chunk(token, rule, sizes)
            walked.enter("gradient")
            gradient = pipeline.gradient(program)
            walked.enter("schedule")
            schedule = pipeline.schedule(program, gradient)
            walked.enter("torch")
            yield "torch", pipeline.source(schedule, source)
        except REFUSALS:
            pass
    try:
        walked.enter("standalone")
        yield "standalone", pipeline.module(rule, sizes, source, token if schedule else None, schedule)
    except Unsupported:
        return
    if token is not None and schedule is not None:
        try:
            walked.enter("kernels")
            forward, backward = pipeline.kernel_programs(token, rule, sizes)
            tiled = {s: sizes.get(s, 64) for s in rule.sizes}
            form = pipeline.kernels(token, forward, backward, tiled, pipeline.rule_lines(rule, source))
            walked.enter("kernel text")
            yield "kernels", pipeline.kernel_source(form, source)
            walked.enter("kernel module")
            yield "kernel module", pipeline.module(rule, sizes, source, token, form)
        except REFUSALS:
            pass
    try:
        walked.enter("token kernels")
        yield "token kernels", _token_kernels(rule, sizes, source)
    except REFUSALS:
        pass


def _token_kernels(rule: typed.Rule, sizes: dict[str, int], source: Source) -> str:
    """The kernels of single tokens at sizes of 16, as the runtime makes them."""
    held = carried(rule)
    forward = token_program(rule, sizes, held.lags, tuple(held.frozen.items()))
    found = split(forward, pipeline.gradient(forward))
    header = "\n".join(comment(source.text))
    return triton_token(found, {s: sizes.get(s, 16) for s in rule.sizes}, 1, header).text
