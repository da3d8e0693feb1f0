"""What the cost model expects of a measurement: kernel by kernel where there are chunk kernels, else the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ruledsl.lab.bench.floor import Floor
from ruledsl.lab.bench.shapes import Shape
from ruledsl.runtime import triton_chunked
from ruledsl.runtime.rule import Rule
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.triton_backend import takes_chunks
from ruledsl.runtime.triton_form import form_of
from ruledsl.schedule.predict import LAUNCH, Estimate, Run, predict
from ruledsl.schedule.target import Target
from ruledsl.schedule.unsupported import Unsupported

APART = 1.3  # a measurement over its model, or the other way round: more is said


@dataclass(frozen=True, slots=True)
class Model:
    """Each tuple: what adds up to the time of a forward pass, of both passes, of one token."""

    forward: tuple[Estimate, ...]
    forward_backward: tuple[Estimate, ...]
    decode: tuple[Estimate, ...]

    @property
    def forward_ms(self) -> float:
        return _ms(self.forward)

    @property
    def forward_backward_ms(self) -> float:
        return _ms(self.forward_backward)

    @property
    def decode_ms(self) -> float:
        return _ms(self.decode)


def model(
    rule: Rule, shape: Shape, dtype: torch.dtype, place: torch.device, backend: str, device: Target, least: Floor | None
) -> Model | None:
    """None where nothing is counted: the rule has no price."""
    if least is None:
        return None
    limits = {"flops": "tensor cores" if device.shared_bytes else "flops"}
    one, both, token = (
        Estimate("all", ms / 1e3, limits.get(limit, limit))
        for ms, limit in (
            (least.forward_ms, least.forward_limit),
            (least.forward_backward_ms, least.forward_limit),
            (least.decode_ms, least.decode_limit),
        )
    )
    if place.type == "cuda":
        token = Estimate("step", token.seconds + LAUNCH, token.limit if token.seconds > LAUNCH else "launch")
    kernels = _kernels(rule, shape, dtype, place, device) if backend == "triton" else None
    forward, backward = kernels or ((one,), ())
    return Model(forward, (*forward, *backward) if kernels else (both,), (token,))


def _kernels(
    rule: Rule, shape: Shape, dtype: torch.dtype, place: torch.device, device: Target
) -> tuple[tuple[Estimate, ...], tuple[Estimate, ...]] | None:
    """Of the forward and of the backward pass; None for a rule without chunk kernels."""
    sizes = shape.sizes(rule)
    found = rule.chunkable(sizes)
    setting = Setting(tuple(sorted(sizes.items())), shape.heads, torch.float32, dtype, place)
    if isinstance(found, str) or not takes_chunks(rule, setting):
        return None
    try:
        form = form_of(rule, found, setting)
    except Unsupported:
        return None
    by_name = dict(zip(("forward", "gradient"), form.programs, strict=True))
    itemsize = 4 if form.wide else dtype.itemsize

    def pass_(direction: str) -> tuple[Estimate, ...]:
        tiles = triton_chunked.fitting(form.key, sizes, dtype, direction) or form.candidates[0]
        run = Run(found.program.chunk or tiles.chunk, sizes, shape.heads, shape.batch, shape.length, itemsize)
        return tuple(predict(k, by_name[k.program], run, device) for k in getattr(form.kernels, direction))

    return pass_("forward"), pass_("backward")


def apart(name: str, measured: float | None, expected: Sequence[Estimate]) -> str | None:
    """What to say of a measurement (ms) that is far from its model: the two costliest kernels and what limits them."""
    whole = _ms(expected)
    if measured is None or 1 / APART <= measured / whole <= APART:
        return None
    worst = sorted(expected, key=lambda e: -e.seconds)[:2]
    parts = ", ".join(f"{e.kernel} {1e3 * e.seconds:.3g} ms ({e.limit})" for e in worst)
    return f"{name}: {measured:.3g} ms, the model {whole:.3g} ms ({measured / whole:.3g}x); its costliest: {parts}"


def _ms(estimates: Sequence[Estimate]) -> float:
    return 1e3 * sum(e.seconds for e in estimates)
