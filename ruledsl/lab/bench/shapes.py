"""What a measurement is run at: `S1,S2` or `B=8,T=4096,H=16,K=128,V=128`; `bf16`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from ruledsl.runtime.errors import did_you_mean
from ruledsl.runtime.rule import Rule

MOST = 2**40
RUN = ("B", "T", "H")


@dataclass(frozen=True, slots=True)
class Shape:
    name: str  # "" for one that was written out
    batch: int
    length: int
    heads: int
    size: int  # of every size of a rule that `own` does not name
    own: dict[str, int] = field(default_factory=dict)

    def sizes(self, rule: Rule) -> dict[str, int]:
        """Every size of the rule; families and loops stay as small as they are judged at unless they are named."""
        return {n: self.own.get(n, rule.verdict.sizes.get(n, self.size)) for n in rule.typed.sizes}


SHAPES: dict[str, Shape] = {
    row.name: row
    for row in (
        Shape("S1", 8, 4096, 16, 128),
        Shape("S2", 1, 32768, 16, 128),
        Shape("S3", 1, 8192, 8, 128),
        Shape("S4", 8, 4096, 32, 64),
        Shape("S5", 1, 32768, 8, 128),
        Shape("F1", 1, 8192, 96, 128),  # F: the six that papers and libraries quote
        Shape("F2", 2, 16384, 16, 128),
        Shape("F3", 4, 2048, 16, 128),
        Shape("F4", 4, 4096, 64, 128),
        Shape("F5", 8, 2048, 32, 256),
        Shape("F6", 8, 1024, 8, 64),
        Shape("C1", 2, 1024, 4, 64),  # for a CPU
    )
}
DEFAULT = {"cuda": "S1", "cpu": "C1"}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DEFAULT_DTYPE = {"cuda": "bf16", "cpu": "fp32"}


def shapes(text: str, default: Shape, known: Iterable[str]) -> list[Shape]:
    """The shapes of a list; what a written one leaves out is taken from `default`, a repeated name begins the next one.
    `known`: the sizes that some rule has. ValueError for what is no such list."""
    names = [*RUN, *dict.fromkeys(known)]
    found: list[Shape | dict[str, int]] = []
    for piece in text.replace(" ", ",").split(","):
        name, equals, value = piece.partition("=")
        if not piece:
            continue
        if not equals:
            if piece not in SHAPES:
                raise ValueError(
                    f"there is no shape {piece}{did_you_mean(piece, SHAPES)}; there are {', '.join(SHAPES)}"
                )
            found.append(SHAPES[piece])
            continue
        if name not in names:
            raise ValueError(f"no rule has a size {name}; there are {', '.join(names)}")
        if not value.isdecimal() or not 0 < int(value[:20]) <= MOST:
            raise ValueError(f"{name} must be a whole number above 0, not `{value}`")
        if not found or isinstance(found[-1], Shape) or name in found[-1]:
            found.append({})
        found[-1][name] = int(value)  # type: ignore[index]
    if not found:
        raise ValueError("an empty list")
    return [x if isinstance(x, Shape) else _written(x, default) for x in found]


def _written(given: dict[str, int], default: Shape) -> Shape:
    batch, length, heads = (
        given.get(n, d) for n, d in zip(RUN, (default.batch, default.length, default.heads), strict=True)
    )
    return Shape("", batch, length, heads, default.size, {n: x for n, x in given.items() if n not in RUN})
