"""sum_v (x S)[t,v] z[t,v] becomes sum_d x[t,d] (z S^T)[t,d] where the product z S^T is there already.

Sums over state rows of what a state is read for need that read again, from the state or from memory; over the other axis
they need what the gradient of the reader makes anyway.
"""

from __future__ import annotations

from ruledsl.chunk.arithmetic import factors, product, terms
from ruledsl.chunk.build import Builder, Tile
from ruledsl.chunk.program import Program
from ruledsl.chunk.swap_contractions import contracted
from ruledsl.schedule.graph import Graph


def swap_rows(program: Program) -> Program:
    """The program with such sums taken over the other axis."""
    graph = Graph(program)
    b = Builder()
    made = b.copy(program)
    known = set(made.values())
    instead: dict[Tile, Tile] = {}
    for index, node in enumerate(program.nodes):
        tile = made[index]
        if node.op != "sum" or node.attr != 1 or tile.op != "sum" or graph.rows is None:
            continue
        if graph.axes.of[node.args[0]][1] != graph.rows:
            continue
        parts = [(number, _swapped(b, own, known)) for number, own in _multiplied_out(tile.args[0])]
        if all(found is not None for _, found in parts):
            total = b.const(0.0)
            for number, found in parts:
                assert found is not None
                total = total + number * found
            instead[tile] = total
    results = b.substitute([made[r.node] for r in program.results], instead)
    return b.program(list(zip(program.results, results, strict=True)), program.types, program.chunk)


def _multiplied_out(tile: Tile) -> list[tuple[float, list[Tile]]]:
    """A sum as terms, each a number and factors; one factor that is a sum itself is multiplied out."""
    found = []
    for number, term in terms(tile):
        more, parts = factors(term)
        split = next((i for i, p in enumerate(parts) if len(terms(p)) > 1), None)
        if split is None:
            found.append((number * more, parts))
            continue
        rest = parts[:split] + parts[split + 1 :]
        for inner, part in terms(parts[split]):
            own, among = factors(part)
            found.append((number * more * inner * own, [*rest, *among]))
    return found


def _swapped(b: Builder, parts: list[Tile], known: set[Tile]) -> Tile | None:
    """The sum over columns of a product of these factors."""
    scales = [p for p in parts if p.shape[1] == 1]
    wide = [p for p in parts if p.shape[1] != 1]
    for factor in wide:
        rest = list(wide)
        rest.remove(factor)
        if factor.op != "dot" or not rest:
            continue
        weight = product(b, 1.0, rest)
        if weight.shape == factor.shape and (found := contracted(b, weight, factor, 1, known)) is not None:
            return product(b, 1.0, [*scales, found])
    return None
