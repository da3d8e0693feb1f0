"""A rule's stages, made when they are asked for, and each of them as text.

The text of a stage depends on the rule's text and the backend alone: no file name, date or version is in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ruledsl import pipeline
from ruledsl.algebra.verdict import Verdict
from ruledsl.chunk.program import Program
from ruledsl.chunk.scan import Scan
from ruledsl.chunk.token_program import token_program
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.cli.exits import Exit, Stop
from ruledsl.cli.options import Backend, Stage
from ruledsl.emit.standalone import takes_chunks
from ruledsl.emit.standalone_kernels import KernelForm
from ruledsl.emit.standalone_scan import ScanForm
from ruledsl.emit.triton_scan_text import ScanText
from ruledsl.lang import syntax, typed
from ruledsl.lang.diagnostic import Diagnostic, RuleError
from ruledsl.lang.source import NOWHERE, Source, Span
from ruledsl.runtime.statics import carried, only_vectors
from ruledsl.schedule.plan import Schedule
from ruledsl.schedule.target import target
from ruledsl.schedule.unsupported import Unsupported

NO_FORM = "RD702"


class Walk:
    """The pipeline over one source. Every stage raises RuleError for a text that is no rule, and those from `chunk` on
    for a rule that has no chunk form. One that has scans instead has them in `scan`."""

    def __init__(self, origin: Source, backend: Backend = Backend.TORCH) -> None:
        self.origin = origin
        self.backend = backend

    @cached_property
    def syntax(self) -> syntax.Rule:
        return pipeline.parse(self.origin)

    @cached_property
    def typed(self) -> typed.Rule:
        return pipeline.check(self.syntax)

    @cached_property
    def verdict(self) -> Verdict:
        return pipeline.verdict(self.typed)

    @cached_property
    def chunk(self) -> Program:
        if self.verdict.token is None:
            raise self._no_form(self.verdict.no_form, self.verdict.blame)
        try:
            return pipeline.chunk(self.verdict.token, self.verdict.rule, self.verdict.sizes)
        except UnsupportedForm as error:
            raise self._no_form(error.reason, error.span) from None

    @cached_property
    def gradient(self) -> Program:
        return pipeline.gradient(self.chunk)

    @cached_property
    def schedule(self) -> Schedule:
        return pipeline.schedule(self.chunk, self.gradient, device="cpu")

    @cached_property
    def scan(self) -> Scanned | None:
        """The scans of a rule without chunk form, or whose kernels are those of scans; None if it has neither, or a chunk form."""
        try:
            scanned = self.backend is Backend.TRITON and only_vectors(self.verdict.rule)
            return None if self.chunk is not None and not scanned else self._scans
        except RuleError as error:
            if any(d.code != NO_FORM for d in error.diagnostics):
                raise
            return self._scans

    @cached_property
    def _scans(self) -> Scanned | None:
        found = self.verdict
        try:
            held = carried(found.rule, found.sizes)
            token = token_program(found.rule, found.sizes, held.lags, held.frozen)
            return Scanned(token, *pipeline.scans(token))
        except (UnsupportedForm, RuleError):
            return None

    @cached_property
    def scan_kernels(self) -> ScanText:
        """The kernels of the scans; tiles and text are those for sizes of 64."""
        assert self.scan is not None
        try:
            return pipeline.scan_kernels(self.scan.token, self.tiled, self.origin)
        except (UnsupportedForm, Unsupported) as error:
            raise self._no_kernels(error) from None

    @property
    def tiled(self) -> dict[str, int]:
        """The sizes that tiles are chosen for."""
        return {s: self.verdict.sizes.get(s, 64) for s in self.verdict.rule.sizes}

    @cached_property
    def kernels(self) -> KernelForm:
        """The Triton schedule; its tiles are those for float32 and sizes of 64."""
        found = self.verdict
        assert self.chunk is not None  # or the reason why there is none
        token, sizes = found.token, found.sizes
        assert token is not None
        try:
            programs = pipeline.kernel_programs(token, found.rule, sizes)
            return pipeline.kernels(token, *programs, self.tiled, pipeline.rule_lines(found.rule, self.origin))
        except Unsupported as error:
            raise self._no_kernels(error) from None

    @cached_property
    def source(self) -> str:
        if self.scan is not None:
            return self.module if self.backend is Backend.TORCH else self.scan_kernels.text
        if self.backend is Backend.TORCH:
            return pipeline.source(self.schedule, self.origin)
        try:
            return pipeline.kernel_source(self.kernels, self.origin)
        except Unsupported as error:
            raise self._no_kernels(error) from None

    @cached_property
    def module(self) -> str:
        """The rule as a file of its own; without chunk form and scans it holds the token step and the loop over it."""
        found = self.verdict
        if (self.scan is not None or not takes_chunks(found.rule)) and (scans := self._scans) is not None:
            return self._scanned(scans)
        if self.backend is Backend.TRITON:
            try:
                return pipeline.module(found.rule, found.sizes, self.origin, found.token, self.kernels)
            except Unsupported as error:
                raise self._no_kernels(error) from None
        try:
            token, schedule = found.token, self.schedule
        except RuleError as error:
            if any(d.code != NO_FORM for d in error.diagnostics):
                raise
            token, schedule = None, None
        try:
            return pipeline.module(found.rule, found.sizes, self.origin, token, schedule)
        except Unsupported as error:
            raise Stop(Exit.REFUSED, str(error)) from None

    def _scanned(self, scan: Scanned) -> str:
        found, form = self.verdict, ScanForm(scan.forward)
        try:
            own = form if self.backend is Backend.TORCH else pipeline.scan_kernel_form(scan.token, self.tiled)
            return pipeline.module(found.rule, found.sizes, self.origin, None, own)
        except (UnsupportedForm, Unsupported) as error:
            raise self._no_kernels(error) from None

    def _no_kernels(self, error: UnsupportedForm | Unsupported) -> Stop:
        return Stop(Exit.REFUSED, f"--backend triton: {error}")

    def _no_form(self, reason: str, span: Span | None) -> RuleError:
        if span is None or span == NOWHERE:
            span = next((s.span for s in self.syntax.statements if isinstance(s, syntax.Assign)), Span(0, 1))
        found = Diagnostic(
            NO_FORM, "this rule has no chunk-parallel form", span, reason, hint="the recurrent backend runs it"
        )
        return RuleError(self.origin, [found])


@dataclass(frozen=True, slots=True)
class Scanned:
    """The scans of a rule's tokens, and the program of a token that they were read off."""

    token: Program
    forward: Scan
    gradient: Scan


