"""Rules at shapes, one row each."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any

import torch

import ruledsl
from ruledsl.lab.bench.floor import Floor, device_row, floor
from ruledsl.lab.bench.gate import Passed, gate
from ruledsl.lab.bench.model import Model, model
from ruledsl.lab.bench.ours import subject
from ruledsl.lab.bench.peers import omitted, time_peer
from ruledsl.lab.bench.shapes import Shape
from ruledsl.lab.bench.timing import FIRST, WARMED, Decoded, Times, Watch, decoded, measure
from ruledsl.runtime.rule import Rule


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    operator: str
    status: str  # "measured", "not installed", "no operator" or "failed"
    times: Times | None
    steps: tuple[Decoded, ...]
    failures: tuple[str, ...]
    omits: str = ""  # what the rule computes and the operator leaves to others


@dataclass(frozen=True, slots=True)
class Row:
    rule: str
    shape: Shape
    sizes: dict[str, int]
    dtype: str
    backend: str
    gate: Passed
    ours: Times
    floor: Floor | None  # None: the device has no row, or the rule no counted price
    peer: Peer | None  # None: none was asked for
    model: Model | None = None  # None: as for `floor`
    steps: tuple[Decoded, ...] = ()
    copy_rate: float = 0.0  # bytes per second, measured

    def step_floor_ms(self, step: Decoded) -> float:
        """The time to read and write the states of a token."""
        return 2e3 * step.state_bytes / self.copy_rate


STEPS = {"cuda": (1, 64, 256), "cpu": (1,)}  # sequences of which one token each is timed


def bench(
    rules: Sequence[tuple[str, Rule]],
    shapes: Sequence[Shape],
    dtype: torch.dtype,
    watch: Watch,
    backend: str | None,
    peer: str | None,
    say: Callable[[str], None],
) -> Iterator[Row]:
    """`say` hears what is begun, once per step of `steps`. Raises Wrong from the gate, before anything is timed warm.

    First calls come before the gate, which would have compiled their kernels; its failure drops them."""
    known = device_row(device_name(watch.device))
    batches, rate = STEPS[watch.device.type], watch.copy_rate()
    for name, rule in rules:
        chosen = backend or rule.backend_for(watch.device)
        for shape in shapes:
            at = f"{name} {shape.name}".strip()
            say(f"{at}: first calls")
            timed = subject(rule, shape, dtype, watch.device, chosen)
            found, _ = measure(timed, watch, FIRST)
            say(f"{at}: gate")
            passed = gate(rule, name, shape, dtype, watch.device, chosen)
            say(f"{at}: timing")
            found |= measure(timed, watch, WARMED)[0]
            del timed  # its memory is the next one's
            say(f"{at}: one token")
            steps = tuple(_step(rule, shape, b, dtype, watch, chosen) for b in batches)
            theirs = None
            if peer is not None:
                say(f"{at}: {peer}")
                operator, status, times, tokens, failures = time_peer(rule, peer, shape, dtype, watch, batches)
                theirs = Peer(peer, operator, status, times, tokens, tuple(failures), omitted(rule, peer))
            least = None if known is None else floor(rule, shape, dtype.itemsize, known)
            sizes, written = shape.sizes(rule), str(dtype).removeprefix("torch.")
            expected = None if known is None else model(rule, shape, dtype, watch.device, chosen, known, least)
            yield Row(name, shape, sizes, written, chosen, passed, Times(**found), least, theirs, expected, steps, rate)


def _step(rule: Rule, shape: Shape, batch: int, dtype: torch.dtype, watch: Watch, backend: str) -> Decoded:
    return decoded(subject(rule, replace(shape, batch=batch, length=1), dtype, watch.device, backend), batch, watch)


def steps(rules: int, shapes: int, peer: bool) -> int:
    """How often `bench` says something."""
    return rules * shapes * (5 if peer else 4)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def record(rows: Sequence[Row], watch: Watch) -> dict[str, Any]:
    """Rows as data, with what they depend on."""
    return {
        "schema": 2,
        **machine(watch),
        "how": f"medians of {watch.repeats} calls after warm-up, random inputs inside the declared ranges; first calls with "
        "the caches on disk as they were; peak memory of a forward and backward pass beyond its arguments",
        "rows": [_row(row) for row in rows],
    }


def machine(watch: Watch) -> dict[str, Any]:
    """The device and the versions that numbers depend on."""
    known = device_row(device_name(watch.device))
    return {
        "device": {
            "name": device_name(watch.device),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "row": None if known is None else asdict(known),
        },
        "versions": {name: _version(name) for name in ("torch", "triton", "fla-core")}
        | {"ruledsl": ruledsl.__version__, "python": platform.python_version()},
    }


def ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


RATIOS = ("forward_ms", "forward_backward_ms", "decode_ms")


def _row(row: Row) -> dict[str, Any]:
    ours, least = asdict(row.ours), None if row.floor is None else asdict(row.floor)
    theirs = None if row.peer is None else asdict(row.peer)
    times = (theirs or {}).get("times") or {}
    return {
        "rule": row.rule,
        "shape": {"name": row.shape.name, "B": row.shape.batch, "T": row.shape.length, "H": row.shape.heads, **row.sizes},
        "dtype": row.dtype,
        "backend": row.backend,
        "gate": asdict(row.gate),
        "ours": ours,
        "floor": least,
        "model": None if row.model is None else {**asdict(row.model), **{n: getattr(row.model, n) for n in RATIOS}},
        "over_model": {n.removesuffix("_ms"): ratio(ours[n], getattr(row.model, n, None)) for n in RATIOS},
        "copy_rate": row.copy_rate,
        "steps": [{**asdict(s), "floor_ms": row.step_floor_ms(s)} for s in row.steps],
        "over_floor": {n.removesuffix("_ms"): ratio(ours[n], (least or {}).get(n)) for n in RATIOS},
        "peer": theirs,
        "peer_over_ours": {n.removesuffix("_ms"): ratio(times.get(n), ours[n]) for n in RATIOS},
    }  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
