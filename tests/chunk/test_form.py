"""Chunk programs of token forms made by hand against the recurrence, in float64 with autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_forms import SIZES, inputs_of, logged, plain, read, recurrence, rule_of, run, scalar, token, vector

from ruledsl.algebra.verdict import Decay, MatrixForm, Read, Step, TokenForm, Write
from ruledsl.chunk.differentiate import differentiate
from ruledsl.chunk.form import form
from ruledsl.chunk.simplify import simplify
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.chunk.verify import verify
from ruledsl.lang.typed import Apply, Frozen, Number, Output, Product, Ref, Role, Type

K, V = vector("k"), vector("v", "V")
A, B, E = scalar("a"), scalar("b"), scalar("e")
AK, CV = vector("ak"), vector("cv", "V")

FORMS: dict[str, TokenForm] = {
    "linear": token((Step(1, writes=(Write(K, V),)),), (read("r"),)),
    "read_before_write": token((Step(1, logged(AK), writes=(Write(K, V),)),), (read("r", version=0), read("s", version=1))),
    "scalar_log": token((Step(1, logged(A), writes=(Write(K, V),)),), (read("r"),)),
    "scalar_product": token((Step(1, plain(A), writes=(Write(K, V),)),), (read("r"), read("s", version=0))),
    "diagonal_log": token((Step(1, logged(AK), writes=(Write(K, V),)),), (read("r"),)),
    "diagonal_product": token((Step(1, plain(AK), writes=(Write(K, V),)),), (read("r"), read("s", version=0))),
    "delta": token((Step(1, writes=(Write(K, V, E, K, B),)),), (read("r"),)),
    "gated_delta": token((Step(1, logged(A), writes=(Write(K, V, E, K, B, True),)),), (read("r"),)),
    "before_decay": token((Step(1, logged(A), writes=(Write(K, V, E, K, B),)),), (read("r"),)),
    "before_decay_product": token((Step(1, plain(A), writes=(Write(K, V, E, K, B),)),), (read("r"),)),
    "channel_delta": token((Step(1, logged(AK), writes=(Write(K, V, E, K, B, True),)),), (read("r"),)),
    "channel_delta_product": token((Step(1, plain(AK), writes=(Write(K, V, E, K, B, True),)),), (read("r"),)),
    "erase_and_write": token((Step(1, logged(AK), writes=(Write(vector("w"), None, E, vector("p")), Write(K, V))),), (read("r"),)),
    "erase_and_write_product": token((Step(1, plain(AK), writes=(Write(vector("w"), None, E, vector("p")), Write(K, V))),), (read("r"),)),
    "sub_steps": token((Step(1, logged(A), writes=(Write(K, V, E, K, B, True),)), Step(2, writes=(Write(vector("k2"), vector("v2", "V"), None, vector("p2")),))),
                       (read("r", version=2), read("s", version=1, vector=vector("q2")))),
    "sub_steps_product": token((Step(1, plain(A), writes=(Write(K, V, E, K, B, True),)), Step(2, plain(AK), writes=(Write(vector("k2"), vector("v2", "V"), None, vector("p2")),)),
                                Step(3, writes=(Write(vector("k3"), CV),))), (read("r", version=2), read("s", version=1), read("u", version=3), read("w", version=0))),
    "two_sided_log": token((Step(1, logged(AK), logged(CV), (Write(K, V),)),), (read("r"), read("s", vector=vector("x", "V"), left=True))),
    "two_sided_product": token((Step(1, plain(AK), plain(CV), (Write(K, V),)),), (read("r"), read("s", vector=vector("x", "V"), left=True))),
    "left_log_right_product": token((Step(1, plain(AK), logged(CV), (Write(K, V),)), Step(2, logged(A), plain(CV), (Write(AK, CV),))),
                                    (read("r"), read("s", vector=vector("x", "V"), left=True, version=2))),
    "left_read": token((Step(1, logged(A), writes=(Write(K, V, E, K, B, True),)),), (read("r", vector=vector("x", "V"), left=True),)),
    "vector_state": token((Step(1, logged(AK), writes=(Write(K, scalar("x")),)),), (read("r", vector=scalar("y"), left=True), read("s", version=0)), rows=1),
    "column_state": token((Step(1, None, plain(CV), (Write(scalar("x"), V),)), Step(2, plain(A), None, (Write(B, CV),))),
                          (read("r", vector=scalar("y")), read("s", vector=vector("z", "V"), left=True, version=2), read("u", vector=scalar("y"), version=0)), cols=1),
    "normaliser": token((Step(1, logged(A), writes=(Write(K, scalar("x")),)),), (read("r"),), rows=1),
}  # fmt: skip


def sample(form: TokenForm, length: int, generator: torch.Generator, zeros: bool) -> dict[str, torch.Tensor]:
    """Inputs [T, n]; decays in (0, 1) on the log route, else of either sign, some exactly 0."""
    logs: set[str] = set()
    products: set[str] = set()
    for step in form.forms[0].steps:
        for decay in (step.right, step.left):
            if decay is not None:
                (products if decay.log is None else logs).add(decay.value.name)  # type: ignore[union-attr]
    data = {}
    for name, ref in inputs_of(form).items():
        n = SIZES.get(str(ref.type.rows), 1)
        x = torch.randn(length, n, generator=generator, dtype=torch.float64)
        if name in logs:
            x = torch.sigmoid(x + 1)
        elif name in products:
            x = torch.tanh(x)
            if zeros:
                x = x * (torch.rand(length, n, generator=generator) > 0.2)
        elif n > 1:
            x = x / x.norm(dim=-1, keepdim=True)
        data[name] = x
    return data


def compare(token_form: TokenForm, length: int, chunk: int, seed: int = 0, passes: bool = False) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = token_form.forms[0]
    data = {n: x.requires_grad_() for n, x in sample(token_form, length, generator, zeros=True).items()}
    rows, cols = (d if isinstance(d, int) else SIZES[str(d)] for d in (matrix.rows, matrix.cols))
    state = torch.randn(rows, cols, generator=generator, dtype=torch.float64, requires_grad=True)
    outputs, final = recurrence(token_form, data, state)
    cotangents = {
        f"o{i}": torch.randn(o.shape, generator=generator, dtype=torch.float64) for i, o in enumerate(outputs)
    }
    cotangents["S"] = torch.randn(final.shape, generator=generator, dtype=torch.float64)
    loss = sum((o * cotangents[f"o{i}"]).sum() for i, o in enumerate(outputs)) + (final * cotangents["S"]).sum()
    expected = dict(
        zip([*data, "S"], torch.autograd.grad(loss, [*data.values(), state], allow_unused=True), strict=True)
    )  # type: ignore[arg-type]

    program = form(token_form, rule_of(tuple(inputs_of(token_form).values())), {})
    gradient = verify(differentiate(program))
    if passes:
        program, gradient = verify(simplify(program)), verify(simplify(gradient))
    with torch.no_grad():
        got = run(program, gradient, data, {"S": state}, chunk, cotangents)
    for i, o in enumerate(outputs):
        torch.testing.assert_close(got.outputs[f"o{i}"], o.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.states["S"], final.detach(), rtol=1e-10, atol=1e-10)
    names = {port.name: value for port, value in got.gradients.items()}
    for name, value in expected.items():
        wanted = torch.zeros_like(names[name]) if value is None else value
        torch.testing.assert_close(
            names[name], wanted, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"gradient of {n}: {m}"
        )


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("length", "chunk"), [(12, 4), (13, 5)])
def test_equals_recurrence(name: str, length: int, chunk: int) -> None:
    compare(FORMS[name], length, chunk)


@pytest.mark.parametrize("name", FORMS)
def test_simplified_equals_recurrence(name: str) -> None:
    compare(FORMS[name], 7, 4, seed=1, passes=True)


# ---------------------------------------------------------------------------------------------------- random forms


@st.composite
def token_forms(draw: st.DrawFn) -> TokenForm:
    """Any mix of decays on either side and either route, writes that read or not, reads on either side."""
    rows, cols = draw(st.sampled_from([("V", "K"), ("V", "K"), (1, "K"), ("V", 1), (1, 1)]))
    reading = draw(st.booleans())
    count = 0

    def fresh(size: str | int) -> Ref:
        nonlocal count
        count += 1
        return scalar(f"x{count}") if size == 1 else vector(f"x{count}", size)

    def decay(size: str | int) -> Decay | None:
        kind = draw(st.sampled_from(["none", "scalar", "vector"]))
        route = logged if draw(st.booleans()) else plain
        return None if kind == "none" else route(fresh(1 if kind == "scalar" else size))

    def write() -> Write:
        reads = reading and draw(st.booleans())
        scale = fresh(1) if draw(st.booleans()) else None
        value = fresh(rows) if not reads or draw(st.booleans()) else None
        if not reads:
            return Write(fresh(cols), value, scale=scale)
        return Write(fresh(cols), value, fresh(1), fresh(cols), scale, draw(st.booleans()))

    steps = []
    for version in range(1, draw(st.integers(1, 3)) + 1):
        left = None if reading else decay(rows)
        steps.append(Step(version, decay(cols), left, tuple(write() for _ in range(draw(st.integers(0, 2))))))
    reads = []
    for i in range(draw(st.integers(1, 2))):
        left = draw(st.booleans())
        reads.append(read(f"r{i}", draw(st.integers(0, len(steps))), fresh(rows if left else cols), left))
    return token(tuple(steps), tuple(reads), rows, cols)


@settings(max_examples=60, deadline=None)
@given(token_forms(), st.integers(1, 9), st.integers(1, 6), st.integers(0, 9), st.booleans())
def test_any_form_equals_recurrence(form: TokenForm, length: int, chunk: int, seed: int, passes: bool) -> None:
    compare(form, length, chunk, seed, passes)


# ---------------------------------------------------------------------------------------------------- refusals, frozen


def test_row_decay_with_reads_is_refused() -> None:
    refused = token((Step(1, None, logged(CV), (Write(K, V, E, K, B),)),), (read("r"),))
    with pytest.raises(UnsupportedForm, match="every row needs a solve of its own"):
        form(refused, rule_of(tuple(inputs_of(refused).values())), {})


def test_matrix_input_is_refused() -> None:
    x = Ref("X", Role.INPUT, Type("V", "K"))
    refused = TokenForm((), (), (), (Output("o", Product(x, K, Type("V", 1))),))
    with pytest.raises(UnsupportedForm, match="input X is a matrix for every token"):
        form(refused, rule_of((x, K)), {})


def test_version_inside_a_step_is_refused() -> None:
    refused = token((Step(2, writes=(Write(K, V),)),), (read("r", version=1),))
    with pytest.raises(UnsupportedForm, match="version 1 of S is inside a step"):
        form(refused, rule_of((K, V, vector("q"))), {})


@pytest.mark.parametrize("transposed", [False, True])
def test_frozen_state_is_the_incoming_one(transposed: bool) -> None:
    """S = S + (v - F k) k^T, F the state at the start of each chunk of 4 tokens; the form may hold S^T."""
    length, chunk, dtype = 10, 4, torch.float64
    seen = Product(Frozen("S", Type("V", "K"), Number(float(chunk))), K, Type("V", 1))
    error = Apply("sub", (V, seen), Type("V", 1))
    write = Write(error, K) if transposed else Write(K, error)
    rows, cols = ("K", "V") if transposed else ("V", "K")
    matrix = MatrixForm("S", rows, cols, transposed, (Step(1, writes=(write,)),))
    frozen = TokenForm(
        (), (Read("r", "S", 1, vector("q"), transposed),), (matrix,), (Output("o", Ref("r", Role.READ, Type("V", 1))),)
    )
    rule = rule_of((K, V, vector("q")))
    program = form(frozen, rule, {})
    assert program.chunk == chunk

    generator = torch.Generator().manual_seed(0)
    data = {
        n: torch.randn(length, SIZES[s], generator=generator, dtype=dtype, requires_grad=True)
        for n, s in (("k", "K"), ("v", "V"), ("q", "K"))
    }
    start = torch.randn(SIZES["V"], SIZES["K"], generator=generator, dtype=dtype, requires_grad=True)
    state, outputs = start, []
    for t in range(length):
        if t % chunk == 0:
            first = state
        state = state + torch.outer(data["v"][t] - first @ data["k"][t], data["k"][t])
        outputs.append(state @ data["q"][t])
    wanted = torch.stack(outputs)
    d_out, d_state = (torch.randn(x.shape, generator=generator, dtype=dtype) for x in (wanted, state))
    expected = torch.autograd.grad((wanted * d_out).sum() + (state * d_state).sum(), [*data.values(), start])
    turn = (lambda x: x.mT) if transposed else (lambda x: x)
    with torch.no_grad():
        nothing = torch.zeros_like(turn(start))  # every chunk holds its first token: no copy that came along is read
        entering, leaving = {"S": turn(start), "frozen.S.4": nothing}, {"o": d_out, "S": turn(d_state), "frozen.S.4": nothing}
        got = run(program, differentiate(program), data, entering, chunk, leaving)
    torch.testing.assert_close(got.outputs["o"], wanted.detach())
    torch.testing.assert_close(turn(got.states["S"]), state.detach())
    for name, value in zip(["k", "v", "q", "S"], expected, strict=True):
        found = next(x for port, x in got.gradients.items() if port.name == name)
        torch.testing.assert_close(turn(found) if name == "S" else found, value)


def test_symbols_without_use_are_no_ports() -> None:
    program = form(FORMS["linear"], rule_of((K, V, vector("q"), scalar("unused"))), {})
    assert "unused" not in {port.name for port in program.ports}
    assert dict(program.types)["unused"] == Type()
