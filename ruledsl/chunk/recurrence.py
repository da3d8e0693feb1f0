"""One matrix state over a chunk: its writes solved, its reads and its outgoing value.

With S the state as the chunk begins, w the keys (scale included), z the values of the writes, and D(f, t; g, s) the
decay between the write of step g of token s and point f of token t:

    z     = value + gain * (S read),  solved for all tokens at once where writes read the state:  (I - A) z = right side
    S x   = (x D(start)) S^T + sum_s [x . w_s D] z_s          over the s whose write the point sees
    S'    = S D(whole) + sum_s z_s (w_s D(to end))^T

The scale of a write joins its key once, in the operand dtype. Decays over the contracted axis sit in a decayed Gram
product, those over the other axis in its apply, scalar ones in a C x C tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ruledsl.algebra.verdict import Decay, MatrixForm, Step, Write
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.gates import Gate, combined
from ruledsl.chunk.program import Port, PortKind, Rows
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.lang.typed import Dim, Expr

TOKENS = Rows(1)


@dataclass(frozen=True, slots=True)
class _Point:
    """Where a read stands: decayed up to step `gate`, seeing the writes of steps up to `sees` of its own token."""

    gate: int
    sees: int


class Recurrence:
    """The chunk form of one `MatrixForm`. Expressions are lowered by `row(expr, lag)`; `rows` and `cols` are the state's sizes."""

    def __init__(self, b: Builder, form: MatrixForm, rows: Dim, cols: Dim, row: Callable[..., Tile]) -> None:
        self.b = b
        self._form = form
        self._rows, self._cols = rows, cols
        self._row = row
        self.port = Port(form.state, PortKind.STATE, () if form.member is None else (form.member,))
        self._valid = b.input(Port("valid", PortKind.VALID), (TOKENS, 1))
        self.state = b.input(self.port, (rows, cols))
        self._versions = [0, *(step.version for step in form.steps)]
        self._gates()
        self._writes()

    # ------------------------------------------------------------------------------------------------ coefficients

    def _neutral(self, x: Tile, value: float) -> Tile:
        """x, with `value` in the rows of padding."""
        return self.b.select("==", self._valid, 0.0, value, x)

    def _decay(self, decay: Decay) -> tuple[Tile, Tile | None]:
        factor = self._neutral(self._row(decay.value), 1.0)
        return factor, None if decay.log is None else self._neutral(self._row(decay.log), 0.0)

    def _gates(self) -> None:
        """Sort the decays of the steps into one over columns, one over rows, or a scalar one."""
        steps = self._form.steps
        right = any(s.right and not s.right.value.type.is_scalar for s in steps)
        left = any(s.left and not s.left.value.type.is_scalar for s in steps)

        def place(step: Step, where: str) -> list[tuple[Tile, Tile | None]]:
            found = []
            for decay, own in ((step.right, "cols"), (step.left, "rows")):
                if decay is None:
                    continue
                scalar = "cols" if right else "rows" if left else "scalar"
                if where == (scalar if decay.value.type.is_scalar else own):
                    found.append(self._decay(decay))
            return found

        gates = {where: combined(self.b, [place(s, where) for s in steps]) for where in ("cols", "rows", "scalar")}
        self.cols = self._wide(gates["cols"], self._cols)
        self.rows = self._wide(gates["rows"], self._rows)
        self.scalar = gates["scalar"]
        self._exact = all(gate is None or gate.log for gate in (self.cols, self.rows, self.scalar))

    def _wide(self, gate: Gate | None, width: Dim) -> Gate | None:
        if gate is None:
            return None
        return Gate(
            self.b, tuple(None if s is None else self.b.expand(s, (TOKENS, width)) for s in gate.steps), gate.log
        )

    def _writes(self) -> None:
        b = self.b
        self._slots: list[tuple[int, Write]] = [
            (g, w) for g, step in enumerate(self._form.steps, 1) for w in step.writes
        ]
        self._keys: list[Tile] = []
        for _, write in self._slots:
            key = self._row(write.key)
            if write.scale is not None:
                key = self._row(write.scale) * key
            self._keys.append(b.cast(b.expand(self._neutral(key, 0.0), (TOKENS, self._cols))))
        self._values: list[Tile | None] = [self._value(w) if w.read is None else None for _, w in self._slots]
        reading = [i for i, (_, w) in enumerate(self._slots) if w.read is not None]
        if reading:
            if self.rows is not None:
                raise UnsupportedForm(
                    f"{self._form.state} decays along its rows and its writes read it: every row needs a solve of its own"
                )
            self._solve(reading)

    def _value(self, write: Write) -> Tile:
        assert write.value is not None, "a write without a value"
        return self.b.expand(self._row(write.value), (TOKENS, self._rows))

    def _solve(self, reading: list[int]) -> None:
        """z of the writes that read the state: one triangular system over all tokens, their slots interleaved."""
        b = self.b
        tiles: list[Tile] = []
        sides: list[Tile] = []
        for i in reading:
            g, write = self._slots[i]
            assert write.read is not None
            gain = self._row(write.gain) if write.gain is not None else b.const(1.0)
            point = _Point(g if write.after_decay else g - 1, g - 1)
            x = self._query(write.read, self._cols)
            tiles += [gain * self._gram_with_own(x, point, self._keys[j], self._slots[j][0], left=False) for j in reading]
            seen = self._read(x, point, left=False)
            side = gain * seen
            sides.append(side if write.value is None else self._value(write) + side)
        system = b.make("blocks", tiles, len(reading))
        solved = b.solve(system, b.make("interleave", sides))
        for j, i in enumerate(reading):
            self._values[i] = b.make("slot", (solved,), j)

    def _query(self, vector: Expr, width: Dim, lag: int = 0) -> Tile:
        return self.b.cast(self.b.expand(self._row(vector, lag), (TOKENS, width)))

    # ------------------------------------------------------------------------------------------------ pairs of tokens

    def _kind(self, point: _Point, g: int) -> str:
        return "incl" if self._exact and point.sees >= g else "strict"

    def _gram(self, x: Tile, point: _Point, y: Tile, g: int, left: bool) -> Tile:
        """[t, s]: x_t . y_s with the decays of the contracted axis and the scalar ones, masked."""
        b = self.b
        kind = self._kind(point, g)
        inner = self.rows if left else self.cols
        if inner is None:
            tile = b.dot(x, y, False, True)
        elif inner.log:
            tile = b.make("gram", (x, y, inner.level(point.gate), inner.level(g)), kind)
        else:
            tile = b.make("chain_gram", (x * inner.before(point.gate), y * inner.after(g), inner.total))
        gate = self.scalar
        if gate is None:
            return b.mask(tile, kind)
        if gate.log:
            return tile * b.make("mexp", (gate.level(point.gate) - gate.level(g).T,), kind)
        return tile * b.make("spans", (gate.total,)) * gate.before(point.gate) * gate.after(g).T

    def _own(self, x: Tile, point: _Point, y: Tile, g: int, left: bool) -> Tile | None:
        """[t, 1]: the pair of a token with its own write, where `_gram` leaves it out."""
        if self._exact or point.sees < g:
            return None
        inner = self.rows if left else self.cols
        pair = self.b.sum(x * y * (inner.between(g, point.gate) if inner else 1.0), 1)
        return pair * self.scalar.between(g, point.gate) if self.scalar else pair

    def _gram_with_own(self, x: Tile, point: _Point, y: Tile, g: int, left: bool) -> Tile:
        tile = self._gram(x, point, y, g, left)
        own = self._own(x, point, y, g, left)
        return tile if own is None else tile + own * self.b.eye(TOKENS)

    def _apply(self, tile: Tile, z: Tile, point: _Point, g: int, left: bool) -> Tile:
        """sum_s tile[t, s] z_s with the decays of the axis that is not contracted."""
        b = self.b
        outer = self.cols if left else self.rows
        assert outer is not None
        if outer.log:
            return b.make(
                "gram_apply", (tile, z, outer.level(point.gate), outer.level(g)), (self._kind(point, g), False)
            )
        return outer.before(point.gate) * b.make("chain_apply", (tile, z * outer.after(g), outer.total), False)

    # ------------------------------------------------------------------------------------------------ reads

    def _read(self, x: Tile, point: _Point, left: bool) -> Tile:
        """S x (or S^T x with `left`) at a point, over the writes whose values are known."""
        b = self.b
        inner, outer = (self.rows, self.cols) if left else (self.cols, self.rows)
        start = x * inner.since_start(point.gate) if inner else x
        result = b.dot(start, self.state, False, not left)
        for gate in (outer, self.scalar):
            if gate is not None:
                result = gate.since_start(point.gate) * result
        for (g, _), key, value in zip(self._slots, self._keys, self._values, strict=True):
            if value is None:
                continue
            y, z = (value, key) if left else (key, value)
            if outer is None:
                result = result + b.dot(self._gram_with_own(x, point, y, g, left), z)
                continue
            result = result + self._apply(self._gram(x, point, y, g, left), z, point, g, left)
            own = self._own(x, point, y, g, left)
            if own is not None:
                result = result + own * (z * outer.between(g, point.gate))
        return result

    def read(self, vector: Expr, version: int, left: bool, lag: int = 0) -> Tile:
        """S vector, or S^T vector with `left`, at a version of the state, `lag` tokens ago: [tokens, n]."""
        if version not in self._versions:
            raise UnsupportedForm(f"version {version} of {self._form.state} is inside a step", vector.span)
        f = self._versions.index(version)
        if lag:
            if lag > 1 or f != len(self._form.steps):
                raise UnsupportedForm(
                    "a state read some tokens ago is known only where it is the state as this token began", vector.span
                )
            f = 0  # the last version of the token before
        x = self._query(vector, self._rows if left else self._cols, lag)
        if self._as_scan(left):
            return self._read_scan(x, f, left)
        return self._read(x, _Point(f, f), left)

    @property
    def outgoing(self) -> Tile:
        """The state after the last token."""
        b = self.b
        result = self.state
        for gate, transposed in ((self.rows, True), (self.cols, False), (self.scalar, False)):
            if gate is not None:
                result = result * (gate.whole.T if transposed else gate.whole)
        for (g, _), key, value in zip(self._slots, self._keys, self._values, strict=True):
            assert value is not None
            for gate in (self.cols, self.scalar):
                if gate is not None:
                    key = key * gate.to_end(g)
            if self.rows is not None:
                value = value * self.rows.to_end(g)
            result = result + b.dot(value, key, True, False)
        return result

    # ------------------------------------------------------------------------------------------------ vector states

    def _as_scan(self, left: bool) -> bool:
        """A vector state that is read entry by entry is scanned: no pairs of tokens."""
        if any(w.read is not None for _, w in self._slots) or 1 not in (self._rows, self._cols):
            return False
        contracted = self._rows if left else self._cols
        return contracted == 1 or self.cols is not None or self.rows is not None

    def _read_scan(self, x: Tile, f: int, left: bool) -> Tile:
        b = self.b
        gates = [gate for gate in (self.rows, self.cols, self.scalar) if gate is not None]
        width = self._cols if self._rows == 1 else self._rows
        shape = (TOKENS, width)
        m = len(self._form.steps)

        def over(low: int, high: int) -> Tile:
            total = b.const(1.0)
            for gate in gates:
                total = total * gate.between(low, high)
            return b.expand(total, shape)

        def written(until: int) -> Tile:
            total = b.zeros(shape)
            for (g, _), key, value in zip(self._slots, self._keys, self._values, strict=True):
                assert value is not None
                if g <= until:
                    total = total + key * value * over(g, until)
            return total

        start = self.state if self._rows == 1 else self.state.T
        decay = over(0, m)
        history = b.make("scan", (decay, written(m)), False) + b.make("cumprod", (decay,), False) * start
        if f < m:
            previous = (
                b.shift(b.make("scan", (decay, written(m)), False), 0.0, 1)
                + b.shift(b.make("cumprod", (decay,), False), 1.0, 1) * start
            )
            history = previous * over(0, f) + written(f)
        return history * x if (self._rows if left else self._cols) == 1 else b.sum(history * x, 1)
