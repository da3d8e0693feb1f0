"""All kernels of a rule's scans as one module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ruledsl.chunk.pieces import Level, levels
from ruledsl.chunk.program import Program, ResultKind
from ruledsl.chunk.scan import Scan, scans
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.emit.triton_scan import Walk, WalkText, walk_text
from ruledsl.lang.typed import Type
from ruledsl.schedule.scan_tiles import ScanTiles, scan_tiles
from ruledsl.schedule.token_split import Split, split

IMPORTS = "import torch\nimport triton\nimport triton.language as tl"
_JOINED = 4  # pieces of a turn
_NOTHING = Program((), (), ())


@dataclass(frozen=True, slots=True)
class ScanText:
    """A module's text and what its caller has to know. `states` by name, as in `Program.types`; `parts`: of the maps of each
    level, forward and backward, with their types."""

    text: str
    tiles: ScanTiles
    walks: Mapping[str, WalkText]
    states: tuple[str, ...]
    types: Mapping[str, Type]
    forward: tuple[tuple[str, ...], ...]
    backward: tuple[tuple[str, ...], ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.walks["back"].inputs

    @property
    def params(self) -> tuple[str, ...]:
        return self.walks["back"].params

    @property
    def with_gradient(self) -> frozenset[str]:
        """Of these the backward pass gives a gradient."""
        return self.walks["back"].with_gradient

    @property
    def partial(self) -> frozenset[str]:
        """Of these every block gives a part of the gradient."""
        return self.walks["back"].partial

    @property
    def blocks(self) -> int:
        return self.walks["back"].blocks


def scan_text(
    token: Program, gradient: Program, sizes: Mapping[str, int], header: str, tiles: ScanTiles | None = None
) -> ScanText:
    """The module of a token program for tiles of these sizes. `tiles`: instead of the schedule's. Raises UnsupportedForm."""
    forward, back = scans(token, padded=False)
    _supported(token, gradient, forward)
    whole = split(token, gradient)
    tiles = tiles or scan_tiles(whole, sizes)
    up, down = levels(forward, forward), levels(forward, back)
    walks = [
        Walk("run", whole, tiles.block, tiles.turn, tiles.segment, keeps=True),
        Walk("back", whole, tiles.block, tiles.turn, tiles.segment, back=True),
    ]
    for i, level in enumerate(up):
        walks += _forward(i, level, tiles)
    for i, level in enumerate(down):
        summed = split(token, level.summary)
        joined = split(level.join, _NOTHING)
        walks.append(Walk(f"dsum{i}", summed, tiles.block, tiles.turn, tiles.segment, back=True, starts=level.starts))
        walks.append(Walk(f"djoin{i}", joined, tiles.block, _JOINED, _JOINED, from_last=True))
    try:
        texts = {w.name: walk_text(w, sizes) for w in walks}
    except RecursionError:
        raise UnsupportedForm("the rule is nested too deeply for scan kernels") from None
    types = {name: type_ for level in (*up, *down) for name, type_ in level.summary.types}
    names = tuple(dict.fromkeys(r.port.name for r in token.results if r.kind is ResultKind.STATE and r.port))
    text = "\n\n\n".join([f"{header}\n{IMPORTS}", *(w.text for w in texts.values())]) + "\n"
    return ScanText(text, tiles, texts, names, types, tuple(x.parts for x in up), tuple(x.parts for x in down))


def whole_walks(
    token: Program, gradient: Program, sizes: Mapping[str, int]
) -> tuple[WalkText, WalkText, ScanTiles, Split]:
    """The kernels that take sequences whole, for any sizes; `sizes` are what the tiles are chosen for. UnsupportedForm."""
    _supported(token, gradient, scans(token, padded=False)[0])
    whole = split(token, gradient)
    tiles = scan_tiles(whole, sizes)
    run = Walk("run", whole, tiles.block, tiles.turn, tiles.segment, keeps=True, ragged=True)
    back = Walk("back", whole, tiles.block, tiles.turn, tiles.segment, back=True, ragged=True)
    return walk_text(run, sizes), walk_text(back, sizes), tiles, whole


def _forward(i: int, level: Level, tiles: ScanTiles) -> list[Walk]:
    summed, joined = (split(p, _NOTHING) for p in (level.summary, level.join))
    return [
        Walk(f"sum{i}", summed, tiles.block, tiles.turn, tiles.segment, starts=level.starts),
        Walk(f"join{i}", joined, tiles.block, _JOINED, _JOINED),
    ]


def _supported(token: Program, gradient: Program, forward: Scan) -> None:
    if not forward.by_entries or any(n.op == "dot" for p in (token, gradient) for n in p.nodes):
        raise UnsupportedForm("scan kernels take no products of matrices")
