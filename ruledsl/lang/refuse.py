"""What the grammar lets through and the language does not, told from the tree alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import singledispatch
from typing import Any

from ruledsl.lang import syntax as s
from ruledsl.lang.diagnostic import Diagnostic
from ruledsl.lang.functions import ARGUMENTS, KEYWORDS, RESERVED, SPELLED
from ruledsl.lang.source import Source, Span
from ruledsl.lang.trees import children

MAX_DEPTH = 150  # of an expression's tree; later passes walk it recursively


def refuse(statements: Iterable[s.Statement], source: Source, complete: bool) -> list[Diagnostic]:
    """Every such mistake, in text order. `complete`: no statement is missing, so an undefined name is known to be one."""
    found: list[Diagnostic] = []
    defined: set[str] = set()
    inferred = True  # no input or state line: unknown names are inputs
    expressions: list[s.Expr] = []
    for statement, inside in _flatten(statements):
        defined.update(name for name, _ in _names(statement, source))
        found += _statement(statement, inside, source)
        expressions += _expressions(statement)
        inferred &= not (isinstance(statement, s.Declare) and statement.role in ("state", "input"))
    nodes: list[Any] = []
    for expression in expressions:
        inner, depth = _walk(expression)
        if depth > MAX_DEPTH:
            where = Span(expression.span.start, min(expression.span.end, expression.span.start + 60))
            return [Diagnostic("RD603", f"this expression is nested deeper than {MAX_DEPTH} levels", where, "it starts here", ("a sum of n terms counts as n levels",), "name parts of it with `let`")]
        nodes += inner
    defined.update(n.name for n in nodes if isinstance(n, s.Total))
    for node in nodes:
        found += _node(node, source)
        if complete and (wrong := _unknown_call(node, defined, inferred)):
            found.append(wrong)
    found += _cycles(statement for statement, _ in _flatten(statements) if isinstance(statement, s.Let))
    found.sort(key=lambda d: d.span.start)
    first = {d.headline: d for d in reversed(found)}  # a reserved name is told once
    return [d for d in found if d.code != "RD111" or first[d.headline] is d]


def _cycles(lets: Iterable[s.Let]) -> Iterator[Diagnostic]:
    """Lets that need each other: no order of them would do."""
    reads = {let.name: {n.id: n for n in _now(let.value)} for let in lets}
    order = list(reads)
    for i, name in enumerate(order):
        for other, place in reads[name].items():
            if other in order[i + 1 :] and name in _reached(other, reads):
                hint = f"read last token's value here, `prev({other})`, or make `{other}` a state"
                yield Diagnostic("RD205", f"`{name}` and `{other}` need each other: neither can be first", place.span, "not yet defined here", hint=hint)
                return


def _now(node: s.Expr) -> Iterator[s.Name]:
    """Names whose value of this token is read."""
    if isinstance(node, s.Name):
        yield node
    if not (isinstance(node, s.Call) and node.function == "prev"):
        for child in children(node):
            yield from _now(child)


def _reached(name: str, reads: dict[str, dict[str, s.Name]]) -> set[str]:
    found, stack = set[str](), [name]
    while stack:
        for inner in reads.get(stack.pop(), {}):
            if inner not in found:
                found.add(inner)
                stack.append(inner)
    return found


def _flatten(statements: Iterable[s.Statement]) -> Iterator[tuple[s.Statement, bool]]:
    """Each statement, and whether it stands in a loop."""
    for statement in statements:
        yield statement, False
        if isinstance(statement, s.For):
            yield from ((inner, True) for inner, _ in _flatten(statement.body))


def _expressions(statement: s.Statement) -> Iterator[s.Expr]:
    match statement:
        case s.Declare(_, items):
            for item in items:
                yield from item.dims or ()
                yield from (end for p in item.promises if isinstance(p, s.Within) for end in (p.low, p.high))
                if item.init is not None and not isinstance(item.init, s.Learned):
                    yield item.init
        case s.Let(_, value) | s.Output(_, value):
            yield value
        case s.Assign(_, index, value):
            yield from (value,) if index is None else (index, value)
        case s.For(_, low, high, _):
            yield from (low, high)


def _walk(root: s.Expr) -> tuple[list[Any], int]:
    """All nodes and the depth of the tree, without recursion."""
    nodes, depth, level = [], 0, [root]
    while level:
        depth += 1
        nodes += level
        level = [child for node in level for child in children(node)]
    return nodes, depth


# ----------------------------------------------------------------------------------------------- statements


def _names(statement: s.Statement, source: Source) -> Iterator[tuple[str, Span]]:
    """Names that a statement gives a meaning to, with their places."""
    match statement:
        case s.Declare(_, items):
            for item in items:
                yield item.name, Span(item.span.start, item.span.start + len(item.name))
        case s.Let(name) | s.Output(name) | s.For(name):
            at = statement.span.start + len(source.slice(statement.span).split()[0])
            at = source.text.index(name, at)
            yield name, Span(at, at + len(name))
        case s.Assign(name):
            yield name, Span(statement.span.start, statement.span.start + len(name))


def _statement(statement: s.Statement, inside: bool, source: Source) -> Iterator[Diagnostic]:
    matrices = {i.name for i in statement.items if len(i.dims or ()) > 1} if isinstance(statement, s.Declare) else set()
    for name, place in _names(statement, source):
        if wrong := _reserved(name, place, name in matrices):
            yield wrong
    if not isinstance(statement, s.Declare):
        return
    if inside:
        yield Diagnostic("RD118", "a declaration stands in a loop", statement.span, "declared again in each round", hint="move it above the loop")
    for item in statement.items:
        if item.init is not None and statement.role in ("input", "param"):
            why = {"input": "an input is given with each token", "param": "a param is learned"}[statement.role]
            hint = f"write `const {source.slice(item.span)}` if it is fixed" if not isinstance(item.init, s.Learned) else f"remove `= {source.slice(item.init.span)}`"
            yield Diagnostic("RD118", f"{'an' if statement.role == 'input' else 'a'} {statement.role} has no value of its own", item.init.span, why, hint=hint)
        if isinstance(item.init, s.Learned) and statement.role == "const":
            yield Diagnostic("RD118", "a const is not learned", item.init.span, "only a state starts from something learned", hint=f"write `param {item.name}`")
        for i, promise in enumerate(item.promises):
            if any(type(promise) is type(earlier) for earlier in item.promises[:i]):
                yield Diagnostic("RD118", "a promise is made twice", promise.span, "the second one", hint=f"remove `{source.slice(promise.span)}`")
        for dim in item.dims or ():
            yield from (
                Diagnostic("RD119", "a size is a whole number", node.span, "not whole", hint="write sizes such as `16`, `K`, `4*K` or `K/2`")
                for node in _walk(dim)[0]
                if isinstance(node, s.Number) and not node.text.isdigit()
            )


def _reserved(name: str, place: Span, matrix: bool = False) -> Diagnostic | None:
    """The names nothing of a rule's own may have. A matrix has an upper-case name."""
    if name in KEYWORDS:
        why = f"`{name}` is a word of the language"
    elif name in SPELLED:
        why = f"`{name}` is a function"
    elif name in RESERVED:
        why = f"`{name}` has a meaning of its own"
    elif name in ARGUMENTS:
        why = f"`{name}` is an argument of the compiled op"
    else:
        return None
    other = f"{name.capitalize()}_" if matrix else f"{name}_"
    return Diagnostic("RD111", f"`{name}` is a reserved name", place, why, hint=f"choose another name, such as `{other}`")


