"""States that one token maps jointly, over a chunk: the writes' rows solved, reads and outgoing values.

With S_j the states as the chunk begins (and the copies, which no token changes), w the keys, P_t the small matrices of a
token and M(t; s) their product over the tokens between s and t (`mixing`; the factor that all entries share is a gate of
its own), a version of a state that is sum_j c_j S_j + sum_w d_w row_w key_w^T reads

    version x  =  sum_i m_i (S_i x)  +  sum_{s<t} sum_w (x . key_w[s]) W_w[t, s] row_w[s]  +  sum_w d_w (x . key_w) row_w

with m = c M(t; start) and W_w[t, s] = sum_ij c_i M(t; s)_ij d_jw[s], d_jw: what the last version of S_j holds of row w.
Rows that read the states are one triangular system. States and versions share the products x . key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ruledsl.algebra.verdict import CoupledForm, CoupledVersion, CoupledWrite, Decay, Read
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.gates import Gate
from ruledsl.chunk.mixing import Mixing
from ruledsl.chunk.program import Port, PortKind, Rows
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.lang.typed import Dim, Expr

TOKENS = Rows(1)


@dataclass(frozen=True, slots=True)
class _Point:
    """What a read sees: multiples of the states as the token began, and of the token's own rows."""

    states: Mapping[int, Tile | float]
    own: Mapping[int, Tile]


