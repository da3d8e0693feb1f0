"""A pure program over one chunk of tokens: tensor algebra in SSA.

    Program = Program(nodes, ports, results)      nodes in topological order, args are indices into `nodes`
    Node    = Node(op, args, attr, shape)
    Port    = Port(name, kind, type, lag)         where an `input` node's tile comes from
    Result  = Result(name, kind, node)            what leaves the chunk

Every value is a tile of two axes, rows x cols; batch, head and chunk are outside. An axis is 1, `Rows(m)` (m rows for
each of the chunk's C tokens, token-major) or a size of the rule (`typed.Dim`). Element-wise operations spread axes of 1.

    leaves        input(port)  const(value)  full(value)  eye
    element-wise  map(fn)      a row of lang.functions.TABLE (add, mul, exp, ...), with the arguments of the row: add, mul, max and min
                               take two;   select(op): a op b ? x : y (args a, b, x, y)
                  cast         to the operand dtype of the dots; derivative: identity
                  expand       spread to `shape`
    layout        transpose    cat (columns)   cut(start) (columns, width from `shape`)   pairs(0|1): odd | even columns   unpairs(x, y)
                  kron(x, y)   row by row: cols p*q     diagonal: columns of x on a square's diagonal -- not batched over rows: x is 1 x n
                  unkron(side) its adjoint, args ct, other: ct[t, i*q+j] * other[t, j] summed over j (side 0), * other[t, i] over i (side 1)
                  topk(count)  1 at the `count` largest entries of each row, else 0; no derivative
    reductions    sum(axis)    amax(axis)
    token axis    cumsum(reverse)  cumprod(reverse)  scan(reverse): h_t = a_t h_{t-1} + x_t, args (a, x); reverse: h_t = a_t h_{t+1} + x_t
                  shift(fill, by): row t is row t - by, `fill` outside; by may be negative
                  last: the chunk's last token        put_last: its adjoint
    slots         interleave: m tiles of C rows -> C*m rows      slot(j): back, j from 0
                  blocks(m): m*m tiles C x C -> C*m x C*m (row-major args)      block(i, j): back, from 0
    masks         mask(kind): "strict" s < t, "incl" s <= t, else 0      mexp(kind): exp where the mask holds (masked before exp), else 0
    products      dot(ta, tb)
                  gram(kind): args x, y, gx, gy:  A[t,s] = sum_d x[t,d] y[s,d] exp(gx[t,d] - gy[s,d])   under the mask
                  gram_apply(kind, adjoint): args m, y, gx, gy:  out[t,d] = sum_s m[t,s] y[s,d] exp(gx[t,d] - gy[s,d])
                                             adjoint: out[s,d] = sum_t m[t,s] y[t,d] exp(gx[t,d] - gy[s,d])
                  gx and gy are cumulative log decays: gx[t] <= gy[s] for s < t when no decay exceeds 1; the m of an apply counts
                  only where its mask holds
                  chain_gram, chain_apply(adjoint), chain_gate: the same for a decay tile a that may be 0 or negative: the factor is
                                             prod of a[i,d] over s < i < t (exclusive at both ends, strict mask), no logarithm;
                                             args x, y, a | m, y, a | x, y, a, ct -> d a
                  before, after, whole: of a decay tile a: row t is the product of a[i] over i < t, i > t, all i (one row)
                  running(grows), args l: a decay exp(l) that kernels make the products of themselves (`schedule.by_logarithms`); grows:
                                             it may exceed 1
                  before_gate, after_gate: their adjoints, args a, ct
                  decay_gate(parts, before, after): the sum of `parts` chain_gates and of the other two (0 or 1), args a, then x, y, ct of
                                             each part, then ct of before, of after
                  log_gate(parts, edges): the same times a, with shared rounding; edges (0 or 1): two more tiles, of sums over pairs
                                             of tokens s < t: what a pair has is in the first at t, negative at s, in the second at s
                  spans        scalar decays: a is C x 1, out[t,s] = prod of a[i] over s < i < t for s < t, else 0
                  spans_gate   its adjoint: args spans, a, ct -> d a
    solve         solve(adjoint): args A (strictly lower), B: (I - A)^-1 B, adjoint: (I - A)^-T B
                  inverse: (I - A)^-1, what solve lowers to
    systems       unknown(n): a leaf, the n-th vector that a matrix of each token is applied to, C x k
                  conjugate(steps): args x, y, right: x an unknown and y linear in it, row by row by a symmetric positive
                  definite matrix: what x has to be for y to be `right`, by at most `steps` conjugate-gradient steps (0: by
                  as many as it takes); a constant for derivatives. Nodes made from an unknown have no value of their own
                  implicit(steps): args x, r, u, y: the value of x, a conjugate of u and y that leaves the residual r; the
                  cotangent of r is one more conjugate

An attribute of one part stands alone (`"exp"`, `True`), of several is a tuple in the order given above.
Shapes are checked when a node is made (`build`), and again by `verify`. Not here: kernels, memory, dtypes, batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ruledsl.lang.typed import Dim, DimOp, Type


@dataclass(frozen=True, slots=True)
class Rows:
    """The token axis: `slots` rows for each token of the chunk."""

    slots: int = 1

    def __str__(self) -> str:
        return "C" if self.slots == 1 else f"C*{self.slots}"


Axis = Dim | Rows
Shape = tuple[Axis, Axis]


class PortKind(StrEnum):
    INPUT = "input"  # token input, Rows(1) x n (a scalar: n = 1); families arrive member by member, see `member`
    PARAM = "param"  # 1 x n, or n x m for a matrix; also a const whose value comes with the call
    STATE = "state"  # the incoming state, in the form's orientation
    VALID = "valid"  # Rows(1) x 1: 1 for tokens, 0 for padding
    POSITION = "position"  # Rows(1) x 1: t, from the start of the sequence
    HEAD = "head"  # 1 x 1
    HEADS = "heads"  # 1 x 1
    SIZE = "size"  # 1 x 1: the value of a size; `name` is the size
    COTANGENT = "cotangent"  # of the result of that name


@dataclass(frozen=True, slots=True)
class Port:
    name: str
    kind: PortKind
    member: tuple[int, ...] = ()  # which member of a family, from 1
    lag: int = 0  # the input this many tokens ago, zero before the first


class ResultKind(StrEnum):
    OUTPUT = "output"  # Rows(1) x n
    STATE = "state"  # the outgoing state
    PART = "part"  # of a map that is scanned, see `scan`
    GRADIENT = "gradient"  # of the port: summed over chunks (and batch) where the port's tile is shared by them


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    kind: ResultKind
    node: int
    port: Port | None = None  # of a gradient: what it belongs to; of a state: its port


Attr = None | int | float | str | bool | DimOp | tuple["Attr", ...]


@dataclass(frozen=True, slots=True)
class Node:
    op: str
    args: tuple[int, ...]
    attr: Attr
    shape: Shape


@dataclass(frozen=True, slots=True)
class Program:
    nodes: tuple[Node, ...]
    ports: tuple[Port, ...]  # node `input` has the index of its port as attr
    results: tuple[Result, ...]
    types: tuple[tuple[str, Type], ...] = ()  # declared types of inputs, params, states and outputs, for the caller
    chunk: int | None = None  # the only chunk length it is right for (states are frozen), from position 0 on; None: any
    begins: bool = False  # of such a length: sequences begin at a multiple of it, see `from_start`

    def port(self, node: Node) -> Port:
        """Where an `input` node's tile comes from."""
        assert node.op == "input" and isinstance(node.attr, int)
        return self.ports[node.attr]

    def result(self, name: str, kind: ResultKind) -> Result:
        return next(r for r in self.results if r.name == name and r.kind is kind)