# ---------------------------------------------------------------------------------------------- expressions


@singledispatch
def _node(node: Any, source: Source) -> Iterator[Diagnostic]:
    return iter(())


@_node.register
def _(node: s.Name, source: Source) -> Iterator[Diagnostic]:
    if node.id not in RESERVED and (wrong := _reserved(node.id, node.span)):
        yield wrong


@_node.register
def _(node: s.Index, source: Source) -> Iterator[Diagnostic]:
    if node.name.id in RESERVED:
        yield Diagnostic("RD106", f"`{node.name.id}` has no members", node.span, "an index is for a family or a vector", hint=f"write `{node.name.id}`")


@_node.register
def _(node: s.Total, source: Source) -> Iterator[Diagnostic]:
    between = source.text[node.body.span.end : node.low.span.start]
    between = re.sub(r"#[^\n]*", lambda comment: " " * len(comment[0]), between)
    head = re.search(rf"\bfor\s+({node.name})\b", between)
    assert head is not None, "`for NAME` stands between the body and the range"
    at = node.body.span.end + head.start(1)
    if wrong := _reserved(node.name, Span(at, at + len(node.name))):
        yield wrong


@_node.register
def _(node: s.Number, source: Source) -> Iterator[Diagnostic]:
    if node.value == float("inf"):
        yield Diagnostic("RD119", "this number is too large", node.span, "beyond 1.8e308", hint="write `inf` for an end without a limit")
    elif node.value == 0 and set(node.text.lower().split("e")[0]) - set("0."):
        yield Diagnostic("RD119", "this number is too small", node.span, "it would be 0", hint="write `0`")


