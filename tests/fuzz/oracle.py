"""One input, judged. A rule or a diagnostic is right; everything else is a finding."""

from __future__ import annotations

import hashlib
import resource
import signal
import traceback
from dataclasses import dataclass
from types import FrameType
from unicodedata import category

from fuzz.generated import PACKAGE, faults
from fuzz.walk import Walked, walk
from ruledsl.lang import typed

SECONDS = 5.0  # of processor time for a stage; for all stages of `check` together
MEMORY = 1 << 30  # bytes, on top of what the process had


class TooLong(BaseException):
    """Not an Exception: no handler of the compiler may swallow it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`key` is the same for inputs that fail in the same way."""

    key: str
    stage: str
    told: str


def examine(data: bytes, seconds: float = SECONDS) -> tuple[str, Finding | None]:
    """The last stage that was entered, and what is wrong with it, if anything."""

    def watch() -> None:
        if walked.stage not in ("check", "judge", "verdict text"):
            signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)

    walked = Walked(watch)
    signal.signal(signal.SIGPROF, _ring)
    try:
        walk(data, walked)
    except (Exception, TooLong) as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        return walked.stage, _crash(error, walked.stage)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return walked.stage, _unsafe(walked)


def limit_memory() -> None:
    """From here on the process may grow by MEMORY; beyond it MemoryError is raised, which is a finding."""
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.RLIM_INFINITY))


def _ring(signum: int, frame: FrameType | None) -> None:
    raise TooLong


def _crash(error: BaseException, stage: str) -> Finding:
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename.startswith(str(PACKAGE))]
    if isinstance(error, TooLong | RecursionError | MemoryError):  # where it is noticed varies
        seen = list(dict.fromkeys(f"{f.filename[len(str(PACKAGE)) + 1 :]}:{f.name}" for f in own))
        place = " ".join(seen[2:5])
    else:
        place = f"{own[-1].filename[len(str(PACKAGE)) + 1 :]}:{own[-1].name}:{own[-1].lineno}" if own else "outside"
    tail = "".join(traceback.format_list(own[-6:]))
    return Finding(f"{type(error).__name__} {place}", stage, f"{type(error).__name__}: {str(error)[:300]}\n{tail}")


def _unsafe(walked: Walked) -> Finding | None:
    for text in walked.said:
        if odd := [c for c in text if not c.isprintable() and c not in "\n\t\x1b" and category(c) != "Zs"]:
            return Finding("a terminal would obey", walked.stage, repr(odd[:9]))
    for kind, text in walked.written.items():
        for fault in faults(text, _names(walked)):
            digest = hashlib.sha256(fault.encode()).hexdigest()[:6]
            return Finding(f"unsafe {kind} {fault.split(' ')[0]} {digest}", walked.stage, fault)
    return None


def _names(walked: Walked) -> set[str]:
    assert walked.rule is not None
    symbols, sizes, body = walked.rule.symbols, walked.rule.sizes, walked.rule.body
    return {s.name for s in symbols} | set(sizes) | {s.name for s in body if isinstance(s, typed.Let | typed.Output)}
