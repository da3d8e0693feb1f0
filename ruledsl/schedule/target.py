"""What a plan must know about a device: one row each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """`dot_rate` is that of the operands the kernels use: float32 on a CPU, bf16 or fp16 tensor cores on a GPU. `step` is
    the least time of one dependent operation: dispatch on a CPU, latency of a product on a GPU."""

    name: str
    units: int  # cores or streaming multiprocessors
    shared_bytes: int  # shared memory that one program may use; 0: not a GPU
    registers: int  # 32-bit registers per unit
    bandwidth: float  # bytes per second, both ways counted
    dot_rate: float  # flops per second in large products
    exp_rate: float  # exponentials per second
    step: float  # seconds
    source: str = "estimate"  # of bandwidth and dot_rate: "measured" (copy, large products), "published" or "estimate"


# ada: an RTX 4090 with round figures; every `exp_rate` but the first two, and every `step`: estimates that rank plans. The H200's `step`
# is between two measurements of delta's chain, three products a chunk: 0.73 us with two programs on a multiprocessor, 0.45 alone
TARGETS: dict[str, Target] = {
    row.name: row
    for row in (
        Target("cpu", 2, 0, 0, 1.2e10, 6e10, 8e8, 6e-6),
        Target("h200", 132, 227 * 1024, 65536, 4.27e12, 7.3e14, 4.2e12, 7.5e-7, "measured"),
        Target("h100", 132, 227 * 1024, 65536, 3.35e12, 9.89e14, 3.9e12, 7.5e-7, "published"),
        Target("a100", 108, 163 * 1024, 65536, 2.04e12, 3.12e14, 2.4e12, 1.5e-6, "published"),
        Target("l4", 58, 99 * 1024, 65536, 3.0e11, 1.21e14, 1.9e12, 1.5e-6, "published"),
        Target("rtx4090", 128, 99 * 1024, 65536, 1.01e12, 1.65e14, 5.2e12, 1.5e-6, "published"),
        Target("ada", 128, 99 * 1024, 65536, 1.0e12, 1.6e14, 5.2e12, 1.5e-6, "published"),
        Target("turing", 40, 64 * 1024, 65536, 3.2e11, 6.5e13, 1.0e12, 2.0e-6, "published"),
    )
}


def target(name: str) -> Target:
    """The row of that name; KeyError lists the names that exist."""
    if name not in TARGETS:
        raise KeyError(f"no device {name!r}: one of {', '.join(TARGETS)}")
    return TARGETS[name]
