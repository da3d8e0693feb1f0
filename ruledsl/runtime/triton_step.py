"""One token on Triton: a kernel that works in the caller's tensors and can be captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from ruledsl.chunk.token_program import frozen_name, prev_name
from ruledsl.emit.triton_token import TokenText
from ruledsl.lang.diagnostic import RuleError
from ruledsl.runtime import registration, tape
from ruledsl.runtime.bind import Call
from ruledsl.runtime.errors import BackendError
from ruledsl.runtime.layout import inner
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.state import Part
from ruledsl.runtime.tape import Recorder, Recordings, Tables
from ruledsl.runtime.token_form import form_of
from ruledsl.runtime.triton_token import launch

if TYPE_CHECKING:
    from ruledsl.runtime.rule import Rule


@dataclass(frozen=True)
class StepPlan:
    """The kernel for one token, and what its calls did."""

    form: TokenText
    recordings: Recordings = field(default_factory=Recordings)


def prepare_step(rule: Rule, setting: Setting) -> StepPlan | None:
    """The kernels for one token, None where there are none."""
    try:
        return StepPlan(form_of(rule, setting))
    except (BackendError, RuleError):
        return None


def state_name(part: Part) -> str:
    """The token program's name of a part of the caller's state."""
    match part.kind:
        case "prev":
            return prev_name(part.name)
        case "frozen":
            return frozen_name(part.name, part.chunk)
        case _:
            return part.name


def step(
    plan: StepPlan,
    call: Call,
    states: Mapping[str, Tensor],
    final: Mapping[str, Tensor],
    position: Tensor | None,
    slots: Tensor | None,
    outputs: Mapping[str, Tensor],
) -> tape.Tape | None:
    """One token: reads `states` and writes `final` (which may be the same), both [B or slots, H, ...] contiguous, by
    the token program's names, and `outputs` [B, H, ...] contiguous; `position` [B or slots] if the rule reads it. Rows
    whose slot is negative are left alone. Returns the recording, if it can be played: of inputs, params, states, final,
    outputs, position and slots."""
    form = plan.form
    rest = [*states.values(), *final.values(), *outputs.values(), *(x for x in (position, slots) if x is not None)]

    def prepare() -> tuple[list[Tensor], tape.Body]:
        x = {n: inner(call.inputs[n][:, 0]) for n in form.inputs} | {n: call.params[n].contiguous() for n in form.params}

        def body(run: Recorder) -> Tables:
            launch(run, form, "step", x, states, final, position, slots, outputs, call.batch, call.heads, call.sizes)
            return ()

        return [*x.values(), *rest], body

    given = [*(call.inputs[n] for n in form.inputs), *(call.params[n] for n in form.params), *rest]
    signature = slots is None, *tape.signature(given)
    with registration.on_device_of(given[0]):
        plan.recordings.run(signature, given, prepare)
    return plan.recordings.known(signature)
