"""Diagonal decays that kernels take by their logarithms: `running(l)`, the decay exp(l) whose running sums a kernel makes itself.

The products of such a decay between tokens are exponentials of differences of one running sum, where its chunk's numbers
allow it, and of sums between tokens where they do not (`runtime.decay_ops.running`). Nothing of them goes through memory:
tables of products (`Mode.LEVELS`) were two thirds of what `gla`'s kernels moved before the serial one (benchmarks/NOTES.md).

A decay is taken so where it is known not to be negative; one that has a `decay_gate`, which reads tables, keeps them for
its `chain_apply` too, for both come out of one walk.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log

from ruledsl.algebra.ranges import ANY, hull, of_function, point
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Node, Program
from ruledsl.lang.typed import Interval
from ruledsl.schedule.attributes import integer, number
from ruledsl.schedule.graph import CHAINS

LEAST_LOG = -100.0  # of a logarithm: its exponential is 0 in float32
LEAST_DECLARED = 1e-3  # the bound from which on a gradient is divided by a decay that is an input
_DECAY = CHAINS | {"whole": 0}
_TAKEN = frozenset({"before", "after", "whole", "chain_gram", "chain_apply"})

Bounds = Mapping[str, Interval]  # declared, of inputs, by name


def by_logarithms(program: Program, bounds: Bounds) -> Program:
    """The program with `running` decays, where they are known not to be negative."""
    b = Builder()

    def replace(node: Node, args: tuple[Tile, ...]) -> Tile | None:
        if node.op not in _TAKEN:
            return None
        place = _DECAY[node.op]
        decay = args[place]
        if node.op == "chain_apply" and not divisible(b, decay, bounds):
            return None
        found = running(b, decay, bounds)
        return None if found is None else b.raw(node.op, (*args[:place], found, *args[place + 1 :]), node.attr)

    made = b.copy(program, replace=replace)
    return b.program([(r, made[r.node]) for r in program.results], program.types, program.chunk)


def running(b: Builder, decay: Tile, bounds: Bounds) -> Tile | None:
    """The decay [C, lanes] by its logarithm; None if it may be negative, or is one of single columns."""
    if decay.op == "running":
        return decay
    if decay.shape[1] == 1 or (found := _logarithm(b, decay, bounds)) is None:
        return None
    return b.raw("running", (b.expand(found, decay.shape),), _range(b, found, bounds).high > 0)


def divisible(b: Builder, decay: Tile, bounds: Bounds) -> bool:
    """Is the gradient by the logarithm, divided by the decay, as good as the one by the decay? Of an exponential or a sigmoid, whose
    own derivative has the decay as a factor, and of what is well above zero (padding tokens aside, whose decay is 1)."""
    decay = source(decay)
    if decay.op == "input":
        return bounds.get(b.ports[integer(decay.node)].name, ANY).low >= LEAST_DECLARED
    return decay.op == "map" and decay.attr in ("exp", "sigmoid")


def source(decay: Tile) -> Tile:
    """What a decay is for tokens that are no padding."""
    while decay.op in ("select", "cast", "expand"):
        decay = decay.args[-1] if decay.op != "select" or decay.args[2].value is None else decay.args[3]
    return decay


def _logarithm(b: Builder, decay: Tile, bounds: Bounds) -> Tile | None:
    """Of a decay, at least LEAST_LOG; None if it may be negative."""
    match decay.op, decay.attr:
        case "const" | "full", float(value):
            return b.const(max(log(value), LEAST_LOG) if value > 0 else LEAST_LOG) if value >= 0 else None
        case "select", test:
            parts = [_logarithm(b, a, bounds) for a in decay.args[2:]]
            return None if None in parts else b.select(str(test), *decay.args[:2], *(p for p in parts if p is not None))
        case "cast" | "expand", _:
            return _logarithm(b, decay.args[0], bounds)
        case "map", "exp":
            return b.apply("max", decay.args[0], LEAST_LOG)
    return b.apply("max", b.apply("log", decay), LEAST_LOG) if _range(b, decay, bounds).low >= 0 else None


def _range(b: Builder, tile: Tile, bounds: Bounds) -> Interval:
    """What the entries of a tile lie in, as far as its functions tell."""
    found: dict[Tile, Interval] = {}
    stack = [tile]
    while stack:
        at = stack[-1]
        args = at.args[2:] if at.op == "select" else at.args if at.op in ("map", "cast", "expand") else ()
        if missing := [a for a in args if a not in found]:
            stack += missing
            continue
        stack.pop()
        ranges = [found[a] for a in args]
        match at.op:
            case "const" | "full":
                found[at] = point(number(at.node))
            case "input":
                found[at] = bounds.get(b.ports[integer(at.node)].name, ANY)
            case "select":
                found[at] = hull(*ranges)
            case "cast" | "expand":
                (found[at],) = ranges
            case "map":
                found[at] = of_function(str(at.attr), ranges, args[1].value if len(args) == 2 else None)
            case _:
                found[at] = ANY
    return found[tile]