@_node.register
def _(node: s.Power, source: Source) -> Iterator[Diagnostic]:
    if isinstance(node.base, s.Power):
        inner = node.base
        base, first, second = (source.slice(x.span) for x in (inner.base, inner.exponent, node.exponent))
        hint = f"write `({base}{inner.op}{first}){node.op}{second}` or `{base}{inner.op}({first}{node.op}{second})`"
        yield Diagnostic("RD109", "a power of a power needs brackets", node.span, "which one comes first?", hint=hint)


@_node.register
def _(node: s.Binary, source: Source) -> Iterator[Diagnostic]:
    if node.op in ("/", "./"):
        right = node.right.operand if isinstance(node.right, s.Neg) else node.right
        while isinstance(right, s.Neg):
            right = right.operand
        if isinstance(right, s.Binary) and right.op == " " and not any(isinstance(x, s.Number) for x in (right.left, right.right)):
            written = source.slice(node.right.span)
            left, last = source.slice(node.left.span), source.slice(right.right.span)
            divided = source.text[node.right.span.start : right.left.span.end]
            hint = f"write `{left} {node.op} ({written})`, or `({left} {node.op} {divided}) {last}`"
            yield Diagnostic("RD110", f"a matrix product right of `{node.op}` needs brackets", right.span, "is all of it below the line?", hint=hint)
    if node.op == " ":
        number = next((x for x in (node.left, node.right) if isinstance(x, s.Number)), None)
        if isinstance(node.left, s.Binary) and isinstance(node.left.right, s.Number) and node.left.op == " ":
            number = None  # told one level below
        if number is not None:
            left, right_text = source.slice(node.left.span), source.slice(node.right.span)
            fix = f"{left}*{right_text}" if number is node.left else f"{right_text}*{left}"
            yield Diagnostic("RD107", f"the number `{number.text}` multiplies with `*`", node.span, "two things side by side are a matrix product", hint=f"write `{fix}`")


def _unknown_call(node: Any, defined: set[str], inferred: bool) -> Diagnostic | None:
    """`tanhh(x)`: a juxtaposition by the letter, a misspelt function by intent."""
    match node:
        case s.Binary(" ", left, s.Paren() as bracket):
            name = left.right if isinstance(left, s.Binary) and left.op == " " else left
            if not isinstance(name, s.Name) or name.span.end != bracket.span.start or name.id in defined | RESERVED or len(name.id) < 2:
                return None
            near = get_close_matches(name.id, SPELLED, n=1, cutoff=0.7)
            return unknown_function(name.id, name.span) if near or not inferred else None
    return None


def unknown_function(name: str, place: Span) -> Diagnostic:
    near = get_close_matches(name, SPELLED, n=1, cutoff=0.7)
    hint = f"did you mean `{near[0]}`?" if near else f"the functions are: {' '.join(SPELLED)}"
    return Diagnostic("RD108", f"there is no function `{name}`", place, "not a function, and nothing of that name is defined", hint=hint)
