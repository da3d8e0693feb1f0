"""Which axis of a token program may be cut into blocks, one kernel program each.

A block holds some lanes of one axis class of the states, for all tokens. That is right when no value of the token
contracts or permutes that class. Going backward, a cotangent without the class is the sum of what the blocks find, for
a gradient is linear in the cotangents: blocks then give partial gradients, and a cotangent that comes in without the
class counts in one block only. A state without the class is carried by every block, alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.chunk.program import Port, PortKind, Program, ResultKind, Shape
from ruledsl.lang.typed import Dim
from ruledsl.schedule.axes import axes

_ALONG = {"topk", "unkron"}  # permute or glue columns, besides what `axes` marks
_STATES = (PortKind.STATE, PortKind.COTANGENT)
Place = tuple[Port, int]


@dataclass(frozen=True, slots=True)
class Marked:
    """A program with, for each node, the axis that is cut: 0, 1 or None."""

    program: Program
    cut: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """`dim` is the size of the class that is cut, None if there is none."""

    dim: Dim | None
    forward: Marked
    gradient: Marked

    def uncut(self) -> Split:
        return Split(None, whole(self.forward.program), whole(self.gradient.program))

    @property
    def shared(self) -> bool:
        """Does a block carry a state that other blocks carry too?"""
        return self.dim is not None and any(
            self.forward.cut[r.node] is None for r in self.forward.program.results if r.kind is ResultKind.STATE
        )


def split(forward: Program, gradient: Program) -> Split:
    """The best class: the one that most entries of the states have, each size counted as if it were 64."""
    f, g = _Classes(forward), _Classes(gradient)
    best, most = Split(None, whole(forward), whole(gradient)), 0
    for found in dict.fromkeys(c for place in f.places() for c in [f.at(place)] if c is not None):
        places = [p for p in f.places() if f.at(p) == found]
        g_class = {c for p in places if (c := g.at(p)) is not None}
        if len(g_class) > 1 or f.refuses(found) or any(g.refuses(c) for c in g_class):
            continue
        shapes = _state_shapes(forward)
        weight = sum(64 ** sum(size != 1 for size in shapes[port]) for port, _ in places)
        if weight > most:
            port, axis = places[0]
            dim = shapes[port][axis]
            other = next(iter(g_class), None)
            best = Split(dim, f.marked(found), g.marked(other) if other is not None else whole(gradient))  # type: ignore[arg-type]
            most = weight
    return best


def whole(program: Program) -> Marked:
    """Nothing is cut."""
    return Marked(program, (None,) * len(program.nodes))


def _state_shapes(program: Program) -> dict[Port, Shape]:
    return {r.port: program.nodes[r.node].shape for r in program.results if r.kind is ResultKind.STATE and r.port}


class _Classes:
    """The axis classes of a program, those of a state's tiles before and after the token being one."""

    def __init__(self, program: Program) -> None:
        self.program = program
        found = axes(program)
        self._contracted = [found.contracted(program, i) for i in range(len(program.nodes))]
        self._of = found.of
        self._same: dict[int, int] = {}
        tiles: dict[Port, list[int]] = {}
        for i, node in enumerate(program.nodes):
            if node.op == "input" and (port := program.port(node)).kind in _STATES:
                tiles.setdefault(_state(port), []).append(i)
        for r in program.results:
            if r.port is not None and r.port.kind is PortKind.STATE:
                tiles.setdefault(r.port, []).append(r.node)
        self._tiles = tiles
        for nodes in tiles.values():
            for axis in (0, 1):
                for i in nodes[1:]:
                    self._unify(self._of[nodes[0]][axis], self._of[i][axis])
        along = [(a, 1) for i, n in enumerate(program.nodes) if n.op in _ALONG for a in (*n.args, i)]
        self._mixed = {self.find(c) for c in found.mixed} | {
            self.find(c) for i, axis in along if (c := self._of[i][axis]) is not None
        }
        self._dependent = _dependent(program)

    def find(self, c: int) -> int:
        while c in self._same:
            c = self._same[c]
        return c

    def _unify(self, a: int | None, b: int | None) -> None:
        if a is not None and b is not None and self.find(a) != self.find(b):
            self._same[self.find(a)] = self.find(b)

    def places(self) -> list[Place]:
        return [(port, axis) for port in self._tiles if port.kind is PortKind.STATE for axis in (0, 1)]

    def at(self, place: Place) -> int | None:
        port, axis = place
        found = [c for i in self._tiles.get(port, []) if (c := self._of[i][axis]) is not None]
        return self.find(found[0]) if found else None

    def _axis(self, index: int, c: int) -> list[int]:
        return [axis for axis in (0, 1) if (own := self._of[index][axis]) is not None and self.find(own) == c]

    def marked(self, c: int) -> Marked:
        return Marked(self.program, tuple(next(iter(self._axis(i, c)), None) for i in range(len(self.program.nodes))))

    def refuses(self, c: int) -> bool:
        """Does the program need all lanes of the class at once?"""
        if c in self._mixed:
            return True
        for i, node in enumerate(self.program.nodes):
            gone = self._contracted[i]
            if gone is not None and self.find(gone) == c and (i not in self._dependent or node.op == "amax"):
                return True
            own = self._axis(i, c)
            if len(own) == 2:
                return True
            if own and any(a in self._dependent and not self._axis(a, c) for a in node.args):
                return True
        return False


def _state(port: Port) -> Port:
    return Port(port.name, PortKind.STATE, port.member)


def _dependent(program: Program) -> frozenset[int]:
    """The nodes that depend on a cotangent."""
    found: set[int] = set()
    for i, node in enumerate(program.nodes):
        if node.op == "input":
            if program.port(node).kind is PortKind.COTANGENT:
                found.add(i)
        elif any(a in found for a in node.args):
            found.add(i)
    return frozenset(found)
