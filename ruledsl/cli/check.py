"""`ruledsl check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ruledsl.cli.exits import Exit, Stop
from ruledsl.cli.options import Format, Need

if TYPE_CHECKING:
    from ruledsl.algebra.verdict import Verdict
    from ruledsl.lang.diagnostic import RuleError


def check(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...", help="Rule files, names of the collection, or - for standard input.", show_default=False
        ),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("-e", metavar="RULE", help="The text of a rule; may be given more than once.")
    ] = None,
    format: Annotated[Format, typer.Option(help="How to print the findings.")] = Format.HUMAN,
    require: Annotated[
        Need | None, typer.Option(help="Fail (status 1) unless a chunk of tokens can be computed at once.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Compare the rules in one table, with their prices.")] = False,
    sizes: Annotated[
        str | None, typer.Option(metavar="K=128,V=128,H=16,T=4096,B=8", help="Say what it costs at these sizes.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="On this device: h200, h100, a100, l4, rtx4090, cpu.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Run the rule and hold the verdict against the numbers (loads torch).")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Check again whenever a file changes, until Ctrl-C.")] = False,
) -> None:
    """Say whether a rule can be trained in parallel, why, whether it is stable, and what it costs."""
    from ruledsl.cli.sizes import sizes as parsed

    if not files and not text:
        raise Stop(Exit.USAGE, "nothing to check: give a FILE, a name of the collection, - or -e RULE")
    if table and format not in (Format.HUMAN, Format.JSON):
        raise Stop(Exit.USAGE, f"--table goes with --format human or json, not {format}")
    priced = table or sizes is not None or device is not None
    asked = Asked(
        [*((f, False) for f in files or ()), *((t, True) for t in text or ())],
        format,
        require,
        table,
        parsed(sizes or "") if priced else None,
        device or "h200",
        probe,
    )
    if not watch:
        raise typer.Exit(_once(asked))
    if text or not files or "-" in files:
        raise Stop(Exit.USAGE, "--watch needs files: standard input and -e do not change")
    from ruledsl.cli.read import path_of
    from ruledsl.cli.watch import watch as keep_watching

    keep_watching([path_of(name) for name in files], lambda: _once(asked))


@dataclass(frozen=True, slots=True)
class Asked:
    rules: list[tuple[str, bool]]  # a name, or a text
    format: Format
    require: Need | None
    table: bool
    sizes: dict[str, int] | None  # None: no price in numbers
    device: str
    probe: bool = False


def _once(asked: Asked) -> Exit:
    from ruledsl.cli import say
    from ruledsl.cli.print_answers import print_answers
    from ruledsl.lang.diagnostic import RuleError

    found = [_judge(name, is_text) for name, is_text in asked.rules]
    print_answers([answer for answer, _ in found], asked)
    status = max(exit for _, exit in found)
    for answer, _ in found:
        if asked.probe and not isinstance(answer, RuleError):
            from ruledsl.cli.probe import probe

            status = max(status, probe(answer, quiet=asked.format is not Format.HUMAN))
        if asked.require and not isinstance(answer, RuleError) and not answer.kind.parallel:
            status = max(status, Exit.REFUSED)
            if asked.format is Format.HUMAN:
                name = answer.rule.source.name
                say.error(f"{name}: --require {asked.require.value} is not met: the verdict is {answer.kind}")
    return status


def _judge(name: str, is_text: bool) -> tuple[Verdict | RuleError, Exit]:
    from ruledsl.cli.read import judge, read
    from ruledsl.lang.diagnostic import RuleError
    from ruledsl.lang.source import Source

    try:
        source = Source(name) if is_text else read(name)
    except RuleError as error:
        return error, Exit.USAGE
    try:
        return judge(source), Exit.FINE
    except RuleError as error:
        return error, Exit.REFUSED
