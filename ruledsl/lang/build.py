"""The finished typed rule, from the tables that the checker filled."""

from __future__ import annotations

from typing import assert_never

from ruledsl.lang import syntax, typed
from ruledsl.lang.dims import Sizes
from ruledsl.lang.label import ordered
from ruledsl.lang.lower import Lower, sizes_of
from ruledsl.lang.report import Report
from ruledsl.lang.scope import Entry, Scope
from ruledsl.lang.typed import Role


class Build:
    """Symbols, sizes and statements; every shape is decided."""

    def __init__(self, scope: Scope, sizes: Sizes, lower: Lower, report: Report) -> None:
        self.scope, self.sizes, self.lower, self.report = scope, sizes, lower, report

    def rule(self, body: list[syntax.Statement], notes: list[str]) -> typed.Rule:
        """The typed rule; sizes that nothing gives are told."""
        symbols = tuple(self._symbol(e) for e in ordered(self.scope, self.sizes))
        sizes = tuple(
            dict.fromkeys(
                [
                    *(n for n in self.scope.sizes if self.sizes.find(n) == n),
                    *(n for s in symbols for n in sizes_of(s.type)),
                ]
            )
        )
        given = {n for s in symbols if s.role is not Role.STATE or s.learned for n in sizes_of(s.type)}
        for size in sizes:
            if size not in given:
                place = self.scope.sizes.get(size) or next(s.span for s in symbols if size in sizes_of(s.type))
                self.report.add(
                    "RD208",
                    f"nothing given with the rule has the size {size}",
                    place,
                    "only states or bounds mention it",
                    notes=("Sizes are taken from inputs, params and consts, or computed from such sizes.",),
                    hint=f"write a number, or compute it from another size: `4*K`; or give an input that size: `input x[{size}]`",
                )
        return typed.Rule(
            self.report.source, symbols, sizes, tuple(map(self._typed, body)), (*self._assumed(symbols), *notes)
        )

    def _assumed(self, symbols: tuple[typed.Symbol, ...]) -> list[str]:
        inferred = [s for s in symbols if s.inferred]
        found = []
        for role in (Role.STATE, Role.INPUT):
            shown = [
                s.name + (f"[{', '.join(map(str, s.type.dims))}]" if s.type.dims else "")
                for s in inferred
                if s.role is role
            ]
            if shown:
                found.append(f"inferred: {role} {', '.join(shown)}")
        return found

    def _symbol(self, entry: Entry) -> typed.Symbol:
        type_ = self.lower.type(entry.shape, entry.span)
        init = None if entry.init is None else self.lower.expr(entry.init)
        return typed.Symbol(
            entry.name,
            entry.role,
            type_,
            entry.interval,
            entry.unit,
            entry.perm,
            init,
            entry.learned,
            entry.inferred,
            span=entry.span,
        )

    def _typed(self, node: syntax.Statement) -> typed.Statement:
        match node:
            case syntax.Let(name, value):
                return typed.Let(name, self.lower.expr(value), span=node.span)
            case syntax.Output(name, value):
                return typed.Output(name, self.lower.expr(value), span=node.span)
            case syntax.Assign(name, index, value):
                member = None if index is None else self.lower.expr(index)
                type_ = self.lower.type(self.scope.entries[name].shape, node.span)
                if member is not None:
                    type_ = type_.member if type_.family else typed.SCALAR
                new = self.lower.expr(value)
                if new.type.is_scalar and not type_.is_scalar:
                    new = typed.Apply("mul", (new, typed.Ones(type_, span=new.span)), type_, span=new.span)
                return typed.Assign(name, member, new, span=node.span)
            case syntax.For(name, low, high, body):
                return typed.For(
                    name,
                    self.lower.expr(low),
                    self.lower.expr(high),
                    tuple(self._typed(s) for s in body),
                    span=node.span,
                )
            case syntax.Declare():
                raise AssertionError("declarations were read already")
            case _:
                assert_never(node)
