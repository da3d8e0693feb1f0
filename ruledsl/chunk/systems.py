"""Which nodes of a program belong to the systems that it solves.

What is made from an unknown is a recipe: it stands for a linear map that a conjugate applies again and again, and has no
value of its own.
"""

from __future__ import annotations

from ruledsl.chunk.program import Node, Program

ENDS = ("conjugate", "implicit")  # values again, though they take an unknown


def inside(program: Program) -> frozenset[int]:
    """Nodes without a value of their own."""
    found: set[int] = set()
    for i, node in enumerate(program.nodes):
        if node.op == "unknown" or (node.op not in ENDS and any(a in found for a in node.args)):
            found.add(i)
    return frozenset(found)


def body(program: Program, index: int) -> tuple[int, ...]:
    """The nodes that a conjugate applies, in order, without the unknown itself."""
    unknown, image, _ = program.nodes[index].args
    among, todo, found = inside(program), [image], set[int]()
    while todo:
        i = todo.pop()
        if i in among and i != unknown and i not in found:
            found.add(i)
            todo += program.nodes[i].args
    return tuple(sorted(found))


def outer(program: Program, index: int) -> frozenset[int]:
    """The values that a conjugate's body reads."""
    among = inside(program)
    return frozenset(a for i in body(program, index) for a in program.nodes[i].args if a not in among)


def solved(program: Program) -> Program:
    """The same values after differentiating: a solution without its residual."""
    from ruledsl.chunk.build import Builder, Tile

    b = Builder()

    def replace(node: Node, args: tuple[Tile, ...]) -> Tile | None:
        return args[0] if node.op == "implicit" else None

    made = b.copy(program, replace=replace)
    return b.program([(r, made[r.node]) for r in program.results], program.types, program.chunk)
