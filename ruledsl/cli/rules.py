"""`ruledsl rules`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ruledsl.algebra.verdict import Verdict


def rules() -> None:
    """List the rules that come with ruledsl: verdicts, how training runs them, and what committed tests found.

    CPU, GPU, decode: `yes`, `no` or `N of M` cases within the bars; `stale`, the rule's text has changed since; `-`, no
    result is committed.
    """
    from rich.table import Table
    from rich.text import Text

    from ruledsl.cli.forms import runs
    from ruledsl.cli.marks import COLUMNS, marks, results
    from ruledsl.cli.read import collection, judge
    from ruledsl.cli.report import colour
    from ruledsl.cli.say import console
    from ruledsl.resources import load_source

    out = console()
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = 120
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2 if out.width > 100 else 1, 0, 0))
    table.add_column("rule", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("class", min_width=8, overflow="fold")
    table.add_column("state bytes", min_width=7)
    for column in ("form", *COLUMNS):
        table.add_column(column, no_wrap=True)
    committed = results()
    with out.status("judging ..."):
        for path in collection():
            source = load_source(path)
            verdict = judge(source)
            found = runs(verdict)
            table.add_row(
                path.stem,
                Text(str(verdict.kind), colour(verdict.kind)),
                _structure(verdict),
                verdict.price.state_bytes,
                str(found.form),
                *marks(path.stem, source.text, committed, found.kernels),
            )
    out.print(table)


def _structure(verdict: Verdict) -> str:
    """The structure of the stratum that decided."""
    return max(verdict.strata, key=lambda s: s.kind.number).structure if verdict.strata else "no state"
