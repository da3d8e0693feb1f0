"""Chunk programs of whole rules against the specification: the rule token by token, in float64, with autograd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from token_forms import key, run
from torch import Tensor

from ruledsl import pipeline
from ruledsl.algebra.judge import judge
from ruledsl.algebra.verdict import Verdict
from ruledsl.chunk.differentiate import differentiate
from ruledsl.chunk.form import form
from ruledsl.chunk.program import Port, PortKind, Program
from ruledsl.chunk.show import show
from ruledsl.chunk.simplify import simplify
from ruledsl.chunk.verify import verify
from ruledsl.lang import typed
from ruledsl.lang.systems import in_systems
from ruledsl.lang.typed import Role, dim_value
from ruledsl.runtime.token import Token

CORPUS = Path(__file__).parent.parent / "corpus"
LENGTH, CHUNK = 11, 4
SCALARS = {"head": 0.0, "heads": 1.0}
FORMED = (
    "based case_01 case_02 case_04 case_05 case_07 case_12 case_30a case_33 case_45a case_55a case_55b case_55c case_58 "
    "case_60a case_60b case_64 comba delta delta_product dplr gated_delta gated_delta_product gated_linear gla "
    "gla_two_sided gsa hgrn hgrn2 iplr kda lightning linear linear_normalised longhorn_exact mamba3 mission "
    "omega_linear qrnn retention rwkv5 rwkv6 rwkv7 ssd momentum_delta titans_linear case_35 mesa case_41 log_linear case_34 case_62"
).split()


def verdict_of(name: str) -> Verdict:
    return judge(pipeline.check(pipeline.parse(pipeline.read(CORPUS / f"{name}.rule"))))


def sizes_of(rule: typed.Rule, known: Mapping[str, int]) -> dict[str, int]:
    """A small number for every size; K and V differ."""
    fixed = {"K": 4, "N": 4, "V": 3, "P": 3, "F": 1 + 4 + 4**2}
    others = iter((5, 2, 7, 6))
    return {**known, **{name: fixed.get(name) or next(others) for name in rule.sizes if name not in known}}


def sample(symbol: typed.Symbol, lead: tuple[int, ...], sizes: Mapping[str, int], generator: torch.Generator) -> Tensor:
    """Values in the declared range, else vectors of norm 1 and scalars in (0, 1), [..., rows, cols]."""
    dims = [dim_value(d, sizes) for d in (*symbol.type.family, symbol.type.rows, symbol.type.cols)]
    x = torch.randn(*lead, *dims, generator=generator, dtype=torch.float64)
    if symbol.interval is not None:
        low, high = max(symbol.interval.low, -2.0), min(symbol.interval.high, 2.0)
        return low + (high - low) * torch.sigmoid(x)
    if symbol.type.is_vector:
        return x / x.norm(dim=-2, keepdim=True)
    return torch.sigmoid(x) if symbol.type.is_scalar else x


@dataclass
class Case:
    """A rule on random data: tensors by port key, and what the specification makes of them."""

    sizes: dict[str, int]
    tokens: dict[str, Tensor]  # [T, n]
    fixed: dict[str, Tensor]  # [1, n] or [n, m]
    states: dict[str, Tensor]  # in the form's orientation
    cotangents: dict[str, Tensor]
    outputs: dict[str, Tensor]
    final: dict[str, Tensor]
    gradients: dict[str, Tensor]


def specification(verdict: Verdict, ports: tuple[Port, ...]) -> Case:
    """The rule run token by token on random inputs, params and states, and differentiated by torch."""
    rule, sizes = verdict.rule, sizes_of(verdict.rule, verdict.sizes)
    generator = torch.Generator().manual_seed(0)

    def draw(role: Role, lead: tuple[int, ...] = ()) -> dict[str, Tensor]:
        return {
            s.name: sample(s, lead, sizes, generator).requires_grad_()
            for s in rule.of(role)
            if role is not Role.CONST or s.init is None
        }

    inputs, params, states, given = draw(Role.INPUT, (LENGTH,)), draw(Role.PARAM), draw(Role.STATE), draw(Role.CONST)
    states |= {n: (states[n] @ states[n].mT).detach().requires_grad_() for n in in_systems(rule)}
    token = Token(rule, sizes, 1, torch.float64, torch.device("cpu"))
    carry = token.first_carry(1, {n: x[None, None] for n, x in states.items()})
    rows: dict[str, list[Tensor]] = {}
    for t in range(LENGTH):
        now = {n: x[t] for n, x in inputs.items()} | params | given
        out, carry = token.step({n: x[None, None] for n, x in now.items()}, carry)
        for n, x in out.items():
            rows.setdefault(n, []).append(x[0, 0].flatten())
    outputs = {n: torch.stack(xs) for n, xs in rows.items()}

    assert verdict.token is not None
    turned = verdict.token.transposed

    def tiles(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """States by port key, in the form's orientation."""
        found = {}
        for port in (p for p in ports if p.kind is PortKind.STATE):
            member = port.member[0] if port.member else None
            x = values[port.name] if member is None else values[port.name][member - 1]
            found[key(port)] = x.mT if turned[port.name, member] else x
        return found

    def rows_of(values: Mapping[str, Tensor], lead: int) -> dict[str, Tensor]:
        """Inputs (lead 1) and params (lead 0) by port key."""
        found: dict[str, Tensor] = {}
        for symbol in (s for s in rule.symbols if s.name in values):
            members = [(symbol.name, values[symbol.name])]
            for size in symbol.type.family:
                members = [
                    (f"{k}[{j + 1}]", x.select(lead, j)) for k, x in members for j in range(dim_value(size, sizes))
                ]
            found |= {
                k: x if symbol.type.is_matrix else x.flatten(lead) if lead else x.flatten()[None] for k, x in members
            }
        return found

    final = tiles({n: x[0, 0] for n, x in carry.states.items()})
    cotangents = {
        n: torch.randn(x.shape, generator=generator, dtype=torch.float64) for n, x in (outputs | final).items()
    }
    loss = sum((x * cotangents[n]).sum() for n, x in (outputs | final).items())
    leaves = inputs | params | states
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)  # type: ignore[arg-type]
    grads = {n: torch.zeros_like(x) if g is None else g for (n, x), g in zip(leaves.items(), found, strict=True)}
    gradients = rows_of({n: grads[n] for n in inputs}, 1) | rows_of({n: grads[n] for n in params}, 0) | tiles(grads)
    return Case(
        sizes, rows_of(inputs, 1), rows_of(params | given, 0), tiles(states), cotangents, outputs, final, gradients
    )


