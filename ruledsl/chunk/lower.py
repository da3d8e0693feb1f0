"""Typed expressions as tiles.

A token's scalar, vector or row is one row of a tile [tokens, n] ([1, n] if no token changes it). A matrix is a tile
[n, m] only when no token changes it; a matrix of each token is never formed, but its product with a vector is
(`act`), where the matrix is made of parts whose products are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial, reduce

from ruledsl.algebra.verdict import TokenForm
from ruledsl.chunk import rowwise
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.dims import normal
from ruledsl.chunk.program import Port, PortKind, Rows
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.lang import typed
from ruledsl.lang.functions import TABLE
from ruledsl.lang.typed import Dim, DimOp, Expr, Role, Type

_TOKEN_MATRIX = "a matrix that changes with every token is no tile; only its product with a vector can be taken"


class Lowering:
    """Makes tiles of expressions. `read` gives the tile of a named state read some tokens ago, `frozen` the tile of a frozen state."""

    def __init__(
        self,
        builder: Builder,
        rule: typed.Rule,
        token: TokenForm,
        sizes: Mapping[str, int],
        read: Callable[[str, int], Tile],
        frozen: Callable[[typed.Frozen, int | None], Tile],
    ) -> None:
        self.b = builder
        self._rule = rule
        self._sizes = sizes
        self._read = read
        self._frozen = frozen
        self._named: dict[str, Expr] = {s.name: s.value for s in rule.body if isinstance(s, typed.Let)}
        self._named |= {let.name: let.value for let in token.lets} | {out.name: out.value for out in token.outputs}
        self._lets: dict[tuple[str, int], Tile] = {}
        self._acted: dict[tuple[str, Tile, bool, int], Tile] = {}

    # ------------------------------------------------------------------------------------------------ entry points

    def row(self, e: Expr, lag: int = 0) -> Tile:
        """A scalar, vector or row of each token, [tokens | 1, n], `lag` tokens ago."""
        assert not e.type.is_matrix and not e.type.family, f"{e} is no row"
        tile = self._tile(e, lag)
        return self.b.expand(tile, (tile.shape[0], self.width(e.type)))

    def matrix(self, e: Expr, lag: int = 0) -> Tile:
        """A matrix that is the same for every token, [n, m]."""
        tile = self._tile(e, lag)
        if any(isinstance(axis, Rows) for axis in tile.shape):
            raise UnsupportedForm(_TOKEN_MATRIX, e.span)
        return self.b.expand(tile, (self.dim(e.type.rows), self.dim(e.type.cols)))

    def act(self, m: Expr, x: Tile, transposed: bool = False, lag: int = 0) -> Tile:
        """m x, or m^T x, for the vectors x [tokens | 1, n], without forming a matrix for each token."""
        b = self.b
        b.spend(m.span)
        match m:
            case typed.Transpose(operand):
                return self.act(operand, x, not transposed, lag)
            case typed.Diag(operand):
                return self.row(operand, lag) * x
            case typed.Eye():
                return x
            case typed.Ones(type):
                return b.expand(b.sum(x, 1), (x.shape[0], self.dim(type.cols if transposed else type.rows)))
            case typed.Product(left, right) if m.kind == "outer":
                inner, outer = (left, right) if transposed else (right, left)
                return self.row(outer, lag) * b.sum(self.row(inner, lag) * x, 1)
            case typed.Product(left, right):
                first, second = (left, right) if transposed else (right, left)
                return self.act(second, self.act(first, x, transposed, lag), transposed, lag)
            case typed.Apply("add" | "sub" | "neg", args):
                return b.apply(m.fn, *(self.act(a, x, transposed, lag) for a in args))
            case typed.Apply("mul", (left, right)) if left.type.is_scalar or right.type.is_scalar:
                scale, matrix = (left, right) if left.type.is_scalar else (right, left)
                return self.row(scale, lag) * self.act(matrix, x, transposed, lag)
            case typed.Apply("div", (matrix, scale)) if scale.type.is_scalar:
                return self.act(matrix, x, transposed, lag) / self.row(scale, lag)
            case typed.Apply("where", (typed.Compare(op, p, q), left, right)) if p.type.is_scalar and q.type.is_scalar:
                return b.select(
                    op,
                    self.row(p, lag),
                    self.row(q, lag),
                    self.act(left, x, transposed, lag),
                    self.act(right, x, transposed, lag),
                )
            case typed.Ref(name, Role.LET, lag=None):
                key = name, x, transposed, lag
                if key not in self._acted:
                    self._acted[key] = self.act(self._named[name], x, transposed, lag)
                return self._acted[key]
            case _:
                return b.dot(x, self.matrix(m, lag), False, not transposed)

    # ------------------------------------------------------------------------------------------------ sizes

    def dim(self, dim: Dim) -> Dim:
        return normal(dim, self._sizes)

    def width(self, type: Type) -> Dim:
        return self.dim(type.rows if type.cols == 1 else type.cols)

    def size(self, dim: Dim) -> Tile:
        """The number that a size stands for."""
        match self.dim(dim):
            case int(n):
                return self.b.const(n)
            case str(name):
                return self.b.input(Port(name, PortKind.SIZE), (1, 1))
            case DimOp(op, left, right):
                return self.b.apply(
                    {"+": "add", "-": "sub", "*": "mul", "/": "div"}[op], self.size(left), self.size(right)
                )

    def integer(self, e: Expr) -> int:
        """A number that the rule fixes."""
        match e:
            case typed.Number(value) if float(value).is_integer():
                return int(value)
            case typed.SizeOf(dim) if isinstance(n := self.dim(dim), int):
                return n
            case typed.Ref(name, Role.CONST) if (init := self._rule.symbol(name).init) is not None:
                return self.integer(init)
            case _:
                raise UnsupportedForm("this number has to be fixed by the rule", e.span)

    def position(self) -> Tile:
        return self.b.input(Port("t", PortKind.POSITION), (Rows(1), 1))

    def _started(self, lag: int, then: Tile, now: Tile) -> Tile:
        """`then`, the value `lag` tokens ago, or `now` where there is no such token: those rows are not used, and
        computing them from a real token keeps infinities, and so the gradients of params, out of them."""
        return self.b.select(">=", self.position(), float(lag), then, now) if lag else now

    # ------------------------------------------------------------------------------------------------ expressions

    def _tile(self, e: Expr, lag: int) -> Tile:
        b = self.b
        b.spend(e.span)
        match e:
            case typed.Number(value):
                return b.const(value)
            case typed.SizeOf(dim):
                return self.size(dim)
            case typed.Builtin("t"):
                return self._started(lag, self.position() - float(lag), self.position())
            case typed.Builtin(name):
                return b.input(Port(name, PortKind.HEAD if name == "head" else PortKind.HEADS), (1, 1))
            case typed.Ref():
                return self._ref(e, (), lag)
            case typed.Member():
                return self._member(e, lag)
            case typed.Apply("where", (typed.Compare(op, p, q), x, y)):
                return b.select(op, *self._alike(e, (p, q, x, y), lag))
            case typed.Apply("max" | "min" as fn, args):
                return reduce(partial(b.apply, fn), (self._tile(a, lag) for a in args))
            case typed.Apply(fn, args):
                assert TABLE[fn].kind == "map", fn
                return b.apply(fn, *self._alike(e, args, lag))
            case typed.RowWise(fn, operand, count=count):
                n = self.size(operand.type.cols if operand.type.is_matrix else self.width(operand.type))
                return rowwise.apply(
                    b, fn, self._tile(operand, lag), n, self.integer(count) if count is not None else None
                )
            case typed.Reduce(fn, operand):
                return self._reduce(fn, operand, lag)
            case typed.Product(left, right):
                return self._product(e, left, right, lag)
            case typed.Transpose(operand):
                return self._tile(operand, lag).T if operand.type.is_matrix else self.row(operand, lag)
            case typed.Diag(operand):
                return b.make("diagonal", (self._fixed(operand, lag),))
            case typed.Eye(type):
                return b.eye(self.dim(type.rows))
            case typed.Ones(type):
                return b.full(
                    1.0, (self.dim(type.rows), self.dim(type.cols)) if type.is_matrix else (1, self.width(type))
                )
            case typed.Concat(parts):
                if e.type.is_matrix:
                    return b.cat([self.matrix(p, lag).T for p in parts]).T
                return b.cat([self.row(p, lag) for p in parts])
            case typed.Kron(left, right):
                return self._kron(e, left, right, lag)
            case typed.Rotate(operand, angle):
                return self._rotate(operand, angle, lag)
            case typed.Frozen():
                return self._held(e, None, lag)
            case typed.Solve():
                raise UnsupportedForm("solve needs a matrix for each token", e.span)
            case typed.StateRef():
                raise UnsupportedForm(
                    f"{e.name} is read as a whole; only its products with vectors can be taken chunk by chunk", e.span
                )
            case typed.Compare() | typed.LoopVar() | typed.Total() | typed.Grad():
                raise AssertionError(f"{e} in an unrolled rule")

    def _alike(self, e: Expr, args: Iterable[Expr], lag: int) -> list[Tile]:
        """The tiles of an element-wise operation's arguments: matrices do not mix with values of a token."""
        tiles = [self._tile(a, lag) for a in args]
        if e.type.is_matrix and any(t.shape[0] == Rows(1) for t in tiles):
            raise UnsupportedForm(_TOKEN_MATRIX, e.span)
        return tiles

    def _ref(self, e: typed.Ref, member: tuple[int, ...], lag: int) -> Tile:
        own = self.integer(e.lag) if e.lag is not None else 0
        type = e.type
        if len(type.family) > len(member):
            raise UnsupportedForm(f"{e.name} is a family; only its members are tiles", e.span)
        match e.role:
            case Role.INPUT:
                if type.is_matrix:
                    raise UnsupportedForm(f"input {e.name} is a matrix for every token, which is no tile", e.span)
                shape = Rows(1), self.width(type)
                now, then = (self.b.input(Port(e.name, PortKind.INPUT, member, j), shape) for j in (own, lag + own))
                return self._started(lag, then, now)
            case Role.PARAM:
                return self._param(Port(e.name, PortKind.PARAM, member), type)
            case Role.CONST:
                init = self._rule.symbol(e.name).init
                if init is not None:
                    return self._tile(init, lag)
                return self.b.apply("stopgrad", self._param(Port(e.name, PortKind.PARAM, member), type))
            case Role.READ:
                value = self._read(e.name, lag + own)
                return self.b.select(">=", self.position(), float(lag + own), value, 0.0) if own else value
            case Role.LET | Role.OUTPUT:
                key = (e.name, lag + own)
                if key not in self._lets:
                    value = self._tile(self._named[e.name], lag + own)
                    self._lets[key] = (
                        self.b.select(">=", self.position(), float(lag + own), value, 0.0) if own else value
                    )
                return self._lets[key]
            case Role.STATE:
                raise UnsupportedForm(
                    f"{e.name} is read as a whole; only its products with vectors can be taken chunk by chunk", e.span
                )

    def _param(self, port: Port, type: Type) -> Tile:
        shape = (self.dim(type.rows), self.dim(type.cols)) if type.is_matrix else (1, self.width(type))
        return self.b.input(port, shape)

    def _member(self, e: typed.Member, lag: int) -> Tile:
        index = self.integer(e.index)
        if not e.base.type.family:
            return self.b.cut(self.row(e.base, lag), normal(index - 1), 1)
        members, base = [index], e.base
        while isinstance(base, typed.Member):
            members, base = [self.integer(base.index), *members], base.base
        if isinstance(base, typed.Frozen):
            return self._held(base, members[0], lag)
        if not isinstance(base, typed.Ref) or base.role not in (Role.INPUT, Role.PARAM, Role.CONST):
            raise UnsupportedForm("only inputs and params have members", e.span)
        return self._ref(base, tuple(members), lag)

    def _held(self, e: typed.Frozen, member: int | None, lag: int) -> Tile:
        if lag:
            raise UnsupportedForm("a value at the state of an earlier token's chunk", e.span)
        return self._frozen(e, member)

    def _reduce(self, fn: str, operand: Expr, lag: int) -> Tile:
        b = self.b
        if not operand.type.is_matrix:
            return b.sum(self.row(operand, lag), 1)
        tile = self.matrix(operand, lag)
        if fn == "trace":
            tile = tile * b.eye(tile.shape[0])
        return b.sum(b.sum(tile, 0), 1)

    def _product(self, e: typed.Product, left: Expr, right: Expr, lag: int) -> Tile:
        b = self.b
        match e.kind:
            case "inner":
                return b.sum(self.row(left, lag) * self.row(right, lag), 1)
            case "matvec":
                return self.act(left, self.row(right, lag), False, lag)
            case "vecmat":
                return self.act(right, self.row(left, lag), True, lag)
            case "outer" if not e.type.is_matrix:
                return self.row(left, lag) * self.row(right, lag)
            case "outer":
                return self._fixed(left, lag).T * self._fixed(right, lag)
            case _:
                return b.dot(self.matrix(left, lag), self.matrix(right, lag))

    def _fixed(self, e: Expr, lag: int) -> Tile:
        tile = self.row(e, lag)
        if tile.shape[0] != 1:
            raise UnsupportedForm(_TOKEN_MATRIX, e.span)
        return tile

    def _kron(self, e: Expr, left: Expr, right: Expr, lag: int) -> Tile:
        if left.type.is_matrix or right.type.is_matrix:
            raise UnsupportedForm("kron of matrices is no tile", e.span)
        x, y = self.row(left, lag), self.row(right, lag)
        rows = x.shape[0] if x.shape[0] != 1 else y.shape[0]
        return self.b.make("kron", [self.b.expand(z, (rows, z.shape[1])) for z in (x, y)])

    def _rotate(self, operand: Expr, angle: Expr, lag: int) -> Tile:
        b = self.b
        x, th = self.row(operand, lag), self.row(angle, lag)
        first, second = b.make("pairs", (x,), 0), b.make("pairs", (x,), 1)
        cos, sin = b.apply("cos", th), b.apply("sin", th)
        turned = first * cos - second * sin, first * sin + second * cos
        return b.make("unpairs", turned)
