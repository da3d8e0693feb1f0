"""`python tape.py CASE`: a case of test_tape.py, in a process whose Triton interprets. AssertionError: numbers or recordings differ."""

from __future__ import annotations

import copy
import pickle
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import ruledsl
from ruledsl.runtime import decode, triton_backend
from ruledsl.runtime.tape import Tape

DELTA = "state S[V, K]\ninput q[K], k[K] unit, v[V], b in [0, 1]\nS = S + b*(v - S k) k^T\noutput o = S q"
TWO = "state S[V, K], P[V, K]\ninput q[K], k[K], v[V], a in (0, 1]\nS = a*S + v k^T\nP = P + S q q^T\noutput o = P q"


@contextmanager
def played() -> Iterator[list[Tape]]:
    """The recordings that are played inside."""
    found: list[Tape] = []
    real = Tape.play

    def play(self: Tape, given: Any) -> Any:
        found.append(self)
        return real(self, given)

    Tape.play = play  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Tape.play = real  # type: ignore[method-assign]


def data(seed: int, batch: int = 2, tokens: int = 37, heads: int = 2, size: int = 16) -> dict[str, Tensor]:
    own = torch.Generator().manual_seed(seed)
    x = {n: torch.randn(batch, tokens, heads, size, generator=own) for n in "qkv"}
    x["k"] = torch.nn.functional.normalize(x["k"], dim=-1)
    return x | {"b": torch.rand(batch, tokens, heads, generator=own)}


def check(rule: ruledsl.Rule, x: dict[str, Tensor], plays: int, **options: Any) -> None:
    """Forward and backward against the recurrence; `plays`: how many of the two are played."""
    leaves, wide = leaves_of(x, torch.float32), leaves_of(x, torch.float64)
    with played() as found:
        o = rule(**leaves, backend="triton", **options)
        (o * torch.linspace(0.5, 1, o.numel()).view(o.shape)).sum().backward()
    assert len(found) == plays, f"{len(found)} played, expected {plays}"
    first = options.pop("initial_state", None)
    wanted = rule(**wide, backend="recurrent", **options, **({} if first is None else {"initial_state": double(first)}))
    (wanted * torch.linspace(0.5, 1, o.numel()).view(o.shape).double()).sum().backward()
    same(o, wanted, "outputs")
    for n, t in leaves.items():
        same(t.grad, wide[n].grad, f"gradient of {n}")


def leaves_of(x: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """One leaf for one tensor, under whatever names."""
    made = {id(t): t.detach().to(dtype).requires_grad_() for t in x.values()}
    return {n: made[id(t)] for n, t in x.items()}


def same(found: Tensor | None, wanted: Tensor | None, what: str) -> None:
    assert found is not None and wanted is not None, what
    assert (found - wanted).norm() <= 1e-5 * wanted.norm(), what


def double(state: Any) -> Any:
    return {n: s.double() for n, s in state.items()} if isinstance(state, dict) else state.double()


def again() -> None:
    rule = ruledsl.load(DELTA)
    for seed, plays in ((0, 0), (1, 0), (2, 2), (3, 2)):  # the first call finds tiles, the second is recorded
        check(rule, data(seed), plays)
    state = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(5))
    check(rule, data(3), 2, initial_state=state)


def one_tensor_twice() -> None:
    """Recorded with one tensor in two places; then there are two, and the other way round."""
    rule = ruledsl.load(TWO)
    x = data(0)
    x["a"] = x.pop("b").clamp(min=0.1)
    one, two = (torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(i)) for i in (5, 6))
    for first in ({"S": one, "P": one}, {"S": one, "P": two}, {"S": two, "P": two}, {"S": two, "P": one}):
        found, wanted = (rule(**y, initial_state=s, backend=b) for y, s, b in ((x, first, "triton"), ({n: t.double() for n, t in x.items()}, double(first), "recurrent")))
        same(found, wanted, str([n for n in first if first[n] is one]))
    both = x | {"k": x["q"]}
    for y, plays in ((x, 1), (both, 0), (x, 1), (both, 2), (x, 2)):
        check(rule, y, plays)


def strided() -> None:
    """Vectors that are not contiguous are copied: such a call is not played."""
    rule = ruledsl.load(DELTA)
    for seed in (0, 1, 2):
        x = data(seed)
        check(rule, x | {"q": x["q"].mT.contiguous().mT}, 0)
        across = {n: t.transpose(1, 2).contiguous().transpose(1, 2) for n, t in x.items()}  # [B, H, T, ...] in memory
        check(rule, across, 0)


def unaligned() -> None:
    """Kernels are compiled for the alignment of what they are given."""
    rule = ruledsl.load(DELTA)
    for seed, plays, others in ((0, 0, 0), (1, 0, 2), (2, 2, 2)):
        x = data(seed)
        check(rule, x, plays)
        room = torch.zeros(x["q"].numel() + 1)
        room[1:] = x["q"].flatten()
        check(rule, x | {"q": room[1:].view(x["q"].shape)}, others)


