"""One token of an unrolled rule as a program: the form that every rule has, sequential ones too.

A token's scalar, vector or row is a tile [1, n], a matrix [n, m]; there is no token axis. Everything that one token
hands to the next is a state: declared states, member by member; `prev.NAME`, a family of the last values of an input,
let or output, oldest first; `frozen.NAME.CHUNK`, the copy of a state from the start of its chunk. A product with a
matrix of known structure (identity, diagonal, outer product, sums of these) is taken without forming the matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial, reduce
from itertools import product
from typing import assert_never

from ruledsl.algebra.calculus import NoDerivative, expand
from ruledsl.chunk import rowwise
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.dims import normal
from ruledsl.chunk.program import Port, PortKind, Program, Result, ResultKind, Shape
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.lang import typed
from ruledsl.lang.functions import TABLE
from ruledsl.lang.source import NOWHERE
from ruledsl.lang.typed import Dim, DimOp, Expr, Role, Type, dim_value

Members = tuple[int, ...]  # of a family, from 1
MOST_VALUES = 32  # looked back at, of one name
_NO_MEMBER: Members = ()


def prev_name(name: str) -> str:
    """The state that holds the last values of `name`."""
    return f"prev.{name}"


def frozen_name(name: str, chunk: int) -> str:
    """The state that holds the copy of `name` from the start of its chunk."""
    return f"frozen.{name}.{chunk}"


def token_program(
    rule: typed.Rule, sizes: Mapping[str, int], lags: Mapping[str, int], frozen: Iterable[tuple[str, int]]
) -> Program:
    """The program of one token. `sizes` are the numbers of family sizes, the others stay symbols; `lags` says how far
    each name is looked back at, `frozen` which states are copied for chunks of which length. Raises UnsupportedForm."""
    try:
        return _Token(expand(rule), sizes, lags, tuple(frozen)).program()
    except NoDerivative as e:
        raise UnsupportedForm(str(e), e.span) from None
    except RecursionError:
        raise UnsupportedForm("the rule is nested too deeply for tiles") from None


class _Token:
    def __init__(
        self, rule: typed.Rule, sizes: Mapping[str, int], lags: Mapping[str, int], frozen: tuple[tuple[str, int], ...]
    ) -> None:
        self.b = Builder()
        self._rule, self._sizes, self._lags, self._frozen = rule, sizes, lags, frozen
        self._types: dict[str, Type] = {s.name: s.type for s in rule.symbols}
        self._named: dict[str, Expr] = {}
        self._values: dict[tuple[str, Members], Tile] = {}  # lets and outputs
        self._versions: dict[tuple[str, Members], list[Tile]] = {}
        self._copies: dict[tuple[str, int, Members], Tile] = {}
        self._acted: dict[tuple[str, Tile, bool, Members], Tile] = {}
        self._plain: dict[str, bool] = {}  # lets whose value has a structure worth using

    def program(self) -> Program:
        states = self._rule.of(Role.STATE)
        for name in self._lags:
            if self._lags[name] > MOST_VALUES:
                raise UnsupportedForm(
                    f"`{name}` is looked back at over {self._lags[name]} tokens, kernels hold {MOST_VALUES}"
                )
        for s in states:
            for members in self._indices(s.type):
                self._versions[s.name, members] = [self._state(s.name, members, s.type)]
        for name, chunk in self._frozen:
            self._freeze(name, chunk)
        outputs = [self._statement(s) for s in self._rule.body]
        results: list[tuple[Result, Tile]] = [pair for found in outputs for pair in found]
        for s in states:
            results += [
                self._leaving(s.name, members, self._versions[s.name, members][-1]) for members in self._indices(s.type)
            ]
        for name in self._lags:
            results += self._ring(name)
        for name, chunk in self._frozen:
            results += [
                self._leaving(frozen_name(name, chunk), members, self._copies[name, chunk, members])
                for members in self._indices(self._types[name])
            ]
        for o in self._rule.outputs:
            self._types[o.name] = o.value.type
        return self.b.program(results, tuple(self._types.items()))

    # ------------------------------------------------------------------------------------------------ states

    def _state(self, name: str, members: Members, type: Type) -> Tile:
        self.b.spend(NOWHERE)
        return self.b.input(Port(name, PortKind.STATE, members), self._shape(type))

    def _leaving(self, name: str, members: Members, tile: Tile) -> tuple[Result, Tile]:
        return Result(name, ResultKind.STATE, 0, Port(name, PortKind.STATE, members)), tile

    def _freeze(self, name: str, chunk: int) -> None:
        type = self._types[name]
        self._types[frozen_name(name, chunk)] = type
        inside = self.b.apply("mod", self._position(), float(chunk))
        for members in self._indices(type):
            old = self._state(frozen_name(name, chunk), members, type)
            self._copies[name, chunk, members] = self.b.select("==", inside, 0.0, self._versions[name, members][0], old)

    def _ring(self, name: str) -> list[tuple[Result, Tile]]:
        """The last values of a name after this token, oldest first."""
        type, lag = self._type_of(name), self._lags[name]
        own = prev_name(name)
        self._types[own] = Type(type.rows, type.cols, (lag, *type.family))
        results = []
        for members in self._indices(type):
            kept = [self._state(own, (slot, *members), type) for slot in range(2, lag + 1)]
            for slot, tile in enumerate([*kept, self._now(name, members, type)], 1):
                results.append(self._leaving(own, (slot, *members), tile))
        return results

    def _now(self, name: str, members: Members, type: Type) -> Tile:
        if (name, members) in self._values:
            return self._values[name, members]
        return self.b.input(Port(name, PortKind.INPUT, members), self._shape(type))

    def _type_of(self, name: str) -> Type:
        return self._types[name] if name in self._types else self._named[name].type

    # ------------------------------------------------------------------------------------------------ statements

    def _statement(self, statement: typed.Statement) -> list[tuple[Result, Tile]]:
        match statement:
            case typed.Let(name, value) | typed.Output(name, value):
                self._named[name] = value
                for members in self._indices(value.type):
                    self._values[name, members] = self._whole(value, value.type, members)
                if isinstance(statement, typed.Let):
                    return []
                return [
                    (
                        Result(name, ResultKind.OUTPUT, 0, Port(name, PortKind.COTANGENT, m) if m else None),
                        self._values[name, m],
                    )
                    for m in self._indices(value.type)
                ]
            case typed.Assign(state, member, value):
                type = self._types[state]
                places = list(self._indices(type)) if member is None else [(self._integer(member),)]
                for members in places:
                    own = members if value.type.family else _NO_MEMBER
                    self._versions[state, members].append(self._whole(value, type, own))
                return []
            case typed.For():
                raise AssertionError("a loop in an unrolled rule")
            case _:
                assert_never(statement)

    def _whole(self, e: Expr, type: Type, members: Members) -> Tile:
        return self.b.expand(self._tile(e, members), self._shape(type))

    # ------------------------------------------------------------------------------------------------ sizes

    def _dim(self, dim: Dim) -> Dim:
        return normal(dim, self._sizes)

    def _width(self, type: Type) -> Dim:
        return self._dim(type.rows if type.cols == 1 else type.cols)

    def _shape(self, type: Type) -> Shape:
        return (self._dim(type.rows), self._dim(type.cols)) if type.is_matrix else (1, self._width(type))

    def _indices(self, type: Type) -> Iterable[Members]:
        return product(*(range(1, dim_value(n, self._sizes) + 1) for n in type.family))

    def _size(self, dim: Dim) -> Tile:
        match self._dim(dim):
            case int(n):
                return self.b.const(n)
            case str(name):
                return self.b.input(Port(name, PortKind.SIZE), (1, 1))
            case DimOp(op, left, right):
                row = {"+": "add", "-": "sub", "*": "mul", "/": "div"}[op]
                return self.b.apply(row, self._size(left), self._size(right))

    def _integer(self, e: Expr) -> int:
        match e:
            case typed.Number(value) if float(value).is_integer():
                return int(value)
            case typed.SizeOf(dim) if isinstance(n := self._dim(dim), int):
                return n
            case typed.Ref(name, Role.CONST) if (init := self._rule.symbol(name).init) is not None:
                return self._integer(init)
            case _:
                raise UnsupportedForm("this number has to be fixed by the rule", e.span)

    def _position(self) -> Tile:
        return self.b.input(Port("t", PortKind.POSITION), (1, 1))

    # ------------------------------------------------------------------------------------------------ expressions

    def _row(self, e: Expr, members: Members = _NO_MEMBER) -> Tile:
        """A scalar, vector or row as [1, n]."""
        assert not e.type.is_matrix, f"{e} is no row"
        return self.b.expand(self._tile(e, members), (1, self._width(e.type)))

    def _matrix(self, e: Expr, members: Members = _NO_MEMBER) -> Tile:
        return self.b.expand(self._tile(e, members), (self._dim(e.type.rows), self._dim(e.type.cols)))

    def _tile(self, e: Expr, members: Members = _NO_MEMBER) -> Tile:
        """The tile of an expression, of one member if it is a family."""
        self.b.spend(e.span)
        members = members if e.type.family else _NO_MEMBER
        b, tile = self.b, partial(self._tile, members=members)
        match e:
            case typed.Number(value):
                return b.const(value)
            case typed.SizeOf(dim):
                return self._size(dim)
            case typed.Builtin("t"):
                return self._position()
            case typed.Builtin(name):
                return b.input(Port(name, PortKind.HEAD if name == "head" else PortKind.HEADS), (1, 1))
            case typed.Ref():
                return self._ref(e, members)
            case typed.StateRef(name, _, version, member):
                assert version is not None, f"{e} in an unrolled rule"
                return self._versions[name, members if member is None else (member,)][version]
            case typed.Frozen(name, _, chunk):
                return self._copies[name, self._integer(chunk), members]
            case typed.Member(base, index):
                if base.type.family:
                    return self._tile(base, (self._integer(index), *members))
                return b.cut(self._row(base), normal(self._integer(index) - 1), 1)
            case typed.Apply("where", (typed.Compare(op, p, q), x, y)):
                return b.select(op, tile(p), tile(q), tile(x), tile(y))
            case typed.Apply("max" | "min" as fn, args):
                return reduce(partial(b.apply, fn), (tile(a) for a in args))
            case typed.Apply(fn, args):
                assert TABLE[fn].kind == "map", fn
                return b.apply(fn, *(tile(a) for a in args))
            case typed.RowWise(fn, x, count=count):
                n = self._size(x.type.cols if x.type.is_matrix else self._width(x.type))
                return rowwise.apply(
                    b, fn, self._whole(x, x.type, members), n, None if count is None else self._integer(count)
                )
            case typed.Reduce(fn, x):
                return self._reduce(fn, x, members)
            case typed.Product(left, right):
                return self._product(e, left, right, members)
            case typed.Transpose(x):
                return tile(x).T if x.type.is_matrix else self._row(x, members)
            case typed.Diag(x):
                return b.make("diagonal", (self._row(x, members),))
            case typed.Eye(type):
                return b.eye(self._dim(type.rows))
            case typed.Ones(type):
                return b.full(1.0, self._shape(type))
            case typed.Concat(parts):
                if e.type.is_matrix:
                    return b.cat([self._matrix(p, members).T for p in parts]).T
                return b.cat([self._row(p, members) for p in parts])
            case typed.Kron(left, right):
                if left.type.is_matrix or right.type.is_matrix:
                    raise UnsupportedForm("kron of matrices is no tile", e.span)
                return b.make("kron", (self._row(left, members), self._row(right, members)))
            case typed.Rotate(x, angle):
                return self._rotate(self._row(x, members), self._row(angle, members))
            case typed.Solve():
                raise UnsupportedForm("solve has no form in a kernel for single tokens", e.span)
            case typed.Compare() | typed.LoopVar() | typed.Total() | typed.Grad():
                raise AssertionError(f"{e} in an unrolled rule")
            case _:
                assert_never(e)

    def _ref(self, e: typed.Ref, members: Members) -> Tile:
        if e.lag is not None and (lag := self._integer(e.lag)):
            slot = self._lags[e.name] - lag + 1
            return self._state(prev_name(e.name), (slot, *members), e.type)
        match e.role:
            case Role.INPUT | Role.PARAM:
                kind = PortKind.INPUT if e.role is Role.INPUT else PortKind.PARAM
                return self.b.input(Port(e.name, kind, members), self._shape(e.type))
            case Role.CONST:
                init = self._rule.symbol(e.name).init
                if init is not None:
                    return self.b.expand(self._tile(init, members), self._shape(e.type))
                port = Port(e.name, PortKind.PARAM, members)
                return self.b.apply("stopgrad", self.b.input(port, self._shape(e.type)))
            case Role.LET | Role.OUTPUT:
                return self._values[e.name, members]
            case Role.STATE | Role.READ:
                raise AssertionError(f"{e} in an unrolled rule")

    def _reduce(self, fn: str, x: Expr, members: Members) -> Tile:
        tile = self._whole(x, x.type, members)
        if fn == "trace" and x.type.is_matrix:
            tile = tile * self.b.eye(tile.shape[0])
        return self.b.sum(self.b.sum(tile, 0), 1)

    def _rotate(self, x: Tile, angle: Tile) -> Tile:
        b = self.b
        first, second = b.make("pairs", (x,), 0), b.make("pairs", (x,), 1)
        cos, sin = b.apply("cos", angle), b.apply("sin", angle)
        return b.make("unpairs", (first * cos - second * sin, first * sin + second * cos))

    # ------------------------------------------------------------------------------------------------ products

    def _product(self, e: typed.Product, left: Expr, right: Expr, members: Members) -> Tile:
        b = self.b
        match e.kind:
            case "inner":
                return b.sum(self._row(left, members) * self._row(right, members), 1)
            case "matvec":
                return self._act(left, self._row(right, members).T, False, members).T
            case "vecmat":
                return self._act(right, self._row(left, members).T, True, members).T
            case "outer":
                x, y = self._row(left, members), self._row(right, members)
                return x.T * y if e.type.is_matrix else x * y
            case _ if self._structured(right) and (isinstance(right, typed.Diag) or not self._structured(left)):
                return self._act(right, self._matrix(left, members).T, True, members).T
            case _ if self._structured(left):
                return self._act(left, self._matrix(right, members), False, members)
            case _:
                return b.dot(self._matrix(left, members), self._matrix(right, members))

    def _act(self, m: Expr, x: Tile, flip: bool, members: Members) -> Tile:
        """m x, or m^T x if `flip`, for a tile x of as many rows as the matrix has columns (rows)."""
        b = self.b
        b.spend(m.span)

        def act(e: Expr, y: Tile = x) -> Tile:
            return self._act(e, y, flip, members)

        one = x.shape[1] == 1
        match m:
            case typed.Transpose(operand):
                return self._act(operand, x, not flip, members)
            case typed.Diag(operand):
                return self._row(operand, members).T * x
            case typed.Eye():
                return x
            case typed.Ones(type):
                return b.expand(b.sum(x, 0), (self._dim(type.cols if flip else type.rows), x.shape[1]))
            case typed.Product(left, right) if m.kind == "outer":
                u, v = (right, left) if flip else (left, right)
                return self._row(u, members).T * b.dot(self._row(v, members), x)
            case typed.Product(left, right) if one or self._structured(m):
                first, second = (left, right) if flip else (right, left)
                return act(second, act(first))
            case typed.Apply("add" | "sub" | "neg", args) if self._structured(m):
                return b.apply(m.fn, *(act(a) for a in args))
            case typed.Apply("mul", (left, right)) if (left.type.is_scalar or right.type.is_scalar) and (
                one or self._structured(m)
            ):
                scale, matrix = (left, right) if left.type.is_scalar else (right, left)
                return self._row(scale, members) * act(matrix)
            case typed.Apply("div", (matrix, scale)) if scale.type.is_scalar and (one or self._structured(m)):
                return act(matrix) / self._row(scale, members)
            case typed.Ref(name, Role.LET, lag=None) if self._structured(m):
                key = name, x, flip, members
                if key not in self._acted:
                    self._acted[key] = act(self._named[name])
                return self._acted[key]
            case _:
                return b.dot(self._matrix(m, members), x, flip, False)

    def _structured(self, m: Expr) -> bool:
        """Is a product with the matrix cheaper taken part by part?"""
        match m:
            case typed.Diag() | typed.Eye() | typed.Ones():
                return True
            case typed.Product(left, right):
                return m.kind == "outer" or self._structured(left) or self._structured(right)
            case typed.Transpose(x):
                return self._structured(x)
            case typed.Apply("add" | "sub" | "neg", args):
                return any(self._structured(a) for a in args)
            case typed.Apply("mul", (left, right)) if left.type.is_scalar or right.type.is_scalar:
                return self._structured(right if left.type.is_scalar else left)
            case typed.Apply("div", (matrix, scale)) if scale.type.is_scalar:
                return self._structured(matrix)
            case typed.Ref(name, Role.LET, lag=None):
                if name not in self._plain:
                    self._plain[name] = m.type.is_matrix and self._structured(self._named[name])
                return self._plain[name]
            case _:
                return False
