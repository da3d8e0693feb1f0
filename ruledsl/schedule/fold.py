"""Shortening the serial path: what leaves a chunk as few products of what enters it.

    steps        every product as it was written: for a rule with reads three dependent ones per chunk
                 (R = k S^T, E = T (v - R), S' = g S + E^T w)
    reads        the inverse joins the keys, E = T v - (T k) S^T: two
    transition   everything free joins one matrix, S' = S (g - k^T T^T w) + v^T T^T w: one

All are equal in exact arithmetic. Values that only read the carried ones keep their own spelling.
"""

from __future__ import annotations

from enum import StrEnum

from ruledsl.chunk.build import Builder, Tile, fixed
from ruledsl.chunk.program import Node, Program
from ruledsl.schedule.labels import Label, carries, labels, needed_by
from ruledsl.schedule.linear import Affine, Term, add, scale, spell, times


class Form(StrEnum):
    STEPS = "steps"
    READS = "reads"
    TRANSITION = "transition"


def lower(program: Program, operands: bool) -> Program:
    """Solves become products with an inverse, implicit values what they are; without `operands`, casts to the operand dtype
    vanish."""
    b = Builder()

    def replace(node: Node, args: tuple[Tile, ...]) -> Tile | None:
        if node.op == "solve":
            return b.dot(b.make("inverse", args[:1]), args[1], bool(node.attr))
        return args[0] if node.op == "implicit" or (node.op == "cast" and not operands) else None

    made = b.copy(program, replace=replace)
    return b.program([(r, made[r.node]) for r in program.results], program.types, program.chunk)


def fold(program: Program, form: Form) -> Program:
    """The program with its serial path in that form."""
    carried = carries(program)
    if form is Form.STEPS or not any(c.enter is not None for c in carried):
        return program
    label = labels(program, carried)
    stops = {c.enter for c in carried if c.enter is not None}
    b = Builder()
    plain = b.copy(program)
    leaving = {c.leave for c in carried}
    cut = (
        {i for i, n in enumerate(program.nodes) if label[i] is Label.SERIAL and _by_inverse(program, n)}
        if form is Form.READS
        else set()
    )
    forms: dict[int, Affine] = {}
    values: dict[int, Tile] = {}
    feeding = needed_by(program, leaving, stops)
    for i in sorted(feeding):
        if label[i] is Label.FREE:
            continue
        found = None if i in stops else _affine(b, program.nodes[i], i, plain, forms)
        if i in cut and found is not None:
            values[i] = spell(b, found, program.nodes[i].shape)
            found = None
            forms[i] = _atom(values[i])
        else:
            if found is None:  # not affine: computed from its arguments as they are now, and an atom from here on
                values[i] = (
                    plain[i]
                    if i in stops
                    else _again(
                        b,
                        program.nodes[i],
                        [_value(b, program, a, plain, forms, values) for a in program.nodes[i].args],
                    )
                )
            forms[i] = found if found is not None else _atom(values[i])
    done = {i: _value(b, program, i, plain, forms, values) for i in leaving}
    reused = {i: t for i, t in values.items() if i in cut}  # readers share the folded products
    results = b.copy(program, replace=None) if not reused else _rewired(b, program, reused)
    return b.program(
        [(r, done[r.node] if r.node in done else results[r.node]) for r in program.results],
        program.types,
        program.chunk,
    )


def _by_inverse(program: Program, node: Node) -> bool:
    return node.op == "dot" and any(program.nodes[a].op == "inverse" for a in node.args)


def _atom(tile: Tile) -> Affine:
    return Affine(None, (Term(tile),))


def _again(b: Builder, node: Node, args: list[Tile]) -> Tile:
    return b.make(node.op, args, node.attr, node.shape if fixed(node.op) else None)


def _rewired(b: Builder, program: Program, known: dict[int, Tile]) -> dict[int, Tile]:
    """A copy in which the nodes `known` already have their tiles."""
    made: dict[int, Tile] = {}
    for i, node in enumerate(program.nodes):
        if i in known:
            made[i] = known[i]
        elif node.op == "input":
            made[i] = b.input(program.ports[int(node.attr)], node.shape)  # type: ignore[arg-type]
        else:
            made[i] = b.make(
                node.op,
                [made[a] for a in node.args],
                node.attr,
                node.shape if fixed(node.op) else None,
            )
    return made


def _value(
    b: Builder, program: Program, i: int, plain: dict[int, Tile], forms: dict[int, Affine], values: dict[int, Tile]
) -> Tile:
    if i not in forms:
        return plain[i]
    if i not in values:
        values[i] = spell(b, forms[i], program.nodes[i].shape)
    return values[i]


def _affine(b: Builder, node: Node, index: int, plain: dict[int, Tile], forms: dict[int, Affine]) -> Affine | None:
    """The node as an affine value, or None."""
    args = [forms.get(a) for a in node.args]
    tiles = [plain[a] for a in node.args]
    match node.op, node.attr:
        case "map", "add" | "sub":
            sides = []
            for form, tile in zip(args, tiles, strict=True):
                if form is None:
                    sides.append(Affine(b.expand(tile, node.shape)))
                elif tile.shape == node.shape:
                    sides.append(form)
                else:
                    return None  # a carried value that spreads
            return add(sides[0], sides[1] if node.attr == "add" else scale(sides[1], b.const(-1.0)))
        case "map", "neg":
            return scale(args[0], b.const(-1.0)) if args[0] else None
        case "map", "mul" | "div":
            x, y = (0, 1) if args[0] is not None else (1, 0)
            form, factor = args[x], tiles[y]
            if form is None or args[y] is not None or tiles[x].shape != node.shape or 1 not in factor.shape:
                return None
            if node.attr == "mul":
                return scale(form, factor)
            return scale(form, 1.0 / factor) if x == 0 else None
        case ("cast", _):
            return args[0]
        case ("expand", _):
            return args[0] if tiles[0].shape == node.shape else None
        case ("transpose", _):
            return args[0].T if args[0] else None
        case "dot", (ta, tb):
            left, right = args
            if left is not None and right is None:
                return times(b, left.T if ta else left, tiles[1].T if tb else tiles[1])
            if right is not None and left is None:  # (x y)^T = y^T x^T
                return times(b, right if tb else right.T, tiles[0] if ta else tiles[0].T).T
            return None
        case _:
            return None
