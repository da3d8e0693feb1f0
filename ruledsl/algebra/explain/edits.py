"""Changes to the text of a rule that may give it a better verdict: one function each, tree to trees.

An edit takes the rule as written and what to change, and answers with rules that may or may not check: `remedies` tries
them. `Text` knows what the names of the rule are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ruledsl.lang import syntax as s
from ruledsl.lang import typed
from ruledsl.lang.functions import TABLE
from ruledsl.lang.source import Span
from ruledsl.lang.trees import children, rebuilt

CHUNK = "16"
_FRESH = ("x", "g", "u", "y", "w", "xg", "gate")
_FRESH_MATRIX = ("X", "Y", "P", "W")
Swap = Callable[[s.Expr], s.Expr | None]  # None: leave it, look inside


@dataclass(frozen=True, slots=True)
class Edit:
    says: str  # what was done: "with the state of the chunk's start"
    rule: s.Rule
    changed: str  # the new expression that stands in place of the old one


@dataclass(frozen=True, slots=True)
class Text:
    """A rule as written and as checked."""

    rule: s.Rule
    checked: typed.Rule

    @property
    def states(self) -> frozenset[str]:
        return frozenset(x.name for x in self.checked.of(typed.Role.STATE))

    @property
    def readers(self) -> frozenset[str]:
        """Lets and outputs that read a state."""
        lets = [st for st in _statements(self.rule.statements) if isinstance(st, s.Let | s.Output)]
        found: set[str] = set()
        for _ in lets:  # a let may read an output of the token before, which stands below it
            found |= {st.name for st in lets if names(st.value) & (self.states | found)}
        return frozenset(found)

    def reads(self, expr: s.Expr) -> bool:
        return bool(names(expr) & (self.states | self.readers))

    def node(self, span: Span) -> s.Expr | None:
        """The smallest expression that holds the place."""
        best: s.Expr | None = None
        for st in _statements(self.rule.statements):
            for e in _values(st):
                for node in nodes(e):
                    if node.span.start <= span.start and span.end <= node.span.end:
                        if best is None or node.span.end - node.span.start <= best.span.end - best.span.start:
                            best = node
        return best

    def fresh(self, upper: bool = False) -> str:
        taken = {x.name for x in self.checked.symbols} | set(self.checked.sizes) | {st.name for st in _statements(self.rule.statements) if isinstance(st, s.Let | s.Output)}  # fmt: skip
        return next((n for n in (_FRESH_MATRIX if upper else _FRESH) if n not in taken), "X1" if upper else "x1")

    def type_at(self, span: Span) -> typed.Type | None:
        """Of the expression at that place."""
        for st in self.checked.body:
            for e in _typed_nodes(st):
                if e.span == span:
                    return e.type
        return None


# ------------------------------------------------------------------------------------------------ at the blamed place


def freeze(text: Text, span: Span) -> Iterator[Edit]:
    """The states in it as they were when the chunk began: in the lets it names, in one factor of a product, or in it."""
    node = text.node(span)
    if node is None:
        return
    says = "with the state of the chunk's start"
    statements = tuple(_frozen_let(text, st) for st in text.rule.statements)
    if names(node) & text.readers and statements != text.rule.statements:
        yield Edit(says, replace(text.rule, statements=statements), "")
    factors = _factors(node)
    memory = [f for f in factors if isinstance(f, s.Name) and f.id in text.states and len(factors) == 2]
    for part in factors if len(memory) == len(factors) else [f for f in factors if f not in memory]:
        new = _frozen(text, part)
        if new != part:
            yield Edit(says, _put(text.rule, part, new), expression(node, {id(part): new}))


def _frozen(text: Text, expr: s.Expr) -> s.Expr:
    def swap(e: s.Expr) -> s.Expr | None:
        match e:
            case s.Name(name) if name in text.states:
                return s.Call("frozen", (e, s.Number(CHUNK)))
            case s.Index(s.Name(name)) if name in text.states:
                return e
            case s.Call("frozen" | "prev"):
                return e
        return None

    return _swap(expr, swap)


def _frozen_let(text: Text, st: s.Statement) -> s.Statement:
    return replace(st, value=_frozen(text, st.value)) if isinstance(st, s.Let) else st


def _factors(node: s.Expr) -> list[s.Expr]:
    """Of a product of two things that both read the state, the two; else the node."""
    bare = _bare(node)
    if isinstance(bare, s.Binary) and bare.op in (" ", "*", ".*"):
        return [_bare(bare.left), _bare(bare.right)]
    return [node]


def drop(text: Text, span: Span) -> Iterator[Edit]:
    """Without the function, the power or the divisor that reads the state."""
    node = text.node(span)
    match _bare(node) if node is not None else None:
        case s.Call(function, args) as call if function in TABLE and function not in ("grad", "frozen", "solve"):
            inner = [a for a in args if text.reads(a)]
            if len(inner) == 1 and function not in ("trace", "sum"):
                yield Edit(f"without {function}", _put(text.rule, call, inner[0]), expression(call, {id(call): inner[0]}))  # fmt: skip
        case s.Power(op, base, exponent) as power:
            two = s.Power(op, base, s.Number("2"))
            if exponent != s.Number("2"):
                yield Edit("with a square", _put(text.rule, power, two), expression(power, {id(power): two}))
            yield Edit("without the power", _put(text.rule, power, base), expression(power, {id(power): base}))
        case s.Binary("/" | "./", left, right) as quotient if text.reads(right):
            yield Edit("without the division", _put(text.rule, quotient, left), expression(quotient, {id(quotient): left}))  # fmt: skip
        case s.Binary("*" | ".*", left, right) as product:
            for kept, other in ((right, left), (left, right)):
                if isinstance(_bare(kept), s.Name) and not isinstance(_bare(other), s.Name):
                    yield Edit("without the factor that reads the state", _put(text.rule, product, kept), expression(product, {id(product): kept}))  # fmt: skip


def from_inputs(text: Text, span: Span) -> Iterator[Edit]:
    """Gates and arguments that read the state made from inputs: what reads the state is left out of the sum, or a new
    input stands for all of it."""
    node = text.node(span)
    if node is None:
        return
    says = "with the state left out of the function"
    if names(node) & text.readers:
        rule = text.rule
        for st in text.rule.statements:
            if isinstance(st, s.Let) and st.name in text.readers:
                rule = _let_without_state(text, rule, st)
        if rule != text.rule:
            yield Edit("with the state left out of the gates", rule, "")
    factors = _factors(node)
    for part in factors:
        calls = [c for c in nodes(part) if isinstance(c, s.Call) and _is_map(c) and text.reads(c)]
        if calls:
            yield _ungated(text, calls[0], says)
    if len(factors) == 2 and all(isinstance(f, s.Name) and f.id in text.states for f in factors):
        name = text.fresh(upper=True)
        rule = _declared(text, text.rule, name, text.type_at(factors[1].span))
        new = s.Name(name)
        yield Edit(f"with an input {name} as the other factor", _put(rule, factors[1], new), expression(node, {id(factors[1]): new}))  # fmt: skip


def _let_without_state(text: Text, rule: s.Rule, let: s.Let) -> s.Rule:
    """The let made from inputs, if something is left of it."""
    calls = [c for c in nodes(let.value) if isinstance(c, s.Call) and _is_map(c) and text.reads(c)]
    if calls:
        return _ungated(text, calls[0], "", rule).rule
    kept = _without_state(text, let.value)
    return rule if kept is None else _put(rule, let.value, kept)


def _is_map(call: s.Call) -> bool:
    return call.function in TABLE and (TABLE[call.function].kind == "map" or call.function in ("softmax", "layernorm", "rmsnorm", "unit", "topk"))  # fmt: skip


def _ungated(text: Text, call: s.Call, says: str, rule: s.Rule | None = None) -> Edit:
    rule = rule or text.rule
    args = []
    for a in call.args:
        kept = _without_state(text, a) if text.reads(a) else a
        if kept is None:
            name = text.fresh()
            rule = _declared(text, rule, name, text.type_at(_bare(a).span))
            kept = s.Name(name)
        args.append(kept)
    gate = s.Call(call.function, tuple(args))
    return Edit(says, _put(rule, call, gate), expression(gate, {}))


def _without_state(text: Text, expr: s.Expr) -> s.Expr | None:
    """The terms of a sum that do not read the state; None for none."""
    match _bare(expr):
        case s.Binary("+" | "-" as op, left, right):
            a, b = _without_state(text, left), _without_state(text, right)
            if a is None or b is None:
                return (
                    a if b is None else b if op == "+" else s.Neg(s.Paren(b)) if not isinstance(b, s.Name) else s.Neg(b)
                )
            return s.Binary(op, a, b)
    return None if text.reads(expr) else expr


def _declared(text: Text, rule: s.Rule, name: str, type: typed.Type | None) -> s.Rule:
    """The rule with one more input, where it declares its inputs."""
    at = max((i for i, st in enumerate(rule.statements) if isinstance(st, s.Declare)), default=-1)
    if at < 0 or type is None:
        return rule
    dims = tuple(s.Name(str(d)) for d in type.dims) or None
    new = s.Declare("input", (s.Declared(name, dims),))
    return replace(rule, statements=(*rule.statements[: at + 1], new, *rule.statements[at + 1 :]))


def to_read_out(text: Text, span: Span) -> Iterator[Edit]:
    """What stands around the whole new state, around the state in the outputs instead."""
    node = text.node(span)
    if node is None:
        return
    for st in text.rule.statements:
        if not isinstance(st, s.Assign) or st.index is not None or not any(n is node for n in nodes(st.value)):
            continue
        own, place = s.Name(st.name), _bare(st.value)
        match place:
            case s.Call(_, (inner,)) if _is_map(place):
                kept, outside = inner, s.Call(place.function, (own,))
            case s.Binary("/" | "./" as op, inner, below) if text.reads(below):
                kept, outside = inner, s.Paren(s.Binary(op, own, below))  # type: ignore[assignment]
            case _:
                continue
        rule = _put(text.rule, place, kept)
        statements = tuple(_around(x, st.name, outside) for x in rule.statements)
        if statements != rule.statements:
            yield Edit("with the nonlinearity in the read-out", replace(rule, statements=statements), expression(outside, {}))  # fmt: skip


def _around(st: s.Statement, name: str, outside: s.Expr) -> s.Statement:
    if not isinstance(st, s.Output):
        return st
    return replace(st, value=_swap(st.value, _named(name, outside)))


# ------------------------------------------------------------------------------------------------ dense transitions


def split(text: Text) -> Iterator[Edit]:
    """S = S + A + B with A and B reading the state, as two sub-steps."""
    for n, st in enumerate(text.rule.statements):
        if not isinstance(st, s.Assign) or st.index is not None:
            continue
        terms = list(_terms(st.value, "+"))
        own = [t for t in terms if isinstance(_bare(t[1]), s.Name) and _bare(t[1]) == s.Name(st.name) and t[0] == "+"]
        reading = [t for t in terms if t not in own and text.reads(t[1])]
        if len(own) != 1 or len(reading) < 2:
            continue
        rest = [t for t in terms if t not in own and t not in reading]
        groups = [[t] for t in reading]
        groups[-1] += rest
        new = tuple(s.Assign(st.name, None, _summed(s.Name(st.name), g)) for g in groups)
        statements = (*text.rule.statements[:n], *new, *text.rule.statements[n + 1 :])
        yield Edit("as sub-steps, one after the other", replace(text.rule, statements=statements), "")


def _terms(expr: s.Expr, sign: str) -> Iterator[tuple[str, s.Expr]]:
    match expr:
        case s.Binary("+" | "-" as op, left, right):
            yield from _terms(left, sign)
            yield ("+" if op == sign else "-"), right
        case _:
            yield sign, expr


def _summed(first: s.Expr, terms: list[tuple[str, s.Expr]]) -> s.Expr:
    out = first
    for sign, t in terms:
        out = s.Binary(sign, out, t)
    return out


def narrower(text: Text) -> Iterator[Edit]:
    """An input matrix as a permutation, or as a diagonal; a gate per row as one gate for all."""
    for x in text.checked.of(typed.Role.INPUT):
        square = x.type.is_matrix and x.type.rows == x.type.cols
        used = any(isinstance(e, s.Name) and e.id == x.name for st in _statements(text.rule.statements) if isinstance(st, s.Assign) for e in nodes(st.value))  # fmt: skip
        if not used or x.perm or x.type.family:
            continue
        if square:
            rule = _redeclared(text.rule, x.name, lambda d: replace(d, promises=(*d.promises, s.Perm())))
            if rule != text.rule:
                yield Edit(f"with {x.name} a permutation", rule, f"{x.name} perm")
            rule = _redeclared(text.rule, x.name, lambda d: replace(d, dims=d.dims[:1] if d.dims else None))
            if rule != text.rule:
                body = swapped(rule, _named(x.name, s.Call("diag", (s.Name(x.name),))))
                yield Edit(f"with {x.name} a diagonal", body, f"diag({x.name})")
        elif x.type.is_vector:
            rule = _redeclared(text.rule, x.name, lambda d: replace(d, dims=None))

            def scaled(e: s.Expr, name: str = x.name) -> s.Expr | None:
                match e:
                    case s.Binary(".*", s.Name(n), right) if n == name:
                        return s.Binary("*", s.Name(n), right)
                return None

            body = swapped(rule, scaled)
            if body != rule:
                yield Edit(f"with one {x.name} for all rows", body, f"{x.name}*")


def _named(name: str, new: s.Expr) -> Swap:
    return lambda e: new if isinstance(e, s.Name) and e.id == name else None


def freeze_reduced(text: Text) -> Iterator[Edit]:
    """A trace or sum of the state as it was when the chunk began."""
    for st in text.rule.statements:
        if not isinstance(st, s.Assign):
            continue
        for e in nodes(st.value):
            if isinstance(e, s.Call) and e.function in ("trace", "sum") and text.reads(e):
                new = _frozen(text, e)
                if new != e:
                    yield Edit("with the state of the chunk's start", _put(text.rule, e, new), expression(new, {}))


def _redeclared(rule: s.Rule, name: str, change: Callable[[s.Declared], s.Declared]) -> s.Rule:
    def one(st: s.Statement) -> s.Statement:
        if not isinstance(st, s.Declare):
            return st
        return replace(st, items=tuple(change(d) if d.name == name else d for d in st.items))

    return replace(rule, statements=tuple(map(one, rule.statements)))


# ------------------------------------------------------------------------------------------------ trees


def names(expr: s.Expr) -> frozenset[str]:
    return frozenset(e.id for e in nodes(expr) if isinstance(e, s.Name))


def nodes(expr: s.Expr) -> Iterator[s.Expr]:
    yield expr
    for child in children(expr):
        yield from nodes(child)


def _bare(expr: s.Expr) -> s.Expr:
    while isinstance(expr, s.Paren):
        expr = expr.inner
    return expr


def _swap(expr: s.Expr, swap: Swap) -> s.Expr:
    new = swap(expr)
    return rebuilt(expr, lambda e: _swap(e, swap)) if new is None else new


def swapped(rule: s.Rule, swap: Swap) -> s.Rule:
    """Every expression of the statements; declarations stay."""

    def one(st: s.Statement) -> s.Statement:
        match st:
            case s.Let() | s.Output() | s.Assign():
                return replace(st, value=_swap(st.value, swap))
            case s.For():
                return replace(st, body=tuple(map(one, st.body)))
        return st

    return replace(rule, statements=tuple(map(one, rule.statements)))


def _put(rule: s.Rule, old: s.Expr, new: s.Expr) -> s.Rule:
    return swapped(rule, lambda e: new if e is old else None)


def expression(node: s.Expr, changes: dict[int, s.Expr]) -> str:
    """The text of an expression after the changes."""
    from ruledsl.lang.unparse import expression as unparse

    return unparse(_swap(node, lambda e: changes.get(id(e))))


def _statements(found: tuple[s.Statement, ...]) -> Iterator[s.Statement]:
    for st in found:
        yield st
        if isinstance(st, s.For):
            yield from _statements(st.body)


def _values(st: s.Statement) -> Iterator[s.Expr]:
    if isinstance(st, s.Let | s.Output | s.Assign):
        yield st.value


def _typed_nodes(st: typed.Statement) -> Iterator[typed.Expr]:
    from ruledsl.lang.walk import expressions, subexpressions

    for e in expressions(st):
        yield from subexpressions(e)
