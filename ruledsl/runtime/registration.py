"""The two operators that torch sees: chunk_forward and chunk_backward, around a plan found by its key.

A plan turns a list of tensors into outputs and back (see `Plan`); its key is a content hash, so a traced graph names
what it calls. The gradient is an `autograd.Function` with `setup_context` and `vmap`, which torch.func, torch.compile,
torch.export and checkpointing all understand; second derivatives and forward mode are refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ruledsl.runtime.errors import BackendError, SecondOrderError

Dims = Sequence[int | None]


class Plan(Protocol):
    """How one rule runs on one backend at fixed sizes. Tensors are positional; the plan knows their meaning. What it returns is
    contiguous and shares memory neither with what it is given nor with each other."""

    @property
    def results(self) -> int:
        """How many of forward's tensors are for the caller; the rest is kept for backward."""

    @property
    def differentiable(self) -> tuple[bool, ...]:
        """Which tensors have a gradient."""

    def forward(self, tensors: list[Tensor]) -> list[Tensor]: ...

    def backward(self, tensors: list[Tensor], kept: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        """Gradients of the differentiable tensors, in their order and shapes."""

    def instead(self, given: list[bool]) -> str | None:
        """The key of the plan whose backward it takes, without what is kept, if these results have a cotangent; None: its own."""

    def like(self, tensors: list[Tensor]) -> list[Tensor]:
        """Empty tensors shaped as forward's."""

    def batched(self, tensors: list[Tensor]) -> bool:
        """Does axis 0 of every tensor count independent sequences (or is 1)?"""


_PLANS: dict[str, Plan] = {}


def register(key: str, plan: Plan) -> None:
    """Make a plan callable by its key in this process."""
    _PLANS[key] = plan


def registered(key: str) -> Plan | None:
    return _PLANS.get(key)


def _plan(key: str) -> Plan:
    if key not in _PLANS:
        raise BackendError(f"no compiled rule has the key {key} in this process: load the rule and call it once")
    return _PLANS[key]


# ------------------------------------------------------------------------------------------------ operators

_LIBRARY = torch.library.Library("ruledsl", "DEF")
_LIBRARY.define("chunk_forward(Tensor[] tensors, str key) -> Tensor[]")
_LIBRARY.define("chunk_backward(Tensor[] tensors, Tensor[] kept, Tensor[] grads, str key) -> Tensor[]")


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Kernels run on the current device: that of their tensors."""
    elsewhere = x.is_cuda and x.device.index != torch.cuda.current_device()
    return torch.cuda.device(x.device) if elsewhere else nullcontext()


def _forward(tensors: list[Tensor], key: str) -> list[Tensor]:
    with on_device_of(tensors[0]):
        return _plan(key).forward(tensors)


def _backward(tensors: list[Tensor], kept: list[Tensor], grads: list[Tensor], key: str) -> list[Tensor]:
    with on_device_of(tensors[0]):
        return _plan(key).backward(tensors, kept, grads)


def _fake_forward(tensors: list[Tensor], key: str) -> list[Tensor]:
    return _plan(key).like(tensors)


def _fake_backward(tensors: list[Tensor], kept: list[Tensor], grads: list[Tensor], key: str) -> list[Tensor]:
    return [x.new_empty(x.shape) for x, wanted in zip(tensors, _plan(key).differentiable, strict=True) if wanted]


_LIBRARY.impl("chunk_forward", _forward, "CompositeExplicitAutograd")
_LIBRARY.impl("chunk_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("ruledsl::chunk_forward", _fake_forward, lib=_LIBRARY)
torch.library.register_fake("ruledsl::chunk_backward", _fake_backward, lib=_LIBRARY)


# ------------------------------------------------------------------------------------------------ derivatives

_NO_SECOND_ORDER = "second derivatives are not available from the chunk-parallel form: use backend='recurrent'"
_NO_FORWARD_MODE = (
    "forward-mode derivatives (jvp) are not available from the chunk-parallel form: use backend='recurrent'"
)


class _Run(torch.autograd.Function):
    """tensors -> results and kept values."""

    @staticmethod
    def forward(key: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(_called(list(tensors), key))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        key, *tensors = inputs
        kept = output[_plan(key).results :]
        ctx.key, ctx.count = key, len(tensors)
        ctx.save_for_backward(*tensors, *kept)
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)  # else zeros are made for what is kept
        ctx.shapes = [(x.shape, x.dtype) for x in output[: len(output) - len(kept)]]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        key, plan = ctx.key, _plan(ctx.key)
        saved = ctx.saved_tensors  # read once: checkpointing recomputes them on the first read only
        tensors, kept = saved[: ctx.count], saved[ctx.count :]
        if instead := plan.instead([g is not None for g in grads[: len(ctx.shapes)]]):
            key, kept = instead, ()
        public = [
            tensors[0].new_zeros(shape, dtype=dtype) if g is None else g
            for g, (shape, dtype) in zip(grads, ctx.shapes, strict=False)
        ]
        if torch.compiler.is_compiling() or not (_differentiable([*saved, *public]) or _transformed()):
            call = _backward if alone([*saved, *public]) else torch.ops.ruledsl.chunk_backward
            found = call(list(tensors), list(kept), public, key)
        else:
            found = _RunBackward.apply(key, len(tensors), len(kept), *tensors, *kept, *public)
        gradients = iter(found)
        return (None, *(next(gradients) if wanted else None for wanted in plan.differentiable))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> None:
        raise SecondOrderError(_NO_FORWARD_MODE)

    @staticmethod
    def vmap(info: Any, in_dims: Dims, key: str, *tensors: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        size, dims = info.batch_size, in_dims[1:]
        if _plan(key).batched(list(tensors)):
            folded, _ = _fold(tensors, dims, size)
            results = [x.unflatten(0, (size, -1)) for x in _Run.apply(key, *folded)]
        else:
            results = _each(size, dims, tensors, lambda own: _Run.apply(key, *own))
        return tuple(results), (0,) * len(results)


class _RunBackward(torch.autograd.Function):
    """The gradient as an operator of its own, so that asking for its derivative is refused."""

    @staticmethod
    def forward(key: str, tensors: int, kept: int, *flat: Tensor) -> tuple[Tensor, ...]:
        parts = list(flat[:tensors]), list(flat[tensors : tensors + kept]), list(flat[tensors + kept :])
        return tuple(torch.ops.ruledsl.chunk_backward(*parts, key))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise SecondOrderError(_NO_SECOND_ORDER)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> None:
        raise SecondOrderError(_NO_FORWARD_MODE)

    @staticmethod
    def vmap(
        info: Any, in_dims: Dims, key: str, tensors: int, kept: int, *flat: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        size, dims = info.batch_size, in_dims[3:]
        plan = _plan(key)
        if plan.batched(list(flat[:tensors])):
            folded, own = _fold(flat, dims, size)
            found = _RunBackward.apply(key, tensors, kept, *folded)
            widths = [b for b, wanted in zip(own[:tensors], plan.differentiable, strict=True) if wanted]
            results = [_shared(x.unflatten(0, (size, -1)), b) for x, b in zip(found, widths, strict=True)]
        else:
            results = _each(size, dims, flat, lambda own: _RunBackward.apply(key, tensors, kept, *own))
        return tuple(results), (0,) * len(results)


for function in (_Run, _RunBackward):  # torch asks for the signature in every call
    function.forward.__signature__ = inspect.signature(function.forward)  # type: ignore[union-attr]


def run(key: str, tensors: list[Tensor]) -> list[Tensor]:
    """The results of the plan `key`, differentiable once."""
    # a traced graph holds the operator; its gradient is traced from the autograd kernel
    if torch.compiler.is_compiling() or not (_differentiable(tensors) or _transformed()):
        return list(_called(tensors, key)[: _plan(key).results])
    return list(_Run.apply(key, *tensors)[: _plan(key).results])


def _called(tensors: list[Tensor], key: str) -> list[Tensor]:
    call = _forward if alone(tensors) else torch.ops.ruledsl.chunk_forward
    return call(tensors, key)


def alone(tensors: Sequence[Tensor]) -> bool:
    """Plain tensors and nobody who wants to see the operator: it is called as a function, which saves the host two dispatches."""
    if torch.compiler.is_compiling() or _transformed() or torch._C._len_torch_dispatch_stack():
        return False
    return all(type(x) in (Tensor, torch.nn.Parameter) for x in tensors)


def _transformed() -> bool:
    """Inside torch.func, or in forward mode."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


# Called directly on tensors that require a gradient, the operators are the same functions.


def _differentiable(tensors: list[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _forward_with_gradient(tensors: list[Tensor], key: str) -> list[Tensor]:
    if _differentiable(tensors):
        return list(_Run.apply(key, *tensors))
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.ruledsl.chunk_forward(tensors, key)  # type: ignore[no-any-return]


def _backward_with_gradient(tensors: list[Tensor], kept: list[Tensor], grads: list[Tensor], key: str) -> list[Tensor]:
    if _differentiable([*tensors, *kept, *grads]):
        return list(_RunBackward.apply(key, len(tensors), len(kept), *tensors, *kept, *grads))
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.ruledsl.chunk_backward(tensors, kept, grads, key)  # type: ignore[no-any-return]


_LIBRARY.impl("chunk_forward", _forward_with_gradient, "Autograd")
_LIBRARY.impl("chunk_backward", _backward_with_gradient, "Autograd")


# ------------------------------------------------------------------------------------------------ vmap


def _fold(tensors: Sequence[Tensor], dims: Dims, size: int) -> tuple[list[Tensor], list[int]]:
    """Join the mapped axis with axis 0; every tensor gets its full width, so that gradients stay apart. Also the own widths."""
    own = [x.shape[0] if d is None else x.movedim(d, 0).shape[1] for x, d in zip(tensors, dims, strict=True)]
    width = max(own)
    folded = []
    for x, d in zip(tensors, dims, strict=True):
        x = x[None] if d is None else x.movedim(d, 0)
        folded.append(x.expand(size, width, *x.shape[2:]).flatten(0, 1))
    return folded, own


def _shared(gradient: Tensor, width: int) -> Tensor:
    """[size, width of the batch, ...] summed to the width that the tensor had."""
    return gradient if gradient.shape[1] == width else gradient.sum(1, keepdim=True)


def _each(size: int, dims: Dims, tensors: Sequence[Tensor], call: Any) -> list[Tensor]:
    """One call per element of the mapped axis."""
    calls = [
        call([x if d is None else x.select(d, i) for x, d in zip(tensors, dims, strict=True)]) for i in range(size)
    ]
    return [torch.stack(xs) for xs in zip(*calls, strict=True)]
