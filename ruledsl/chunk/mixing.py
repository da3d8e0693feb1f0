"""Products of the small matrices by which tokens mix coupled states, inside a chunk.

P_t is n x n, its entries one number per token. Only sums of products of entries are formed, so that they may be 0 or
negative. What is asked for between tokens s < t:

    between(i, j)[t, s]    entry (i, j) of P_{t-1} .. P_{s+1}
    before(i, j)[t]        of P_{t-1} .. P_0, from the start of the chunk
    after(i, j)[s]         of P_{C-1} .. P_{s+1}, to its end
    whole(i, j)            of P_{C-1} .. P_0, one row

States that mix one another in a circle are one system of C*m rows; without circles, as with momentum, each row of
states is a scan over those it depends on. An entry that is 0 for every token is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from ruledsl.algebra.circles import circles
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Rows, Shape

TOKENS = Rows(1)
SQUARE: Shape = (TOKENS, TOKENS)
COLUMN: Shape = (TOKENS, 1)

_Tiles = dict[int, Tile]  # by state; what is left out is 0


class Mixing:
    """`entries`: P by (i, j), tiles [C, 1], without those that are 0."""

    def __init__(self, b: Builder, n: int, entries: Mapping[tuple[int, int], Tile]) -> None:
        self.b = b
        self._entries = {at: b.per_token(x) for at, x in entries.items()}
        self._groups = circles(n, entries)
        self._between = cache(self._columns)  # of what was written, often to few of the states
        self._prefix = cache(self._products)
        self._after = cache(self._suffix)

    def between(self, i: int, j: int) -> Tile | None:
        return self._between(j).get(i)

    def before(self, i: int, j: int) -> Tile | None:
        return self._prefix(j)[0].get(i)

    def after(self, i: int, j: int) -> Tile | None:
        return self._after(i).get(j)

    def whole(self, i: int, j: int) -> Tile | None:
        found = self._prefix(j)[1].get(i)
        return None if found is None else self.b.last(found)

    # ------------------------------------------------------------------------------------------------ the three kinds

    def _columns(self, j: int) -> _Tiles:
        b = self.b

        def alone() -> tuple[Tile | None, Tile]:
            return None, b.make("spans", (self._entries[j, j],)) if (j, j) in self._entries else self._next()

        def circle(group: Sequence[int], sources: _Tiles) -> _Tiles:
            start = {j: b.eye(TOKENS)} if j in group else {}
            return self._solved(group, {**sources, **start}, SQUARE, False)

        return self._run(j, SQUARE, alone, circle, lambda i, x: b.shift(x, 0.0, 1))[0]

    def _products(self, j: int) -> tuple[_Tiles, _Tiles]:
        """Column j of the products from the start: before each token, and with it."""
        b = self.b
        first = b.shift(b.zeros(COLUMN), 1.0, 1)

        def alone() -> tuple[Tile | None, Tile]:
            if (j, j) not in self._entries:
                return None, first
            running = b.make("cumprod", (self._entries[j, j],), False)
            return running, b.shift(running, 1.0, 1)

        def circle(group: Sequence[int], sources: _Tiles) -> _Tiles:
            start = {i: first * self._entries[i, j] for i in group if j in group and (i, j) in self._entries}
            return self._solved(group, {**sources, **start}, COLUMN, False)

        return self._run(j, COLUMN, alone, circle, lambda i, x: b.shift(x, float(i == j), 1))

    def _run(
        self,
        j: int,
        shape: Shape,
        alone: Callable[[], tuple[Tile | None, Tile]],
        circle: Callable[[Sequence[int], _Tiles], _Tiles],
        moved: Callable[[int, Tile], Tile],
    ) -> tuple[_Tiles, _Tiles]:
        """What state j gives to the others, group by group in order of dependence: `moved` takes h_t = sum_k P_t h_{t-1} to
        the token after. Both; `alone` may leave h out."""
        found: _Tiles = {}
        through: _Tiles = {}
        for group in self._groups:
            sources: _Tiles = {}
            for i in group:
                given = [self._entries[i, k] * x for k, x in found.items() if (i, k) in self._entries]
                if given:
                    sources[i] = _sum(given)
            if len(group) == 1 and j in group:
                own, found[j] = alone()
                through |= {} if own is None else {j: own}
                continue
            made: _Tiles = {}
            if len(group) == 1 and sources:
                made = {group[0]: self._scan(group[0], sources[group[0]], shape, False)}
            elif len(group) > 1 and (sources or j in group):
                made = circle(group, sources)
            through |= made
            found |= {i: moved(i, x) for i, x in made.items()}
        return found, through

    def _suffix(self, i: int) -> _Tiles:
        """Row i of the products to the end, in the opposite order."""
        b = self.b
        final = b.shift(b.zeros(COLUMN), 1.0, -1)
        found: _Tiles = {}
        for group in reversed(self._groups):
            sources: _Tiles = {}
            for j in group:
                given = [x * self._entries[k, j] for k, x in found.items() if (k, j) in self._entries]
                if given:
                    sources[j] = _sum(given)
            if len(group) == 1 and i in group:
                found[i] = (
                    b.shift(b.make("cumprod", (self._entries[i, i],), True), 1.0, -1)
                    if (i, i) in self._entries
                    else final
                )
            elif len(group) == 1 and sources:
                (j,) = group
                found[j] = b.shift(self._scan(j, sources[j], COLUMN, True), 0.0, -1)
            elif len(group) > 1 and (sources or i in group):
                start = {j: b.shift(x, 0.0, -1) for j, x in sources.items()}
                found |= self._solved(group, start | ({i: final} if i in group else {}), COLUMN, True)
        return found

    # ------------------------------------------------------------------------------------------------ steps

    def _scan(self, i: int, x: Tile, shape: Shape, reverse: bool) -> Tile:
        """h_t = P_ii h_{t-1} + x_t, or back from the end."""
        b = self.b
        if (i, i) not in self._entries:
            return b.expand(x, shape)
        return b.make("scan", (b.expand(self._entries[i, i], shape), b.expand(x, shape)), reverse)

    def _next(self) -> Tile:
        """1 where s is the token before t."""
        return self.b.shift(self.b.eye(TOKENS), 0.0, 1)

    def _solved(self, group: Sequence[int], x: _Tiles, shape: Shape, adjoint: bool) -> _Tiles:
        """h_t = P_t h_{t-1} + x_t over the states of a circle; `adjoint`: h_s = P_{s+1}^T h_{s+1} + x_s."""
        b = self.b
        zero = b.zeros(SQUARE)
        tiles = [self._next() * self._entries[i, k] if (i, k) in self._entries else zero for i in group for k in group]
        right = b.make("interleave", [b.expand(x[i], shape) if i in x else b.zeros(shape) for i in group])
        solved = b.solve(b.make("blocks", tiles, len(group)), right, adjoint)
        return {i: b.make("slot", (solved,), place) for place, i in enumerate(group)}


def _sum(tiles: Sequence[Tile]) -> Tile:
    total = tiles[0]
    for tile in tiles[1:]:
        total = total + tile
    return total
