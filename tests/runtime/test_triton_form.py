"""What chunk kernels are refused for before anything runs."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from cases import rule

from ruledsl.runtime.chunkable import Chunkable
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.triton_form import form_of
from ruledsl.schedule.unsupported import Unsupported


@pytest.mark.parametrize(("size", "dtype", "held"), [(128, torch.float32, True), (160, torch.float32, False), (160, torch.bfloat16, True)])
def test_a_state_that_no_program_holds(size: int, dtype: torch.dtype, held: bool) -> None:
    """One of two states that share an axis comes in blocks, the other is held whole."""
    gsa = rule("gsa")
    setting = Setting(tuple((n, size) for n in gsa.typed.sizes), 2, torch.float32, dtype, torch.device("cuda"))
    found = gsa.chunkable()
    assert isinstance(found, Chunkable)
    with nullcontext() if held else pytest.raises(Unsupported, match="256 x 256 entries whole"):
        form_of(gsa, found, setting)
