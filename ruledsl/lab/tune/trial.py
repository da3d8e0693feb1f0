"""One configuration of a rule's kernels: verified, then timed. As a program, the body of a process of its own:

python -m ruledsl.lab.tune.trial < request.json       its last line of output is the outcome
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ruledsl.lab.bench.gate import Wrong, gate
from ruledsl.lab.bench.ours import subject
from ruledsl.lab.bench.shapes import DTYPES, Shape
from ruledsl.lab.bench.timing import Subject, Watch, backward, forward, measure
from ruledsl.lang.source import Source
from ruledsl.runtime import tuned
from ruledsl.runtime.errors import BackendError
from ruledsl.runtime.rule import Rule
from ruledsl.runtime.tuned import Choice
from ruledsl.schedule.tiles import Tiles


@dataclass(frozen=True, slots=True)
class Request:
    rule: str  # the text
    shapes: tuple[Shape, ...]
    dtype: str  # a key of DTYPES
    choice: Choice
    repeats: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """`status`: "timed", "wrong" (misses a numeric bar), "refused" (does not fit the device, or has no form) or "crashed";
    `said`: why, "" if timed. Milliseconds, one for each shape."""

    status: str
    said: str = ""
    forward_ms: tuple[float, ...] = ()
    backward_ms: tuple[float, ...] = ()
    nearest: float = 0.0  # the largest error in parts of its bar


Measure = Callable[[Subject, Watch], dict[str, float]]


def passes(timed: Subject, watch: Watch) -> dict[str, float]:
    """Medians of the forward pass and of the backward pass alone."""
    return measure(timed, watch, (forward, backward))[0]


def trial(request: Request, watch: Watch, measured: Measure = passes) -> Outcome:
    """Nothing is timed that misses a bar against the chunk form in float64. A process tries one configuration of a rule:
    what has run is kept."""
    rule, dtype = Rule(Source(request.rule, "<tune>")), DTYPES[request.dtype]
    try:
        with tuned.only(request.choice):
            passed = gate(rule, "the rule", request.shapes[0], dtype, watch.device, "triton", "torch", 0)
            found = [measured(subject(rule, s, dtype, watch.device, "triton"), watch) for s in request.shapes]
    except Wrong as error:
        return Outcome("wrong", str(error))
    except BackendError as error:
        return Outcome("refused", str(error))
    forwards, backwards = (tuple(each[n] for each in found) for n in ("forward_ms", "backward_ms"))
    return Outcome("timed", "", forwards, backwards, passed.error / passed.bar)


def written(x: Request | Outcome) -> str:
    return json.dumps(asdict(x))


def read_request(text: str) -> Request:
    x: dict[str, Any] = json.loads(text)
    choice = Choice(**{d: Tiles.read(t) for d, t in x["choice"].items()})
    return Request(x["rule"], tuple(Shape(**s) for s in x["shapes"]), x["dtype"], choice, x["repeats"])


def read_outcome(text: str) -> Outcome:
    """ValueError, TypeError, KeyError: the text is none."""
    x: dict[str, Any] = json.loads(text)
    return Outcome(**x | {n: tuple(x[n]) for n in ("forward_ms", "backward_ms")})


def main() -> None:
    request = read_request(sys.stdin.read())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print("\n" + written(trial(request, Watch(device, request.repeats))))


if __name__ == "__main__":
    main()
