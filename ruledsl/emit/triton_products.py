"""Products between tokens, lanes and states: dots, and the device functions that stand for Gram matrices and inverses."""

from __future__ import annotations

from collections.abc import Sequence

from ruledsl.chunk.program import Node, Rows
from ruledsl.emit.triton_demand import Demand, Recipe
from ruledsl.emit.triton_frame import Frame, flip
from ruledsl.schedule.attributes import applied, flags
from ruledsl.schedule.unsupported import unsupported

HELPERS = frozenset({
    "chain_gram", "chain_apply", "chain_gate", "spans", "spans_gate", "gram", "gram_apply", "inverse", "scan",
})  # fmt: skip


def real_dot(frame: Frame, node: Node) -> bool:
    """A product that runs on tensor cores: no axis of 1."""
    contracted = frame.node(node.args[0]).shape[0 if flags(node)[0] else 1]
    return 1 not in (*node.shape, contracted)


def dot(frame: Frame, node: Node, o: str) -> Recipe:
    """A product in the orientation that is wanted: (X Y)^T is Y^T X^T, never a transposed product."""
    (x, y), (ta, tb) = node.args, flags(node)
    m, n = node.shape
    if o == "t":
        x, y, ta, tb, m, n = y, x, not tb, not ta, n, m
    axis = 0 if ta else 1
    ox, oy = ("t" if ta else "n"), ("t" if tb else "n")
    over_blocks = frame.loops and frame.is_rows(x, axis)
    if frame.node(x).shape[axis] == 1:
        return Recipe(((x, ox), (y, oy)), "{0} * {1}", inline=True)
    if n == 1 and m != 1:
        left = frame.clear("{0}", x, axis, ox)
        return Recipe(
            ((x, ox), (y, flip(oy))), f"tl.sum({left} * {{1}}, axis=1, keep_dims=True)", accumulate=over_blocks
        )
    if m == 1:
        left = frame.clear("{0}", x, axis, flip(ox))
        return Recipe(
            ((x, flip(ox)), (y, oy)), f"tl.sum({left} * {{1}}, axis=0, keep_dims=True)", accumulate=over_blocks
        )
    x, y = _operand(frame, x), _operand(frame, y)
    left, right = frame.clear("{0}", x, axis, ox), frame.clear("{1}", y, 1 if tb else 0, oy)
    text = f"tl.dot({left}.to(OP), {right}.to(OP), input_precision=IP)"
    return Recipe(((x, ox), (y, oy)), text, accumulate=over_blocks)


def _operand(frame: Frame, index: int) -> int:
    """Operands are rounded by the product itself."""
    while frame.node(index).op == "cast" and not frame.leaf(index):
        index = frame.node(index).args[0]
    return index


def helper(frame: Frame, index: int, node: Node) -> Recipe:
    """A call of a device function."""
    match node.op:
        case "inverse":
            return Recipe(_plain(node.args), "inverse({0}, C, LEVELS, IP_SOLVE)", helpers=("inverse",))
        case "spans":
            return Recipe(_plain(node.args), "spans({0}, C, LEVELS)", helpers=("spans",))
        case "spans_gate":
            return Recipe(_plain(node.args[1:]), "spans_gate({0}, {1}, C, LEVELS)", helpers=("spans_gate",))
        case "chain_gram" | "gram":
            return _gram(frame, node)
        case "chain_apply" | "gram_apply":
            return _apply(frame, index, node)
        case "chain_gate":
            x, y, decay, ct = node.args
            tiles = ", ".join(_wide_tiles(frame, (x, y, decay)))
            text = f"chain_gate({tiles}, {{3}}, {{4}}, C, {frame.size(index, 1)}, LEVELS, OP, IP)"
            return Recipe((*_plain(node.args), (ct, "t")), text, helpers=("chain_gate",))
        case op:
            raise unsupported(f"`{op}` has no Triton form")


def _gram(frame: Frame, node: Node) -> Recipe:
    x = node.args[0]
    first, *rest = _wide_tiles(frame, node.args)
    tiles = ", ".join([frame.clear(first, x, 1, "n"), *rest])
    incl = f"{node.attr == 'incl'}, " if node.op == "gram" else ""
    text = f"{node.op}({tiles}, {incl}C, {frame.size(_widest(frame, node.args), 1)}, LEVELS, OP, IP)"
    return Recipe(_plain(node.args), text, accumulate=frame.loops and frame.is_rows(x, 1), helpers=(node.op,))


def _apply(frame: Frame, index: int, node: Node) -> Recipe:
    kind, adjoint = applied(node)
    m, *rest = node.args
    name = node.op + ("_adjoint" if adjoint else "")
    tiles = ", ".join(["{0}", *_wide_tiles(frame, rest, first=1)])
    incl = f"{kind == 'incl'}, " if node.op == "gram_apply" else ""
    text = f"{name}({tiles}, {incl}C, {frame.size(index, 1)}, LEVELS, OP, IP)"
    return Recipe(((m, "t" if adjoint else "n"), *_plain(rest)), text, helpers=(name,))


def _plain(args: Sequence[int]) -> tuple[Demand, ...]:
    return tuple((i, "n") for i in args)


def _widest(frame: Frame, args: Sequence[int]) -> int:
    return next((i for i in args if frame.node(i).shape[1] != 1), args[0])


def _wide_tiles(frame: Frame, args: Sequence[int], first: int = 0) -> list[str]:
    """The device functions take whole tiles: the arguments, from number `first` on, spread to C rows and as many columns
    as the widest of them has."""
    widest = _widest(frame, args)
    columns = frame.size(widest, 1)
    found = []
    for place, i in enumerate(args, first):
        rows, extent = frame.node(i).shape
        fits = isinstance(rows, Rows) and extent != 1 or extent == 1 and frame.node(widest).shape[1] == 1
        found.append(f"{{{place}}}" if fits else f"tl.broadcast_to({{{place}}}, (C, {columns}))")
    return found
