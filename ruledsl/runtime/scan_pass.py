"""Scans run on torch: the forward and the backward pass over tiles, chunk by chunk, all tokens of a chunk at once.

Same interface as the generated text of `emit.torch_text`. A value of a token program is a tile [B, H, C, rows, columns]
with 1 on axes along which it does not vary. Only what enters each chunk is kept; the backward pass makes the rest of a
chunk again, so memory does not grow with tokens times state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ruledsl.chunk.order import bottom_up
from ruledsl.chunk.program import Node, Port, PortKind, Program, ResultKind
from ruledsl.chunk.scan import Scan
from ruledsl.lang.typed import dim_value
from ruledsl.runtime import scan_ops
from ruledsl.runtime.generated_ops import begin, enter, fit, leave
from ruledsl.runtime.interpret import evaluate
from ruledsl.schedule.keys import VALID, port_key

Tiles = Mapping[str, Tensor]
Marks = tuple[Tensor, Tensor] | None  # see `chunked`
_TOKENS = (PortKind.INPUT, PortKind.POSITION, PortKind.VALID, PortKind.COTANGENT)


class Values:
    """The values of a program's nodes for one chunk, made when they are asked for."""

    def __init__(self, program: Program, given: Mapping[Port, Tensor], sizes: Mapping[str, int], like: Tensor) -> None:
        self.program, self.sizes, self.like = program, sizes, like
        self.given = dict(given)
        self.made: dict[int, Tensor] = {}

    def __getitem__(self, index: int) -> Tensor:
        for own in bottom_up(index, self._needs, self.made):
            self.made[own] = self._make(own)
        return self.made[index]

    def _needs(self, index: int) -> tuple[int, ...]:
        """What a node is made of: a sum of products is made of the factors."""
        node = self.program.nodes[index]
        inner = self.program.nodes[node.args[0]] if node.op == "sum" else node
        return inner.args if node.op == "sum" and (inner.op, inner.attr) == ("map", "mul") else node.args

    def _make(self, index: int) -> Tensor:
        node, needs = self.program.nodes[index], self._needs(index)
        args = [self.made[a] for a in needs]
        if needs != node.args:
            return scan_ops.contracted(args[0], args[1], -2 if node.attr == 0 else -1)
        if node.op == "input":
            port = self.program.port(node)
            if port.kind is PortKind.SIZE:
                return self.like.new_full((1, 1, 1, 1, 1), self.sizes[port.name])
            return self.given[port]
        if node.op == "dot":
            return scan_ops.dotted(*(x.mT if turned else x for x, turned in zip(args, node.attr, strict=True)))  # type: ignore[arg-type]
        found = evaluate(self.program, node, args, self.sizes, 1, self.like)
        return found if found.dim() == 5 else found.reshape(1, 1, 1, *found.shape[-2:])

    def total(self, index: int) -> Tensor:
        """[B, H, rows, columns]: the sum over the tokens; an outer product is summed as a matrix product."""
        node = self.program.nodes[index]
        match node.op, node.attr:
            case "map", "add":
                x, y = (self._spread_total(a, node) for a in node.args)
                return x + y
            case "map", "sub":
                x, y = (self._spread_total(a, node) for a in node.args)
                return x - y
            case "map", "neg":
                return -self.total(node.args[0])
            case "map", "mul":
                for column, row in (node.args, node.args[::-1]):
                    if _is_column(self.program.nodes[column]) and _is_row(self.program.nodes[row]):
                        return _outer_total(self[column], self[row], self._length)
        value = self[index]
        return value.expand(*value.shape[:2], self._length, *value.shape[3:]).sum(2)

    def _spread_total(self, index: int, user: Node) -> Tensor:
        rows, columns = (dim_value(d, self.sizes) for d in user.shape)  # type: ignore[arg-type]
        found = self.total(index)
        return found.expand(*found.shape[:2], rows, columns)

    @cached_property
    def _length(self) -> int:
        return max(x.shape[2] for x in self.given.values())


def _is_column(node: Node) -> bool:
    return node.shape[0] != 1 and node.shape[1] == 1


def _is_row(node: Node) -> bool:
    return node.shape[0] == 1 and node.shape[1] != 1


def _outer_total(column: Tensor, row: Tensor, length: int) -> Tensor:
    shape = torch.broadcast_shapes(column.shape[:2], row.shape[:2])
    x = column.squeeze(4).expand(*shape, length, column.shape[3])
    return x.mT @ row.squeeze(3).expand(*shape, length, row.shape[4])


def scanned(scan: Scan, values: Values, start: Sequence[Tensor], length: int, reverse: bool) -> list[Tensor]:
    """Run every stratum: what enters each token is added to `values`; returns what leaves the last token."""
    leaving = list(start)
    for stratum in scan.strata:
        parts = [[_part(scan.program, values, i, reverse) for i in row] for row in stratum.parts]
        first = [start[i] for i in stratum.states]
        into, out = scan_ops.entering_tokens(stratum.monoid, parts, first, length)
        for i, x, last in zip(stratum.states, into, out, strict=True):
            values.given[scan.states[i]] = x.flip(2) if reverse else x
            leaving[i] = last
    return leaving


def _part(program: Program, values: Values, index: int, reverse: bool) -> Tensor | None:
    node = program.nodes[index]
    if node.op in ("const", "full") and node.attr == 0.0:
        return None
    x = values[index]
    return x.flip(2) if reverse and x.shape[2] != 1 else x


