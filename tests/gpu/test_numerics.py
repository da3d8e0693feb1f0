"""Generated kernels on the device against the float64 recurrence (from 1000 tokens: against the float64 chunk form)."""

from __future__ import annotations

import math

import pytest
from device_cases import CHUNKED, Case, errors, pairwise

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("case", pairwise(0), ids=str)
@pytest.mark.parametrize("name", CHUNKED)
def test_bars(name: str, case: Case) -> None:
    missed = {k: e for k, (e, bar) in errors(name, case).items() if not e <= bar or math.isnan(e)}
    assert not missed
