"""More than 2^31 entries in a tensor: offsets are 64 bits wide."""

from __future__ import annotations

import pytest
import torch
from device_cases import BARS, DEVICE, rms, rule_named

pytestmark = pytest.mark.gpu

BATCH, LENGTH, HEADS, SIZE = 257, 4096, 16, 128


def test_more_than_two_to_the_31(
    batch: int = BATCH, length: int = LENGTH, heads: int = HEADS, size: int = SIZE, backend: str = "triton"
) -> None:
    """Linear attention in bf16: the first and the last row of the batch equal the same rows alone. 2^31 entries are the
    first 256 rows, so that the whole last row lies beyond.

    Memory, in GiB: q, k, v, o and four gradients 8 x 4.0; states that enter and leave a chunk in the backward pass, 257*64
    chunks of 16 heads, 2 x 8.0 in bf16 (2 x 16.1 if they were float32); products of q and k 2.0. About 50, at most 70.
    """
    rule = rule_named("linear")
    generator = torch.Generator(device=DEVICE).manual_seed(0)
    shape = (batch, length, heads, size)
    x = {n: torch.empty(shape, dtype=torch.bfloat16, device=DEVICE) for n in "qkv"}
    for n in "qk":
        x[n].normal_(0, size**-0.5, generator=generator)
    x["v"].normal_(generator=generator)
    cotangent = torch.empty_like(x["v"]).normal_(generator=generator)

    def both(own: dict[str, torch.Tensor], weights: torch.Tensor) -> dict[str, torch.Tensor]:
        leaves = {n: v.detach().requires_grad_() for n, v in own.items()}
        o, state = rule(**leaves, backend=backend, return_state=True)
        gradients = torch.autograd.grad(o, list(leaves.values()), weights)
        named = zip((f"d{n}" for n in leaves), gradients, strict=True)
        return {"o": o.detach(), "S": state.detach(), **dict(named)}

    whole = both(x, cotangent)
    outputs, gradients, _ = BARS["bfloat16"]
    for row in (0, batch - 1):
        wanted = both({n: v[row : row + 1].clone() for n, v in x.items()}, cotangent[row : row + 1].clone())
        for n, value in wanted.items():
            error = rms(whole[n][row : row + 1].double() - value.double()) / rms(value)
            assert error <= (gradients if n.startswith("d") else outputs), (row, n, error)
