"""What `check` found, in the format that was asked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ruledsl.algebra.verdict import Verdict
from ruledsl.cli import record, say
from ruledsl.cli.exits import Exit, Stop
from ruledsl.cli.options import Format
from ruledsl.lang.diagnostic import RuleError

if TYPE_CHECKING:
    from ruledsl.cli.check import Asked
    from ruledsl.cli.priced import Priced


def print_answers(answers: list[Verdict | RuleError], asked: Asked) -> None:
    prices = _prices(answers, asked)
    match asked.format:
        case Format.HUMAN:
            _human(answers, prices, asked.table)
        case Format.JSON:
            rules = [_record(answer, price) for answer, price in zip(answers, prices, strict=True)]
            print(json.dumps({"version": 1, "rules": rules}, indent=2, ensure_ascii=False))
        case Format.GITHUB:
            from ruledsl.cli.github import commands

            for answer in answers:
                for line in commands(answer, _unmet(answer, asked)):
                    print(line)
        case Format.SARIF:
            from ruledsl.cli.sarif import sarif

            log = sarif((answer, _unmet(answer, asked)) for answer in answers)
            print(json.dumps(log, indent=2, ensure_ascii=False))


def _human(answers: list[Verdict | RuleError], prices: list[Priced | None], table: bool) -> None:
    from ruledsl.cli import table as tables
    from ruledsl.cli.report import report

    judged = 0
    for answer, price in zip(answers, prices, strict=True):
        if isinstance(answer, RuleError):
            say.diagnostics(answer)
        elif not table:
            if judged:
                print()
            report(answer, price)
            judged += 1
    rows = [(a, p) for a, p in zip(answers, prices, strict=True) if isinstance(a, Verdict)]
    if table and rows:
        tables.table(rows)


def _record(answer: Verdict | RuleError, price: Priced | None) -> dict[str, Any]:
    if isinstance(answer, RuleError):
        return record.refused(answer)
    from ruledsl.cli import priced

    return record.judged(answer) | ({} if price is None else {"cost": priced.record(price)})


def _prices(answers: list[Verdict | RuleError], asked: Asked) -> list[Priced | None]:
    """In numbers, where sizes are given. Raises Stop for a size or a device that is none."""
    if asked.sizes is None:
        return [None for _ in answers]
    from ruledsl.cli.priced import device, priced
    from ruledsl.cli.sizes import check_names

    on = device(asked.device)
    verdicts = [a for a in answers if isinstance(a, Verdict)]
    if verdicts:
        check_names(asked.sizes, {n for v in verdicts for n in (*v.rule.sizes, *v.sizes)})
    found = [priced(a, asked.sizes, on) if isinstance(a, Verdict) else None for a in answers]
    for answer, price in zip(answers, found, strict=True):
        if isinstance(answer, Verdict) and price is None and answer.price.state_bytes:
            raise Stop(Exit.USAGE, f"--sizes: {answer.rule.source.name} cannot be written out at these sizes")
    return found


def _unmet(answer: Verdict | RuleError, asked: Asked) -> bool:
    return asked.require is not None and isinstance(answer, Verdict) and not answer.kind.parallel
