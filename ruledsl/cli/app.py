"""`ruledsl`: the commands together, and what becomes of an exception that reaches the top."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import typer

from ruledsl.cli.bench import bench
from ruledsl.cli.cache import cache
from ruledsl.cli.check import check
from ruledsl.cli.compile import compile_
from ruledsl.cli.exits import Exit, Stop
from ruledsl.cli.explain import explain
from ruledsl.cli.rules import rules
from ruledsl.cli.show import show
from ruledsl.cli.tune import tune
from ruledsl.cli.version import version

app = typer.Typer(
    name="ruledsl",
    help="Per-token memory rules: can they be trained in parallel, why, and the code that does it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("check")(check)
app.command("compile")(compile_)
app.command("show")(show)
app.command("explain")(explain)
app.command("rules")(rules)
app.command("bench")(bench)
app.command("tune")(tune)
app.command("cache")(cache)
app.command("version")(version)


def main() -> None:
    """The console script. Exit status: 0 fine, 1 refused, 2 usage or unreadable file, 3 a fault of ours."""
    try:
        app()
    except Stop as stop:
        print(f"ruledsl: {stop.message}", file=sys.stderr)
        sys.exit(stop.status)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(Exit.FINE)
    except Exception as fault:
        if os.environ.get("RULEDSL_DEBUG"):
            raise
        print(_apology(fault), file=sys.stderr)
        sys.exit(Exit.FAULT)


def _apology(fault: Exception) -> str:
    """Where it happened, in three lines; never the whole traceback."""
    frames = traceback.extract_tb(fault.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}ruledsl{os.sep}" in frame.filename] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "an unknown place"
    said = str(fault).strip().split("\n")[0][:200]
    return (
        f"ruledsl: a fault of ruledsl, not of your rule: {type(fault).__name__}{f': {said}' if said else ''} ({place})\n"
        f"  command: {' '.join(sys.argv[1:])[:200]}\n"
        f"  RULEDSL_DEBUG=1 shows the traceback; please report it with the rule"
    )