@torch.no_grad()
def compare(case: Case, program: Program, gradient: Program) -> None:
    got = run(program, gradient, case.tokens, case.states, CHUNK, case.cotangents, case.sizes, case.fixed, SCALARS)
    pairs = [(f"output {n}", got.outputs[n], x) for n, x in case.outputs.items()]
    pairs += [(f"state {n}", got.states[n], x) for n, x in case.final.items()]
    found = {key(port): x for port, x in got.gradients.items()}
    assert all(n in found for n, x in case.gradients.items() if x.any())
    pairs += [
        (f"gradient of {n}", x, case.gradients.get(n, torch.zeros_like(x))) for n, x in found.items()
    ]  # consts: zero
    for what, x, wanted in pairs:
        torch.testing.assert_close(x, wanted.detach(), rtol=1e-9, atol=1e-10, msg=lambda m, what=what: f"{what}: {m}")


@pytest.mark.parametrize("name", FORMED)
def test_equals_specification(name: str) -> None:
    verdict = verdict_of(name)
    assert verdict.token is not None, verdict.no_form
    program = form(verdict.token, verdict.rule, verdict.sizes)
    gradient = verify(differentiate(program))
    case = specification(verdict, program.ports)
    compare(case, program, gradient)
    compare(case, verify(simplify(program)), verify(simplify(gradient)))


def test_values_before_the_first_token_do_no_harm() -> None:
    """The logarithm of an input before the first token is -inf; `prev` of it is 0, with finite gradients."""
    text = "state S[V, K]\nparam p\ninput x in [0.1, 1], k[K], v[V]\nlet y = p*log(x) + t\nlet z = y*log(x)\nS = S + (prev(z, 2)*v) k^T\noutput o = S k"
    verdict = judge(pipeline.check(pipeline.parse(pipeline.read(text))))
    assert verdict.token is not None
    program = form(verdict.token, verdict.rule, verdict.sizes)
    compare(specification(verdict, program.ports), program, differentiate(program))


def test_the_same_text_every_time() -> None:
    def text() -> str:
        verdict = verdict_of("gated_delta")
        assert verdict.token is not None
        program = form(verdict.token, verdict.rule, verdict.sizes)
        return show(program) + show(differentiate(program))

    assert text() == text()


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("linear", {"solve", "mexp", "cumsum", "gram", "spans"}),
        ("delta", {"mexp", "cumsum", "gram", "spans"}),
        ("gated_linear", {"solve", "gram"}),
        ("gla", {"solve", "mexp", "spans"}),
    ],
)
def test_only_what_the_rule_needs_is_there(name: str, absent: set[str]) -> None:
    verdict = verdict_of(name)
    assert verdict.token is not None
    program = form(verdict.token, verdict.rule, verdict.sizes)
    assert not absent & {node.op for node in program.nodes}