def text(walk: Walk, stage: Stage) -> str:
    """A stage for people, ending in a newline."""
    match stage:
        case Stage.SYNTAX:
            from ruledsl.lang.unparse import unparse

            return unparse(walk.syntax)
        case Stage.TYPED:
            from ruledsl.cli.typed_text import typed_text

            return typed_text(walk.typed)
        case Stage.VERDICT:
            from ruledsl.cli.verdict_text import verdict_text

            return verdict_text(walk.verdict)
        case Stage.CHUNK:
            from ruledsl.chunk.show import show, show_scan

            if walk.scan is not None:
                return show_scan(walk.scan.forward)
            return show(walk.kernels.forward if walk.backend is Backend.TRITON else walk.chunk)
        case Stage.GRADIENT:
            from ruledsl.chunk.show import show, show_scan

            if walk.scan is not None:
                return show_scan(walk.scan.gradient)
            return show(walk.kernels.gradient if walk.backend is Backend.TRITON else walk.gradient)
        case Stage.SCHEDULE:
            if walk.scan is not None:
                return _scan_schedule(walk)
            if walk.backend is Backend.TRITON:
                from ruledsl.schedule import show_kernels

                form = walk.kernels
                return show_kernels.text(form.kernels, form.forward, form.gradient, form.tiles)
            from ruledsl.schedule import show as schedule

            return schedule.text(walk.schedule)
        case Stage.SOURCE:
            return walk.source


def _scan_schedule(walk: Walk) -> str:
    if walk.backend is Backend.TORCH:
        from ruledsl.runtime.scanned import LONGEST, SHORTEST

        return f"runs of {SHORTEST} to {LONGEST} tokens, fewer where states are large; `chunk_size` sets others\n"
    from ruledsl.schedule.show_scan import text as scan_text

    form = walk.scan_kernels
    return scan_text(form.tiles, form.blocks, (form.forward, form.backward), target("h200"), walk.tiled)
