"""Emitted text equals the interpreter: outputs, states, every gradient; packed sequences; broadcast tiles."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs import matrix_state
from running import BATCH, CHUNKS, HEADS, load, reference, sample
from torch import Tensor

from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.differentiate import differentiate
from ruledsl.chunk.program import Port, PortKind, Program, Result, ResultKind, Rows
from ruledsl.emit.torch_text import torch_text
from ruledsl.schedule.fold import Form
from ruledsl.schedule.keys import VALID
from ruledsl.schedule.plan import plan
from ruledsl.schedule.target import target

SIZES = {"K": 5, "V": 3}
CHUNK = 8


def emitted(program: Program, form: Form | None = None, chunk: int = CHUNK) -> dict[str, Any]:
    schedule = plan(program, differentiate(program), target("cpu"), chunk=chunk, form=form)
    return load(torch_text(schedule, "S = S"))


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert set(found) == set(expected)
    return max(
        (float((found[k].expand_as(x) - x).abs().max() / x.abs().max().clamp(min=1e-9)) for k, x in expected.items()),
        default=0.0,
    )


def compare(program: Program, form: Form | None = None, sizes: dict[str, int] = SIZES, scale: float = 1.0) -> None:
    """Against the interpreter, chunk after chunk, differentiated by torch."""
    tiles, states = sample(program, sizes, CHUNK)
    tiles = {k: x if k == VALID else scale * x for k, x in tiles.items()}
    leaves = {k: x.clone().requires_grad_(k != VALID) for k, x in tiles.items()}
    first = {k: x.clone().requires_grad_() for k, x in states.items()}
    outputs, leaving = reference(program, leaves, first, sizes, CHUNK)
    module = emitted(program, form)
    found, entering, left = module["forward"](tiles, states, None, sizes)
    assert worst(found, {k: x.detach() for k, x in outputs.items()}) < 1e-12
    assert worst(left, {k: x.detach() for k, x in leaving.items()}) < 1e-12

    douts, dleaving = ({k: torch.randn_like(x) for k, x in part.items()} for part in (outputs, leaving))
    total = sum(
        (x * c).sum()
        for part, cts in ((outputs, douts), (leaving, dleaving))
        for x, c in zip(part.values(), cts.values(), strict=True)
    )
    assert isinstance(total, Tensor)
    total.backward()
    dtiles, dstates = module["backward"](tiles, entering, None, douts, dleaving, sizes)
    assert all(x.shape == tiles[k].shape for k, x in dtiles.items())
    given = {
        k: x.grad if x.grad is not None else torch.zeros_like(x) for k, x in leaves.items() if k not in (VALID, "head")
    }
    assert worst(dtiles, given) < 1e-10
    assert worst(dstates, {k: x.grad for k, x in first.items() if x.grad is not None}) < 1e-10


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("decay", ["", "scalar", "diagonal"])
def test_matrix_states(decay: str, reads: bool, form: Form) -> None:
    compare(matrix_state(decay, reads, param=True), form, scale=0.5)


def test_square_states_and_one_column() -> None:
    compare(matrix_state("scalar", True), sizes={"K": 4, "V": 4}, scale=0.5)
    compare(matrix_state("scalar", True), sizes={"K": 4, "V": 1}, scale=0.5)


def elementwise(seed: int) -> Program:
    """A few random operations on inputs, constants and a vector state."""
    generator = torch.Generator().manual_seed(seed)

    def pick(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    b = Builder()
    tokens = Rows(1)
    pool = [b.input(Port(n, PortKind.INPUT), (tokens, "K")) for n in ("x", "y")]
    pool += [
        b.input(Port("c", PortKind.INPUT), (tokens, 1)),
        b.input(Port("p", PortKind.PARAM), (1, "K")),
        b.const(0.5),
        b.input(Port("head", PortKind.HEAD), (1, 1)),
    ]
    state = b.input(Port("h", PortKind.STATE), (1, "K"))
    choices: list[Callable[[Tile, Tile], Tile]] = [
        lambda x, y: x + y,
        lambda x, y: x - 1.5 * y,
        lambda x, y: x * y,
        lambda x, y: b.apply("tanh", x) / (2.5 + b.apply("sigmoid", y)),
        lambda x, y: b.apply("max", x, 0.25),
        lambda x, y: b.apply("min", x, y),
        lambda x, y: b.select("<", x, y, x, 1.0),
        lambda x, y: b.apply("exp", b.apply("sin", x)),
        lambda x, y: b.sum(b.expand(b.apply("cos", x), (tokens, "K")), 1),
        lambda x, y: b.make("cumsum", (b.expand(b.apply("tanh", x), (tokens, "K")),), bool(pick(2))),
        lambda x, y: b.apply("softplus", x) + state,
        lambda x, y: b.shift(b.expand(b.apply("tanh", x), (tokens, "K")), 0.0, 1),
    ]
    for _ in range(14):
        pool.append(choices[pick(len(choices))](pool[pick(len(pool))], pool[pick(len(pool))]))
    out = pool[0]
    for tile in pool[6:]:
        out = out + b.apply("tanh", tile)
    out = b.expand(out, (tokens, "K"))
    valid = b.input(Port("", PortKind.VALID), (tokens, 1))
    leaving = state * 0.5 + b.sum(b.apply("tanh", pool[-1]) * pool[1] * valid, 0)
    return b.program(
        [
            (Result("o", ResultKind.OUTPUT, 0), out),
            (Result("h", ResultKind.STATE, 0, Port("h", PortKind.STATE)), b.expand(leaving, (1, "K"))),
        ]
    )


@pytest.mark.parametrize("seed", range(12))
def test_random_programs(seed: int) -> None:
    compare(elementwise(seed))


def test_layout_operations() -> None:
    b = Builder()
    tokens = Rows(1)
    x, y = (b.input(Port(n, PortKind.INPUT), (tokens, 4)) for n in ("x", "y"))
    slots = b.make("interleave", (x, y))
    parts = [
        b.make("slot", (slots * 2.0,), 1),
        b.make("unpairs", (b.make("pairs", (x,), 1), b.make("pairs", (y,), 0))),
        b.cut(b.cat([x, y]), 2, 4),
        b.sum(b.make("kron", (x, y)), 1),
        b.make("put_last", (b.last(x) * 2.0,), None, (tokens, 4)),
        b.make("amax", (x,), 1),
        b.dot(b.make("block", (b.dot(slots, slots, tb=True),), (0, 1)), y),
    ]
    out = parts[0]
    for part in parts[1:]:
        out = out + part
    compare(b.program([(Result("o", ResultKind.OUTPUT, 0), out)]))


@pytest.mark.parametrize("reads", [False, True])
def test_packed_sequences_are_sequences_of_their_own(reads: bool) -> None:
    program = matrix_state("scalar", reads)
    module = emitted(program)
    tiles, _ = sample(program, SIZES, CHUNK)
    tiles = {k: 0.5 * x[:1] if k != VALID else x for k, x in tiles.items()}
    states = {"S": torch.randn(3, HEADS, SIZES["V"], SIZES["K"], dtype=torch.float64)}
    sequence = torch.tensor([0, 2, 2])  # sequence 1 has no chunk; CHUNKS = 3
    starts, ends = (torch.tensor([True, True, False]), sequence), (torch.tensor([True, False, True]), sequence)
    outputs, entering, leaving = module["forward"](tiles, states, starts, SIZES)
    douts, dleaving = {"o": torch.randn_like(outputs["o"])}, {"S": torch.randn_like(leaving["S"])}
    dtiles, dstates = module["backward"](tiles, entering, ends, douts, dleaving, SIZES)
    assert torch.equal(leaving["S"][1], states["S"][1]) and torch.equal(dstates["S"][1], dleaving["S"][1])
    for own, chunks in ((0, slice(0, 1)), (2, slice(1, 3))):
        part = {k: x[:, :, chunks] for k, x in tiles.items()}
        alone, kept, left = module["forward"](part, {"S": states["S"][own : own + 1]}, None, SIZES)
        torch.testing.assert_close(outputs["o"][:, :, chunks], alone["o"])
        torch.testing.assert_close(leaving["S"][own], left["S"][0])
        d_part, d_first = module["backward"](
            part, kept, None, {"o": douts["o"][:, :, chunks]}, {"S": dleaving["S"][own : own + 1]}, SIZES
        )
        torch.testing.assert_close(dstates["S"][own], d_first["S"][0])
        for key, gradient in d_part.items():
            torch.testing.assert_close(dtiles[key][:, :, chunks], gradient)


def test_any_chunk_length_runs_the_same_text() -> None:
    program = matrix_state("scalar", True)
    module = emitted(program, chunk=64)
    tiles, states = sample(program, SIZES, 7)
    expected, leaving = reference(program, tiles, states, SIZES, 7)
    found, _, left = module["forward"](tiles, states, None, SIZES)
    assert worst(found, expected) < 1e-10 and worst(left, leaving) < 1e-10
    assert found["o"].shape[:4] == (BATCH, HEADS, CHUNKS, 7)


def text_of(rule_text: str) -> str:
    program = matrix_state("scalar", True)
    return torch_text(plan(program, differentiate(program), target("cpu")), rule_text)


def test_the_text_is_deterministic_and_imports_torch_only() -> None:
    text = text_of("S = a*S")
    assert text == text_of("S = a*S")
    imported = {
        alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"math", "torch", "torch.nn.functional"}


def test_only_called_functions_are_included() -> None:
    names = {node.name for node in ast.parse(text_of("")).body if isinstance(node, ast.FunctionDef)}
    assert {"forward", "backward", "inverse", "mexp"} <= names
    assert not names & {"gram", "chain_gram", "kron", "shift", "solve"}


HOSTILE = [
    'S = S """; import os; os.system("x") """',
    "S = S\r\nimport os\rimport sys\x0bimport re\x0cimport io\x85import ab\u2028import cd\u2029import ef",
    "# \\\nimport os",
    "S = S '''\n'''\nraise SystemExit",
    "\x00\ufeff\ud7ff é 中 \\N{DIGIT ONE} \\u0041",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_rule_text_stays_a_comment(text: str) -> None:
    plain, hostile = ast.dump(ast.parse(text_of(""))), ast.dump(ast.parse(text_of(text)))
    assert plain == hostile
    assert text_of(text).isascii()


@pytest.mark.parametrize(
    "name",
    [
        "lambda",
        "None",
        "torch",
        "tiles",
        "N",
        "forward",
        "inverse",
        "é",
        "x y",
        'a"]; 1/0; ["',
        "__import__",
        "1",
        "",
        "print",
        "match",
        "last",
        "valid",
    ],
)
def test_names_of_any_kind_are_only_names(name: str) -> None:
    b = Builder()
    tokens = Rows(1)
    x = b.input(Port(name, PortKind.INPUT), (tokens, "K"))
    state = b.input(Port(name + "S", PortKind.STATE), (1, "K"))
    leaving = state + b.sum(x, 0)
    program = b.program(
        [
            (Result(name + "o", ResultKind.OUTPUT, 0), b.apply("tanh", x * state)),
            (Result(name + "S", ResultKind.STATE, 0, Port(name + "S", PortKind.STATE)), leaving),
        ]
    )
    compare(program)
