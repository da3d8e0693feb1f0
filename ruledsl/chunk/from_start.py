"""The program of chunks that begin where the position is a multiple of the chunk length: what a rule that freezes its states
becomes when its sequences begin at their first token.

There frozen copies are renewed, and what the rule resets is reset, in every chunk's first row. Vectors of coefficients are
followed row by row, for a row with a token and for padding; those that come to one number everywhere are replaced by it. What
a chunk then does not need of its entering states has no port any more, and such a state leaves the chunk without being carried.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Node, PortKind, Program, ResultKind, Rows
from ruledsl.chunk.shapes import COMPARISONS
from ruledsl.lang.functions import TABLE

Number = float | None  # None: not known
Row = tuple[Number, Number]  # of a row with a token, of padding


def from_start(program: Program) -> Program:
    """`program`, of chunks of one length, where every chunk begins at a multiple of that length."""
    assert program.chunk is not None
    facts = _Facts(program, program.chunk)
    b = Builder()
    made: dict[int, Tile] = {}
    for i, node in enumerate(program.nodes):
        number = _everywhere(facts.rows[i])
        if number is not None:
            made[i] = b.full(number, node.shape)
        elif node.op == "spans" and all(row == (1.0, 1.0) for row in facts.of(node.args[0])[1:]):
            made[i] = b.mask(b.full(1.0, node.shape), "strict")
        else:
            b.copy(program, [i], made=made)
    return b.program([(r, made[r.node]) for r in program.results], program.types, program.chunk)


def carried(program: Program) -> Program:
    """The program without the states that do not depend on what they were before the chunk."""
    entering = {p.name for p in program.ports if p.kind is PortKind.STATE}
    return replace(program, results=tuple(r for r in program.results if r.kind is not ResultKind.STATE or r.name in entering))


def _everywhere(rows: list[Row] | None) -> Number:
    """The number that all rows are."""
    numbers = {n for row in rows or [(None, None)] for n in row}
    return numbers.pop() if len(numbers) == 1 else None


class _Facts:
    """What is known of tiles with one column (or row): `rows[i]`, one entry for each row of the chunk, or a single one for a
    number; None of other tiles. A chunk's first row is a token, and behind padding there is only padding."""

    def __init__(self, program: Program, chunk: int) -> None:
        self.program, self.chunk = program, chunk
        self.rows: list[list[Row] | None] = []
        for node in program.nodes:
            flat = all(axis == 1 or axis == Rows(1) for axis in node.shape) and node.shape != (Rows(1), Rows(1))
            found = self._node(node) if flat else None
            if found is not None:
                found[0] = (found[0][0], found[0][0])
            self.rows.append(found)

    def of(self, index: int) -> list[Row]:
        """A row for each token of the chunk."""
        known = self.rows[index] or [(None, None)]
        return known * self.chunk if len(known) == 1 else known

    def _node(self, node: Node) -> list[Row]:
        count = self.chunk if Rows(1) in node.shape else 1
        rows = [self.of(a)[:count] if count > 1 else (self.rows[a] or [(None, None)]) for a in node.args]
        match node.op:
            case "const" | "full":
                return [(float(node.attr), float(node.attr))] * count  # type: ignore[arg-type]
            case "input" if self.program.port(node).kind is PortKind.VALID:
                return [(1.0, 0.0)] * count
            case "map" if node.attr == "mod" and self._is_position(node.args[0]):
                every = _everywhere(self.rows[node.args[1]])
                if every and self.chunk % every == 0:
                    return [(t % every, t % every) for t in range(count)]
            case "map":
                return _each(lambda *x: _value(str(node.attr), x), rows)
            case "select":
                return _each(lambda a, b, x, y: _choice(str(node.attr), a, b, x, y), rows)
            case "cast" | "transpose" | "expand":
                return rows[0] * (count // len(rows[0]))
            case "shift":
                assert isinstance(node.attr, tuple)
                fill, by = node.attr
                return _shifted(rows[0], float(fill), int(by))  # type: ignore[arg-type]
            case "cumprod":
                zero: list[Row] = [(0.0, 0.0)] * count
                return _run(rows[0], zero, 1.0, bool(node.attr))
            case "scan":
                return _run(rows[0], rows[1], 0.0, bool(node.attr))
            case "cumsum":
                one: list[Row] = [(1.0, 1.0)] * count
                return _run(one, rows[0], 0.0, bool(node.attr))
            case "last" if Rows(1) in self.program.nodes[node.args[0]].shape:
                return [(n, n) for n in [_same(self.of(node.args[0])[-1])]]
            case "sum" if Rows(1) in self.program.nodes[node.args[0]].shape and count == 1:
                numbers = [_same(row) for row in self.of(node.args[0])]
                total = None if self.rows[node.args[0]] is None or None in numbers else math.fsum(n for n in numbers if n is not None)
                return [(total, total)]
        return [(None, None)] * count

    def _is_position(self, index: int) -> bool:
        node = self.program.nodes[index]
        return node.op == "input" and self.program.port(node).kind is PortKind.POSITION


def _same(row: Row) -> Number:
    return row[0] if row[0] == row[1] else None


def _each(function: Callable[..., Number], rows: list[list[Row]]) -> list[Row]:
    return [(function(*(x[0] for x in each)), function(*(x[1] for x in each))) for each in zip(*rows, strict=True)]


def _value(name: str, args: tuple[Number, ...]) -> Number:
    """A function of the rule language on numbers."""
    if name == "mul" and 0.0 in args:
        return 0.0
    known = [a for a in args if a is not None]
    function = TABLE[name].python
    if len(known) < len(args) or function is None:
        return None
    try:
        found = float(function(*known))
    except (ArithmeticError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _choice(op: str, a: Number, b: Number, x: Number, y: Number) -> Number:
    if a is None or b is None:
        return x if x == y else None
    return x if COMPARISONS[op](a, b) else y


def _step(a: Number, before: Number, x: Number) -> Number:
    """a * before + x."""
    product = _value("mul", (a, before))
    return None if product is None or x is None else product + x


def _shifted(rows: list[Row], fill: float, by: int) -> list[Row]:
    """Row t is row t - by. A row before a token is a token, one after padding is padding; else it may be either."""

    def at(t: int) -> Row:
        if not 0 <= t < len(rows):
            return fill, fill
        real, padding = rows[t]
        return (real, _same(rows[t])) if by > 0 else (_same(rows[t]), padding)

    return [at(t - by) for t in range(len(rows))]


def _run(decay: list[Row], add: list[Row], start: float, reverse: bool) -> list[Row]:
    """h_t = a_t h_{t-1} + x_t from `start`, or from the last row on."""
    found: list[Row] = []
    before: Row = (start, start)
    for a, x in zip(*((decay[::-1], add[::-1]) if reverse else (decay, add)), strict=True):
        real, padding = (_same(before), before[1]) if reverse else (before[0], _same(before))
        before = _step(a[0], real, x[0]), _step(a[1], padding, x[1])
        if not found and not reverse:
            before = before[0], before[0]
        found.append(before)
    return found[::-1] if reverse else found
