"""What a rule costs in numbers: formulas at sizes, the roofline, `check --sizes`, `check --table`."""

from __future__ import annotations

import json
import re

import pytest
import torch

import ruledsl
from ruledsl.algebra.amounts import amount, amounts, price_at
from ruledsl.cli.priced import count, priced, size
from ruledsl.cli.read import judge
from ruledsl.lang.source import Source
from ruledsl.lang.typed import Role, dim_value
from ruledsl.pipeline import check, parse
from ruledsl.resources import load_source
from ruledsl.schedule.roofline import roofline
from ruledsl.schedule.target import TARGETS, Target, target

from .running import NO, ROOT, run

NAMED = sorted(p.stem for p in (ROOT / "rules").glob("*.rule") if p.stem != "softmax")


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("C^2/3 + 4*C*K + 2", 64**2 / 3 + 4 * 64 * 8 + 2),
        ("4*K*V", 4 * 8 * 3),
        ("2*K/3 - 4*V + 1", 2 * 8 / 3 - 12 + 1),
        ("K", 8),
        ("0", 0),
        ("7", 7),
    ],
)
def test_a_formula_at_sizes(formula: str, value: float) -> None:
    assert amount(formula, {"C": 64, "K": 8, "V": 3}) == pytest.approx(value)


@pytest.mark.parametrize("name", NAMED)
def test_every_formula_can_be_evaluated_and_holds_no_length(name: str) -> None:
    """Per token and head: no T in any of them, so memory and work per token do not grow."""
    verdict = judge(load_source(ROOT / "rules" / f"{name}.rule"))
    sizes = dict.fromkeys((*verdict.rule.sizes, *verdict.sizes), 8)
    found = amounts(verdict.price, {"C": 16, **sizes})
    assert found.state_bytes > 0 and found.decode_flops > 0 and found.decode_bytes > found.state_bytes
    formulas = " ".join((verdict.price.state_bytes, verdict.price.decode_flops, verdict.price.decode_bytes))
    assert not re.search(r"\b[Tt]\b", formulas) and "C" not in set(re.findall(r"\w+", formulas)) - set(sizes)


@pytest.mark.parametrize("name", ["delta", "gated_delta_product", "mlstm", "lru", "momentum_delta", "gru"])
def test_the_state_is_as_large_as_told_at_any_length(name: str) -> None:
    """Bytes of the states that the compiled rule carries after 10 and after 1000 tokens, per head."""
    rule = ruledsl.load(ROOT / "rules" / f"{name}.rule")
    sizes = {s: {"n": 2}.get(s, 4) for s in dict.fromkeys((*rule.verdict.rule.sizes, *rule.verdict.sizes))}
    checked = check(parse(load_source(ROOT / "rules" / f"{name}.rule")))
    loops = {k: sizes[k] for k in rule.verdict.sizes}
    formula = (price_at(checked, loops) if loops else rule.verdict.price).state_bytes
    seen = {}
    for length in (10, 1000):
        inputs = {
            s.name: 0.1 * torch.rand(1, length, 2, *(_whole(d, sizes) for d in s.type.dims))
            for s in checked.of(Role.INPUT)
        }
        params = {s.name: 0.1 * torch.rand(2, *(_whole(d, sizes) for d in s.type.dims)) for s in checked.of(Role.PARAM)}
        _, state = rule(**inputs, **params, return_state=True, backend="recurrent")
        seen[length] = sum(t.numel() * t.element_size() for _, t in _named(state))
        names = {s.name for s in checked.of(Role.STATE)}
        declared = [t for n, t in _named(state) if n in names or not isinstance(state, dict)]
        assert sum(t.numel() * 4 for t in declared) == 2 * amount(formula, sizes), "two heads"
    assert seen[10] == seen[1000] > 0


def _whole(dim: object, sizes: dict[str, int]) -> int:
    return dim_value(dim, sizes)  # type: ignore[arg-type]


def _named(state: object) -> list[tuple[str, torch.Tensor]]:
    if isinstance(state, torch.Tensor):
        return [("", state)]
    assert isinstance(state, dict), type(state)
    return [(name, t) for name, value in state.items() for _, t in _named(value)]


def test_loops_are_priced_at_the_sizes_that_are_asked_for() -> None:
    verdict = judge(load_source(ROOT / "rules" / "delta_product.rule"))
    assert "counted at n = 3" in verdict.price.note
    two, four = (priced(verdict, {"n": n}, target("cpu")) for n in (2, 4))
    assert two is not None and four is not None
    assert two.amounts.decode_flops < four.amounts.decode_flops and two.sizes["n"] == 2
    assert two.amounts.state_bytes == four.amounts.state_bytes


# ------------------------------------------------------------------------------------------------ the roofline


