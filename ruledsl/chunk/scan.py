"""A token program whose states go entry by entry, or are multiplied by matrices, as scans: all tokens of a run at once.

    Scan = program, strata          each stratum: states that depend on each other, and the maps of their entries

Strata stand in order: the parts of one may read what enters and leaves the earlier ones, as values of every token. The
gradient of such a program is linear in the cotangents of its states and goes entry by entry as well: it is a scan of
affine maps, from the last token, whatever the monoid was; of matrices, if these are what tokens multiply by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.differentiate import cotangent_port, differentiate
from ruledsl.chunk.maps import Monoid, maps
from ruledsl.chunk.program import Port, PortKind, Program, Result, ResultKind, Shape
from ruledsl.chunk.unsupported import UnsupportedForm

MOST_TOGETHER = 4  # states that depend on each other: composing costs the cube
VALID = Port("valid", PortKind.VALID)


@dataclass(frozen=True, slots=True)
class Stratum:
    states: tuple[int, ...]  # of Scan.states
    monoid: Monoid
    parts: tuple[tuple[int, ...], ...]  # the nodes of each state's map, see `maps`


@dataclass(frozen=True, slots=True)
class Scan:
    program: Program  # no results for states: the scans make them
    states: tuple[Port, ...]  # the port whose tile is what enters a token; not every program reads it
    shapes: tuple[Shape, ...]  # of the states
    strata: tuple[Stratum, ...]

    @property
    def by_entries(self) -> bool:
        """Does every entry of the states go its own way?"""
        return all(s.monoid is not Monoid.MATRIX for s in self.strata)

    @property
    def matrices(self) -> tuple[Shape, ...]:
        """The shapes of the matrices that states are multiplied by."""
        sides = (s.parts[0][:2] for s in self.strata if s.monoid is Monoid.MATRIX)
        return tuple(self.program.nodes[i].shape for side in sides for i in side)


def scans(token: Program, padded: bool = True) -> tuple[Scan, Scan]:
    """The forward and the gradient scan of a token program; their states correspond. The gradient's inputs are those of the
    token and what enters it, and its states are cotangents. `padded`: a VALID port says which tokens change states.
    Raises UnsupportedForm."""
    program = _masked(token) if padded else token
    states = [r for r in program.results if r.kind is ResultKind.STATE]
    if not states:
        raise UnsupportedForm("the rule has no state")
    forward = _scan(program, [(_port(r), r) for r in states])
    gradient = differentiate(program)
    back = {r.port: r for r in gradient.results}
    return forward, _scan(gradient, [(cotangent_port(r), back.get(_port(r))) for r in states])


def _port(result: Result) -> Port:
    assert result.port is not None
    return result.port


def _masked(program: Program) -> Program:
    """The program with a VALID port; where it is 0, states leave as they came."""
    b = Builder()
    made = b.copy(program)
    valid = b.input(VALID, (1, 1))
    results = []
    for r in program.results:
        tile = made[r.node]
        if r.kind is ResultKind.STATE:
            tile = b.select(">", valid, 0.5, tile, b.input(_port(r), tile.shape))
        results.append((r, tile))
    return b.program(results, program.types)


def _scan(program: Program, carried: Sequence[tuple[Port, Result | None]]) -> Scan:
    """`carried`: what enters a token, and what leaves it (None: zeros)."""
    b = Builder()
    made = b.copy(program)
    nodes = {program.port(n): made[i] for i, n in enumerate(program.nodes) if n.op == "input"}
    enters = [nodes.get(port) for port, _ in carried]  # None: no token reads it
    leaves = [b.const(0.0) if r is None else made[r.node] for _, r in carried]
    results = [
        (r, made[r.node])
        for r in program.results
        if r.kind is ResultKind.OUTPUT or (r.kind is ResultKind.GRADIENT and _port(r).kind is not PortKind.STATE)
    ]
    parts: list[tuple[tuple[int, ...], Monoid, list[tuple[Tile, ...]]]] = []
    for group in _groups(b, enters, leaves):
        if len(group) > MOST_TOGETHER:
            raise UnsupportedForm(f"{len(group)} states depend on each other, scans take {MOST_TOGETHER}")
        own = [enters[i] or b.input(carried[i][0], leaves[i].shape) for i in group]
        found = maps(b, own, [leaves[i] for i in group])
        parts.append((group, found[0].monoid, [m.parts for m in found]))
    for k, (_, _, tiles) in enumerate(parts):
        for i, row in enumerate(tiles):
            results += [(Result(f"{k}.{i}.{j}", ResultKind.PART, 0), tile) for j, tile in enumerate(row)]
    done = b.program(results, program.types)
    at = {r.name: r.node for r in done.results if r.kind is ResultKind.PART}
    strata = tuple(
        Stratum(group, monoid, tuple(tuple(at[f"{k}.{i}.{j}"] for j in range(len(row))) for i, row in enumerate(tiles)))
        for k, (group, monoid, tiles) in enumerate(parts)
    )
    return Scan(done, tuple(port for port, _ in carried), tuple(leave.shape for leave in leaves), strata)


def _groups(b: Builder, enters: Sequence[Tile | None], leaves: Sequence[Tile]) -> list[tuple[int, ...]]:
    """The strongly connected components of the states, those that others read first."""
    number = {e.index: i for i, e in enumerate(enters) if e is not None}
    reads: list[frozenset[int]] = []
    for i, node in enumerate(b.nodes):
        own = frozenset({number[i]}) if i in number else frozenset()
        reads.append(own.union(*(reads[a] for a in node.args)))
    direct = {i: reads[leave.index] for i, leave in enumerate(leaves)}
    reach = _reach(direct)
    groups: list[tuple[int, ...]] = []
    for i in sorted(direct, key=lambda i: (len(reach[i]), i)):  # what is read reaches no more than its reader
        if not any(i in g for g in groups):
            groups.append(tuple(sorted({i} | {j for j in reach[i] if i in reach[j]})))
    return groups


def _reach(direct: Mapping[int, frozenset[int]]) -> dict[int, frozenset[int]]:
    found = dict(direct)
    for k in found:  # Warshall
        for i in found:
            if k in found[i]:
                found[i] = found[i] | found[k]
    return found
