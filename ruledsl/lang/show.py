"""Typed trees -> text of the rule language, with no more parentheses than needed.

The text of an expression of a checked rule checks to the same tree again. In an unrolled rule a state is written by
its name, or `prev(S)` at version 0; with `plain` always by its name.
"""

from __future__ import annotations

from typing import assert_never

from ruledsl.lang import typed
from ruledsl.lang.typed import Role

# how tightly a text binds, loosest first
SUM, TERM, UNARY, JUXTAPOSED, POSTFIX = range(5)
MOST_PARTS = 9  # arguments that `cat` takes


def expr_text(expr: typed.Expr, *, plain: bool = False) -> str:
    """The expression as a user would write it."""
    return _Show(plain).text(expr)


def statement_text(statement: typed.Statement, indent: str = "", *, plain: bool = False) -> str:
    """One statement; a loop with its body, one line each."""
    show = _Show(plain).text
    match statement:
        case typed.Let(name, value):
            return f"{indent}let {name} = {show(value)}"
        case typed.Output(name, value):
            return f"{indent}output {name} = {show(value)}"
        case typed.Assign(state, member, value):
            target = state if member is None else f"{state}[{show(member)}]"
            return f"{indent}{target} = {show(value)}"
        case typed.For(name, low, high, body):
            inner = "\n".join(statement_text(s, indent + "    ", plain=plain) for s in body)
            return f"{indent}for {name} in {show(low)}..{show(high)}:\n{inner}"
        case _:
            assert_never(statement)


def symbol_text(symbol: typed.Symbol) -> str:
    """A declared name with sizes, promises and first value: `k[K] unit`."""
    text = symbol.name + (f"[{', '.join(map(str, symbol.type.dims))}]" if symbol.type.dims else "")
    text += " unit" * symbol.unit + " perm" * symbol.perm
    if symbol.interval is not None:
        low, high = symbol.interval.low, symbol.interval.high
        text += f" in {'(' if symbol.interval.low_open and low != -float('inf') else '['}{_number(low)}, {_number(high)}{')' if symbol.interval.high_open else ']'}"
    if symbol.learned:
        return text + " = learned"
    return text if symbol.init is None else f"{text} = {expr_text(symbol.init)}"


def rule_text(rule: typed.Rule) -> str:
    """The whole rule, every name declared; it checks to the same rule again."""
    lines = [
        f"{role} {', '.join(map(symbol_text, rule.of(role)))}"
        for role in (Role.PARAM, Role.CONST, Role.STATE, Role.INPUT)
        if rule.of(role)
    ]
    return "\n".join([*lines, *(statement_text(s) for s in rule.body)]) + "\n"


def _number(value: float) -> str:
    if value in (float("inf"), -float("inf")):
        return "inf" if value > 0 else "-inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


