"""Seconds and bytes of calls, ours and a peer's alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FLUSHED = 256 * 2**20  # bytes written between two calls on a GPU, so that nothing is left in its cache
COPIED = {"cuda": 2**30, "cpu": 2**26}  # bytes of the copy that gives a device's rate
WARM = 5  # calls before anything is counted, at most


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to time. `token` advances one token, or is None where there is no such call."""

    leaves: list[Tensor]  # arguments that require gradients
    forward: Callable[[], list[Tensor]]
    token: Callable[[], object] | None
    state_bytes: Callable[[], int] = lambda: 0  # of the state that `token` reads and writes, known once it was called


@dataclass(frozen=True, slots=True)
class Watch:
    device: torch.device
    repeats: int

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], object]) -> float:
        """Of one call, as a clock on the wall shows it."""
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - start

    def median(self, call: Callable[[], object]) -> float:
        """Milliseconds, after warm-up. On a GPU by its own events, with a cold cache."""
        for _ in range(min(WARM, self.repeats)):
            call()
        if self.device.type != "cuda":
            return 1e3 * statistics.median(self.seconds(call) for _ in range(self.repeats))
        flushed = torch.empty(FLUSHED, dtype=torch.int8, device=self.device)
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(self.repeats)]
        for start, end in pairs:
            flushed.zero_()
            start.record()
            call()
            end.record()
        self.wait()
        return statistics.median(start.elapsed_time(end) for start, end in pairs)

    def captured(self, call: Callable[[], object]) -> Callable[[], object] | None:
        """The call as a CUDA graph, replayed; None where there are none, or the call does what none can hold."""
        if self.device.type != "cuda":
            return None
        beside = torch.cuda.Stream(self.device)
        beside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(beside):
            for _ in range(3):
                call()
        torch.cuda.current_stream(self.device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except RuntimeError:
            torch.cuda.synchronize(self.device)
            return None
        return graph.replay

    def copy_rate(self) -> float:
        """Bytes per second of a large copy, both ways counted."""
        entries = COPIED[self.device.type] // 4
        source, to = (torch.zeros(entries, dtype=torch.float32, device=self.device) for _ in range(2))
        return 8 * entries / (1e-3 * self.median(lambda: to.copy_(source)))


def watch_here(repeats: int | None) -> Watch:
    """On the GPU if there is one. `repeats` None: 50 there, 5 on a CPU."""
    cuda = torch.cuda.is_available()
    return Watch(torch.device("cuda" if cuda else "cpu"), repeats or (50 if cuda else 5))


@dataclass(frozen=True, slots=True)
class Times:
    """None: there is no such call, or it failed, or the device does not count it."""

    cold_forward_s: float | None = None
    cold_backward_s: float | None = None
    forward_ms: float | None = None
    forward_backward_ms: float | None = None
    decode_ms: float | None = None
    peak_mib: float | None = None


Stage = Callable[[Subject, Watch], dict[str, float]]


def cold_forward(subject: Subject, watch: Watch) -> dict[str, float]:
    return {"cold_forward_s": watch.seconds(subject.forward)}


def cold_backward(subject: Subject, watch: Watch) -> dict[str, float]:
    outputs = subject.forward()
    cotangents = _cotangents(outputs)
    return {"cold_backward_s": watch.seconds(lambda: _gradients(outputs, subject.leaves, cotangents))}


@torch.no_grad()
def forward(subject: Subject, watch: Watch) -> dict[str, float]:
    return {"forward_ms": watch.median(subject.forward)}


def both(subject: Subject, watch: Watch) -> dict[str, float]:
    """Forward and backward, and the peak of what one such pass allocates beyond the arguments."""
    cotangents = _cotangents(subject.forward())

    def once() -> None:
        _gradients(subject.forward(), subject.leaves, cotangents)

    found = {"forward_backward_ms": watch.median(once)}
    if watch.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(watch.device)
        before = torch.cuda.memory_allocated(watch.device)
        once()
        found["peak_mib"] = (torch.cuda.max_memory_allocated(watch.device) - before) / 2**20
    return found


def backward(subject: Subject, watch: Watch) -> dict[str, float]:
    """Backward alone, again and again over what one forward pass kept."""
    outputs = subject.forward()
    cotangents = _cotangents(outputs)
    return {"backward_ms": watch.median(lambda: _gradients(outputs, subject.leaves, cotangents, keep=True))}


@torch.no_grad()
def decode(subject: Subject, watch: Watch) -> dict[str, float]:
    return {} if subject.token is None else {"decode_ms": watch.median(subject.token)}


@dataclass(frozen=True, slots=True)
class Decoded:
    """One token of `batch` sequences, milliseconds. `graph_ms`: as a captured CUDA graph, None as in `Watch.captured`."""

    batch: int
    eager_ms: float
    graph_ms: float | None
    state_bytes: int


@torch.no_grad()
def decoded(subject: Subject, batch: int, watch: Watch) -> Decoded:
    """Of a subject that has a token."""
    assert subject.token is not None
    eager = watch.median(subject.token)
    replay = watch.captured(subject.token)
    return Decoded(batch, eager, None if replay is None else watch.median(replay), subject.state_bytes())


FIRST: tuple[Stage, ...] = (cold_forward, cold_backward)
WARMED: tuple[Stage, ...] = (forward, both, decode)


def measure(
    subject: Subject, watch: Watch, stages: Sequence[Stage], tolerate: tuple[type[Exception], ...] = ()
) -> tuple[dict[str, float], list[str]]:
    """What the stages found, and what those said that failed with an exception of `tolerate`."""
    found: dict[str, float] = {}
    failures = []
    for stage in stages:
        try:
            found |= stage(subject, watch)
        except tolerate as fault:
            failures.append(f"{stage.__name__}: {type(fault).__name__}: {str(fault).strip().split(chr(10))[0][:200]}")
    return found, failures


def _cotangents(outputs: Sequence[Tensor]) -> list[Tensor]:
    return [torch.randn_like(o) for o in outputs]


def _gradients(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], cotangents: Sequence[Tensor], keep: bool = False
) -> object:
    return torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True, retain_graph=keep)
