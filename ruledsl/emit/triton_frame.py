"""The tiles of one kernel: how long their axes are, how lanes are indexed, which lanes are padding.

A tile is held in one of two orientations: "n" as the program has it, "t" transposed. Rows of the state ("owned" axes)
come in blocks of BLOCK; every other axis is whole, padded to a power of two. Padded lanes repeat a real lane, so that
every value is finite; what contracts an axis clears them first, and what stores masks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ruledsl.chunk.program import Axis, Node, Program, Rows
from ruledsl.emit.triton_expression import fill, product, total
from ruledsl.emit.triton_names import dim_name, width
from ruledsl.lang.typed import Dim, DimOp, Type
from ruledsl.schedule.graph import Graph
from ruledsl.schedule.kernels import Kernel, Mode

DOWN, ACROSS = "[:, None]", "[None, :]"


def flip(orientation: str) -> str:
    return "t" if orientation == "n" else "n"


def sides(orientation: str) -> tuple[str, str]:
    """How vectors along the program's rows and columns are spread over the tile as it is held."""
    return (DOWN, ACROSS) if orientation == "n" else (ACROSS, DOWN)


@dataclass(slots=True)
class Frame:
    """A kernel, its program, and the sizes that its text turns out to need (`dims`, by identifier)."""

    kernel: Kernel
    graph: Graph
    rows: int | None  # the axis class that comes in blocks
    padded: frozenset[Dim]
    lines: Mapping[str, int] = field(default_factory=dict)  # of the rule's text, by the names of ports and results
    dims: dict[str, Dim] = field(default_factory=dict)

    @property
    def program(self) -> Program:
        return self.graph.program

    @property
    def types(self) -> dict[str, Type]:
        return dict(self.program.types)

    @property
    def loops(self) -> bool:
        """A chunk kernel visits the blocks of state rows one after the other; a serial kernel has one of them."""
        return self.kernel.mode is Mode.CHUNK and self.rows is not None

    def mark(self, name: str) -> str:
        """A comment that says where in the rule's text something comes from."""
        return f"  # rule:{self.lines[name]}" if name in self.lines else ""

    def node(self, index: int) -> Node:
        return self.program.nodes[index]

    @property
    def row_size(self) -> Dim | None:
        """The size that is the number of state rows."""
        if self.rows is None:
            return None
        for node, axes in zip(self.program.nodes, self.graph.axes.of, strict=True):
            for extent, found in zip(node.shape, axes, strict=True):
                if found == self.rows:
                    assert not isinstance(extent, Rows)
                    return extent
        return None

    def leaf(self, index: int) -> bool:
        """Is the node read from memory or carried, instead of computed?"""
        node = self.node(index)
        read = {b.node for b in self.kernel.reads if not b.levels}
        held = index in read or any(c.enter == index for c in self.kernel.carries)
        return held or node.op == "input" or (node.op == "block" and node.args[0] in read)

    def owned(self, index: int) -> bool:
        """Has the tile an axis of state rows?"""
        return self.rows is not None and self.rows in self.graph.axes.of[index]

    def is_rows(self, index: int, axis: int) -> bool:
        """Is this axis one of state rows?"""
        return self.rows is not None and self.graph.axes.of[index][axis] == self.rows

    # ------------------------------------------------------------------------------------------- lengths

    def note(self, dim: Dim) -> None:
        """The text is going to use these sizes."""
        match dim:
            case str():
                self.dims[dim_name(dim)] = dim
            case DimOp(_, left, right):
                self.note(left)
                self.note(right)

    def width(self, type_: Type) -> str:
        """Elements that one token and head of a value have."""
        for dim in type_.dims:
            self.note(dim)
        return width(type_)

    def size(self, index: int, axis: int) -> str:
        """The padded length of a tile's axis."""
        return "BLOCK" if self.is_rows(index, axis) else self._padded(self.node(index).shape[axis])

    def shape(self, index: int, orientation: str) -> str:
        """The padded shape of a tile as it is held."""
        first, second = (0, 1) if orientation == "n" else (1, 0)
        return f"({self.size(index, first)}, {self.size(index, second)})"

    def _padded(self, extent: Axis) -> str:
        if isinstance(extent, Rows):
            return "C"
        if extent == 1:
            return "1"
        self.dims[dim_name(extent)] = extent
        return f"B_{dim_name(extent)}"

    def count(self, extent: Axis) -> str:
        """The real length of an axis."""
        if isinstance(extent, Rows):
            return "C" if extent.slots == 1 else f"({extent.slots} * C)"
        if extent == 1:
            return "1"
        self.dims[dim_name(extent)] = extent
        return dim_name(extent)

    # ------------------------------------------------------------------------------------------- lanes

    def lanes(self, index: int, axis: int) -> tuple[str, str | None]:
        """Index vector along an axis (clamped to real lanes) and its mask, None when no lane is padded."""
        extent = self.node(index).shape[axis]
        assert not isinstance(extent, Rows) and extent != 1
        name = dim_name(extent)
        self.dims[name] = extent
        stem = "rows" if self.is_rows(index, axis) else name
        return f"i_{stem}", f"m_{stem}" if extent in self.padded else None

    def row_lanes(self, index: int) -> str:
        """Index vector along a tile's rows: tokens of the chunk, or lanes of a size."""
        extent = self.node(index).shape[0]
        if isinstance(extent, Rows):
            return "row"
        return self.lanes(index, 0)[0] if extent != 1 else ""

    def mask(self, index: int, axis: int) -> str | None:
        """The real lanes of an axis; None when all are."""
        extent = self.node(index).shape[axis]
        return None if isinstance(extent, Rows) or extent == 1 else self.lanes(index, axis)[1]

    def masks(self, index: int, orientation: str = "n") -> str:
        """The real lanes of a tile, for a store."""
        places = sides(orientation)
        return " & ".join(f"{m}{places[axis]}" for axis in (0, 1) if (m := self.mask(index, axis)))

    def clear(self, text: str, index: int, axis: int, orientation: str, value: str = "0.0") -> str:
        """`text`, the tile of `index`, with the padded lanes of an axis set to `value`."""
        mask = self.mask(index, axis)
        return text if mask is None else f"tl.where({mask}{sides(orientation)[axis]}, {text}, {value})"

    def spread(self, index: int, orientation: str, row_lanes: str, row_stride: str) -> str:
        """Offsets of a tile's elements: rows by a stride, columns side by side."""
        shape = self.node(index).shape
        down, across = sides(orientation)
        parts = []
        if shape[0] != 1:
            parts.append(product(f"{row_lanes}{down}", row_stride))
        if shape[1] != 1:
            parts.append(f"{'row' if isinstance(shape[1], Rows) else self.lanes(index, 1)[0]}{across}")
        return total(*parts)

    def whole(self, index: int, value: str) -> str:
        """A value as a store takes it: a single number as a scalar."""
        if self.node(index).shape == (1, 1):
            return fill("tl.sum(tl.full((1, 1), 0.0, tl.float32) + {0})", [value])
        return value
