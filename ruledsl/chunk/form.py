"""From the linear reads and writes of one token to the program of a chunk of tokens.

Demand-driven: an output asks for its reads, a read for the writes of its state, a write for its coefficients, which
may be reads of states of earlier strata. Only what is asked for is made; every state's outgoing value is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import gcd

from ruledsl.algebra.verdict import CoupledCopy, CoupledForm, MatrixForm, Solved, TokenForm
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.coupled import Coupled
from ruledsl.chunk.lower import Lowering
from ruledsl.chunk.mixed_reads import mixed_reads
from ruledsl.chunk.program import Port, PortKind, Program, Result, ResultKind, Rows
from ruledsl.chunk.recurrence import Recurrence
from ruledsl.chunk.token_program import frozen_name
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.chunk.verify import verify
from ruledsl.lang import typed
from ruledsl.lang.walk import expressions, subexpressions

MOST_STEPS = 64  # sub-steps of a token; the gradient grows with their square


def form(token: TokenForm, rule: typed.Rule, sizes: Mapping[str, int]) -> Program:
    """The chunk program of an unrolled rule. `sizes` are the numbers of family sizes; the others stay symbols.

    Padding: rows where VALID is 0 must repeat a real token; they leave the states alone, and their outputs mean
    nothing. Where states are frozen, the chunks are those at positions 0, `Program.chunk`, 2 * `Program.chunk`, ...: each of
    the rule's own chunks is one or several of them. Raises UnsupportedForm.
    """
    if any(len(f.steps) > MOST_STEPS for f in token.forms):
        raise UnsupportedForm(f"a token of more than {MOST_STEPS} sub-steps")
    if any(len(c.writes) * len(c.states) > MOST_STEPS for c in token.coupled):
        raise UnsupportedForm(f"coupled states with more than {MOST_STEPS} writes in a token, counted for each state")
    try:
        return _Former(token, rule, sizes).program()
    except RecursionError:
        raise UnsupportedForm("the rule is nested too deeply for tiles") from None


class _Former:
    def __init__(self, token: TokenForm, rule: typed.Rule, sizes: Mapping[str, int]) -> None:
        self.b = Builder()
        token, mixed = mixed_reads(token)
        self._token = token
        self._mixed = {m.name: m for m in mixed}
        self._rule = rule
        self._reads = {read.name: read for read in token.reads}
        self._systems = {s.name: s for s in token.solves}
        self._unknowns = {s.unknown: s for s in token.solves}
        self._forms: dict[tuple[str, int | None], MatrixForm] = {(f.state, f.member): f for f in token.forms}
        self._joint = {(s.state, s.member): c for c in token.coupled for s in c.states}
        self._made: dict[tuple[str, int | None], Recurrence | Coupled] = {}
        self._making: list[tuple[str, int | None]] = []
        self._read_tiles: dict[tuple[str, int], Tile] = {}
        self._chunk: int | None = None
        self._copies: dict[Port, Tile] = {}
        self._lowering = Lowering(self.b, rule, token, sizes, self._read, self._frozen)

    def program(self) -> Program:
        results: list[tuple[Result, Tile]] = []
        for output in self._token.outputs:
            if output.value.type.is_matrix:
                raise UnsupportedForm(f"output {output.name} is a matrix for every token", output.span)
            tile = self.b.per_token(self._lowering.row(output.value))
            results.append((Result(output.name, ResultKind.OUTPUT, 0), tile))
        for key in self._forms:
            found = self._recurrence(key)
            assert isinstance(found, Recurrence)
            results.append((Result(key[0], ResultKind.STATE, 0, found.port), found.outgoing))
        for joint in self._token.coupled:
            both = self._recurrence((joint.states[0].state, joint.states[0].member))
            assert isinstance(both, Coupled)
            for i, port in enumerate(both.ports):
                results.append((Result(port.name, ResultKind.STATE, 0, port), both.outgoing(i)))
        results += self._leaving_copies()
        types = tuple((s.name, s.type) for s in self._rule.symbols)
        types += tuple((o.name, o.value.type) for o in self._token.outputs)
        return verify(self.b.program(results, types, self._chunk))

    def _recurrence(self, key: tuple[str, int | None]) -> Recurrence | Coupled:
        if key in self._made:
            return self._made[key]
        matrix = self._forms.get(key) or self._joint.get(key)
        if matrix is None:
            raise UnsupportedForm(f"{key[0]} has no matrix form")
        if key in self._making:
            raise UnsupportedForm(f"the coefficients of {key[0]} read {key[0]}")
        keys = [(s.state, s.member) for s in matrix.states] if isinstance(matrix, CoupledForm) else [key]
        self._making += keys
        rows, cols = self._lowering.dim(matrix.rows), self._lowering.dim(matrix.cols)
        made: Recurrence | Coupled = (
            Coupled(self.b, matrix, rows, cols, self._lowering.row, [self._added(c) for c in matrix.copies])
            if isinstance(matrix, CoupledForm)
            else Recurrence(self.b, matrix, rows, cols, self._lowering.row)
        )
        del self._making[-len(keys) :]
        self._made |= dict.fromkeys(keys, made)
        return made

    def _read(self, name: str, lag: int) -> Tile:
        key = name, lag
        if name in self._unknowns:
            return self._unknown(self._unknowns[name])
        if key not in self._read_tiles and name in self._systems:
            self._read_tiles[key] = self._solved(self._systems[name], lag)
        if key not in self._read_tiles and name in self._mixed:
            parts = self._mixed[name].parts
            joint = self._recurrence((parts[0][1].state, parts[0][1].member))
            assert isinstance(joint, Coupled)
            self._read_tiles[key] = joint.mixed(parts, lag)
        if key not in self._read_tiles:
            read = self._reads[name]
            state = read.state, read.member
            found = self._recurrence(state)
            self._read_tiles[key] = (
                found.read(state, read.vector, read.version, read.left, lag)
                if isinstance(found, Coupled)
                else found.read(read.vector, read.version, read.left, lag)
            )
        return self._read_tiles[key]

    def _unknown(self, system: Solved) -> Tile:
        width = self._lowering.width(system.right.type)
        return self.b.make("unknown", (), self._token.solves.index(system), (Rows(1), width))

    def _solved(self, system: Solved, lag: int) -> Tile:
        """The solution for every token; its residual is there for derivatives."""
        b = self.b
        if lag:
            raise UnsupportedForm("the solution of a system some tokens ago is not kept", system.right.span)
        steps = 0 if system.steps is None else self._lowering.integer(system.steps)
        unknown, right = self._unknown(system), b.per_token(self._lowering.row(system.right))
        image = b.per_token(self._lowering.row(system.applied))
        found = b.make("conjugate", (unknown, image, right), steps)
        residual = right - b.at(image, unknown, found)
        return b.make("implicit", (found, residual, unknown, image), steps)

    # ------------------------------------------------------------------------------------------------ frozen states

    def _frozen(self, e: typed.Frozen, member: int | None) -> Tile:
        """A frozen state as it is declared; a vector as one row."""
        copy, transposed = self._copy(e, member)
        if e.type.is_matrix:
            return copy.T if transposed else copy
        return copy.T if copy.shape[0] != 1 else copy

    def _added(self, copy: CoupledCopy) -> Tile:
        tile = self._lowering.matrix(copy.value) if copy.value.type.is_matrix else self._lowering.row(copy.value).T
        return tile.T if copy.transposed else tile

    def _copy(self, e: typed.Frozen, member: int | None) -> tuple[Tile, bool]:
        """The state as the rule's own chunk began, in the form's orientation: the incoming one if these tokens hold that
        chunk's first, else the copy that came along. And whether the form's matrix is the declared one transposed."""
        length = self._lowering.integer(e.chunk)
        self._chunk = gcd(self._chunk or 0, length)
        key = e.name, member
        matrix = self._forms.get(key) or self._joint.get(key)
        if matrix is None:
            raise UnsupportedForm(f"{e.name} has no matrix form", e.span)
        port = Port(frozen_name(e.name, length), PortKind.STATE, () if member is None else (member,))
        if port not in self._copies:
            b = self.b
            shape = self._lowering.dim(matrix.rows), self._lowering.dim(matrix.cols)
            first = b.select("==", b.apply("mod", self._lowering.position(), float(length)), 0.0, 1.0, 0.0)
            begins = b.sum(first * b.input(Port("valid", PortKind.VALID), (Rows(1), 1)), 0)
            state = b.input(Port(e.name, PortKind.STATE, port.member), shape)
            self._copies[port] = b.select(">", begins, 0.5, state, b.input(port, shape))
        return self._copies[port], self._token.transposed[key]

    def _leaving_copies(self) -> Iterator[tuple[Result, Tile]]:
        """Copies of whatever the rule freezes, whether the chunk reads it or not."""
        for e in (e for s in self._rule.body for value in expressions(s) for e in subexpressions(value)):
            if isinstance(e, typed.Frozen):
                for name, member in self._token.transposed:
                    if name == e.name:
                        self._copy(e, member)
        for port, tile in self._copies.items():
            yield Result(port.name, ResultKind.STATE, 0, port), tile
