"""Scans over pieces of a sequence, as token programs.

    Level = summary, join, starts, parts      strata that depend on no others but those of earlier levels

A piece of a sequence is gone through token by token. What enters it is known when the maps of the earlier pieces are, level by
level: the summary walks over the tokens of a piece and carries the states of earlier levels that it reads, and the composed
map of each state of its own level, which begins as the identity (`starts`); the join walks over pieces, each being a token
whose inputs are the parts of that map, and gives what enters it. Parts that stay what they are in the identity are numbers.

Going backward the carried values are cotangents: their maps are affine, and the constant of a map is the cotangent that
a piece finds if none comes in. It goes by the name of the state; the other parts are values that no cotangent is in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.compose import applied, composed, identity
from ruledsl.chunk.program import Port, PortKind, Program, Result, ResultKind, Shape
from ruledsl.chunk.scan import Scan, Stratum
from ruledsl.lang.typed import Type


@dataclass(frozen=True, slots=True)
class Level:
    summary: Program
    join: Program
    starts: tuple[tuple[Port, float], ...]  # what the summary carries of maps, by the port of a state
    parts: tuple[str, ...]  # names of the join's inputs


def levels(forward: Scan, scan: Scan) -> tuple[Level, ...]:
    """The levels of `scan`: `forward` itself or its gradient, whose states correspond."""
    found: list[list[Stratum]] = []
    at: dict[Port, int] = {}
    for stratum in scan.strata:
        read = _ports(scan.program, [i for row in stratum.parts for i in row])
        own = max((at[p] + 1 for p in read if p in at), default=0)
        at |= {scan.states[i]: own for i in stratum.states}
        found += [[] for _ in range(own + 1 - len(found))]
        found[own].append(stratum)
    return tuple(_Level(forward, scan, strata).level() for strata in found)


def _ports(program: Program, nodes: Sequence[int]) -> set[Port]:
    seen, stack = set[int](), list(nodes)
    while stack:
        i = stack.pop()
        if i not in seen:
            seen.add(i)
            stack += program.nodes[i].args
    return {program.port(n) for i in seen if (n := program.nodes[i]).op == "input"}


class _Level:
    def __init__(self, forward: Scan, scan: Scan, strata: Sequence[Stratum]) -> None:
        self.forward, self.scan, self.strata = forward, scan, strata
        self.back = scan is not forward
        self.types = dict(scan.program.types)
        self.starts: list[tuple[Port, float]] = []

    def level(self) -> Level:
        b, join = Builder(), Builder()
        made = b.copy(self.scan.program)
        results: list[tuple[Result, Tile]] = []
        joined: list[tuple[Result, Tile]] = []
        for stratum in self.strata:
            parts = [[made[i] for i in row] for row in stratum.parts]
            ids = identity(stratum.monoid, len(parts))
            ports, leaving = self._composed(b, stratum, parts, ids)
            for (i, j), port in ports.items():
                self.starts.append((self._state(port), ids[i][j]))
                results.append((self._result(port), leaving[i, j]))
            shapes = {key: tile.shape for key, tile in leaving.items()}
            joined += self._join(join, stratum, ids, ports, shapes)
        results = self._with_states(b, made, results)
        types = tuple(self.types.items())
        names = tuple(dict.fromkeys(p.name for p in join.ports if p.kind is PortKind.INPUT))
        return Level(b.program(results, types), join.program(joined, types), tuple(self.starts), names)

    def _composed(
        self, b: Builder, stratum: Stratum, parts: Sequence[Sequence[Tile]], ids: Sequence[Sequence[float]]
    ) -> tuple[dict[tuple[int, int], Port], dict[tuple[int, int], Tile]]:
        """The ports of the parts that a summary carries, and what leaves."""
        shapes = {(i, j): p.shape for i, row in enumerate(parts) for j, p in enumerate(row)}
        if self.back:
            shapes |= {(i, len(row) - 1): self._shape(stratum.states[i]) for i, row in enumerate(parts)}
        ports: dict[tuple[int, int], Port] = {}
        while True:
            first = [
                [b.input(ports[i, j], shapes[i, j]) if (i, j) in ports else b.const(x) for j, x in enumerate(row)]
                for i, row in enumerate(ids)
            ]
            found = composed(b, stratum.monoid, parts, first)
            leaving = {(i, j): tile for i, row in enumerate(found) for j, tile in enumerate(row)}
            more = {
                k: self._part(stratum, *k) for k, x in leaving.items() if k not in ports and x.value != ids[k[0]][k[1]]
            }
            wider = {k: s for k in ports if (s := _joint(shapes[k], leaving[k].shape)) != shapes[k]}
            if not more and not wider:
                for key, port in ports.items():
                    self.types.setdefault(port.name, _type(shapes[key]))
                return ports, {k: b.expand(leaving[k], shapes[k]) for k in ports}
            ports, shapes = ports | more, shapes | wider

    def _part(self, stratum: Stratum, i: int, j: int) -> Port:
        state = stratum.states[i]
        if self.back and j == len(stratum.states):
            return self.scan.states[state]
        return Port(f"{'dmap' if self.back else 'map'}.{state}.{j}", PortKind.STATE)

    def _join(
        self, b: Builder, stratum: Stratum, ids: Sequence[Sequence[float]], ports: Mapping[tuple[int, int], Port],
        shapes: Mapping[tuple[int, int], Shape],
    ) -> list[tuple[Result, Tile]]:  # fmt: skip
        states = [self._state(self.scan.states[i]) for i in stratum.states]
        enters = [b.input(p, self._shape(i)) for p, i in zip(states, stratum.states, strict=True)]
        maps = [
            [
                b.input(replace(ports[i, j], kind=PortKind.INPUT), shapes[i, j]) if (i, j) in ports else b.const(x)
                for j, x in enumerate(row)
            ]
            for i, row in enumerate(ids)
        ]
        leaves = applied(b, stratum.monoid, maps, enters)
        results = []
        for port, enter, leave in zip(states, enters, leaves, strict=True):
            results.append((Result(port.name, ResultKind.OUTPUT, 0, port), enter))
            results.append((Result(port.name, ResultKind.STATE, 0, port), b.expand(leave, enter.shape)))
        return results

    def _with_states(
        self, b: Builder, made: Mapping[int, Tile], results: list[tuple[Result, Tile]]
    ) -> list[tuple[Result, Tile]]:
        """And the states of earlier levels that are read on the way."""
        own = {i for stratum in self.strata for i in stratum.states}
        done: set[int] = set()
        while True:
            read = set(b.program(results).ports)
            more = [
                s for s in self.scan.strata
                if not own.intersection(s.states) and not done.intersection(s.states)
                and any(self.scan.states[i] in read for i in s.states)
            ]  # fmt: skip
            if not more:
                return results
            for stratum in more:
                done.update(stratum.states)
                enters = [b.input(self.scan.states[i], self._shape(i)) for i in stratum.states]
                maps = [[made[i] for i in row] for row in stratum.parts]
                for i, leave in zip(stratum.states, applied(b, stratum.monoid, maps, enters), strict=True):
                    results.append((self._result(self.scan.states[i]), b.expand(leave, self._shape(i))))

    def _shape(self, state: int) -> Shape:
        return self.forward.shapes[state]

    def _state(self, port: Port) -> Port:
        return replace(port, kind=PortKind.STATE)

    def _result(self, port: Port) -> Result:
        kind = ResultKind.GRADIENT if port.kind is PortKind.COTANGENT else ResultKind.STATE
        return Result(port.name, kind, 0, self._state(port))


def _joint(x: Shape, y: Shape) -> Shape:
    return (x[0] if y[0] == 1 else y[0], x[1] if y[1] == 1 else y[1])


def _type(shape: Shape) -> Type:
    rows, columns = shape
    return Type(columns, 1) if rows == 1 else Type(rows, columns)  # type: ignore[arg-type]
