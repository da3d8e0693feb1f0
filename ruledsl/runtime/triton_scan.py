"""Rules whose states go entry by entry, on Triton: scans over tokens in generated kernels.

The operator takes the tensors of `triton_token`. A sequence is taken whole, or in pieces that run side by side (see
`tables.pieces`); which, follows from the shapes and `schedule.scan_tiles`, or from `chunk_size`, the tokens of a piece. Pieces
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
from ruledsl.runtime.tables import pieces, whole_pieces
from ruledsl.runtime.tape import Recorder, Tables
from ruledsl.runtime.token_form import LARGEST
from ruledsl.runtime.triton_build import build
from ruledsl.runtime.triton_chunked import missing
from ruledsl.runtime.triton_token import Given, Tensors, TokenPlan
from ruledsl.schedule.scan_tiles import SHORTEST, ScanTiles, piece
from ruledsl.schedule.target import target

if TYPE_CHECKING:
    from ruledsl.runtime.rule import Rule

DEVICE = "h200"  # that pieces are chosen for
_TEXTS: dict[tuple[str, tuple[tuple[str, int], ...], ScanTiles | None], ScanText] = {}
_only: ScanTiles | None = None


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


@dataclass(frozen=True)
class ScanPlan(TokenPlan):
    """`registration.Plan` of scan kernels. Tensors as in `TokenPlan`; where sequences are cut, the tables go on with position and
    bounds of pieces, and the first piece of each sequence."""

    form: ScanText  # type: ignore[assignment]
    chunk_size: int | None = None  # tokens of a piece
    positions: bool = False  # do kernels read the position of a token?

    def _tables(self, tensors: list[Tensor]) -> list[Tensor]:
        own = super()._tables(tensors)
        tokens, count = self._pieces(tensors)
        if tokens is None:
            return own
        position, bounds = own
        batch, length = tensors[0].shape[:2]
        found = pieces(bounds, tokens, count) if self.packed else whole_pieces(batch, length, tokens, count, bounds.device)
        begin, of, sequence, before = found
        return [*own, position[sequence] + before if self.positions else position, begin, of]

    def _forward(self, run: Recorder, given: Given, tensors: list[Tensor]) -> Tables:
        x, states, at = given.x, given.states, given.at
        outputs, final, kept = made = self._made(tensors, run.empty, run.zeros)
        if len(at) == 2:
            self._walk(run, "run", x, states, final, *at, kept["kept"], outputs)
            return made
        place, bounds, of = at[2:]
        count = bounds.shape[0] - 1
        entering = self._states(run, states, count)
        for i, parts in enumerate(self.form.forward):
            maps = self._maps(run, parts, count)
            self._walk(run, f"sum{i}", x, entering, maps, place, bounds, None, {})
            self._walk(run, f"join{i}", maps, states, final, at[0], of, None, entering)
        self._walk(run, "run", x, entering, self._states(run, states, count), place, bounds, kept["kept"], outputs)
        return made

    def _backward(self, run: Recorder, given: Given, tensors: list[Tensor]) -> Tables:
        x, d_outputs, d_final = given.x, given.d_outputs, given.d_final
        tokens, (place, bounds) = tensors[0].shape[:2].numel(), given.at[-3:-1] if len(given.at) > 2 else given.at
        count = bounds.shape[0] - 1
        initial: Tensors = {}
        if len(given.at) > 2:
            initial = {n: run.empty(tuple(g.shape), g.dtype) for n, g in d_final.items()}
            leaving = self._states(run, given.states, count)
            for i, parts in enumerate(self.form.backward):
                name = f"dsum{i}"
                blocks = dict.fromkeys(self.form.walks[name].partial, (self.form.walks[name].blocks,))
                maps = self._maps(run, parts, count, blocks)
                scratch = self._scratch(run, name, count)
                self._walk(run, name, x, given.kept, scratch, place, bounds, d_outputs, leaving, maps, tokens)
                maps = {n: run.summed(m) if n in blocks else m for n, m in maps.items()}
                self._walk(run, f"djoin{i}", maps, d_final, initial, given.at[0], given.at[-1], None, leaving)
            d_final = leaving
        found = self._gradients(run, tensors, count)
        self._walk(run, "back", x, given.kept, self._scratch(run, "back", count), place, bounds, d_outputs, d_final, found, tokens)
        return found, initial

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

    def _states(self, run: Recorder, like: Tensors, count: int) -> Tensors:
        """States (or their cotangents) of pieces [pieces, H, ...], empty."""
        return {n: run.empty((count, *x.shape[1:]), torch.float32) for n, x in like.items()}

    def _maps(
        self, run: Recorder, parts: tuple[str, ...], count: int, blocks: Mapping[str, tuple[int, ...]] | None = None
    ) -> Tensors:
        """Parts of the maps of pieces [(blocks,) pieces, H, ...], empty; those of members of a family side by side."""
        found = {}
        for n in parts:
            dims = [typed.dim_value(d, self.sizes) for d in self.form.types[n].dims]
            found[n] = run.empty((*(blocks or {}).get(n, ()), count, self.heads, *dims), torch.float32)
        return found

    def _scratch(self, run: Recorder, name: str, count: int) -> Tensor | None:
        """What enters the turns of a segment, for each kernel program; None if a segment is one turn."""
        tiles, walk = self.form.tiles, self.form.walks[name]
        turns = tiles.segment // tiles.turn
        return None if turns == 1 else run.empty((count * self.heads * walk.blocks * turns * walk.span,), torch.float32)

    def _walk(self, run: Recorder, name: str, *arguments: Any) -> None:
        from triton.runtime.errors import OutOfResources

        try:
            run.launch(build(self.form.text), name, *arguments, self.heads, self.sizes, self.form.tiles.warps)
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
                triton_token.families(rule.typed, form.states), setting.packed, setting.chunk_size, carried(rule.typed, sizes).position,
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
