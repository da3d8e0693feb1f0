"""syntax.Rule -> text; the inverse of `parse`.

Brackets are `Paren` nodes and come back as written; a tree built by hand that lacks some gets them where the grammar
needs them.
"""

from __future__ import annotations

from typing import assert_never

from ruledsl.lang import syntax as s

# What the grammar calls expr, term, unary, juxt, post, atom: an operand binds at least as tightly as its place asks.
_SUM, _TERM, _UNARY, _JUXT, _POST, _ATOM = range(6)
_INDENT = "    "


def unparse(rule: s.Rule) -> str:
    """The rule's text, one statement per line, ending in a newline. `parse` of it equals `rule`; comments are gone."""
    return "".join(f"{line}\n" for statement in rule.statements for line in _statement(statement))


def _statement(statement: s.Statement) -> list[str]:
    match statement:
        case s.Declare(role, items):
            return [f"{role} " + ", ".join(_declared(item) for item in items)]
        case s.Let(name, value):
            return [f"let {name} = {expression(value)}"]
        case s.Output(name, value):
            return [f"output {name} = {expression(value)}"]
        case s.Assign(name, None, value):
            return [f"{name} = {expression(value)}"]
        case s.Assign(name, index, value):
            assert index is not None
            return [f"{name}[{expression(index)}] = {expression(value)}"]
        case s.For(name, low, high, body):
            assert body, "a loop has a body"
            head = f"for {name} in {expression(low)}..{expression(high)}:"
            return [head, *(_INDENT + line for inner in body for line in _statement(inner))]
        case _:
            assert_never(statement)


def _declared(item: s.Declared) -> str:
    shape = "" if item.dims is None else f"[{', '.join(map(expression, item.dims))}]"
    promises = "".join(f" {_promise(p)}" for p in item.promises)
    init = "" if item.init is None else " = learned" if isinstance(item.init, s.Learned) else f" = {expression(item.init)}"
    return f"{item.name}{shape}{promises}{init}"


def _promise(promise: s.Promise) -> str:
    match promise:
        case s.Unit():
            return "unit"
        case s.Perm():
            return "perm"
        case s.Within(low, high, low_open, high_open):
            return f"in {'[('[low_open]}{expression(low)}, {expression(high)}{'])'[high_open]}"
        case _:
            assert_never(promise)


def expression(expr: s.Expr) -> str:
    """The text of one expression."""
    match expr:
        case s.Number(text):
            return text
        case s.Name(name):
            return name
        case s.Paren(inner):
            return f"({expression(inner)})"
        case s.Neg(operand):
            return f"-{_at(operand, _UNARY)}"
        case s.Binary(" ", left, right):
            return f"{_at(left, _JUXT)} {_at(right, _POST)}"
        case s.Binary("+" | "-" as op, left, right):
            return f"{_at(left, _SUM)} {op} {_at(right, _TERM)}"
        case s.Binary(op, left, right):
            divisor = op in ("/", "./") and _is_product(right)
            below = f"({expression(right)})" if divisor else _at(right, _UNARY)
            return f"{_at(left, _TERM)}{op}{below}" if op == "*" else f"{_at(left, _TERM)} {op} {below}"
        case s.Power(op, base, exponent):
            below = f"({expression(base)})" if isinstance(base, s.Power) else _at(base, _POST)
            return f"{below}{op}{_exponent(op, exponent)}"
        case s.Transpose(operand):
            return f"{_at(operand, _POST)}^T"
        case s.Index(name, index):
            return f"{name.id}[{expression(index)}]"
        case s.Compare(op, left, right):
            return f"{expression(left)} {op} {expression(right)}"
        case s.Call(function, args):
            return f"{function}({', '.join(map(expression, args))})"
        case s.Total(body, name, low, high):
            return f"sum({expression(body)} for {name} in {expression(low)}..{expression(high)})"
        case _:
            assert_never(expr)


def _at(expr: s.Expr, level: int) -> str:
    text = expression(expr)
    return text if _level(expr) >= level else f"({text})"


def _level(expr: s.Expr) -> int:
    match expr:
        case s.Binary("+" | "-"):
            return _SUM
        case s.Binary(" "):
            return _JUXT
        case s.Binary():
            return _TERM
        case s.Neg():
            return _UNARY
        case s.Power() | s.Transpose():
            return _POST
        case _:
            return _ATOM


def _is_product(expr: s.Expr) -> bool:
    """A juxtaposition, perhaps behind minus signs: refused right of `/` without brackets."""
    while isinstance(expr, s.Neg):
        expr = expr.operand
    return isinstance(expr, s.Binary) and expr.op == " "


def _exponent(op: str, expr: s.Expr) -> str:
    match expr:
        case s.Name("T") if op == "^":
            return "(T)"  # `^T` is the transpose
        case s.Neg(operand) if _level(operand) == _ATOM:
            return f"-{expression(operand)}"
        case _:
            return _at(expr, _ATOM)
