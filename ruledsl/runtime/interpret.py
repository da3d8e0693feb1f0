"""A chunk program on torch tensors, node by node: the oracle of every generated kernel.

Plain and slow on purpose: any floating dtype, any batch axes in front of a tile, one torch call or one function of
`tile_ops` per node, no schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ruledsl.chunk.program import Attr, Axis, Node, Port, PortKind, Program, Result, Rows
from ruledsl.chunk.systems import body, inside
from ruledsl.lang.typed import dim_value
from ruledsl.runtime import tile_ops
from ruledsl.runtime.elementwise import elementwise

_COMPARE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "<": torch.lt,
    "<=": torch.le,
    ">": torch.gt,
    ">=": torch.ge,
    "==": torch.eq,
}
_BARE = (
    "cat",
    "interleave",
    "kron",
    "unpairs",
    "diagonal",
    "last",
    "chain_gram",
    "chain_gate",
    "before",
    "after",
    "whole",
    "running",
    "before_gate",
    "after_gate",
    "spans",
    "spans_gate",
    "inverse",
)
_WITH_ATTR = ("cumsum", "cumprod", "scan", "pairs", "unkron", "topk", "mask", "mexp", "gram", "chain_apply", "solve", "decay_gate", "log_gate")


def interpret(
    program: Program, tiles: Mapping[Port, Tensor], sizes: Mapping[str, int], chunk: int
) -> dict[Result, Tensor]:
    """Every result of the program for one chunk of `chunk` tokens.

    `tiles`: a tensor [..., rows, columns] for each port (SIZE ports are filled from `sizes`); batch axes spread.
    """
    like = next(iter(tiles.values()), torch.zeros((), dtype=torch.float64))
    values: list[Tensor | None] = []
    recipes = inside(program)
    for index, node in enumerate(program.nodes):
        value: Tensor | None
        if index in recipes:
            value = None  # see `systems`
        elif node.op == "input":
            port = program.port(node)
            value = (
                like.new_full((1, 1), sizes[port.name])
                if port.kind is PortKind.SIZE and port not in tiles
                else tiles[port]
            )
            expected = extent(node.shape[0], sizes, chunk), extent(node.shape[1], sizes, chunk)
            assert tuple(value.shape[-2:]) == expected, (
                f"{port} has shape {tuple(value.shape)}, not [..., {expected[0]}, {expected[1]}]"
            )
        elif node.op == "conjugate":
            value = _solution(program, index, values, sizes, chunk, like)
        elif node.op == "implicit":
            value = values[node.args[0]]
        else:
            value = evaluate(program, node, _known(values, node.args), sizes, chunk, like)
        values.append(value)
    return {result: x for result in program.results if (x := values[result.node]) is not None}


def _known(values: Sequence[Tensor | None], indices: Iterable[int]) -> list[Tensor]:
    found = [values[i] for i in indices]
    assert all(x is not None for x in found), "a value is made from an unknown"
    return found  # type: ignore[return-value]


def _solution(
    program: Program, index: int, values: Sequence[Tensor | None], sizes: Mapping[str, int], chunk: int, like: Tensor
) -> Tensor:
    unknown, image, right = program.nodes[index].args

    def apply(x: Tensor) -> Tensor:
        own = list(values)
        own[unknown] = x
        for i in body(program, index):
            node = program.nodes[i]
            own[i] = evaluate(program, node, _known(own, node.args), sizes, chunk, like)
        return _known(own, [image])[0]

    steps = program.nodes[index].attr
    assert isinstance(steps, int)
    return tile_ops.conjugate(apply, _known(values, [right])[0], steps)  # type: ignore[no-any-return]


def extent(axis: Axis, sizes: Mapping[str, int], chunk: int) -> int:
    """The number of rows or columns that an axis stands for."""
    return axis.slots * chunk if isinstance(axis, Rows) else dim_value(axis, sizes)


def evaluate(
    program: Program, node: Node, args: list[Tensor], sizes: Mapping[str, int], chunk: int, like: Tensor
) -> Tensor:
    """One node over its arguments [..., rows, columns]."""
    attr = node.attr
    rows, columns = extent(node.shape[0], sizes, chunk), extent(node.shape[1], sizes, chunk)
    match node.op:
        case "const" | "full":
            return like.new_full((rows, columns), float(attr))  # type: ignore[arg-type]
        case "eye":
            return torch.eye(rows, dtype=like.dtype, device=like.device)
        case "map":
            return elementwise(str(attr))(*args)
        case "select":
            a, b, x, y = args
            return torch.where(_COMPARE[str(attr)](a, b), x, y)
        case "cast":
            return args[0]
        case "expand":
            return args[0].expand(*args[0].shape[:-2], rows, columns)
        case "transpose":
            return args[0].mT
        case "sum":
            return args[0].sum(-2 if attr == 0 else -1, keepdim=True)
        case "amax":
            return args[0].amax(-2 if attr == 0 else -1, keepdim=True)
        case "cut":
            start = dim_value(attr, sizes)  # type: ignore[arg-type]
            return args[0][..., start : start + columns]
        case "shift":
            return tile_ops.shift(args[0], *_parts(attr))
        case "put_last":
            return tile_ops.put_last(args[0], rows)
        case "slot":
            return tile_ops.slot(args[0], _slots(program, node), attr)
        case "blocks":
            return tile_ops.blocks(*args)
        case "block":
            return tile_ops.block(args[0], _slots(program, node), *_parts(attr))
        case "dot":
            ta, tb = _parts(attr)
            return (args[0].mT if ta else args[0]) @ (args[1].mT if tb else args[1])
        case "gram_apply":
            m, y, gx, gy = args
            return tile_ops.gram_apply(m, y, gx, gy, *_parts(attr))
        case op if op in _BARE:
            return getattr(tile_ops, op)(*args)
        case op if op in _WITH_ATTR:
            return getattr(tile_ops, op)(*args, attr)
        case op:
            raise AssertionError(f"no operation {op}")


def _parts(attr: Attr) -> tuple[Attr, ...]:
    assert isinstance(attr, tuple)
    return attr


def _slots(program: Program, node: Node) -> int:
    axis = program.nodes[node.args[0]].shape[0]
    assert isinstance(axis, Rows)
    return axis.slots
