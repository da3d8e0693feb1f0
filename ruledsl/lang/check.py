"""syntax.Rule -> typed.Rule: every name, shape and product decided, or every mistake told.

The order: declarations; which names are states; statements top to bottom (`infer`), each adding constraints on shapes;
`solve`; names for the sizes that nobody named; typed trees (`lower`); and a trial expansion, which finds what shows
only there (an index outside its family, a gradient whose loss reads two versions of the state).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import assert_never

from ruledsl.lang import syntax, typed
from ruledsl.lang.build import Build
from ruledsl.lang.declare import Declarations
from ruledsl.lang.diagnostic import Diagnostic, RuleError
from ruledsl.lang.dims import Sizes, TooManyParts
from ruledsl.lang.infer import Infer
from ruledsl.lang.label import label_sizes
from ruledsl.lang.lower import Lower
from ruledsl.lang.names import names_of
from ruledsl.lang.read_out import default_read_out
from ruledsl.lang.report import MOST_SHOWN, Report
from ruledsl.lang.scope import Entry, Scope
from ruledsl.lang.shapes import NeedScalar, Shape, Store, is_scalar
from ruledsl.lang.solve import Solver
from ruledsl.lang.source import Span
from ruledsl.lang.trial import trial
from ruledsl.lang.typed import Role


def check(rule: syntax.Rule) -> typed.Rule:
    """The typed rule. Raises RuleError with every mistake of names, shapes, time and calculus."""
    checker = _Checker(rule)
    try:
        return checker.rule()
    except TooManyParts as error:  # a size that only grew when the last name was settled
        place = rule.statements[0].span
        raise RuleError(rule.source, [*checker.report.found, Diagnostic("RD605", str(error), place)]) from None


class _Checker:
    """The tables that one check fills."""

    def __init__(self, rule: syntax.Rule) -> None:
        self.source = rule.source
        self.report = Report(rule.source)
        self.declarations = tuple(s for s in rule.statements if isinstance(s, syntax.Declare))
        self.body: list[syntax.Statement] = [s for s in rule.statements if not isinstance(s, syntax.Declare)]
        is_open = not any(d.role in ("state", "input") for d in self.declarations)
        self.sizes = Sizes()
        self.scope = Scope(self.report, is_open)
        self.solver = Solver(self.sizes, self.report)
        self.infer = Infer(self.scope, self.sizes, self.solver, self.report)
        self.lower = Lower(self.scope, self.sizes, self.infer.shapes, self.report)
        self.notes: list[str] = []
        self.assigned: set[str] = set()

    def rule(self) -> typed.Rule:
        self.names()
        for statement in self.body:
            self.statement(statement)
        self.read_out()
        self.decide()
        self.stop()
        build = Build(self.scope, self.sizes, self.lower, self.report)
        typed_rule = build.rule(self.body, self.notes)
        self.stop()
        if found := trial(typed_rule):
            raise RuleError(self.source, found)
        return typed_rule

    def stop(self) -> None:
        """Raise what was found so far."""
        if self.report.found:
            raise RuleError(self.source, self.report.found[:MOST_SHOWN])

    # ---------------------------------------------------------------------------------------- names

    def names(self) -> None:
        """Declared names, then what the statements will define."""
        Declarations(self.scope, self.infer, self.report, self.lower.expr).read(self.declarations)
        for statement, _ in flatten(self.body):
            if isinstance(statement, syntax.Let | syntax.Output) and statement.name not in self.scope.entries:
                self.scope.later.setdefault(statement.name, statement.span)
        for statement, loops in flatten(self.body):
            if isinstance(statement, syntax.Assign):
                self._assigned(statement, loops)

    def _assigned(self, node: syntax.Assign, loops: tuple[syntax.For, ...]) -> None:
        self.assigned.add(node.name)
        if node.name in self.scope.entries or node.name in self.scope.later:
            return
        place = Span(node.span.start, node.span.start + len(node.name))
        if not self.scope.free(node.name, place):
            return
        if not self.scope.open:
            near = self.scope.near(node.name)
            self.assigned.update(known for known in self.scope.entries if f"`{known}`" in near)  # told once, here
            brackets = "[V, K]" if node.name[0].isupper() else "[K]"
            hint = near or f"declare it, `state {node.name}{brackets}`, or name a value: `let {node.name} = ...`"
            self.report.add(
                "RD204",
                f"`{node.name}` is assigned, but no state is declared by that name",
                place,
                "only states are assigned",
                hint=hint,
            )
            self.scope.add(Entry(node.name, Role.STATE, self.infer.nothing(), place))
            return
        shape, family = (
            self.infer.by_case(node.name),
            self._inferred_family(node.index, loops) if node.index is not None else (),
        )
        if family is None:
            self.scope.add(Entry(node.name, Role.STATE, self.infer.nothing(), place))
            return
        self.scope.add(Entry(node.name, Role.STATE, Shape(shape.rows, shape.cols, family), place, inferred=True))

    def _inferred_family(self, index: syntax.Expr, loops: tuple[syntax.For, ...]) -> tuple[str | int, ...] | None:
        loop = next((f for f in reversed(loops) if isinstance(index, syntax.Name) and f.name == index.id), None)
        if loop is not None and loop.low == syntax.Number("1"):
            match loop.high:
                case syntax.Name(name):
                    self.scope.sizes.setdefault(name, loop.high.span)
                    return (name,)
                case syntax.Number(text) if text.isdigit():
                    return (int(text),)
        self.report.add(
            "RD217",
            "the size of this family of states cannot be inferred",
            index.span,
            hint="declare it: `state S[n, V, K]`",
        )
        return None

    # ---------------------------------------------------------------------------------------- statements

    def statement(self, node: syntax.Statement) -> None:
        match node:
            case syntax.Let(name, value):
                shape = self.infer.value(value)
                varies = any(n.id == "t" or self.infer.static.varies(n) for n in names_of(value))
                self._define(Role.LET, name, shape, node, varies)
            case syntax.Output(name, value):
                if self.scope.loops:
                    self.report.add(
                        "RD405",
                        "an output stands outside loops",
                        node.span,
                        "one value per token",
                        hint="collect it in a state, or use `sum(... for j in 1..n)`",
                    )
                self._define(Role.OUTPUT, name, self.infer.value(value), node, True)
            case syntax.Assign():
                self._assign(node)
            case syntax.For(name, low, high, body):
                self.infer.enter(name, low, high, node)
                for inner in body:
                    self.statement(inner)
                self.scope.loops.pop()
            case syntax.Declare():
                raise AssertionError("the parser refuses declarations in loops")
            case _:
                assert_never(node)

    def _define(self, role: Role, name: str, shape: Shape, node: syntax.Let | syntax.Output, varies: bool) -> None:
        at = self.source.text.index(name, node.span.start + len(role))
        loops = tuple(loop.name for loop in self.scope.loops)
        self.scope.add(
            Entry(name, role, Shape(shape.rows, shape.cols, (), False), Span(at, at + len(name)), varies, loops=loops)
        )

    def _assign(self, node: syntax.Assign) -> None:
        entry = self.scope.entries.get(node.name)
        value = self.infer.value(node.value)
        place = Span(node.span.start, node.span.start + len(node.name))
        if entry is None or entry.role is not Role.STATE:
            what = f"{entry.role}" if entry is not None else "let or output further down"
            self.report.add(
                "RD204",
                f"`{node.name}` is {'an' if what[0] in 'io' else 'a'} {what}, not a state",
                place,
                "only states are assigned",
                hint=f"give the value a name of its own: `let {node.name}2 = ...`",
            )
            return
        shape = entry.shape
        if node.index is not None:
            self.solver.require(NeedScalar(self.infer.value(node.index), node.index, "RD214", "an index is a number"))
            self.infer.static.require(node.index, "an index")
            shape = self.infer.member(
                shape, syntax.Index(syntax.Name(node.name, span=place), node.index, span=place.to(node.index.span))
            )
        elif shape.family:
            self.report.add(
                "RD213",
                f"`{node.name}` is a family: one member is assigned at a time",
                place,
                hint=f"`{node.name}[j] = ...`; a matrix has an upper-case name: `{node.name.capitalize()}`",
            )
            return
        self.solver.require(Store(shape, value, node))

    def read_out(self) -> None:
        """States that nothing assigns are told; without an output, the default one is added."""
        for entry in self.scope.entries.values():
            if entry.role is Role.STATE and entry.name not in self.assigned:
                hint = f"what is learned and stays the same is a param: `param {entry.name}`"
                self.report.add("RD206", f"the state `{entry.name}` is never assigned", entry.span, hint=hint)
        unknown = any(d.code == "RD204" for d in self.report.found)  # which states there are is not known then
        if unknown or any(isinstance(s, syntax.Output) for s, _ in flatten(self.body)):
            return
        default = default_read_out(self.scope, self.infer, Span(0, len(self.source.text)))
        if default is not None:
            output, note = default
            self.notes.append(note)
            shape = self.infer.value(output.value)
            self.scope.add(Entry(output.name, Role.OUTPUT, Shape(shape.rows, shape.cols), output.span))
            self.body.append(output)

    # ---------------------------------------------------------------------------------------- shapes

    def decide(self) -> None:
        """Solve for every shape; tell outputs that are rows and sizes that nothing gives."""
        self.infer.calls.settle_pending()
        undecided = self.solver.finish(self.infer.inferred, self.infer.free)
        if not self.report.found:
            for constraint in undecided:
                node = constraint.node
                self.report.add(
                    "RD218",
                    f"the shapes in `{self.report.text(node.span)}` cannot be decided",
                    node.span,
                    hint="declare the inputs and states with their sizes",
                )
        for entry in list(self.scope.entries.values()):
            if (
                entry.role is Role.OUTPUT
                and self.sizes.is_one(entry.shape.rows)
                and self.sizes.is_many(entry.shape.cols)
            ):
                self.report.add(
                    "RD311",
                    f"the output `{entry.name}` is a row",
                    entry.span,
                    "outputs are vectors, matrices or scalars",
                    hint="transpose it: `(...)^T`",
                )
            if entry.inferred and entry.shape.family and is_scalar(entry.shape, self.sizes):
                # a family of scalars is a vector
                self.scope.entries[entry.name] = replace(entry, shape=Shape(entry.shape.family[0], 1))
        self.stop()
        label_sizes(self.scope, self.sizes)


def flatten(
    statements: list[syntax.Statement] | tuple[syntax.Statement, ...], loops: tuple[syntax.For, ...] = ()
) -> Iterator[tuple[syntax.Statement, tuple[syntax.For, ...]]]:
    """Every statement, with the loops around it."""
    for statement in statements:
        yield statement, loops
        if isinstance(statement, syntax.For):
            yield from flatten(statement.body, (*loops, statement))
