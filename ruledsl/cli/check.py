"""`ruledsl check`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ruledsl.cli.exits import Exit, Stop

if TYPE_CHECKING:
    from ruledsl.algebra.verdict import Verdict
    from ruledsl.lang.diagnostic import RuleError


class Format(StrEnum):
    HUMAN = "human"
    JSON = "json"


class Need(StrEnum):
    CHUNK = "chunk"


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
) -> None:
    """Say whether a rule can be trained in parallel, why, whether it is stable, and what it costs."""
    if not files and not text:
        raise Stop(Exit.USAGE, "nothing to check: give a FILE, a name of the collection, - or -e RULE")
    status = Exit.FINE
    records: list[dict[str, Any]] = []
    for number, (name, is_text) in enumerate([*((f, False) for f in files or ()), *((t, True) for t in text or ())]):
        answer, one = _judge(name, is_text)
        status = max(
            status, one if isinstance(answer, Exception) or require is None or answer.kind.parallel else Exit.REFUSED
        )
        if format is Format.JSON:
            records.append(_record(answer))
        else:
            _print(answer, require, gap=number > 0)
    if format is Format.JSON:
        print(json.dumps({"version": 1, "rules": records}, indent=2, ensure_ascii=False))
    raise typer.Exit(status)


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


def _record(answer: Verdict | RuleError) -> dict[str, Any]:
    from ruledsl.cli import record
    from ruledsl.lang.diagnostic import RuleError

    return record.refused(answer) if isinstance(answer, RuleError) else record.judged(answer)


def _print(answer: Verdict | RuleError, require: Need | None, gap: bool) -> None:
    from ruledsl.cli import say
    from ruledsl.cli.report import report
    from ruledsl.lang.diagnostic import RuleError

    if isinstance(answer, RuleError):
        say.diagnostics(answer)
        return
    if gap:
        print()
    report(answer)
    if require and not answer.kind.parallel:
        sys.stdout.flush()
        name = answer.rule.source.name
        print(f"ruledsl: {name}: --require {require.value} is not met: the verdict is {answer.kind}", file=sys.stderr)
