"""What kernels cannot be made of."""

from __future__ import annotations


class Unsupported(Exception):
    """This program has no kernels; the message names the operation and a backend that runs it."""


def unsupported(what: str) -> Unsupported:
    """`what` is a clause: "`topk` has no Triton form"."""
    return Unsupported(f"{what}; backend 'torch' runs it")
