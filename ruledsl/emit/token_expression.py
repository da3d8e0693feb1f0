"""An expression of an unrolled rule as torch text over one token: tensors [B, H, (family,) rows, columns].

Numbers stay Python numbers. A family of states is its members, each in a variable of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from ruledsl.emit.torch_expression import MATMUL, POWER, Scope, Text, apply, number, select, tensor
from ruledsl.lang import typed

_LIKE = "dtype={0}.dtype, device={0}.device"
State = tuple[str, int | None]  # a state, or a member of a family of states


@dataclass(frozen=True, slots=True)
class Values:
    """What names mean at one place. `versions`: the variable of each version of a state; `names`: inputs, params, consts,
    lets and outputs; `derivative` writes a `grad(...)` and returns the variable with its value."""

    scope: Scope
    bound: Mapping[str, int]  # sizes with a number: those of families at least
    names: Mapping[str, str]
    versions: Mapping[tuple[State, int], str]
    current: Mapping[State, int]
    frozen: Mapping[str, str]
    rings: Mapping[str, str]
    derivative: Callable[[typed.Grad, Values], str]
    known: Mapping[int, str] = field(default_factory=dict)  # nodes (by identity) that have a variable already

    def state(self, name: str, member: int | None, version: int | None) -> str:
        key = name, member
        return self.versions[key, self.current[key] if version is None else version]

    def family(self, type_: typed.Type) -> int:
        """How many members a family has."""
        return typed.dim_value(type_.family[0], self.bound)

    def with_state(self, key: State, version: int, name: str) -> Values:
        return replace(self, versions={**self.versions, (key, version): name})


def token_expression(e: typed.Expr, v: Values) -> Text:
    """The text of `e`."""
    if id(e) in v.known:
        return Text(v.known[id(e)])
    scope = v.scope

    def text(x: typed.Expr) -> Text:
        return token_expression(x, v)

    def code(x: typed.Expr) -> str:
        return tensor(text(x), scope).code

    match e:
        case typed.Number(value):
            return number(value)
        case typed.SizeOf(dim):
            return Text(f"float({scope.dim(dim)})", number=True)
        case typed.Builtin("t"):
            return Text("t")
        case typed.Builtin("head"):
            return Text("head")
        case typed.Builtin(_):
            return Text("float(heads)", number=True)
        case typed.Ref(name, _, _, lag):
            if lag is None or static(lag) == 0:
                return Text(v.names[name])
            return Text(f"{v.rings[name]}[:, :, -{static(lag)}]")
        case typed.StateRef(name, type_, version, member):
            if type_.family and member is None:
                return Text(
                    f"torch.stack([{', '.join(v.state(name, j, None) for j in range(1, v.family(type_) + 1))}], 2)"
                )
            return Text(v.state(name, member, version))
        case typed.Frozen(name):
            return Text(v.frozen[name])
        case typed.Member(base, index):
            return _member(base, static(index), v)
        case typed.Apply("where", (typed.Compare(op, left, right), yes, no)):
            return select(op, [text(x) for x in (left, right, yes, no)], scope)
        case typed.Apply(fn, args):
            return apply(fn, [text(a) for a in args], scope)
        case typed.Compare() | typed.LoopVar() | typed.Total():
            raise AssertionError(f"{type(e).__name__} in an unrolled rule outside its place")
        case typed.RowWise(fn, x, type_, count):
            axis = -2 if type_.cols == 1 else -1
            if count is not None:
                return Text(f"{scope.call('largest')}({code(x)}, {static(count)}, {axis})")
            return Text(
                f"torch.softmax({code(x)}, {axis})" if fn == "softmax" else f"{scope.call(fn)}({code(x)}, {axis})"
            )
        case typed.Reduce("trace", x):
            return Text(f"{scope.call('trace')}({code(x)})")
        case typed.Reduce(_, x):
            return Text(f"{tensor(text(x), scope).inside(POWER)}.sum((-2, -1), keepdim=True)")
        case typed.Product(left, right):
            return Text(
                f"{tensor(text(left), scope).inside(MATMUL)} @ {tensor(text(right), scope).inside(MATMUL)}", MATMUL
            )
        case typed.Transpose(x):
            return Text(f"{tensor(text(x), scope).inside(POWER)}.mT")
        case typed.Diag(x):
            return Text(f"torch.diag_embed({tensor(text(x), scope).inside(POWER)}.squeeze(-1))")
        case typed.Eye(type_):
            return Text(f"torch.eye({scope.axis(type_.rows)}, {_LIKE.format(scope.like)})")
        case typed.Ones(type_):
            return Text(f"torch.ones({scope.axis(type_.rows)}, {scope.axis(type_.cols)}, {_LIKE.format(scope.like)})")
        case typed.Concat(parts):
            return Text(f"{scope.call('stacked')}({', '.join(code(p) for p in parts)})")
        case typed.Kron(left, right):
            return Text(f"{scope.call('kronecker')}({code(left)}, {code(right)})")
        case typed.Rotate(x, angle):
            return Text(f"{scope.call('rotated')}({code(x)}, {code(angle)})")
        case typed.Solve(matrix, right):
            return Text(f"torch.linalg.solve({code(matrix)}, {code(right)})")
        case typed.Grad():
            return Text(v.derivative(e, v))
        case _:
            assert_never(e)


def shared(e: typed.Expr) -> list[typed.Expr]:
    """Operations that occur more than once below `e`, innermost first: written out they could grow without bound.
    Losses are left out: they are evaluated elsewhere."""
    count: dict[int, int] = {}
    order: list[typed.Expr] = []
    stack: list[tuple[typed.Expr, bool]] = [(e, False)]
    while stack:
        node, left = stack.pop()
        if left:
            order.append(node)
            continue
        count[id(node)] = count.get(id(node), 0) + 1
        if count[id(node)] == 1:
            stack.append((node, True))
            if not isinstance(node, typed.Grad):
                stack += [(child, False) for child in typed.children(node)]
    plain = (typed.Number, typed.SizeOf, typed.Builtin, typed.Ref, typed.StateRef, typed.Frozen, typed.Compare)
    return [node for node in order if count[id(node)] > 1 and not isinstance(node, plain)]


def static(e: typed.Expr) -> int:
    """An index, lag or count of an unrolled rule."""
    assert isinstance(e, typed.Number), f"not a number after unrolling: {e}"
    return int(e.value)


def _member(base: typed.Expr, j: int, v: Values) -> Text:
    if isinstance(base, typed.StateRef) and base.type.family and base.member is None:
        return Text(v.state(base.name, j, base.version))
    x = tensor(token_expression(base, v), v.scope).inside(POWER)
    return Text(f"{x}[:, :, {j - 1}]" if base.type.family else f"{x}[..., {j - 1}:{j}, :]")
