"""What a rule fixes before the first token: loop bounds, lags, members, and what it carries from token to token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ruledsl.lang import typed
from ruledsl.lang.functions import TABLE


def static_value(expr: typed.Expr, rule: typed.Rule, sizes: Mapping[str, int], loops: Mapping[str, int]) -> float:
    """The number an expression over numbers, sizes, loop variables and consts with a value stands for."""

    def number(e: typed.Expr) -> float:
        match e:
            case typed.Number(value):
                return value
            case typed.SizeOf(dim):
                return typed.dim_value(dim, sizes)
            case typed.LoopVar(name):
                return loops[name]
            case typed.Ref(name, typed.Role.CONST):
                init = rule.symbol(name).init
                assert init is not None, f"const {name} has no value of its own"
                return number(init)
            case typed.Apply(fn, args):
                function = TABLE[fn].python
                assert function is not None, f"{fn} has no value on numbers"
                return function(*(number(a) for a in args))
            case _:
                raise AssertionError(f"not a number before the first token: {e}")

    return number(expr)


def static_int(expr: typed.Expr, rule: typed.Rule, sizes: Mapping[str, int], loops: Mapping[str, int]) -> int:
    value = static_value(expr, rule, sizes, loops)
    assert value == int(value), f"{value} is not whole"
    return int(value)


@dataclass(frozen=True, slots=True)
class Carried:
    """What goes from one token to the next besides the declared states."""

    lags: Mapping[str, int]  # input, let or output -> the most tokens it is looked back
    frozen: tuple[tuple[str, int], ...]  # state and chunk length
    position: bool  # t is read

    @property
    def bare(self) -> bool:
        """Nothing but the declared states."""
        return not self.lags and not self.frozen and not self.position


def carried(rule: typed.Rule, sizes: Mapping[str, int]) -> Carried:
    """Walk every turn of every loop."""
    lags: dict[str, int] = {}
    frozen: dict[tuple[str, int], None] = {}
    position = False

    for expr, loops in _visits(rule, sizes):
        match expr:
            case typed.Ref(name, _, _, lag) if lag is not None:
                j = static_int(lag, rule, sizes, loops)
                if j > 0:
                    lags[name] = max(lags.get(name, 0), j)
            case typed.Frozen(name, _, chunk):
                frozen[name, static_int(chunk, rule, sizes, loops)] = None
            case typed.Builtin("t"):
                position = True
            case _:
                pass
    return Carried(lags, tuple(frozen), position or bool(frozen))


def _visits(rule: typed.Rule, sizes: Mapping[str, int]) -> Iterator[tuple[typed.Expr, dict[str, int]]]:
    """Every expression of the body with the loop variables around it."""

    def expression(e: typed.Expr, loops: dict[str, int]) -> Iterator[tuple[typed.Expr, dict[str, int]]]:
        yield e, loops
        if isinstance(e, typed.Total):
            for j in turns(e, rule, sizes, loops):
                yield from expression(e.body, loops | {e.name: j})
        else:
            for child in typed.children(e):
                yield from expression(child, loops)

    def statements(
        body: tuple[typed.Statement, ...], loops: dict[str, int]
    ) -> Iterator[tuple[typed.Expr, dict[str, int]]]:
        for s in body:
            if isinstance(s, typed.For):
                for j in turns(s, rule, sizes, loops):
                    yield from statements(s.body, loops | {s.name: j})
            else:
                yield from expression(s.value, loops)

    yield from statements(rule.body, {})


def turns(loop: typed.For | typed.Total, rule: typed.Rule, sizes: Mapping[str, int], loops: Mapping[str, int]) -> range:
    """The values a loop variable takes."""
    return range(static_int(loop.low, rule, sizes, loops), static_int(loop.high, rule, sizes, loops) + 1)


def only_vectors(rule: typed.Rule) -> bool:
    """Has the rule no state that is a matrix? Products of tiles have nothing to do for it: scan kernels go before chunk kernels."""
    return not any(s.type.is_matrix for s in rule.of(typed.Role.STATE))
