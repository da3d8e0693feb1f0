"""Loops and sums over a range, written out.

The result has no For, Total or LoopVar; every state reference names its version, every member of a family is a
number, every let has a name of its own, and each gradient is taken at the one version that its loss reads. Lets stay
lets: an expression that is named once is stored once, so that the result is bounded by the turns of the loops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ruledsl.lang import typed
from ruledsl.lang.diagnostic import Diagnostic, RuleError
from ruledsl.lang.dims import names_in
from ruledsl.lang.fold import apply, fold, fold_compare
from ruledsl.lang.gradient_point import gradient_point
from ruledsl.lang.source import Span
from ruledsl.lang.typed import Role, dim_value
from ruledsl.lang.walk import expressions, map_children, mentions, subexpressions, tree_size

MOST_NODES = 20_000
MOST_STATEMENTS = 2_000
LONG_SUM = 16  # terms
MOST_LAG = 1_024  # tokens that `prev` may look back


def unroll(rule: typed.Rule, sizes: Mapping[str, int]) -> typed.Rule:
    """The rule without loops. `sizes` binds at least `loop_sizes(rule)`; the others stay symbols. Raises RuleError for
    what shows only here: an index outside its family, a bound that is not whole, an expansion beyond the limits."""
    unbound = [name for name in loop_sizes(rule) if name not in sizes]
    assert not unbound, f"sizes without a number: {', '.join(unbound)}"
    return _Unroll(rule, sizes).rule()


def loop_sizes(rule: typed.Rule) -> tuple[str, ...]:
    """The sizes that `unroll` needs as numbers: of families, and in bounds, indices, lags and chunk lengths."""
    found: dict[str, None] = {}
    vectors = {s.name for s in rule.of(Role.STATE) if not s.type.family}

    def need(expr: typed.Expr | None) -> None:
        for node in subexpressions(expr) if expr is not None else ():
            if isinstance(node, typed.SizeOf):
                found.update(dict.fromkeys(names_in(node.dim)))

    def visit(statement: typed.Statement) -> None:
        match statement:
            case typed.For(_, low, high, body):
                need(low)
                need(high)
                for inner in body:
                    visit(inner)
                return
            case typed.Assign(state, member, _) if member is not None:
                need(member)
                if state in vectors:
                    found.update(dict.fromkeys(names_in(rule.symbol(state).type.rows)))
        for expr in expressions(statement):
            for node in subexpressions(expr):
                match node:
                    case typed.Total(_, _, low, high):
                        need(low)
                        need(high)
                    case typed.Member(_, index):
                        need(index)
                    case typed.Ref(_, _, _, lag):
                        need(lag)
                    case typed.Frozen(_, _, chunk):
                        need(chunk)

    for symbol in rule.symbols:
        found.update(dict.fromkeys(n for dim in symbol.type.family for n in names_in(dim)))
    for statement in rule.body:
        visit(statement)
    return tuple(name for name in rule.sizes if name in found)


class _Unroll:
    """The environment of one expansion."""

    def __init__(self, rule: typed.Rule, sizes: Mapping[str, int]) -> None:
        self.source, self.checked, self.sizes = rule.source, rule, sizes
        self.consts = {s.name: s.init for s in rule.of(Role.CONST) if s.init is not None}
        self.loops: dict[str, int] = {}
        self.versions: dict[tuple[str, int | None], int] = {}
        self.names: dict[str, str] = {}  # of lets inside loops, this turn
        self.values: dict[str, typed.Expr] = {}  # of lets so far
        self.used = (
            {s.name for s in rule.symbols}
            | set(rule.sizes)
            | {s.name for s in rule.body if isinstance(s, typed.Let | typed.Output)}
        )
        self.body: list[typed.Let | typed.Output | typed.Assign] = []
        self.found: list[Diagnostic] = []
        self.memo: dict[int, typed.Expr] = {}
        self.frozen: dict[str, int] = {}  # the chunk length that a state is frozen for
        self.work = self.nodes = 0

    def rule(self) -> typed.Rule:
        for statement in self.checked.body:
            self._statement(statement)
        if self.found:
            raise RuleError(self.source, dict.fromkeys(self.found))
        return replace(self.checked, body=tuple(self.body))

    # ---------------------------------------------------------------------------------------- statements

    def _statement(self, statement: typed.Statement) -> None:
        match statement:
            case typed.For(name, low, high, body):
                for turn in self._range(low, high, statement.span):
                    self.loops[name] = turn
                    for inner in body:
                        self._statement(inner)
                self.loops.pop(name, None)
            case typed.Let(name, value):
                new = self._fresh(value)
                own = self._name(name)
                self.names[name] = own
                self.values[own] = new
                self._emit(typed.Let(own, new, span=statement.span))
            case typed.Output(name, value):
                new = self._fresh(value)
                self.values[name] = new
                self._emit(typed.Output(name, new, span=statement.span))
            case typed.Assign():
                self._assign(statement)

    def _assign(self, statement: typed.Assign) -> None:
        type_ = self.checked.symbol(statement.state).type
        value = self._fresh(statement.value)
        if statement.member is None:
            self._store(statement.state, None, value, statement.span)
            return
        length = type_.family[0] if type_.family else type_.rows
        index = self._index(statement.member, length, statement.state)
        if type_.family:
            self._store(statement.state, index, value, statement.span)
            return
        # an entry of a vector: the vector is written anew
        old = self._state(typed.StateRef(statement.state, type_, span=statement.span), None)
        parts = [
            typed.Member(old, typed.Number(float(i)), typed.SCALAR, span=statement.span)
            for i in range(1, dim_value(length, self.sizes) + 1)
        ]
        whole = typed.Concat((*parts[: index - 1], value, *parts[index:]), type_, span=statement.span)
        self._store(statement.state, None, whole, statement.span)

    def _store(self, state: str, member: int | None, value: typed.Expr, span: Span) -> None:
        self.versions[state, member] = self.versions.get((state, member), 0) + 1
        self._emit(typed.Assign(state, None if member is None else typed.Number(float(member)), value, span=span))

    def _emit(self, statement: typed.Let | typed.Output | typed.Assign) -> None:
        self.body.append(statement)
        self.nodes += tree_size(statement.value)
        if len(self.body) > MOST_STATEMENTS:
            self._limit(f"{MOST_STATEMENTS} statements", statement.span)
        if self.nodes > MOST_NODES:
            self._limit(f"{MOST_NODES} operations", statement.span)

    def _name(self, name: str) -> str:
        if not self.loops:
            return name
        own = name + "".join(f"_{turn}" if turn >= 0 else f"_m{-turn}" for turn in self.loops.values())
        while own in self.used:
            own += "_"
        self.used.add(own)
        return own

    def _range(self, low: typed.Expr, high: typed.Expr, span: Span) -> range:
        ends = [self._whole(end, "RD403", "a loop's bound") for end in (low, high)]
        constant = not any(
            isinstance(n, typed.SizeOf | typed.LoopVar) for end in (low, high) for n in subexpressions(end)
        )
        if ends[0] > ends[1] and constant:
            self._tell("RD407", f"the range {ends[0]}..{ends[1]} is empty", low.span.to(high.span))
        turns = range(ends[0], ends[1] + 1)
        if len(turns) > MOST_NODES:
            self._limit(f"{MOST_NODES} operations", span)
        self._spend(len(turns), span)
        return turns

    # ---------------------------------------------------------------------------------------- expressions

    def _fresh(self, expr: typed.Expr) -> typed.Expr:
        """Expand in the present environment."""
        outer, self.memo = self.memo, {}
        new = self._expand(expr)
        self.memo = outer
        return new

    def _expand(self, expr: typed.Expr) -> typed.Expr:
        # nodes shared in the checked tree stay shared: norm2(x) holds x twice
        known = self.memo.get(id(expr))
        if known is None:
            self._spend(1, expr.span)
            known = self.memo[id(expr)] = self._node(expr)
        return known

    def _node(self, expr: typed.Expr) -> typed.Expr:
        match expr:
            case typed.LoopVar(name):
                return typed.Number(float(self.loops[name]), span=expr.span)
            case typed.Total():
                return self._total(expr)
            case typed.StateRef():
                return self._state(expr, None)
            case typed.Member(base, index):
                return self._member(expr, base, index)
            case typed.Ref():
                return self._ref(expr)
            case typed.Frozen(name, _, chunk):
                length = self._whole(chunk, "RD505", "the chunk length of frozen")
                if length < 1:
                    self._tell("RD505", f"a chunk has at least one token, not {length}", chunk.span)
                elif self.frozen.setdefault(name, length) != length:
                    other = f"it is frozen for {self.frozen[name]} above"
                    self._tell("RD506", f"`{name}` is frozen for two chunk lengths", chunk.span, other)
                return replace(expr, chunk=typed.Number(float(length), span=chunk.span))
            case typed.Grad():
                loss = self._expand(expr.loss)
                point = gradient_point(loss, self._expand(expr.wrt), self.values, self.found, expr.wrt.span)
                return replace(expr, loss=loss, wrt=point)
            case typed.Apply("where", (typed.Compare() as test, then, otherwise)):
                truth = fold_compare(test, self.sizes, self.consts, self.loops)
                if truth is not None:
                    return spread(self._expand(then if truth else otherwise), expr)
            case typed.RowWise("topk", _, _, count) if count is not None:
                whole = typed.Number(float(self._whole(count, "RD403", "the count of topk")), span=count.span)
                return replace(expr, operand=self._expand(expr.operand), count=whole)
        new = map_children(expr, self._expand)
        if isinstance(new, typed.Apply) and new.type.is_scalar and mentions(expr, typed.LoopVar):
            values = [arg.value for arg in new.args if isinstance(arg, typed.Number)]
            folded = apply(new.fn, values) if len(values) == len(new.args) else None
            return new if folded is None else typed.Number(folded, span=expr.span)
        return new

    def _total(self, expr: typed.Total) -> typed.Expr:
        terms = []
        for turn in self._range(expr.low, expr.high, expr.span):
            self.loops[expr.name] = turn
            terms.append(self._fresh(expr.body))
        self.loops.pop(expr.name, None)
        return sum_of(terms, expr) if terms else spread(typed.Number(0.0, span=expr.span), expr)

    def _state(self, ref: typed.StateRef, member: int | None) -> typed.StateRef:
        version = self.versions.get((ref.name, member), 0) if ref.version is None else ref.version
        return replace(ref, version=version, member=member, type=ref.type if member is None else ref.type.member)

    def _member(self, expr: typed.Member, base: typed.Expr, index: typed.Expr) -> typed.Expr:
        family = bool(base.type.family)
        name = base.name if isinstance(base, typed.Ref | typed.StateRef | typed.Frozen) else "this"
        number = self._index(index, base.type.family[0] if family else base.type.rows, name)
        if isinstance(base, typed.StateRef) and family:
            return replace(self._state(base, number), span=expr.span)
        return replace(expr, base=self._expand(base), index=typed.Number(float(number), span=index.span))

    def _ref(self, ref: typed.Ref) -> typed.Expr:
        name = self.names.get(ref.name, ref.name) if ref.role is Role.LET else ref.name
        lag = None
        if ref.lag is not None:
            back = self._whole(ref.lag, "RD404", "the lag of prev")
            if not 0 <= back <= MOST_LAG:
                self._tell("RD404", f"`prev` looks back 0 to {MOST_LAG} tokens, not {back}", ref.span)
            if back == 0 and ref.role in (Role.LET, Role.OUTPUT) and name not in self.values:
                self._tell("RD205", f"`{name}` is read before it is defined: 0 tokens ago is now", ref.span)
            lag = typed.Number(float(back), span=ref.lag.span) if back else None
        return replace(ref, name=name, lag=lag)

    # ---------------------------------------------------------------------------------------- numbers

    def _whole(self, expr: typed.Expr, code: str, what: str) -> int:
        value = fold(expr, self.sizes, self.consts, self.loops)
        if value is None or value != value or abs(value) == float("inf") or value != int(value):
            shown = "not a number that is known when the rule is compiled" if value is None else f"{value:g}"
            self._tell(
                code, f"{what} is a whole number, not {shown}" if value is not None else f"{what} is {shown}", expr.span
            )
            return 1
        return int(value)

    def _index(self, expr: typed.Expr, length: typed.Dim, name: str) -> int:
        index = self._whole(expr, "RD214", "an index")
        try:
            most = dim_value(length, self.sizes)
        except (KeyError, ValueError):
            most = max(index, 1)
        if 1 <= index <= most:
            return index
        known = (
            f" (with {', '.join(f'{n} = {self.sizes[n]}' for n in names_in(length))})"
            if names_in(length) and index >= 1
            else ""
        )
        written = self.source.slice(expr.span)
        self._tell(
            "RD215",
            f"`{name}[{index}]` does not exist: `{name}` has the members 1 to {length}{known}",
            expr.span,
            f"members are counted from 1: `{name}[{written} + 1]`, or let the loop begin at 1" if index < 1 else "",
        )
        return 1

    def _spend(self, steps: int, span: Span) -> None:
        self.work += steps
        if self.work > 4 * MOST_NODES:
            self._limit(f"{MOST_NODES} operations", span)

    def _limit(self, limit: str, span: Span) -> None:
        at = "" if not self.sizes else " (with " + ", ".join(f"{n} = {v}" for n, v in self.sizes.items()) + ")"
        told = Diagnostic(
            "RD408",
            f"written out, this rule has more than {limit} per token{at}",
            span,
            "the limit is passed here",
            hint="fewer turns, or a matrix product in place of a loop over its entries",
        )
        raise RuleError(self.source, (*dict.fromkeys(self.found), told))

    def _tell(self, code: str, headline: str, span: Span, hint: str = "") -> None:
        self.found.append(Diagnostic(code, headline, span, hint=hint))


def sum_of(terms: list[typed.Expr], like: typed.Expr) -> typed.Expr:
    """The terms added left to right; many of them in halves, so that the depth stays small."""
    if len(terms) > LONG_SUM:
        half = len(terms) // 2
        terms = [sum_of(terms[:half], like), sum_of(terms[half:], like)]
    total = terms[0]
    for term in terms[1:]:
        total = typed.Apply("add", (total, term), like.type, span=like.span)
    return total


def spread(value: typed.Expr, like: typed.Expr) -> typed.Expr:
    """A scalar written out over the shape of `like`."""
    if not value.type.is_scalar or like.type.is_scalar:
        return value
    return typed.Apply("mul", (value, typed.Ones(like.type, span=value.span)), like.type, span=value.span)
