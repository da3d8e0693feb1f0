"""Tiles that `ruledsl tune` measured on this machine: small files beside the generated modules.

A file is named by the hash of what its choice depends on (`Place`, and the versions of triton and ruledsl). It holds that,
the tiles of both directions and a hash of its own content; one that is damaged, or that says something else than its name,
is no choice, and the shipped tiles are taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ruledsl.runtime.triton_build import cache_dir, files, remove, write
from ruledsl.schedule.tiles import LOADS, Loop, Tiles

LARGEST = 65_536  # bytes of a file that is read
DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True, slots=True)
class Place:
    kernels: str  # the hash of the rule's meaning and of its generated kernels
    sizes: tuple[tuple[str, int], ...]
    dtype: torch.dtype  # of the operands
    device: torch.device

    def described(self) -> dict[str, Any]:
        from ruledsl import __version__

        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return {
            "kernels": self.kernels,
            "sizes": dict(sorted(self.sizes)),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": device,
            "triton": _triton_version(),
            "ruledsl": __version__,
        }


@dataclass(frozen=True, slots=True)
class Choice:
    forward: Tiles
    backward: Tiles

    def of(self, direction: str) -> Tiles:
        return self.forward if direction == "forward" else self.backward


def before(shipped: tuple[Tiles, ...], place: Place, fixed: int | None) -> dict[str, tuple[Tiles, ...]]:
    """Tiles by direction, best first: the stored choice, then the shipped ones. `fixed`: the chunk length, where the rule or
    the call sets it. Inside `only(...)`: that choice alone."""
    choice = _only if _only is not None else load(place)
    rest = () if _only is not None else shipped
    if choice is None:
        return dict.fromkeys(DIRECTIONS, rest)
    first = {d: choice.of(d) if fixed is None else replace(choice.of(d), chunk=fixed) for d in DIRECTIONS}
    return {d: tuple(dict.fromkeys((tiles, *rest))) for d, tiles in first.items()}


_only: Choice | None = None


@contextmanager
def only(choice: Choice) -> Iterator[None]:
    """Rules that are prepared inside run with this choice or not at all."""
    global _only
    kept, _only = _only, choice
    try:
        yield
    finally:
        _only = kept


# ------------------------------------------------------------------------------------------------ files


def load(place: Place) -> Choice | None:
    """The stored choice; None if there is none that can be trusted."""
    described = place.described()
    try:
        entry = read(cache_dir() / _file_name(described))
    except OSError:
        return None
    return None if entry is None or entry["place"] != described else Choice(*(Tiles.read(entry[d]) for d in DIRECTIONS))


def store(place: Place, choice: Choice, rule: str, measured: Mapping[str, Any]) -> Path:
    """Keep a choice in place of an earlier one. `rule`: one line for people, `measured`: numbers for them. PermissionError:
    there is no folder for it."""
    described = place.described()
    content = {"place": described, **asdict(choice), "rule": rule, "measured": dict(measured)}
    path = cache_dir() / _file_name(described)
    write(path, json.dumps({**content, "content": _hash(content)}, indent=1) + "\n")
    return path


def read(path: Path) -> dict[str, Any] | None:
    """A file's content if it is whole; never through a link."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            return None
        found = json.loads(path.read_bytes())
        said = found.pop("content")
        whole = (
            said == _hash(found) and all(_are_tiles(found[d]) for d in DIRECTIONS) and isinstance(found["rule"], str)
        )
        return found if whole and path.name == _file_name(found["place"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def entries() -> list[Path]:
    """The files of choices, damaged ones too."""
    return files("tuned_*.json")


def clear() -> int:
    """Remove every choice; how many there were."""
    return remove(entries())


def _are_tiles(x: Any) -> bool:
    """Integers under the fields' names: powers of two, and a few stages. What they are worth, a launch will tell."""
    try:
        tiles = Tiles.read(x)
    except (AttributeError, TypeError):  # other fields
        return False
    loops = [getattr(tiles, name) for name in LOADS]
    if not all(isinstance(y, Loop) for y in loops):
        return False
    sides, warps, stages = [tiles.chunk, *(y.side for y in loops)], [y.warps for y in loops], [y.stages for y in loops]
    if any(type(n) is not int for n in (*sides, *warps, *stages)):
        return False
    if any(y.registers is not None and (type(y.registers) is not int or not 32 <= y.registers <= 255) for y in loops):
        return False
    powers = all(1 <= n <= 256 and n & (n - 1) == 0 for n in (*sides, *warps))
    return powers and min(sides) >= 16 and tiles.chunk <= 64 and all(1 <= n <= 8 for n in stages)


def _file_name(described: Mapping[str, Any]) -> str:
    return f"tuned_{_hash(described)[:20]}.json"


def _hash(x: Any) -> str:
    return hashlib.sha256(json.dumps(x, sort_keys=True).encode()).hexdigest()


def _triton_version() -> str:
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "none"
