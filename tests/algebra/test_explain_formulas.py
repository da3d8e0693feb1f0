"""The printed chunk form, evaluated as it is printed: it gives the states and outputs of the tokens one by one.

A line is plain text in the language but for its indices: `k_t`, `D_{t-1,s}` and `A[t,s]` become names with numbers in
them, sums are written out, and what is left is parsed, checked and evaluated like any rule.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from ruledsl.algebra.analysis import analyse
from ruledsl.algebra.evaluate import Matrix, evaluate
from ruledsl.algebra.explain import explain
from ruledsl.algebra.explain.explanation import Equation
from ruledsl.lang import typed
from ruledsl.lang.typed import Role

from . import token
from .corpus import checked, verdict

TOKENS = 3
RULES = (
    "linear gated_linear gla gla_two_sided hgrn hgrn2 qrnn lightning retention ssd rwkv5 rwkv6 gsa based linear_normalised case_12"
    " case_30a case_33 case_55c case_60a case_64 case_01 case_02 case_04 case_05 case_07 case_45a case_55a case_60b mission delta"
    " gated_delta kda comba iplr dplr longhorn_exact rwkv7"
).split()
NAME = r"[A-Za-z][A-Za-z0-9]*"
INDEX = re.compile(rf"({NAME})_(?:\{{([^}}]*)\}}|([tsC0-9]))|({NAME})\[([ts]),([ts])\]")
SUM = re.compile(r"(?:^| ?([+-]) |(-))?sum_\{([^}]*)\} ")


class Sheet:
    """Values by indexed name, and what a line comes to."""

    def __init__(self, values: dict[str, Matrix], sizes: dict[str, int]) -> None:
        self.values, self.sizes = values, sizes

    def line(self, text: str, t: int, s: int = 0) -> Matrix:
        """A right-hand side at token t, with its sums."""
        pieces = SUM.split(text)
        head, total = pieces[0], None
        if head:
            total = self.one(head, t, s)
        for sign, minus, which, term in zip(*(pieces[i::4] for i in (1, 2, 3, 4)), strict=True):
            last = {"s<=t": t, "s<t": t - 1, "s": TOKENS}[which]
            for k in range(1, last + 1):
                value = self.one(term, t, k)
                value = [[-v for v in r] for r in value] if "-" in (sign, minus) else value
                total = value if total is None else token_sum(total, value)
        assert total is not None
        return total

    def one(self, text: str, t: int, s: int) -> Matrix:
        """An expression without sums: its names declared with the shapes of their values."""
        used: dict[str, Matrix] = {}

        def known(m: re.Match[str]) -> str:
            name = m[1] or m[4]
            at = m[2] or m[3] or f"{m[5]},{m[6]}"
            index = [number(x, t, s) for x in at.split(",")]
            key = f"{name}__{'_'.join(map(str, index))}"
            if len(index) == 2 and index[0] == index[1] and key not in self.values:
                return "1"  # D_{s,s}
            if key not in self.values and index == [0]:
                return "0"  # G_0
            used[key] = self.values[key]
            return key

        body = INDEX.sub(known, text)
        for name in set(re.findall(NAME, body)) & set(self.values):
            used[name] = self.values[name]
        declared = ", ".join(f"{n}{shape(v)}" for n, v in used.items())
        rule = checked(
            f"state zero\n{f'input {declared}' if declared else 'input none'}\nzero = zero\noutput result = {spelled(body, self.sizes)}"
        )
        return evaluate(rule.outputs[0].value, {(n, 0): v for n, v in used.items()}, {}, {})


def number(index: str, t: int, s: int) -> int:
    base, _, back = index.partition("-")
    return {"t": t, "s": s, "C": TOKENS}.get(base, int(base) if base.isdigit() else -1) - int(back or 0)


def shape(value: Matrix) -> str:
    rows, cols = len(value), len(value[0])
    return "" if rows == cols == 1 else f"[{rows}]" if cols == 1 else f"[{rows}, {cols}]"


def spelled(text: str, sizes: dict[str, int]) -> str:
    for name, value in sizes.items():
        text = re.sub(rf"(?<![\w]){name}(?![\w])", str(value), text)
    return text


def token_sum(x: Matrix, y: Matrix) -> Matrix:
    if len(x) == len(x[0]) == 1 != len(y) * len(y[0]):
        x = [[x[0][0]] * len(r) for r in y]
    return [[a + b for a, b in zip(r, q, strict=True)] for r, q in zip(x, y, strict=True)]


def known_values(name: str) -> tuple[Sheet, list[dict[Any, Matrix]], list[dict[str, Matrix]]]:
    """Inputs, lets, params and the first state by name; the states and outputs after each token, from the text itself."""
    v = verdict(name)
    rule = analyse(v.rule).rule
    sizes = token.sizes_of(v.rule, v.sizes)
    values: dict[str, Matrix] = {}
    states: list[dict[Any, Matrix]] = []
    outputs: list[dict[str, Matrix]] = []
    samples = [token.sample(v.rule, sizes, seed) for seed in range(TOKENS + 1)]
    lags = {k for k in samples[0] if len(k) == 2 and k[1] > 0}
    first = {k: x for k, x in samples[0].items() if len(k) == 3}
    fixed = {s.name for s in rule.symbols if s.role in (Role.PARAM, Role.CONST)}
    last = {(k[0], k[2]): x for k, x in first.items()}
    values |= {f"{k[0]}__0": x for k, x in first.items()}
    for t in range(1, TOKENS + 1):
        env = {k: x for k, x in samples[t].items() if len(k) == 2 and k[1] == 0}
        env |= {(n, 0): samples[0][n, 0] for n in fixed} | {("t", 0): float(t - 1), ("head", 0): 1.0, ("heads", 0): 4.0}
        for n, lag in lags:
            old = samples[t - lag][n, 0] if t > lag else [[0.0] * len(r) for r in samples[0][n, 0]]
            env[n, lag] = old
            values[f"{n}__{t - lag}"] = old
        env |= {(s, 0, m): x for (s, m), x in last.items()}
        new, out = token.run(v.rule, env, sizes)
        last = {k: new.get(k, x) for k, x in last.items()}
        states.append(dict(last))
        outputs.append(out)
        values[f"pos__{t}"] = [[float(t - 1)]]
        for s in rule.symbols:
            if s.role is Role.INPUT:
                values[f"{s.name}__{t}"] = env[s.name, 0]
            elif s.name in fixed:
                values[s.name] = env[s.name, 0]
        lets = {s.name: s.value for s in rule.body if isinstance(s, typed.Let)}
        for n, e in lets.items():
            values[f"{n}__{t}"] = values[n] = evaluate(e, dict(env), lets, sizes)
    return Sheet(values, sizes), states, outputs


def close(x: Matrix, y: Matrix) -> None:
    assert (len(x), len(x[0])) == (len(y), len(y[0]))
    scale = max(1.0, *(abs(v) for r in y for v in r))
    assert all(abs(a - b) < 1e-9 * scale for r, q in zip(x, y, strict=True) for a, b in zip(r, q, strict=True))


class Check:
    """The equations of one rule, evaluated in their order."""

    def __init__(self, name: str) -> None:
        self.sheet, self.states, self.outputs = known_values(name)
        lines = explain(verdict(name)).section("chunk form").lines
        self.equations = [e for e in lines if isinstance(e, Equation)]
        self.turned = {e.left for e in self.equations if e.right.endswith("^T") and "_" not in e.left}
        self.own = {k[0]: k for k in self.states[0]} | dict.fromkeys(self.turned, next(iter(self.states[0])))
        self.first = {n: self.sheet.values[f"{k[0]}__0"] for n, k in self.own.items()}
        for m in self.turned:
            self.first[m] = token.transposed(self.first[m])
        self.held = 0  # values that were compared with those of the tokens

    def state(self, symbol: str, t: int) -> Matrix:
        """As the tokens one by one leave it."""
        if t == 0:
            return self.first[symbol]
        value = self.states[t - 1][self.own[symbol]]
        return token.transposed(value) if symbol in self.turned else value

    def at(self, t: int) -> None:
        """The state before a token may be looked at."""
        for n in self.own:
            self.sheet.values[f"{n}__{t - 1}"] = self.state(n, t - 1)

    def found(self, key: str, value: Matrix) -> None:
        if key in self.sheet.values:
            close(value, self.sheet.values[key])
        self.sheet.values[key] = value

    def solve(self, e: Equation) -> None:
        """Z = (I - A)^-1 R, row by row."""
        (a,), (r,), z = re.findall(r"\(I - (\w+)\)", e.right), re.findall(r"\^-1 (\w+)", e.right), e.left.lower()
        for t in range(1, TOKENS + 1):
            self.found(f"{z}__{t}", self.sheet.line(f"{r}_t + sum_{{s<t}} {a}[t,s]*{z}_s", t))

    def equation(self, e: Equation) -> None:
        m = INDEX.fullmatch(e.left)
        if m is None:
            assert e.left in self.turned or "(I - " in e.right
            return self.solve(e) if "(I - " in e.right else None
        symbol, at = m[1] or m[4], m[2] or m[3] or "[t,s]"
        for t in range(1, TOKENS + 1):
            self.at(t)
            if symbol in self.own:
                if at == "t" or t == TOKENS:
                    self.deferred.append((e.right, t, symbol))
                continue
            pairs = {"t,s": range(t), "[t,s]": range(1, t)}.get(at, (None,))
            for s in pairs:
                value = self.sheet.line(e.right, t, s or 0)
                self.found(f"{symbol}__{t}" + ("" if s is None else f"_{s}"), value)
            if symbol in self.outputs[0]:
                close(self.sheet.values[f"{symbol}__{t}"], self.outputs[t - 1][symbol])
                self.held += 1
        return None

    def all(self) -> None:
        self.deferred: list[tuple[str, int, str]] = []
        for e in self.equations:
            self.equation(e)
        for right, t, symbol in self.deferred:  # over z, which stands below
            self.at(t)
            close(self.sheet.line(right, t), self.state(symbol, t))
            self.held += 1


@pytest.mark.parametrize("name", RULES)
def test_the_printed_chunk_form_is_the_recurrence(name: str) -> None:
    check = Check(name)
    check.all()
    assert check.held >= 2 * TOKENS + 1