@dataclass(frozen=True)
class ScanPasses:
    """The passes of one rule. States travel by the keys of `forward.states`, outputs as rows [B, H, N, C, columns]."""

    forward_scan: Scan
    gradient_scan: Scan
    outputs: Mapping[str, tuple[int, ...]]  # the extents of a member's tile by output
    tiles: Mapping[str, tuple[Port, tuple[int, int]]]  # by key: port and tile of one token

    def forward(
        self, tiles: Tiles, states: Tiles, starts: Marks, sizes: Mapping[str, int]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """(outputs, states entering each chunk, states leaving the last)."""
        scan, keys = self.forward_scan, self._keys
        count, length = tiles[VALID].shape[2:4]
        carried = [begin(states[k], starts) for k in keys]
        left = [states[k].clone() for k in keys]
        stacked: list[list[Tensor]] = [[] for _ in keys]
        rows: dict[str, list[Tensor]] = {name: [] for name in self.outputs}
        for n in range(count):
            carried = [enter(x, states[k], starts, n) for x, k in zip(carried, keys, strict=True)]
            for seen, x in zip(stacked, carried, strict=True):
                seen.append(x)
            values = Values(scan.program, self._given(tiles, n), sizes, tiles[VALID])
            carried = scanned(scan, values, carried, length, False)
            left = [leave(x, last, starts, n) for x, last in zip(left, carried, strict=True)]
            for name, found in self._rows(values, length).items():
                rows[name].append(found)
        entering = {k: torch.stack(torch.broadcast_tensors(*xs), 2) for k, xs in zip(keys, stacked, strict=True)}
        return {n: torch.stack(xs, 2) for n, xs in rows.items()}, entering, dict(zip(keys, left, strict=True))

    def backward(
        self, tiles: Tiles, entering: Tiles, ends: Marks, douts: Tiles, dleaving: Tiles, sizes: Mapping[str, int]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(gradients of tiles, gradients of the initial states)."""
        keys, scan = self._keys, self.gradient_scan
        count, length = tiles[VALID].shape[2:4]
        carried = [begin(dleaving[k], ends) for k in keys]
        left = [dleaving[k].clone() for k in keys]
        found: dict[str, list[Tensor]] = {}
        shared: dict[str, Tensor] = {}
        for n in reversed(range(count)):
            carried = [enter(x, dleaving[k], ends, n) for x, k in zip(carried, keys, strict=True)]
            given = self._given(tiles, n)
            again = Values(self.forward_scan.program, given, sizes, tiles[VALID])
            scanned(self.forward_scan, again, [entering[k][:, :, n] for k in keys], length, False)
            values = Values(scan.program, {**again.given, **self._cotangents(douts, n)}, sizes, tiles[VALID])
            del again
            carried = scanned(scan, values, carried, length, True)
            left = [leave(x, first, ends, n) for x, first in zip(left, carried, strict=True)]
            for r in scan.program.results:
                if r.kind is ResultKind.GRADIENT and r.port is not None:
                    key = port_key(r.port)
                    if r.port.kind is PortKind.INPUT:
                        x = values[r.node].flatten(3)
                        found.setdefault(key, []).append(x.expand(*x.shape[:2], length, x.shape[3]))
                    else:
                        own = fit(values.total(r.node), tiles[key][:, :, 0])
                        shared[key] = shared[key] + own if key in shared else own
        dtiles = {k: fit(torch.stack(torch.broadcast_tensors(*xs[::-1]), 2), tiles[k]) for k, xs in found.items()}
        dtiles |= {k: x.unsqueeze(2) for k, x in shared.items()}
        return dtiles, dict(zip(keys, left, strict=True))

    @cached_property
    def _keys(self) -> list[str]:
        return [port_key(p) for p in self.forward_scan.states]

    def _given(self, tiles: Tiles, n: int) -> dict[Port, Tensor]:
        found = {}
        for key, (port, shape) in self.tiles.items():
            x = tiles[key]
            if port.kind in _TOKENS:
                x = x[:, :, n if x.shape[2] != 1 else 0]
                found[port] = x.unflatten(3, shape)
            else:
                found[port] = x
        return found

    def _rows(self, values: Values, length: int) -> dict[str, Tensor]:
        """Outputs [B, H, C, columns], members of a family one after the other."""
        parts: dict[str, list[Tensor]] = {}
        for r in values.program.results:
            if r.kind is ResultKind.OUTPUT:
                x = values[r.node].flatten(3)
                parts.setdefault(r.name, []).append(x.expand(*x.shape[:2], length, x.shape[3]))
        return {name: torch.cat(torch.broadcast_tensors(*xs), 3) for name, xs in parts.items()}

    def _cotangents(self, douts: Tiles, n: int) -> dict[Port, Tensor]:
        found = {}
        for port in self.gradient_scan.program.ports:
            if port.kind is PortKind.COTANGENT and port.name in self.outputs and port not in self.gradient_scan.states:
                rows, columns, *family = self.outputs[port.name]
                at = 0
                for j, size in zip(port.member, family, strict=True):
                    at = at * size + j - 1
                x = douts[port.name][:, :, n, :, at * rows * columns : (at + 1) * rows * columns]
                found[port] = x.unflatten(3, (rows, columns))
        return found
