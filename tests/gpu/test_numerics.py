"""Generated kernels on the device against the float64 recurrence (from 1000 tokens: against the float64 chunk form)."""

from __future__ import annotations

from functools import cache

import pytest
from device_cases import CHUNKED, SCANNED, ZOO, Case, errors, missed, pairwise, random_cases, small
from random_rules import seeds

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("case", pairwise(), ids=str)
@pytest.mark.parametrize("name", CHUNKED)
def test_bars(name: str, case: Case) -> None:
    assert not missed(errors(name, case))


@cache
def ten() -> list[int]:
    return seeds(10)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("number", range(10))
def test_bars_of_random_rules(number: int, which: int) -> None:
    seed = ten()[number]
    assert not missed(errors(f"seed_{seed}", pairwise()[random_cases(seed)[which]]))


@pytest.mark.parametrize("case", pairwise()[::5], ids=str)
@pytest.mark.parametrize("name", SCANNED)
def test_scan_kernels(name: str, case: Case) -> None:
    assert not missed(errors(name, case, backend="triton-scan"))


@pytest.mark.parametrize("case", small(), ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_what_a_call_takes(name: str, case: Case) -> None:
    assert not missed(errors(name, case, backend="default"))