class Coupled:
    """The chunk form of one `CoupledForm`. Expressions are lowered by `row(expr, lag)`; `rows` and `cols` are the states'
    sizes, `copies` the tiles of the form's copies."""

    def __init__(
        self, b: Builder, form: CoupledForm, rows: Dim, cols: Dim, row: Callable[..., Tile], copies: Sequence[Tile]
    ) -> None:
        self.b = b
        self._form = form
        self._rows, self._cols = rows, cols
        self._row = row
        self._number = {(s.state, s.member): i for i, s in enumerate(form.states)}
        self.ports = [Port(s.state, PortKind.STATE, () if s.member is None else (s.member,)) for s in form.states]
        self._valid = b.input(Port("valid", PortKind.VALID), (TOKENS, 1))
        self._states = [*(b.input(port, (rows, cols)) for port in self.ports), *copies]
        n = range(len(self._states))
        entries = {(i, j): self._neutral(row(x), float(i == j)) for i, j, x in form.entries}
        missing = {(i, i): self._neutral(b.const(0.0), 1.0) for i in n}  # padding leaves the states as they are
        self._mixing = Mixing(b, len(n), {at: x for at, x in (missing | entries).items() if x.value != 0})
        self._gate = None if form.gate is None else self._decay(form.gate)
        self._kept = [self._seen(form.last(i)).own if i < len(self.ports) else {} for i in n]
        self._keys = [self._key(w) for w in form.writes]
        self._values: list[Tile | None] = [None if w.reads else self._value(w) for w in form.writes]
        reading = [i for i, w in enumerate(form.writes) if w.reads]
        if reading:
            self._solve(reading)

    # ------------------------------------------------------------------------------------------------ coefficients

    def _seen(self, version: CoupledVersion) -> _Point:
        return _Point({j: self._row(c) for j, c in version.states}, {w: self._row(d) for w, d in version.writes})

    def _neutral(self, x: Tile, value: float) -> Tile:
        """x, with `value` in the rows of padding."""
        return self.b.select("==", self._valid, 0.0, value, x)

    def _decay(self, decay: Decay) -> Gate:
        log = decay.log is not None
        step = self._neutral(self._row(decay.log if decay.log is not None else decay.value), 0.0 if log else 1.0)
        return Gate(self.b, (step,), log)

    def _key(self, write: CoupledWrite) -> Tile:
        return self.b.cast(self.b.expand(self._neutral(self._row(write.key), 0.0), (TOKENS, self._cols)))

    def _value(self, write: CoupledWrite) -> Tile:
        assert write.value is not None, "a write without a value"
        return self.b.expand(self._row(write.value), (TOKENS, self._rows))

    def _query(self, vector: Expr, width: Dim, lag: int = 0) -> Tile:
        return self.b.cast(self.b.expand(self._row(vector, lag), (TOKENS, width)))

    # ------------------------------------------------------------------------------------------------ writes

    def _solve(self, reading: list[int]) -> None:
        """The rows that read the states: one triangular system over all tokens, their slots interleaved."""
        b = self.b
        tiles: list[Tile] = []
        sides: list[Tile] = []
        for i in reading:
            write = self._form.writes[i]
            asked = [(_start(r.source), self._row(r.gain), self._query(r.read, self._cols)) for r in write.reads]
            for w in reading:
                parts = (gain * self._pairs(x, point, w, left=False) for point, gain, x in asked)
                tiles.append(sum(parts, b.zeros((TOKENS, TOKENS))))
            side = b.const(0.0) if write.value is None else self._value(write)
            for point, gain, x in asked:
                side = side + gain * self._read(x, point, left=False)
            sides.append(b.expand(side, (TOKENS, self._rows)))
        solved = b.solve(b.make("blocks", tiles, len(reading)), b.make("interleave", sides))
        for place, i in enumerate(reading):
            self._values[i] = b.make("slot", (solved,), place)

    def _weight(self, point: _Point, w: int) -> Tile | None:
        """W_w[t, s], 0 unless s < t; None: no later token sees row w."""
        total: Tile | None = None
        for j, own in enumerate(self._kept):
            if w not in own:
                continue
            for i, c in point.states.items():
                between = self._mixing.between(i, j)
                if between is not None:
                    part = c * between * self.b.per_token(own[w]).T
                    total = part if total is None else total + part
        return total if total is None or self._gate is None else total * self._gate.gap

    def _pairs(self, x: Tile, point: _Point, w: int, left: bool) -> Tile:
        """[t, s]: what token t reads of the row (or with `left` of the key) that token s wrote."""
        b = self.b
        weight = self._weight(point, w)
        if weight is None:
            return b.zeros((TOKENS, TOKENS))
        row = self._values[w]
        assert row is not None or not left
        return b.dot(x, row if left and row is not None else self._keys[w], False, True) * weight

    # ------------------------------------------------------------------------------------------------ reads

    def _read(self, x: Tile, point: _Point, left: bool) -> Tile:
        """version x (or its transpose's product with `left`), over the rows whose values are known."""
        b = self.b
        result = b.zeros((TOKENS, self._cols if left else self._rows))
        for j, state in enumerate(self._states):
            parts = [(c, self._mixing.before(i, j)) for i, c in point.states.items()]
            share = sum((c * before for c, before in parts if before is not None), b.const(0.0))
            if self._gate is not None:
                share = share * self._gate.since_start(0)
            result = result + share * b.dot(x, state, False, not left)
        for w, (key, row) in enumerate(zip(self._keys, self._values, strict=True)):
            if row is None:
                continue
            y, z = (row, key) if left else (key, row)
            result = result + b.dot(self._pairs(x, point, w, left), z)
            if w in point.own:
                result = result + point.own[w] * b.sum(x * y, 1) * z
        return result

    def read(self, state: tuple[str, int | None], vector: Expr, version: int, left: bool, lag: int = 0) -> Tile:
        """A version of a state times a vector (with `left`: its transpose), `lag` tokens ago: [tokens, n]."""
        return self._read(self._query(vector, self._rows if left else self._cols, lag), self._point(state, vector, version, lag), left)

    def mixed(self, parts: Sequence[tuple[Expr, Read]], lag: int) -> Tile:
        """The sum of scalars times reads by one vector."""
        states: dict[int, Tile | float] = {}
        own: dict[int, Tile] = {}
        for coef, read in parts:
            scale = self._row(coef, lag)
            point = self._point((read.state, read.member), read.vector, read.version, lag)
            for i, c in point.states.items():
                states[i] = scale * c + states[i] if i in states else scale * c
            for w, d in point.own.items():
                own[w] = scale * d + own[w] if w in own else scale * d
        first = parts[0][1]
        x = self._query(first.vector, self._rows if first.left else self._cols, lag)
        return self._read(x, _Point(states, own), first.left)

    def _point(self, state: tuple[str, int | None], vector: Expr, version: int, lag: int) -> _Point:
        i = self._number[state]
        found = [v for v in self._form.versions if (v.target, v.version) == (i, version)]
        if lag and (lag > 1 or found != [self._form.last(i)]):
            raise UnsupportedForm(
                "a state read some tokens ago is known only where it is the state as this token began", vector.span
            )
        return self._seen(found[0]) if found and not lag else _start(i)

    def outgoing(self, i: int) -> Tile:
        """State i after the last token."""
        b = self.b
        result = b.zeros((self._rows, self._cols))
        for j, state in enumerate(self._states):
            whole = self._mixing.whole(i, j)
            if whole is not None:
                result = result + state * (whole if self._gate is None else whole * self._gate.whole)
        for w, (key, row) in enumerate(zip(self._keys, self._values, strict=True)):
            assert row is not None
            parts = [(self._mixing.after(i, j), own[w]) for j, own in enumerate(self._kept) if w in own]
            share = sum((after * d for after, d in parts if after is not None), b.const(0.0))
            if self._gate is not None:
                share = share * self._gate.to_end(1)
            result = result + b.dot(row, key * share, True, False)
        return result


def _start(i: int) -> _Point:
    """State i as the token began."""
    return _Point({i: 1.0}, {})
