"""What is done to a program before it is scheduled: one pass after another, each Program -> Program.

Constants, neutral elements, common subexpressions and dead nodes need no pass: `build` sees to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ruledsl.chunk.lower_solves import lower_solves
from ruledsl.chunk.program import Program
from ruledsl.chunk.swap_contractions import swap_contractions

PASSES: tuple[Callable[[Program], Program], ...] = (lower_solves, swap_contractions)


def simplify(program: Program, passes: Sequence[Callable[[Program], Program]] = PASSES) -> Program:
    """The program after all passes."""
    for step in passes:
        program = step(program)
    return program
