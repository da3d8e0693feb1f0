"""Rules whose states go entry by entry, on Triton: scans over tokens in generated kernels.

The operator takes the tensors of `triton_token`. A sequence is taken whole, or in pieces that run side by side (see
`chunk.pieces`); which, follows from the shapes and `schedule.scan_tiles`, or from `chunk_size`, the tokens of a piece. Pieces
are tables made on the device; nothing waits for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ruledsl import pipeline
from ruledsl.chunk.token_program import token_program
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.emit.triton_scan_text import ScanText
from ruledsl.lang import typed
from ruledsl.lang.diagnostic import RuleError
from ruledsl.runtime import registration, triton_token
from ruledsl.runtime.errors import BackendError
from ruledsl.runtime.setting import Setting
from ruledsl.runtime.statics import carried
from ruledsl.runtime.triton_build import build
from ruledsl.runtime.triton_chunked import missing
from ruledsl.runtime.triton_token import LARGEST, TokenPlan
from ruledsl.schedule.scan_tiles import SHORTEST, ScanTiles, piece
from ruledsl.schedule.target import target

if TYPE_CHECKING:
    from ruledsl.runtime.rule import Rule

DEVICE = "h200"  # that pieces are chosen for
_TEXTS: dict[tuple[str, tuple[tuple[str, int], ...], ScanTiles | None], ScanText] = {}
_only: ScanTiles | None = None
Tensors = dict[str, Tensor]


def scan_kernels(rule: Rule, sizes: Mapping[str, int]) -> ScanText:
    """The generated module of a rule at these sizes. UnsupportedForm: it has none."""
    key = rule.hash, tuple(sorted(sizes.items())), _only
    if key not in _TEXTS:
        if isinstance(why := rule.scannable(sizes), str):
            raise UnsupportedForm(why)
        names = {n: sizes[n] for n in pipeline.unroll_sizes(rule.typed)}
        carries = carried(rule.typed, sizes)
        token = token_program(pipeline.unroll(rule.typed, names), names, carries.lags, carries.frozen)
        _TEXTS[key] = pipeline.scan_kernels(token, sizes, rule.source, _only)
    return _TEXTS[key]


@contextmanager
def only(tiles: ScanTiles) -> Iterator[None]:
    """Rules that are prepared inside run with these tiles."""
    global _only
    kept, _only = _only, tiles
    try:
        yield
    finally:
        _only = kept


def has_form(rule: Rule, sizes: Mapping[str, int]) -> bool:
    """Whether the rule has scan kernels at these sizes."""
    try:
        scan_kernels(rule, sizes)
    except (UnsupportedForm, RuleError, ValueError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces in the order of their tokens; those after the last one are empty."""

    bounds: Tensor  # first tokens [pieces + 1]
    position: Tensor  # of the first token in its sequence [pieces]
    of: Tensor  # pieces of each sequence: first ones [sequences + 1]


def cut(bounds: Tensor, position: Tensor, tokens: int, count: int) -> Pieces:
    """`count` pieces of at most `tokens` tokens; `bounds` [sequences + 1], `position` [sequences]."""
    each = (bounds.diff() + tokens - 1) // tokens
    of = torch.cat([each.new_zeros(1), each.cumsum(0)])
    index = torch.arange(count + 1, device=bounds.device)
    sequence = (torch.searchsorted(of, index, right=True) - 1).clamp(max=each.shape[0] - 1)
    begin = torch.minimum(bounds[sequence] + (index - of[sequence]) * tokens, bounds[sequence + 1])
    return Pieces(begin, (position[sequence] + begin - bounds[sequence])[:-1], of)


