"""The sizes of a token module's tiles, and the names of its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ruledsl.chunk.program import Port
from ruledsl.lang.typed import Dim, Type, dim_value
from ruledsl.schedule.tiles import power


def name_of(prefix: str, name: str) -> str:
    """An identifier for a name of the rule, or of a state such as `prev.x`; prefixes keep kinds apart."""
    assert name.isascii()
    head, dot, rest = name.partition(".")
    return f"{prefix}{head}_{rest.replace('.', '_')}" if dot else f"{prefix}_{name}"


@dataclass(slots=True)
class Space:
    """The sizes of one module's tiles, by name in the text. `numbers` binds every size of the rule."""

    numbers: Mapping[str, int]
    cut: Dim | None = None  # the size that is cut
    block: int = 1  # lanes of a block
    ragged: bool = False  # for other sizes too: any lane may be padding
    labels: dict[Dim, str] = field(default_factory=dict)
    wide: set[Dim] = field(default_factory=set)  # sizes of matrix products: at least 16 lanes

    def label(self, dim: Dim) -> str:
        if dim not in self.labels:
            self.labels[dim] = f"_{dim}" if isinstance(dim, str) else str(len(self.labels))
        return self.labels[dim]

    def number(self, dim: Dim) -> int:
        return dim_value(dim, self.numbers)

    def lanes(self, dim: Dim) -> int:
        n = power(self.number(dim))
        return max(n, 16) if dim in self.wide else n

    def padded(self, dim: Dim, cut: bool) -> bool:
        n = self.number(dim)
        return self.ragged or (n % self.block != 0 if cut else n != self.lanes(dim))

    def width(self, type: Type) -> str:
        """Entries of one value of that type, families included, as an expression."""
        return " * ".join(str(d) if isinstance(d, int) else f"n{self.label(d)}" for d in type.dims) or "1"

    def start(self, port: Port, type: Type) -> str:
        """Where a member starts inside its family, as an expression."""
        place = 0
        for index, n in zip(port.member, type.family, strict=False):
            place = place * self.number(n) + index - 1
        own = Type(type.rows, type.cols, type.family[len(port.member) :])
        return f"{place} * ({self.width(own)})" if place else ""
