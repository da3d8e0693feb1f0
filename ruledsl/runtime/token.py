"""One token of a rule, exactly as the checked text says it: the specification, and the decode step.

Values are tensors [B, H, (family...), rows, cols]; what does not vary over batch or head has 1 there. Statements run in
order; a state on the right is its current version; `let` and `output` are snapshots. Everything is plain
differentiable torch, so torch autograd through these steps is the gradient's specification.

`grad(loss, S)` is the derivative of the loss as a function of the one version of S that it reads. The loss is read
again with that version as the variable, its lets included, so it works whether or not an outer pass differentiates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, assert_never

import torch
from torch import Tensor

from ruledsl.lang import typed
from ruledsl.lang.typed import Role
from ruledsl.runtime.elementwise import elementwise
from ruledsl.runtime.matrix_functions import COMPARE, ROW_WISE, diagonal, kron, rotate, topk
from ruledsl.runtime.scope import Carry, Copy, Key, Let, Local, Named, Scope, Target, Version
from ruledsl.runtime.statics import Carried, carried, static_int, turns


class Token:
    """The step of one rule at given sizes. `heads` is the number of heads, `dtype` that of all arithmetic."""

    def __init__(
        self, rule: typed.Rule, sizes: Mapping[str, int], heads: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.rule = rule
        self.sizes = sizes
        self.heads = heads
        self.like: dict[str, Any] = {"dtype": dtype, "device": device}
        self.carried: Carried = carried(rule, sizes)
        self._empty = Scope({}, Carry({}), {}, {}, {}, {})

    # ------------------------------------------------------------------------------------------- from outside

    def first_carry(self, batch: int, states: Mapping[str, Tensor]) -> Carry:
        """The carry before the first token; `states` are the learned ones and those that a caller replaces."""
        full = {
            s.name: states[s.name] if s.name in states else self.initial(s, batch) for s in self.rule.of(Role.STATE)
        }
        prev = {
            n: torch.zeros(self._shape(self._type_of(n), batch, lag), **self.like)
            for n, lag in self.carried.lags.items()
        }
        t = torch.zeros(batch, dtype=torch.int64, device=self.like["device"]) if self.carried.position else None
        return Carry(full, prev, {(n, c): full[n] for n, c in self.carried.frozen}, t, True)

    def initial(self, state: typed.Symbol, batch: int) -> Tensor:
        """The declared first value of a state that is not learned."""
        shape = self._shape(state.type, batch)
        if state.init is None:
            return torch.zeros(shape, **self.like)
        value = self._value(state.init, self._empty)
        return self._expand(value, state.type, batch)

    def step(self, given: Mapping[str, Tensor], carry: Carry) -> tuple[dict[str, Tensor], Carry]:
        """One token: inputs, params and given consts [B, H, (family...), rows, cols] -> outputs and the next carry."""
        batch = next(iter(carry.states.values())).shape[0] if carry.states else max(x.shape[0] for x in given.values())
        history = dict(self._first_versions(carry))
        carry = replace(carry, frozen=self._refrozen(carry))
        scope = Scope(given, carry, history, dict.fromkeys(history, 0), {}, {})
        scope = self._run(self.rule.body, scope, batch)
        states = {s.name: self._whole(s.name, s.type, None, scope) for s in self.rule.of(Role.STATE)}
        prev = {}
        for name, ring in carry.prev.items():
            now = scope.lets[name].value if name in scope.lets else given[name]
            now = self._expand(now, self._type_of(name), batch)
            prev[name] = torch.cat([ring[:, :, 1:], now.unsqueeze(2)], 2)
        outputs = {o.name: self._expand(scope.lets[o.name].value, o.value.type, batch) for o in self.rule.outputs}
        return outputs, Carry(states, prev, carry.frozen, None if carry.t is None else carry.t + 1)

    # ------------------------------------------------------------------------------------------- statements

    def _run(self, body: tuple[typed.Statement, ...], scope: Scope, batch: int) -> Scope:
        for statement in body:
            match statement:
                case typed.Let(name, expr) | typed.Output(name, expr):
                    let = Let(self._value(expr, scope), expr, scope)
                    scope = replace(scope, lets={**scope.lets, name: let})
                case typed.Assign(state, member, expr):
                    j = None if member is None else self._int(member, scope)
                    declared = self.rule.symbol(state).type
                    value = self._value(expr, scope)
                    scope = self._assign(state, j, declared, value, scope, batch)
                case typed.For(name, _, _, inner):
                    for j in turns(statement, self.rule, self.sizes, scope.loops):
                        inside = self._run(inner, replace(scope, loops={**scope.loops, name: j}), batch)
                        scope = replace(inside, loops=scope.loops)
                case _:
                    assert_never(statement)
        return scope

    def _assign(
        self, state: str, member: int | None, declared: typed.Type, value: Tensor, scope: Scope, batch: int
    ) -> Scope:
        if member is None and declared.family:
            value = self._expand(value, declared, batch)
            parts: dict[Key, Tensor] = {(state, j): value[:, :, j - 1] for j in self._members(declared)}
        else:
            parts = {(state, member): self._expand(value, declared if member is None else declared.member, batch)}
        versions = dict(scope.versions)
        for key, part in parts.items():
            scope.history[key].append(part)
            versions[key] += 1
        return replace(scope, versions=versions)

    def _first_versions(self, carry: Carry) -> Iterator[tuple[Key, list[Tensor]]]:
        for s in self.rule.of(Role.STATE):
            value = carry.states[s.name]
            if s.type.family:
                yield from (((s.name, j), [value[:, :, j - 1]]) for j in self._members(s.type))
            else:
                yield (s.name, None), [value]

    def _refrozen(self, carry: Carry) -> dict[tuple[str, int], Tensor]:
        """The copies of frozen states, renewed where a chunk begins."""
        new = {}
        for (name, chunk), old in carry.frozen.items():
            assert carry.t is not None
            begins = (carry.t % chunk == 0).reshape(-1, *[1] * (old.dim() - 1))
            new[name, chunk] = torch.where(begins, carry.states[name], old)
        return new

    # ------------------------------------------------------------------------------------------- expressions

    def _value(self, expr: typed.Expr, scope: Scope) -> Tensor:
        def value(e: typed.Expr) -> Tensor:
            return self._value(e, scope)

        match expr:
            case typed.Number(number):
                return self._number(number)
            case typed.SizeOf(dim):
                return self._number(self._size(dim))
            case typed.LoopVar(name):
                return self._number(scope.loops[name])
            case typed.Builtin("t"):
                assert scope.carry.t is not None
                return scope.carry.t.to(self.like["dtype"]).reshape(-1, 1, 1, 1)
            case typed.Builtin("head"):
                return torch.arange(self.heads, **self.like).reshape(1, -1, 1, 1)
            case typed.Builtin("heads"):
                return self._number(self.heads)
            case typed.Builtin():
                raise AssertionError(f"no such builtin: {expr.name}")
            case typed.Ref():
                return self._ref(expr, scope)
            case typed.StateRef(name, type_, version, member):
                if type_.family and member is None:
                    return self._whole(name, type_, version, scope)
                return self._state((name, member), version, scope)
            case typed.Frozen(name, _, chunk):
                return self._frozen(Copy(name, self._int(chunk, scope)), scope)
            case typed.Member(base, index):
                return self._member(base, self._int(index, scope), scope)
            case typed.Apply("where", (typed.Compare(op, left, right), yes, no)):
                return torch.where(COMPARE[op](value(left), value(right)), value(yes), value(no))
            case typed.Apply(fn, args):
                return elementwise(fn)(*(value(a) for a in args))
            case typed.Compare():
                raise AssertionError("a comparison outside where")
            case typed.RowWise(fn, x, type_, count):
                axis = -2 if type_.cols == 1 else -1
                return ROW_WISE[fn](value(x), axis) if count is None else topk(value(x), axis, self._int(count, scope))
            case typed.Reduce(fn, x):
                return (value(x) if fn == "sum" else diagonal(value(x))).sum((-2, -1), keepdim=True)
            case typed.Product(left, right):
                return value(left) @ value(right)
            case typed.Transpose(x):
                return value(x).mT
            case typed.Diag(x):
                return torch.diag_embed(value(x).squeeze(-1))
            case typed.Eye(type_):
                return torch.eye(self._size(type_.rows), **self.like)[None, None]
            case typed.Ones(type_):
                return torch.ones(1, 1, self._size(type_.rows), self._size(type_.cols), **self.like)
            case typed.Concat(parts):
                values = [value(p) for p in parts]
                lead = torch.broadcast_shapes(*(v.shape[:-2] for v in values))
                return torch.cat([v.expand(*lead, *v.shape[-2:]) for v in values], -2)
            case typed.Kron(left, right):
                return kron(value(left), value(right))
            case typed.Rotate(x, angle):
                return rotate(value(x), value(angle))
            case typed.Solve(matrix, right):
                a = value(matrix)
                # without a look at the result on a GPU, where that would wait for it and no graph could record it
                return torch.linalg.solve_ex(a, value(right), check_errors=not a.is_cuda).result
            case typed.Total(body, name):
                return self._total(body, name, turns(expr, self.rule, self.sizes, scope.loops), expr.type, scope)
            case typed.Grad(loss, wrt):
                return self._grad(loss, wrt, scope)
            case _:
                assert_never(expr)

    def _total(self, body: typed.Expr, name: str, values: range, type_: typed.Type, scope: Scope) -> Tensor:
        terms = [self._value(body, replace(scope, loops={**scope.loops, name: j})) for j in values]
        return sum(terms[1:], terms[0]) if terms else torch.zeros(self._shape(type_, 1), **self.like)

    def _ref(self, ref: typed.Ref, scope: Scope) -> Tensor:
        lag = 0 if ref.lag is None else self._int(ref.lag, scope)
        if lag:
            ring = scope.carry.prev[ref.name]
            return ring[:, :, ring.shape[2] - lag]
        if ref.name in scope.given:
            return scope.given[ref.name]
        if ref.role is Role.CONST:
            init = self.rule.symbol(ref.name).init
            assert init is not None
            return self._expand(self._value(init, self._empty), ref.type, 1)
        let = scope.lets[ref.name]
        if scope.point is None:
            return let.value
        target, variable = scope.point
        return variable if target == Local(ref.name) else self._value(let.expr, replace(let.scope, point=scope.point))

    def _state(self, key: Key, version: int | None, scope: Scope) -> Tensor:
        number = scope.versions[key] if version is None else version
        if scope.point is not None and scope.point[0] == Version(key, number):
            return scope.point[1]
        return scope.history[key][number]

    def _whole(self, name: str, type_: typed.Type, version: int | None, scope: Scope) -> Tensor:
        if not type_.family:
            return self._state((name, None), version, scope)
        return torch.stack([self._state((name, j), version, scope) for j in self._members(type_)], 2)

    def _frozen(self, copy: Copy, scope: Scope) -> Tensor:
        if scope.point is not None and scope.point[0] == copy:
            return scope.point[1]
        return scope.carry.frozen[copy.name, copy.chunk]

    def _member(self, base: typed.Expr, index: int, scope: Scope) -> Tensor:
        if isinstance(base, typed.StateRef) and base.type.family and base.member is None:
            return self._state((base.name, index), base.version, scope)
        x = self._value(base, scope)
        return x[:, :, index - 1] if base.type.family else x[..., index - 1 : index, :]

    # ------------------------------------------------------------------------------------------- derivatives

    def _grad(self, loss: typed.Expr, wrt: typed.Expr, scope: Scope) -> Tensor:
        match wrt:
            case typed.StateRef(name, type_, None, None) if type_.family:
                return torch.stack(
                    [
                        self._derivative(loss, self._read_version(loss, name, j, scope), scope)
                        for j in self._members(type_)
                    ],
                    2,
                )
            case typed.StateRef(name, _, None, member):
                return self._derivative(loss, self._read_version(loss, name, member, scope), scope)
            case typed.StateRef(name, _, int(version), member):
                return self._derivative(loss, Version((name, member), version), scope)
            case typed.Frozen(name, _, chunk):
                return self._derivative(loss, Copy(name, self._int(chunk, scope)), scope)
            case typed.Ref(name):
                return self._derivative(loss, Local(name), scope)
            case _:
                raise AssertionError(f"no derivative with respect to {wrt}")

    def _derivative(self, loss: typed.Expr, target: Target, scope: Scope) -> Tensor:
        if not isinstance(target, Local) and target not in set(self._reads(loss, scope)):
            raise AssertionError(f"the loss does not read {target}")
        match target:
            case Version(key, number):
                at = scope.history[key][number]
            case Copy(name, chunk):
                at = scope.carry.frozen[name, chunk]
            case Local(name):
                at = scope.lets[name].value

        def total(x: Tensor) -> Tensor:
            return self._value(loss, replace(scope, point=(target, x))).sum()

        # a value shared by all heads or batch rows still has one derivative for each of them
        lead = torch.broadcast_shapes(at.shape[:2], self._value(loss, scope).shape[:2])
        derivative: Tensor = torch.func.grad(total)(at.expand(*lead, *at.shape[2:]))
        return derivative

    def _read_version(self, loss: typed.Expr, name: str, member: int | None, scope: Scope) -> Target:
        found = {r for r in self._reads(loss, scope) if r in Named(name, member)}
        assert len(found) == 1, f"the loss reads {len(found)} versions of {name}"
        return found.pop()

    def _reads(self, expr: typed.Expr, scope: Scope) -> Iterator[Target]:
        """The versions and frozen copies of states that an expression reads, through lets."""
        match expr:
            case typed.StateRef(name, type_, version, member):
                keys = (
                    [(name, j) for j in self._members(type_)] if type_.family and member is None else [(name, member)]
                )
                for key in keys:
                    yield Version(key, scope.versions[key] if version is None else version)
            case typed.Member(typed.StateRef(name, type_, version, None), index) if type_.family:
                key = (name, self._int(index, scope))
                yield Version(key, scope.versions[key] if version is None else version)
            case typed.Frozen(name, _, chunk):
                yield Copy(name, self._int(chunk, scope))
            case typed.Ref(name, Role.LET | Role.OUTPUT, _, None):
                let = scope.lets[name]
                yield from self._reads(let.expr, let.scope)
            case typed.Total(body, name):
                for j in turns(expr, self.rule, self.sizes, scope.loops):
                    yield from self._reads(body, replace(scope, loops={**scope.loops, name: j}))
            case _:
                for child in typed.children(expr):
                    yield from self._reads(child, scope)

    # ------------------------------------------------------------------------------------------- sizes and shapes

    def _size(self, dim: typed.Dim) -> int:
        return typed.dim_value(dim, self.sizes)

    def _int(self, expr: typed.Expr, scope: Scope) -> int:
        return static_int(expr, self.rule, self.sizes, scope.loops)

    def _members(self, type_: typed.Type) -> range:
        return range(1, self._size(type_.family[0]) + 1)

    def _number(self, value: float) -> Tensor:
        return torch.full((1, 1, 1, 1), value, **self.like)

    def _shape(self, type_: typed.Type, batch: int, *lead: int) -> tuple[int, ...]:
        return (batch, self.heads, *lead, *(self._size(d) for d in (*type_.family, type_.rows, type_.cols)))

    def _expand(self, value: Tensor, type_: typed.Type, batch: int) -> Tensor:
        shape = self._shape(type_, batch)
        missing = len(shape) - value.dim()  # one value for all members of a family
        return value.reshape(*value.shape[:2], *[1] * missing, *value.shape[2:]).expand(shape)

    def _type_of(self, name: str) -> typed.Type:
        for s in self.rule.symbols:
            if s.name == name:
                return s.type
        return self.rule.let(name).value.type