@dataclass(frozen=True)
class ScanPlan(TokenPlan):
    """`registration.Plan` of scan kernels. Tensors as in `TokenPlan`."""

    form: ScanText  # type: ignore[assignment]
    chunk_size: int | None = None  # tokens of a piece

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        x, states, position, bounds = self._named(tensors)
        final, outputs, kept = self._made(tensors)
        tokens, count = self._pieces(tensors)
        if tokens is None:
            self._walk("run", x, states, final, position, bounds, kept, outputs)
            return [*outputs.values(), *final.values(), kept]
        at = cut(bounds, position, tokens, count)
        entering = self._states(states, count)
        for i, parts in enumerate(self.form.forward):
            maps = self._maps(parts, states, count)
            self._walk(f"sum{i}", x, entering, maps, at.position, at.bounds, None, {})
            self._walk(f"join{i}", maps, states, final, position, at.of, None, entering)
        self._walk("run", x, entering, self._states(states, count), at.position, at.bounds, kept, outputs)
        return [*outputs.values(), *final.values(), kept]

    def backward(self, tensors: list[Tensor], kept: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        x, states, position, bounds = self._named(tensors)
        batch, length = tensors[0].shape[:2]
        given, d_outputs, d_final = self._given(tensors), *self._cotangents(grads)
        tokens, count = self._pieces(tensors)
        initial: Tensors = {}
        if tokens is not None:
            at = cut(bounds, position, tokens, count)
            initial = {n: torch.empty_like(g) for n, g in d_final.items()}
            leaving = self._states(states, count)
            for i, parts in enumerate(self.form.backward):
                name = f"dsum{i}"
                blocks = dict.fromkeys(self.form.walks[name].partial, (self.form.walks[name].blocks,))
                maps = self._maps(parts, states, count, blocks)
                scratch = self._scratch(name, position, count)
                self._walk(name, x, kept[0], scratch, at.position, at.bounds, d_outputs, leaving, maps, batch * length)
                maps = {n: m.sum(0) if n in blocks else m for n, m in maps.items()}
                self._walk(f"djoin{i}", maps, d_final, initial, position, at.of, None, leaving)
            position, bounds, d_final = at.position, at.bounds, leaving
        found = {n: self._gradient_of(n, given[n], batch * length, bounds) for n in self.form.with_gradient}
        scratch = self._scratch("back", position, bounds.shape[0] - 1)
        self._walk("back", x, kept[0], scratch, position, bounds, d_outputs, d_final, found, batch * length)
        return [
            initial[n].to(given[n].dtype) if n in initial else self._gradient(n, found[n], given[n])
            for n in self._names
            if n in found
        ]

    def _pieces(self, tensors: list[Tensor]) -> tuple[int | None, int]:
        """Tokens of a piece, None if sequences are whole, and how many pieces there are at most."""
        batch, length = tensors[0].shape[:2]
        sequences = tensors[-1].shape[0] - 1 if self.packed else batch
        mean = -(-length * batch // sequences)
        longest = length if self.packed else mean
        tokens = self.chunk_size
        if tokens is None:
            levels = max(len(self.form.forward), len(self.form.backward))
            programs = sequences * self.heads * self.form.blocks
            tokens = piece(programs, mean, levels, self.form.tiles, target(DEVICE))
        if tokens >= longest or (self.chunk_size is None and tokens >= mean):
            return None, sequences
        return tokens, length // tokens + sequences if self.packed else batch * -(-length // tokens)

    def _segments(self, tokens: int, sequences: int) -> int:
        shortest = self.chunk_size or SHORTEST  # more than needed, but the same for every choice
        return tokens // self.form.tiles.segment + tokens // shortest + sequences

    def _kept_width(self, given: Mapping[str, Tensor]) -> int:
        return sum(given[n][0, 0].numel() for n in self.form.states)

    def _states(self, like: Tensors, count: int) -> Tensors:
        """States (or their cotangents) of pieces [pieces, H, ...], empty."""
        return {n: x.new_empty(count, *x.shape[1:], dtype=torch.float32) for n, x in like.items()}

    def _maps(
        self, parts: tuple[str, ...], like: Tensors, count: int, blocks: Mapping[str, tuple[int, ...]] | None = None
    ) -> Tensors:
        """Parts of the maps of pieces [(blocks,) pieces, H, ...], empty; those of members of a family side by side."""
        first = next(iter(like.values()))
        found = {}
        for n in parts:
            dims = [typed.dim_value(d, self.sizes) for d in self.form.types[n].dims]
            found[n] = first.new_empty(*(blocks or {}).get(n, ()), count, self.heads, *dims, dtype=torch.float32)
        return found

    def _scratch(self, name: str, like: Tensor, count: int) -> Tensor | None:
        """What enters the turns of a segment, for each kernel program; None if a segment is one turn."""
        tiles, walk = self.form.tiles, self.form.walks[name]
        turns = tiles.segment // tiles.turn
        if turns == 1:
            return None
        return like.new_empty(count * self.heads * walk.blocks * turns * walk.span, dtype=torch.float32)

    def _walk(self, name: str, *arguments: Any) -> None:
        from triton.runtime.errors import OutOfResources

        try:
            getattr(build(self.form.text), name)(*arguments, self.heads, self.sizes, self.form.tiles.warps)
        except OutOfResources as e:
            raise BackendError(f"backend 'triton-scan': tiles that are too large for this device ({e})") from None


# ------------------------------------------------------------------------------------------------ a call


@dataclass(frozen=True, slots=True)
class Compiled:
    rule: typed.Rule
    form: ScanText
    key: str  # of the registered plan


def prepare(rule: Rule, setting: Setting) -> Compiled:
    """Generate kernels and register them. BackendError: the rule has no form, or not here."""
    sizes = dict(setting.sizes)
    form = _form(rule, setting)
    own = ("scan", form.tiles.warps, setting.chunk_size, "packed" if setting.packed else "whole", setting.heads, setting.out_dtype)
    text = hashlib.sha256(f"{rule.hash}\n{form.text}".encode()).hexdigest()[:24]
    key = "-".join([text, setting.device.type, *map(str, own), *(f"{k}{v}" for k, v in setting.sizes)])
    if registration.registered(key) is None:
        registration.register(
            key,
            ScanPlan(
                form, sizes, setting.heads, setting.out_dtype, triton_token.output_shapes(rule.typed, sizes),
                triton_token.families(rule.typed, form.states), setting.packed, setting.chunk_size,
            ),
        )  # fmt: skip
    return Compiled(rule.typed, form, key)


def _form(rule: Rule, setting: Setting) -> ScanText:
    name = "backend 'triton-scan'"
    if setting.dtype == torch.float64:
        raise BackendError(f"{name}: kernels compute in float32; backend 'torch' computes in float64")
    if why := missing():
        raise BackendError(f"{name}: {why}")
    try:
        form = scan_kernels(rule, dict(setting.sizes))
    except UnsupportedForm as e:
        raise BackendError(f"{name}: {e}") from None
    largest = max(w.span for w in form.walks.values())
    if largest > LARGEST:
        raise BackendError(f"{name}: {largest} entries of states at {dict(setting.sizes)}, kernels go to {LARGEST}")
    return form