class _Show:
    """Writes expressions; `plain` hides versions of states."""

    def __init__(self, plain: bool) -> None:
        self.plain = plain

    def text(self, expr: typed.Expr) -> str:
        return self._write(expr)[0]

    def _at(self, expr: typed.Expr, level: int) -> str:
        """The text, in parentheses if it binds looser than `level`."""
        text, own = self._write(expr)
        return text if own >= level else f"({text})"

    def _call(self, name: str, *args: typed.Expr | None) -> tuple[str, int]:
        return f"{name}({', '.join(self.text(a) for a in args if a is not None)})", POSTFIX

    def _write(self, expr: typed.Expr) -> tuple[str, int]:
        match expr:
            case typed.Number(value):
                return _number(value), UNARY if value < 0 else POSTFIX
            case typed.SizeOf(dim):
                return str(dim), POSTFIX if isinstance(dim, int | str) else TERM if dim.op in "*/" else SUM
            case typed.Builtin(name) | typed.LoopVar(name):
                return name, POSTFIX
            case typed.Ref() | typed.StateRef() | typed.Frozen() | typed.Member():
                return self._named(expr)
            case typed.Apply():
                return self._apply(expr)
            case typed.Compare(op, left, right):
                return f"{self.text(left)} {op} {self.text(right)}", SUM
            case typed.RowWise(fn, operand, _, count):
                return self._call(fn, operand, count)
            case typed.Reduce("sum", typed.Apply("mul", (x, y))) if x is y:
                return self._call("norm2", x)
            case typed.Reduce(fn, operand):
                return self._call(fn, operand)
            case typed.Product(left, right):
                return f"{self._at(left, JUXTAPOSED)} {self._at(right, POSTFIX)}", JUXTAPOSED
            case typed.Transpose(operand):
                return f"{self._at(operand, POSTFIX)}^T", POSTFIX
            case typed.Diag(operand):
                return self._call("diag", operand)
            case typed.Eye():
                return "I", POSTFIX
            case typed.Ones():
                return "ones", POSTFIX
            case typed.Concat(parts):
                return self._cat([self.text(p) for p in parts]), POSTFIX
            case typed.Kron(left, right):
                return self._call("kron", left, right)
            case typed.Rotate(operand, angle):
                return self._call("rotate", operand, angle)
            case typed.Solve(matrix, right, _, steps):
                return self._call("solve", matrix, right, steps)
            case typed.Total(body, name, low, high):
                return f"sum({self.text(body)} for {name} in {self.text(low)}..{self.text(high)})", POSTFIX
            case typed.Grad(loss, wrt):
                return self._call("grad", loss, wrt)
            case _:
                assert_never(expr)

    def _cat(self, parts: list[str]) -> str:
        while len(parts) > MOST_PARTS:
            parts = [parts[0] if len(parts) == 1 else f"cat({', '.join(parts[:MOST_PARTS])})", *parts[MOST_PARTS:]]
        return f"cat({', '.join(parts)})" if len(parts) > 1 else parts[0]

    def _named(self, expr: typed.Ref | typed.StateRef | typed.Frozen | typed.Member) -> tuple[str, int]:
        base, index = (expr.base, f"[{self.text(expr.index)}]") if isinstance(expr, typed.Member) else (expr, "")
        match base:
            case typed.Ref(name, _, _, lag):
                text = name + index
                if lag is None:
                    return text, POSTFIX
                return (f"prev({text})" if lag == typed.Number(1.0) else f"prev({text}, {self.text(lag)})"), POSTFIX
            case typed.StateRef(name, _, version, member):
                text = name + ("" if member is None else f"[{member}]") + index
                return (f"prev({text})" if version == 0 and not self.plain else text), POSTFIX
            case typed.Frozen(name, _, chunk):
                return f"frozen({name}{index}, {self.text(chunk)})", POSTFIX
            case _:
                return f"{self._at(base, POSTFIX)}{index}", POSTFIX

    # ---------------------------------------------------------------------------------------- element-wise

    def _apply(self, expr: typed.Apply) -> tuple[str, int]:
        match expr.fn, expr.args:
            case "add" | "sub", (left, right):
                sides = [
                    f"{self._at(s, TERM)}*ones" if s.type.is_scalar and expr.type.is_matrix else ""
                    for s in (left, right)
                ]
                sign = "+" if expr.fn == "add" else "-"
                return f"{sides[0] or self._at(left, SUM)} {sign} {sides[1] or self._at(right, TERM)}", SUM
            case "mul", (left, right):
                dotted = not left.type.is_scalar and not right.type.is_scalar
                return f"{self._at(left, TERM)}{' .* ' if dotted else '*'}{self._at(right, UNARY)}", TERM
            case "div", (left, right):
                return self._quotient(left, right), TERM
            case "neg", (inner,):
                return f"-{self._at(inner, UNARY)}", UNARY
            case "pow", (base, exponent):
                return self._power(base, exponent), POSTFIX
            case "sqrt", (typed.Reduce("sum", typed.Apply("mul", (x, y))),) if x is y:
                return self._call("norm", x)
            case _:
                return self._call(expr.fn, *expr.args)

    def _quotient(self, left: typed.Expr, right: typed.Expr) -> str:
        text, level = self._write(right)
        below = text if level == POSTFIX else f"({text})"
        if right.type.is_scalar:
            return f"{self._at(left, TERM)}/{below}"
        if left.type.is_scalar and not isinstance(left, typed.Number):
            return f"{self._at(left, TERM)}*(1 ./ {below})"
        return f"{self._at(left, TERM)} ./ {below}"

    def _power(self, base: typed.Expr, exponent: typed.Expr) -> str:
        text, level = self._write(base)
        below = text if level == POSTFIX and not (isinstance(base, typed.Apply) and base.fn == "pow") else f"({text})"
        above, level = self._write(exponent)
        whole = (
            isinstance(exponent, typed.Number)
            or level == POSTFIX
            and not (isinstance(exponent, typed.Apply) and exponent.fn == "pow")
        )
        return f"{below}{'^' if base.type.is_scalar else '.^'}{above if whole else f'({above})'}"