def packed() -> None:
    rule = ruledsl.load(DELTA)
    for seed, cuts, plays in ((0, [0, 5, 5, 37], 0), (1, [0, 7, 9, 37], 0), (2, [0, 20, 30, 37], 2), (3, [0, 37], 0)):
        check(rule, data(seed, batch=1), plays, cu_seqlens=torch.tensor(cuts))


def shared_heads() -> None:
    """Keys of one head for two: their gradients are sums over heads."""
    rule = ruledsl.load(DELTA)
    for seed, plays in ((0, 0), (1, 0), (2, 2)):
        x = data(seed)
        check(rule, x | {n: x[n][:, :, :1].contiguous() for n in "qk"}, plays)


def other_shapes() -> None:
    rule = ruledsl.load(DELTA)
    for tokens, plays in ((37, 0), (37, 0), (38, 0), (37, 2), (38, 2)):
        check(rule, data(tokens, tokens=tokens), plays)


def freed() -> None:
    """A played call holds no more at once than one that runs the launcher, and keeps nothing but its results."""
    rule = ruledsl.load(DELTA)
    made: list[weakref.ref[Tensor]] = []
    real, like, peaks = torch.empty, torch.empty_like, list[int]()

    def alive() -> list[Tensor]:
        return [x for ref in made if (x := ref()) is not None]

    def empty(*given: Any, **options: Any) -> Tensor:
        x = real(*given, **options)
        made.append(weakref.ref(x))
        peaks[-1] = max(peaks[-1], sum(t.untyped_storage().nbytes() for t in alive()))
        return x

    def empty_like(x: Tensor, **options: Any) -> Tensor:
        return empty(x.shape, dtype=x.dtype, **options)

    for _ in range(3):
        made.clear()
        peaks.append(0)
        leaves = leaves_of(data(0, tokens=80), torch.float32)
        torch.empty, torch.empty_like = empty, empty_like
        try:
            o = rule(**leaves, backend="triton")
            o.backward(torch.ones_like(o))
        finally:
            torch.empty, torch.empty_like = real, like
        results = {x.untyped_storage().data_ptr() for x in [o, *(t.grad for t in leaves.values())] if x is not None}
        del o
        assert {x.untyped_storage().data_ptr() for x in alive()} <= results
    assert peaks[2] <= peaks[0], peaks


def steps() -> None:
    """Decoding: a step like one before is played, whatever came between, and one that differs in anything is not."""
    triton_backend.steps_on = lambda device: True
    text = (
        "state S[V, K], z\ninput q[K], k[K], v[V], b in [0, 1]\nparam w[K]\nS = S + b*(v - S prev(k)) (k .* w)^T\n"
        "z = where(mod(t, 3) == 0, 0, 1)*z + b\noutput o = S q\noutput y = z"
    )
    rule, x, w = ruledsl.load(text), data(7, tokens=9), torch.rand(2, 16)
    replays: list[int] = []
    real = decode.Replay.__call__

    def counted(*given: Any) -> Any:
        replays.append(at)
        return real(*given)

    decode.Replay.__call__ = counted  # type: ignore[method-assign]
    state: Any = None
    wanted: Any = None
    for at in range(9):
        own = {n: t[:, at].contiguous() for n, t in x.items()}
        if at == 4:
            own["q"] = torch.stack([own["q"], own["q"]], -1)[..., 0]
        if at == 5:
            own["v"].requires_grad_()
        with torch.set_grad_enabled(at == 5):
            found, state = rule.step(state, w=w, **own)
        y, wanted = rule.step(wanted, w=w.double(), **{n: t.detach().double() for n, t in own.items()})
        same(found["o"], y["o"], f"o of token {at}")
        same(found["y"], y["y"], f"y of token {at}")
        state = {n: t.detach() for n, t in state.items()}
    assert replays == [2, 3, 6, 7, 8], replays
    assert pickle.loads(pickle.dumps(rule)).hash == copy.deepcopy(rule).hash == rule.hash
    for n, t in wanted.items():
        same(state[n].double(), t.double(), n)


def copies() -> None:
    """The gradient of a frozen copy that leaves the sequence, and of outputs alone, from one graph and played."""
    rule = ruledsl.load(DELTA.replace("S k", "frozen(S, 16) k"))
    w = torch.linspace(0.5, 1, 2 * 37 * 2 * 16).view(2, 37, 2, 16)

    def gradients(x: dict[str, Tensor], backend: str) -> list[Tensor]:
        o, last = rule(**x, backend=backend, return_state=True)
        alone = (w.to(o) * o).sum()
        both = alone + (last["S"] ** 2).sum() + (last["frozen.S"] ** 2).sum()
        order = (alone, both, alone)
        return [g for loss in order for g in torch.autograd.grad(loss, list(x.values()), retain_graph=True)]

    for _ in range(3):
        with played() as found:
            mine = gradients(leaves_of(data(8), torch.float32), "triton")
        for a, b in zip(mine, gradients(leaves_of(data(8), torch.float64), "recurrent"), strict=True):
            same(a, b, "gradient")
    assert len(found) == 4 and len(set(map(id, found))) == 3, found


if __name__ == "__main__":
    globals()[sys.argv[1]]()
