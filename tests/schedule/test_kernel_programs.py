"""The programs that kernels are cut from compute what the chunk program and its gradient compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ruledsl import pipeline
from ruledsl.chunk.program import Program, Result, ResultKind
from ruledsl.runtime.interpret import extent, interpret

CORPUS = Path(__file__).resolve().parent.parent / "corpus"
NAMES = ("linear", "gla", "gla_two_sided", "gated_delta", "kda", "comba", "rwkv7", "dplr", "mamba3", "gsa")
SIZES = {"K": 4, "V": 6, "M": 5, "n": 2, "N": 4, "P": 6}


def tiles(programs: tuple[Program, ...], chunk: int) -> dict[object, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found: dict[object, torch.Tensor] = {}
    for program in programs:
        for node in program.nodes:
            if node.op == "input" and program.port(node) not in found:
                shape = [extent(axis, SIZES, chunk) for axis in node.shape]
                found[program.port(node)] = torch.rand(*shape, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    return {port: torch.ones_like(x) if port.kind == "valid" else x for port, x in found.items()}  # type: ignore[attr-defined]


def key(result: Result) -> tuple[object, ...]:
    return result.name, result.kind, result.port


@pytest.mark.parametrize("name", NAMES)
def test_the_same_values(name: str) -> None:
    verdict = pipeline.verdict(pipeline.check(pipeline.parse(pipeline.read(CORPUS / f"{name}.rule"))))
    assert verdict.token is not None
    plain = pipeline.chunk(verdict.token, verdict.rule, verdict.sizes)
    programs = (plain, pipeline.gradient(plain), *pipeline.kernel_programs(verdict.token, verdict.rule, verdict.sizes))
    given = tiles(programs, 8)
    wanted, gradients, *found = ({key(r): x for r, x in interpret(p, given, SIZES, 8).items()} for p in programs)  # type: ignore[arg-type]
    wanted |= gradients
    for values in found:
        for result, value in values.items():
            if result[1] is not ResultKind.STATE or result in wanted:
                torch.testing.assert_close(value, wanted[result], rtol=1e-9, atol=1e-11)
