"""Chunk programs made by hand: a matrix state with and without decay, with and without a read."""

from __future__ import annotations

from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Port, PortKind, Program, Result, ResultKind, Rows

TOKENS = Rows(1)


def matrix_state(decay: str = "", reads: bool = False, param: bool = False) -> Program:
    """S <- D S + z k^T with D nothing, a scalar or a diagonal (`decay` "", "scalar", "diagonal"); z is v, or b*(v - S k)."""
    b = Builder()

    def token(name: str, columns: str | int) -> Tile:
        return b.input(Port(name, PortKind.INPUT), (TOKENS, columns))

    valid = b.input(Port("", PortKind.VALID), (TOKENS, 1))
    q, k, v = token("q", "K"), token("k", "K") * valid, token("v", "V")
    state = b.input(Port("S", PortKind.STATE), ("V", "K"))
    if param:
        q = q * b.apply("sigmoid", b.input(Port("p", PortKind.PARAM), (1, "K")))
    q = q / b.apply("sqrt", b.input(Port("K", PortKind.SIZE), (1, 1)))

    g = None
    if decay:
        raw = token("a", "K" if decay == "diagonal" else 1)
        g = b.make("cumsum", (b.apply("logsigmoid", raw) * valid,), False)

    def pairs(x: Tile, y: Tile, kind: str) -> Tile:
        if g is None:
            return b.mask(b.dot(x, y, tb=True), kind)
        if decay == "diagonal":
            return b.make("gram", (x, y, g, g), kind)
        return b.dot(x, y, tb=True) * b.make("mexp", (b.expand(g, (TOKENS, TOKENS)) - g.T,), kind)

    def read(x: Tile) -> Tile:
        return b.dot(x if g is None else x * b.apply("exp", g), state, tb=True)

    z, w = v, k
    if reads:
        w = b.cast(b.apply("sigmoid", token("b", 1)) * k)
        z = b.solve(-pairs(k, w, "strict"), v - read(k))
    o = read(q) + b.dot(pairs(q, w, "incl"), z)
    if g is None:
        leaving = state + b.dot(z, w, ta=True)
    else:
        end = b.last(g)
        leaving = state * b.apply("exp", end) + b.dot(z, w * b.apply("exp", end - g), ta=True)
    return b.program(
        [(Result("o", ResultKind.OUTPUT, 0), o), (Result("S", ResultKind.STATE, 0, Port("S", PortKind.STATE)), leaving)]
    )
