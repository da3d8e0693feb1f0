"""Which axes of a program's tiles are the same axis.

Sizes alone do not tell (a rule may have K = V), so axes are followed through the program: element-wise operations
unify the axes that they spread over, products unify what they contract. The rows of the state may be split over
kernels exactly where this says that no value mixes them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.chunk.program import Program, Rows
from ruledsl.schedule.attributes import flags, integer

_COLUMN_MIXERS = {"cat", "cut", "pairs", "unpairs", "kron", "diagonal", "eye"}


@dataclass(frozen=True, slots=True)
class Axes:
    """`of[node][axis]` is the class of that axis, None for an axis of size 1 or of tokens; `mixed` are classes that cannot be taken
    in blocks: some operation permutes or glues their entries, or a tile has one of them on both sides (a state that is written
    by one vector twice)."""

    of: tuple[tuple[int | None, int | None], ...]
    mixed: frozenset[int]

    def contracted(self, program: Program, index: int) -> int | None:
        """The class that node `index` sums (or maximises) over, if it is not the token axis."""
        node = program.nodes[index]
        match node.op:
            case "dot":
                ta, _ = flags(node)
                return self.of[node.args[0]][0 if ta else 1]
            case "sum" | "amax":
                return self.of[node.args[0]][integer(node)]
            case "gram" | "chain_gram":
                return self.of[node.args[0]][1]
            case _:
                return None


def axes(program: Program) -> Axes:
    """Follow every axis of `program`."""
    parent: list[int] = list(range(2 * len(program.nodes)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def real(node: int, axis: int) -> bool:
        size = program.nodes[node].shape[axis]
        return size != 1 and not isinstance(size, Rows)

    def unify(n: int, i: int, m: int, j: int) -> None:
        if real(n, i) and real(m, j):
            parent[find(2 * n + i)] = find(2 * m + j)

    mixers: list[tuple[int, int]] = []
    for index, node in enumerate(program.nodes):
        args = node.args
        match node.op:
            case "transpose":
                unify(args[0], 0, index, 1)
                unify(args[0], 1, index, 0)
            case "dot":
                ta, tb = flags(node)
                a, b = args
                unify(a, 0 if ta else 1, b, 1 if tb else 0)
                unify(a, 1 if ta else 0, index, 0)
                unify(b, 0 if tb else 1, index, 1)
            case "sum" | "amax":
                keep = 1 - integer(node)
                unify(args[0], keep, index, keep)
            case "gram" | "chain_gram":
                for other in args[1:]:
                    unify(args[0], 1, other, 1)
            case "gram_apply" | "chain_apply":
                for other in args[1:]:
                    unify(index, 1, other, 1)
            case "chain_gate" | "decay_gate" | "log_gate":
                for other in args:
                    unify(index, 1, other, 1)
            case "solve":
                unify(index, 1, args[1], 1)
            case _ if node.op in _COLUMN_MIXERS:
                mixers += [(a, 1) for a in args] + [(index, 1)]
                for a in args:
                    unify(index, 0, a, 0)
            case "spans" | "spans_gate" | "blocks" | "block" | "inverse":
                pass
            case _:  # element-wise over both axes, or along the tokens
                for a in args:
                    unify(index, 0, a, 0)
                    unify(index, 1, a, 1)
    of = tuple(
        (find(2 * n) if real(n, 0) else None, find(2 * n + 1) if real(n, 1) else None)
        for n in range(len(program.nodes))
    )
    mixed = {c for n, axis in mixers if (c := of[n][axis]) is not None}
    square = {rows for rows, columns in of if rows == columns and rows is not None}  # a block of it has no rows of its own
    return Axes(of, frozenset(mixed | square))