def test_the_lowest_ceiling_counts() -> None:
    device = Target("x", 1, 0, 0, bandwidth=1e9, dot_rate=1e12, exp_rate=1, step=1e-6)
    assert roofline(device, 1e6, 1e2, 1 / 64, heads=2, batch=4).tokens == pytest.approx(5e5)
    assert roofline(device, 1e6, 1e2, 1 / 64, heads=2, batch=4).limit == "flops"
    assert roofline(device, 1e2, 1e4, 1 / 64, heads=2, batch=4).limit == "bytes"
    assert roofline(device, 1e2, 1e4, 1 / 64, heads=2, batch=4).tokens == pytest.approx(5e4)
    slow = roofline(device, 1, 1, 1, heads=1, batch=4)
    assert slow.limit == "latency" and slow.tokens == pytest.approx(4e6)


def test_devices_say_where_their_figures_come_from() -> None:
    assert TARGETS["h200"].source == "measured" and TARGETS["h200"].bandwidth == 4.27e12
    assert {n for n, row in TARGETS.items() if row.source == "published"} >= {"h100", "a100", "l4", "rtx4090"}


def test_delta_on_an_h200() -> None:
    """By hand: 64 KiB of state read and written for each of 16 heads, at 4.27 TB/s."""
    verdict = judge(load_source(ROOT / "rules" / "delta.rule"))
    found = priced(verdict, {"K": 128, "V": 128, "H": 16, "B": 8}, target("h200"))
    assert found is not None
    assert found.amounts.state_bytes == 65536 and found.layer_bytes == 8 * 2**20
    moved = 2 * 65536 + 2 * (128 + 128 + 128 + 128 + 1)
    assert found.amounts.decode_bytes == moved
    assert found.decode.tokens == pytest.approx(4.27e12 / (16 * moved)) and found.decode.limit == "bytes"


# ------------------------------------------------------------------------------------------------ the command


def test_check_with_sizes() -> None:
    said = " ".join(run("check", "delta", "--sizes", "K=128,V=128,H=16,T=4096,B=8").out.split())
    assert "one layer on h200 (measured figures)" in said
    assert "state 64 KiB per head, 8 MiB for the layer, at T = 10 as at T = 10^6" in said
    assert "training: 165k flop" in said and said.count("at most") == 2 and "tokens/s" in said
    assert "(published figures)" in run("check", "delta", "--device", "a100").out


def test_the_chunk_is_the_rule_s_own() -> None:
    assert "C=16;" in run("check", "titans", "--sizes", "K=64,V=64,C=32", COLUMNS="200").out
    assert "C=32;" in run("check", "delta", "--sizes", "K=64,V=64,C=32", COLUMNS="200").out


def test_the_numbers_do_not_depend_on_the_length() -> None:
    short, long = (
        json.loads(run("check", "delta", "--sizes", f"T={t}", "--format", "json").out)["rules"][0]["cost"]
        for t in (1000, 1_000_000)
    )
    assert short.pop("sizes") != long.pop("sizes") and short == long


def test_the_table_and_its_json() -> None:
    done = run("check", "delta", "kda", "-e", NO, "--table", "--sizes", "K=128,V=128", COLUMNS="160")
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["rule", "delta", "kda", "<text>"]
    assert "64 KiB" in lines[1] and "identity + rank 1" in lines[1] and "L" in lines[3].split()
    assert "h200 (measured figures)" in done.out and "does not grow with T" in done.out
    records = json.loads(run("check", "delta", "kda", "--table", "--format", "json").out)["rules"]
    assert [r["cost"]["state_bytes"] for r in records] == [65536, 65536]
    assert all(r["cost"]["train_tokens_per_second"] > 0 and r["cost"]["device"] == "h200" for r in records)


def test_a_table_with_a_broken_rule_shows_the_others() -> None:
    done = run("check", "delta", "-e", "S = S @ v", "--table", COLUMNS="160")
    assert done.status == 1 and "delta" in done.out and "error[RD101]" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sizes", "K"], "is not NAME=NUMBER"),
        (["--sizes", "K=0"], "above 0"),
        (["--sizes", "K=1.5"], "whole number"),
        (["--sizes", "K=1,K=2"], "given twice"),
        (["--sizes", "N=1"], "no rule has a size N"),
        (["--device", "abacus"], "there is no abacus"),
        (["--table", "--format", "sarif"], "--table goes with"),
        (["--sizes", f"K={10**30}"], "whole number"),
    ],
)
def test_wrong_sizes(words: list[str], said: str) -> None:
    done = run("check", "delta", *words)
    assert done.status == 2 and said in done.err


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (1234, "1.23k"), (5.33e6, "5.33M"), (7.3e14, "730T")]
)
def test_counts(value: float, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 bytes"), (512, "512 bytes"), (65536, "64 KiB"), (3 * 2**30, "3 GiB")]
)
def test_bytes(value: float, text: str) -> None:
    assert size(value) == text


def test_what_is_not_counted_says_so() -> None:
    text = "state S[K, K]\ninput q[K], k[K], v[K]\nS = S - grad(2^sum(S k), S)\noutput o = S q"
    assert priced(judge(Source(text)), {}, target("cpu")) is None
    assert "not counted" in run("check", "-e", text, "--table").out
