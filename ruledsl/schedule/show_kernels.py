"""A Triton schedule as text for people: which kernel reads and writes what. Deterministic."""

from __future__ import annotations

from collections.abc import Iterable

from ruledsl.chunk.program import Program, ResultKind
from ruledsl.chunk.shapes import shape_text
from ruledsl.schedule.kernels import Buffer, Kernel, Kernels
from ruledsl.schedule.tiles import Tiles


def text(kernels: Kernels, forward: Program, gradient: Program, tiles: tuple[Tiles, ...]) -> str:
    """The kernels of both directions in launch order."""
    lines = ["tiles, the first that fits the device (kind of kernel, warps x rows or columns at once x stages of loads):"]
    for t in tiles:
        kinds = ((name, getattr(t, name)) for name in kernels.kinds)
        lines.append(f"  {t.chunk} tokens; " + ", ".join(f"{n} {x}" for n, x in kinds))
    for name, side in (("forward", kernels.forward), ("backward", kernels.backward)):
        lines += ["", f"{name}: {len(side)} kernels"]
        for kernel in side:
            lines += _kernel(kernel, forward if kernel.program == "forward" else gradient)
    if kernels.kept:
        pairs = (f"{_buffer(a, forward)} as {b.name}" for a, b in kernels.kept)
        lines += ["", "kept from forward to backward", *(f"  {pair}" for pair in pairs)]
    return "\n".join(lines) + "\n"


def _kernel(kernel: Kernel, program: Program) -> list[str]:
    how = "one program per chunk and head" + "; twice, for chunks whose decays fit one product and for the others" * kernel.twice
    if kernel.mode == "serial":
        side = "columns" if kernel.columns else "rows"
        order = "last chunk first" if kernel.reverse else "chunk after chunk"
        how = f"one program per sequence, head{f' and block of state {side}' if kernel.split else ''}; {order}"
    lines = [f"  {kernel.name:<16} {kernel.purpose}", f"    runs     {how}"]
    lines += _list("reads", (_buffer(b, program) for b in kernel.reads))
    lines += _list("writes", (_buffer(b, program) for b in kernel.writes))
    lines += _list("carries", (c.state for c in kernel.carries))
    lines += _list("keeps", (_buffer(c.keep, program) for c in kernel.carries if c.keep))
    lines += _list("gives", (("" if r.kind is ResultKind.OUTPUT else "d ") + r.name for r in kernel.results))
    return lines


def _list(word: str, items: Iterable[str]) -> list[str]:
    found = list(items)
    return [f"    {word:<8} {', '.join(found)}"] if found else []


def _buffer(b: Buffer, program: Program) -> str:
    return f"{b.name} [{shape_text(program.nodes[b.node].shape)}{', operands' if b.operand else ''}]"
