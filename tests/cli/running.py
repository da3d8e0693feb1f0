"""`ruledsl WORDS` in this process: its standard output, standard error and status."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[2]
GOOD = "state S[V, K]\ninput q[K], k[K] unit, v[V], b in [0, 1]\nS = S + b*(v - S k) k^T\noutput o = S q\n"
BROKEN = "state S[V, K]\ninput q[K], k[K], v[V]\nS = S + w k^T\nS = S + k v^T\noutput o = S q\n"
NO = "state S[V, K]\ninput q[K], k[K], v[V], b in [0, 1]\nS = S + b*tanh(v - S k) k^T\noutput o = S q\n"


@dataclass(frozen=True)
class Done:
    out: str
    err: str
    status: int


def run(*words: str, stdin: str = "", **env: str) -> Done:
    from ruledsl.cli.app import main

    out, err, status = io.StringIO(), io.StringIO(), 0
    given = io.TextIOWrapper(io.BytesIO(stdin.encode()))
    settings = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR", "RULEDSL_DEBUG"}}
    with (
        patch.dict(os.environ, settings | {"COLUMNS": "100"} | env, clear=True),
        patch.object(sys, "argv", ["ruledsl", *words]),
        patch.object(sys, "stdin", given),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    return Done(out.getvalue(), err.getvalue(), status)
