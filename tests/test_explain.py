"""Explanations against numbers: the adjoint rule against torch's gradients through the recurrence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import ruledsl
from ruledsl.algebra.analysis import Analysis, analyse
from ruledsl.algebra.evaluate import Matrix, evaluate
from ruledsl.algebra.explain.adjoint import Adjoint, adjoint, transposed
from ruledsl.algebra.explain.writer import state_name
from ruledsl.algebra.scope import State
from ruledsl.algebra.text import AT
from ruledsl.cli.app import app
from ruledsl.cli.exits import Stop
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Role
from ruledsl.runtime.rule import Rule
from ruledsl.runtime.sample import sample, sample_states

CORPUS = Path(__file__).resolve().parent / "corpus"
TOKENS = 4
AFFINE = (
    "linear gated_linear gla gla_two_sided hgrn hgrn2 rwkv6 mamba1 case_12 case_14 lru delta gated_delta case_01 case_07 kda iplr dplr"
    " rwkv7 comba longhorn_exact case_60b case_09 case_57 value_erase momentum_delta case_35 titans_linear linear_normalised"
).split()
OTHERS = "case_03 case_23 case_24 case_40a case_53 case_16 case_50a case_19a rls".split()


class Run:
    """The tokens of one head on floats, with every version of the states."""

    def __init__(self, rule: Rule, seed: int) -> None:
        self.analysis: Analysis = analyse(rule.verdict.rule)
        self.scope = self.analysis.scope
        self.sizes = {s: 2 + i % 2 for i, s in enumerate(rule.typed.sizes)}
        generator = torch.Generator().manual_seed(seed)
        self.given = sample(rule.typed, 1, TOKENS, 1, self.sizes, generator, torch.float64)
        self.given = {n: x.requires_grad_() for n, x in self.given.items()}
        self.first = sample_states(rule.typed, 1, 1, self.sizes, generator, torch.float64, only_learned=False)
        self.first = {n: (x.abs() + 0.5).requires_grad_() for n, x in self.first.items()}
        plain = next(iter(self.first.values())) if len(self.first) == 1 else self.first
        out = rule(**self.given, initial_state=plain, backend="recurrent")
        self.weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        (out * self.weight).sum().backward()
        (self.output,) = self.analysis.rule.outputs

    def value(self, name: str, t: int) -> Matrix:
        symbol = self.analysis.rule.symbol(name)
        x = self.given[name].detach()
        x = x[0, t, 0] if symbol.role is Role.INPUT else x[0]
        return matrix(x, symbol.type)

    def tokens(self) -> list[dict[Any, Any]]:
        """What each token knows: inputs, all versions of the states, the gradient by the output."""
        symbols = self.analysis.rule.symbols
        last = {s: matrix(self.first[s[0]].detach()[0, 0], self.scope.symbols[s[0]].type) for s in self.scope.states}
        out = []
        for t in range(TOKENS):
            env: dict[Any, Any] = {("t", 0): float(t), ("head", 0): 0.0}
            env |= {(s.name, 0): self.value(s.name, t) for s in symbols if s.role in (Role.INPUT, Role.PARAM)}
            env |= {
                (s.name, 0): evaluate(s.init, env, {}, self.sizes) for s in symbols if s.role is Role.CONST and s.init
            }
            env |= {(s[0], 0, s[1]): v for s, v in last.items()}
            env["d" + self.output.name, 0] = matrix(self.weight[0, t, 0], self.output.value.type)
            count = dict.fromkeys(last, 0)
            for s in self.analysis.rule.body:
                if isinstance(s, typed.Assign):
                    state = s.state, None
                    count[state] += 1
                    env[s.state, count[state], None] = last[state] = evaluate(s.value, env, {}, self.sizes)
                    final = count[state] == len(self.scope.assigns[state])
                    env[f"{s.state}{AT}t" + ("" if final else f",{count[state]}"), 0] = last[state]
                elif not isinstance(s, typed.For):
                    env[s.name, 0] = evaluate(s.value, env, {}, self.sizes)
            out.append(env)
        return out

    def back(self, found: Adjoint) -> tuple[dict[State, Matrix], dict[str, list[Matrix]]]:
        """The adjoint rule as it stands, tokens backwards."""
        d = {
            s: zeros(matrix(self.first[s[0]].detach()[0, 0], self.scope.symbols[s[0]].type)) for s in self.scope.states
        }
        inputs: dict[str, list[Matrix]] = {n: [] for n in found.inputs}
        for env in reversed(self.tokens()):
            for s, e in found.before.items():
                d[s] = plus(d[s], self.of(e, env))
            env |= {("d" + state_name(s), 0): v for s, v in d.items()}
            for n, e in found.inputs.items():
                inputs[n].insert(0, self.of(e, env))
            self.same_as_shown(env, {s: self.of(found.token[s], env) for s in d})
            d = {s: self.of(found.token[s], env) for s in d}
            for s, e in found.after.items():
                d[s] = plus(d[s], self.of(e, env))
        return d, inputs

    def of(self, expr: Expr, env: dict[Any, Any]) -> Matrix:
        rows, cols = (typed.dim_value(x, self.sizes) for x in (expr.type.rows, expr.type.cols))
        found = evaluate(expr, dict(env), {}, self.sizes)
        return found if len(found) == rows and len(found[0]) == cols else [[found[0][0]] * cols for _ in range(rows)]

    def same_as_shown(self, env: dict[Any, Any], expected: dict[State, Matrix]) -> None:
        """The transposed maps that the explanation prints for affine strata give the same."""
        for part in self.analysis.parts:
            if part.found is None or len(self.analysis.parts) > 1:
                continue
            for state in part.states:
                blocks = part.blocks or [(state, s.value) for s in reversed(part.steps)]
                total = None
                for target, value in blocks:
                    back = transposed(value, state, "d" + state_name(target))
                    if not part.blocks:
                        env = {**env, ("d" + state_name(state), 0): self.applied(back, env)}
                        total = env["d" + state_name(state), 0]
                    elif back.terms:
                        own = self.applied(back, env)
                        total = own if total is None else plus(total, own)
                assert total is not None
                close(total, expected[state])

    def applied(self, back: Any, env: dict[Any, Any]) -> Matrix:
        """Sum of coef * L (W .* X^tau) R at X = dX."""
        total: Matrix | None = None
        for t in back.terms:
            x = typed.Ref(t.marker.name, Role.INPUT, t.marker.type)
            middle: Expr = typed.Transpose(x, typed.Type(x.type.cols, x.type.rows)) if t.transposed else x
            if t.weight is not None:
                middle = typed.Apply("mul", (t.weight, middle), middle.type)
            value = evaluate(middle, dict(env), {}, self.sizes)
            for f in reversed(t.left):
                value = product(evaluate(f, dict(env), {}, self.sizes), value)
            for f in t.right:
                value = product(value, evaluate(f, dict(env), {}, self.sizes))
            c = evaluate(t.coef.expr(), dict(env), {}, self.sizes)[0][0]
            value = [[c * v for v in r] for r in value]
            total = value if total is None else plus(total, value)
        assert total is not None
        return total


def matrix(x: torch.Tensor, type: typed.Type) -> Matrix:
    if type.is_scalar:
        return [[float(x)]]
    return [[float(v)] for v in x] if type.is_vector else [[float(v) for v in r] for r in x]


def zeros(m: Matrix) -> Matrix:
    return [[0.0] * len(r) for r in m]


def plus(x: Matrix, y: Matrix) -> Matrix:
    return [[a + b for a, b in zip(r, s, strict=True)] for r, s in zip(x, y, strict=True)]


def product(x: Matrix, y: Matrix) -> Matrix:
    return [[sum(a * b for a, b in zip(r, c, strict=True)) for c in zip(*y, strict=True)] for r in x]


def close(x: Matrix, y: Matrix) -> None:
    scale = max(1.0, *(abs(v) for r in y for v in r))
    assert all(abs(a - b) < 1e-9 * scale for r, s in zip(x, y, strict=True) for a, b in zip(r, s, strict=True)), (x, y)


@pytest.mark.parametrize("name", AFFINE + OTHERS)
def test_the_adjoint_rule_gives_the_gradients(name: str) -> None:
    rule = ruledsl.load(CORPUS / f"{name}.rule")
    run = Run(rule, seed=0)
    found = adjoint(run.analysis)
    assert set(found.token) == set(run.scope.states)
    d, inputs = run.back(found)
    for state, value in d.items():
        close(value, matrix(run.first[state[0]].grad[0, 0], run.scope.symbols[state[0]].type))
    for n, values in inputs.items():
        symbol, grad = rule.typed.symbol(n), run.given[n].grad
        if symbol.role is Role.INPUT:
            for t, value in enumerate(values):
                close(value, matrix(grad[0, t, 0], symbol.type))
        else:
            total = values[0]
            for value in values[1:]:
                total = plus(total, value)
            close(total, matrix(grad[0], symbol.type))


@pytest.mark.parametrize("name", ["delta", "gated_delta", "kda", "linear", "dplr"])
def test_every_input_has_a_gradient(name: str) -> None:
    rule = ruledsl.load(CORPUS / f"{name}.rule")
    assert set(adjoint(analyse(rule.verdict.rule)).inputs) == {s.name for s in rule.typed.of(Role.INPUT)}


def test_a_rule_explains_and_shows_itself() -> None:
    rule = ruledsl.load(CORPUS / "gated_delta.rule")
    assert rule.verdict.explain().startswith(f"{rule.source.name}: chunkwise (2)")
    page = rule._repr_markdown_()
    assert rule.source.text.strip() in page and rule._repr_latex_() in page
    assert rule._repr_latex_().startswith("$$\\begin{aligned}") and "&\\leftarrow S (I - b k k^\\top)" in page
    assert rule.verdict._repr_markdown_() == page


# ------------------------------------------------------------------------------------------------ the command


def told(*args: str, stdin: str | None = None) -> str:
    done = CliRunner().invoke(app, ["explain", *args], input=stdin)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_rule_by_name_path_text_and_standard_input() -> None:
    text = "S = a*S + b*(v - S k) k^T"
    by_text = told("-e", text)
    assert by_text.startswith("<text>: chunkwise (2)")
    assert told("-", stdin=text).split("\n")[1:] == by_text.split("\n")[1:]
    assert told("delta").split("\n")[1:] == told(str(CORPUS.parent.parent / "rules" / "delta.rule")).split("\n")[1:]
    assert told("RD107") == told("107") and "RD107" in told("RD107")


def test_formats() -> None:
    assert told("delta", "--format", "latex").startswith("\\begin{align*}")
    (record,) = json.loads(told("-e", "S = a*S + b*tanh(v - S k) k^T", "--format", "json"))["rules"]
    assert record["kind"] == "sequential" and record["number"] == 6
    assert {"why not", "counter-example", "what would help"} <= {s["title"] for s in record["sections"]}
    assert record["remedies"][0] == {
        "says": "with the state of the chunk's start",
        "kind": "frozen",
        "text": "S = a*S + b*tanh(v - frozen(S, 16) k) k^T\n",
    }
    assert json.loads(told("RD107", "--format", "json"))["codes"][0]["code"] == "RD107"


@pytest.mark.parametrize("args", [[], ["delta", "-e", "S = S"], ["RD9999"], ["RD107", "--format", "latex"]])
def test_wrong_use(args: list[str]) -> None:
    done = CliRunner().invoke(app, ["explain", *args])
    assert isinstance(done.exception, Stop) and done.exception.status == 2


def test_what_is_no_rule_is_refused() -> None:
    assert CliRunner().invoke(app, ["explain", "-e", "S = "]).exit_code == 1


def test_explain_does_not_load_torch() -> None:
    code = "import sys; from ruledsl.cli.app import app; app(['explain', 'slstm'], standalone_mode=False); assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CORPUS.parent.parent, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
