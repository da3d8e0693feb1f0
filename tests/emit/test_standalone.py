"""A compiled rule runs by itself: without ruledsl, in a process of its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from running import load

from ruledsl import pipeline
from ruledsl.emit.standalone import standalone

CORPUS = Path(__file__).resolve().parent.parent / "corpus"
# no decay, scalar and diagonal decay with reads, families and several steps, given consts, lags, frozen, no chunk form
RULES = ("linear", "gated_delta", "kda", "delta_product", "retention", "case_33", "ttt_linear", "titans", "gru")


def compiled(text: str, chunk: int | None = 8) -> str:
    rule = pipeline.check(pipeline.parse(pipeline.read(text)))
    sizes = dict.fromkeys(pipeline.unroll_sizes(rule), 2)
    unrolled = pipeline.unroll(rule, sizes)
    token, _ = pipeline.token_form(unrolled)
    schedule = None
    if token is not None:
        program = pipeline.chunk(token, unrolled, sizes)
        schedule = pipeline.schedule(program, pipeline.gradient(program), chunk=chunk)
    return standalone(unrolled, sizes, text, token, schedule)


def corpus(name: str) -> str:
    return (CORPUS / f"{name}.rule").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RULES)
def test_the_self_test_passes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "compiled.py"
    path.write_text(compiled(corpus(name)), encoding="utf-8")
    done = subprocess.run([sys.executable, "-I", str(path)], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == 1 and "against recurrent, float64: outputs" in done.stdout


def test_the_self_test_can_fail(tmp_path: Path) -> None:
    text = compiled(corpus("gated_delta"))
    broken = text.replace(
        "def token(x, state, sizes):\n", 'def token(x, state, sizes):\n    x = {**x, "b": 1.01 * x["b"]}\n', 1
    )
    assert broken != text
    path = tmp_path / "broken.py"
    path.write_text(broken, encoding="utf-8")
    done = subprocess.run([sys.executable, "-I", str(path)], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr


def test_it_imports_torch_only_and_is_deterministic() -> None:
    text = compiled(corpus("gated_delta"))
    assert text == compiled(corpus("gated_delta")) and text.isascii()
    imported = {
        alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for alias in node.names
    }
    assert imported == {"math", "torch", "torch.nn.functional"}
    assert not [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]


def arguments(module: dict[str, Any], batch: int, length: int) -> tuple[dict[str, Any], dict[str, Any]]:
    given = module["example"](batch, length, 2, {"K": 4, "V": 6})
    return {k: x for k, x in given.items() if k != "S"}, {"S": given["S"]}


def test_steps_continue_a_sequence() -> None:
    module = load(compiled(corpus("gated_delta")))
    given, state = arguments(module, 2, 12)
    expected, last = module["chunked"](**given, initial_state=state)
    _, middle = module["chunked"](**{k: x[:, :11] for k, x in given.items()}, initial_state=state)
    output, after = module["step"](middle, **{k: x[:, 11] for k, x in given.items()})
    torch.testing.assert_close(output, expected[:, 11])
    torch.testing.assert_close(after["S"], last["S"])
    assert expected.shape == (2, 12, 2, 6) and last["S"].shape == (2, 2, 6, 4)


def test_fewer_heads_serve_several() -> None:
    module = load(compiled(corpus("gated_delta")))
    given, _ = arguments(module, 1, 5)
    shared = {**given, "k": given["k"][:, :, :1]}
    spread = {**given, "k": given["k"][:, :, :1].expand_as(given["k"])}
    torch.testing.assert_close(module["chunked"](**shared)[0], module["chunked"](**spread)[0])


def test_wrong_shapes_name_the_input() -> None:
    module = load(compiled(corpus("gated_delta")))
    given, _ = arguments(module, 1, 5)
    with pytest.raises(ValueError, match="b: expected"):
        module["recurrent"](**{**given, "b": given["b"][..., None]})


def test_an_initial_value_and_a_gradient_in_the_text() -> None:
    text = "state S[V, K] = 2*ones\ninput k[K], v[V], q[K], b\nS = S - b*grad(0.5*norm2(S k - v), S)\noutput o = S q\n"
    module = load(compiled(text))
    given = module["example"](1, 9, 2, {"K": 4, "V": 6})
    first, second = module["chunked"](**given), module["recurrent"](**given)
    torch.testing.assert_close(first[0], second[0])
    state = torch.full((1, 2, 6, 4), 2.0, dtype=torch.float64)
    torch.testing.assert_close(module["recurrent"](**given, initial_state={"S": state})[0], second[0])


@pytest.mark.parametrize(
    "text", ['# """ \\\nS = S + v k^T # import os\n', "S = S + v k^T\r\n# \u2028 raise SystemExit\n"]
)
def test_hostile_text_changes_nothing_but_comments(text: str) -> None:
    assert ast.dump(ast.parse(compiled(text))) == ast.dump(ast.parse(compiled("S = S + v k^T\n")))


def test_repeated_parts_are_written_once() -> None:
    inner = "x"
    for _ in range(6):
        inner = f"norm2({inner}*x)*0.1"
    text = compiled(f"state s\ninput x\ns = 0.5*s + {inner}\noutput o = s\n")
    assert len(text[text.index("def token") : text.index("def forward")]) < 2_500
    load(text)


def test_a_frozen_state_is_continued_at_any_token() -> None:
    update = "S = S - b*grad(0.5*norm2(frozen(S, 4) k - v), frozen(S, 4))"
    module = load(compiled(f"state S[V, K]\ninput k[K], v[V], q[K], b\n{update}\noutput o = S q\n"))
    given = module["example"](2, 15, 2, {"K": 4, "V": 6})
    state = {"S": given.pop("S")}
    expected, last = module["recurrent"](**given, initial_state=state)
    for run in (module["recurrent"], module["chunked"]):
        first, middle = run(**{k: x[:, :6] for k, x in given.items()}, initial_state=state)
        one, after = module["step"](middle, **{k: x[:, 6] for k, x in given.items()})
        rest, end = run(**{k: x[:, 7:] for k, x in given.items()}, initial_state=after)
        torch.testing.assert_close(torch.cat([first, one[:, None], rest], 1), expected)
        torch.testing.assert_close(end, last)
    k, v, b, s = given["k"], given["v"], given["b"], state["S"]
    for t in range(4):  # the first chunk by hand: every gradient at the state it began with
        error = torch.einsum("bhvk,bhk->bhv", state["S"], k[:, t]) - v[:, t]
        s = s - b[:, t, :, None, None] * error[..., None] * k[:, t, :, None]
    torch.testing.assert_close(expected[:, 3], torch.einsum("bhvk,bhk->bhv", s, given["q"][:, 3]))
