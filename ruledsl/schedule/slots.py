"""Programs without interleaved tiles, for backends whose tiles cannot be sliced.

A token with several reading sub-steps solves one system of C*m rows. Everything else about those rows splits into m
tiles of C rows: `slot` and `block` are pushed through the program until they meet what made the interleaved tile.
Left over are `blocks` as the argument of `inverse`, and `block` of an `inverse`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Axis, Node, Program, Rows
from ruledsl.schedule.attributes import flags, integer, number, place
from ruledsl.schedule.unsupported import unsupported

_ELEMENTWISE = {"map", "select", "cast"}
_WHOLE = -1  # all of an axis, instead of one of its slots


def without_slots(program: Program) -> Program:
    """The same results from tiles of at most C token rows (and the inverse of the interleaved system).

    Unsupported: an interleaved tile goes through an operation that does not split."""
    if not any(_many(axis) for node in program.nodes for axis in node.shape):
        return program
    builder = Builder()
    splitter = _Splitter(builder)
    made = builder.copy(program, replace=splitter.replace)
    return builder.program([(r, made[r.node]) for r in program.results], program.types, program.chunk)


def slots(axis: Axis) -> int:
    """Rows for each token; 1 for an axis that is no token axis."""
    return axis.slots if isinstance(axis, Rows) else 1


def _many(axis: Axis) -> bool:
    return slots(axis) > 1


def _parts(axis: Axis) -> Iterable[int]:
    """The slots of an axis to add over."""
    return range(slots(axis)) if _many(axis) else (_WHOLE,)


def _single(axis: Axis) -> Axis:
    return Rows(1) if _many(axis) else axis


class _Splitter:
    def __init__(self, builder: Builder) -> None:
        self.b = builder
        self.known: dict[tuple[int, int, int], Tile] = {}

    def replace(self, node: Node, args: tuple[Tile, ...]) -> Tile | None:
        """What a node of the program becomes; None: itself, of its new arguments."""
        match node.op:
            case "slot":
                return self.part(args[0], integer(node), _WHOLE)
            case "block":
                return self.part(args[0], *place(node))
            case "dot" if not any(map(_many, node.shape)):
                ta, tb = flags(node)
                x, y = args
                contracted = x.shape[0 if ta else 1]
                if _many(contracted):
                    return self._dot(x, y, ta, tb, _WHOLE, _WHOLE)
            case "sum" if not any(map(_many, node.shape)):
                axis = integer(node)
                if _many(args[0].shape[axis]):
                    return self._sum(args[0], axis, _WHOLE, _WHOLE)
        return None

    def part(self, x: Tile, i: int, j: int) -> Tile:
        """The rows of slot i and the columns of slot j of a tile."""
        i = i if _many(x.shape[0]) else _WHOLE
        j = j if _many(x.shape[1]) else _WHOLE
        if i == j == _WHOLE:
            return x
        key = (x.index, i, j)
        if key not in self.known:
            self.known[key] = self._split(x, i, j)
        return self.known[key]

    def _dot(self, x: Tile, y: Tile, ta: bool, tb: bool, i: int, j: int) -> Tile:
        """Part (i, j) of a product: the sum over the slots of what it contracts."""

        def product(p: int) -> Tile:
            left = self.part(x, p, i) if ta else self.part(x, i, p)
            right = self.part(y, j, p) if tb else self.part(y, p, j)
            return self.b.dot(left, right, ta, tb)

        return _total(map(product, _parts(x.shape[0 if ta else 1])))

    def _sum(self, x: Tile, axis: int, i: int, j: int) -> Tile:
        parts = _parts(x.shape[axis])
        return _total(self.b.sum(self.part(x, p, j) if axis == 0 else self.part(x, i, p), axis) for p in parts)

    def _split(self, x: Tile, i: int, j: int) -> Tile:
        b, args = self.b, x.args
        shape = (_single(x.shape[0]), _single(x.shape[1]))
        match x.op:
            case "interleave":
                return args[i]
            case "blocks":
                return args[i * slots(x.shape[0]) + j]
            case "inverse":
                return b.raw("block", (x,), (i, j))
            case "transpose":
                return self.part(args[0], j, i).T
            case "full":
                return b.full(number(x.node), shape)
            case "expand":
                return b.expand(self.part(args[0], i, j), shape)
            case "mask":  # slots of one token come one after the other
                whole = i >= j if x.attr == "incl" else i > j
                return b.mask(self.part(args[0], i, j), "incl" if whole else "strict")
            case "sum":
                return self._sum(args[0], integer(x.node), i, j)
            case "dot":
                left, right = args
                return self._dot(left, right, *flags(x.node), i, j)
            case op if op in _ELEMENTWISE:
                return b.make(op, tuple(self.part(a, i, j) for a in args), x.attr)
            case op:
                raise unsupported(f"`{op}` over the reading sub-steps of a token has no Triton form")


def _total(tiles: Iterable[Tile]) -> Tile:
    return reduce(lambda a, b: a + b, tiles)
