"""Kernels compiled before the first launch: every launch is seen, with its arguments, and none happens."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ruledsl.runtime import compile_ahead, tape

TEXT = """
def power(n):
    return 2 ** n

def forward(x, plan):
    first_kernel[(power(3), 2)](x, C=plan["chunk"], num_warps=4)
    return x

def backward(x, plan, kept=None):
    kept = forward(x, plan) if kept is None else kept
    second_kernel[(1,)](kept, num_warps=2)
    return kept
"""


class Kernel:
    def __init__(self, name: str, seen: list[Any]) -> None:
        self.name, self.seen = name, seen

    def __getitem__(self, grid: object) -> Any:
        raise AssertionError(f"{self.name} was launched")

    def warmup(self, *arguments: object, grid: object, **options: object) -> str:
        self.seen.append((self.name, arguments, grid, options))
        return f"{self.name} made"


def test_launchers_run_with_stand_ins() -> None:
    module, seen = ModuleType("made"), list[Any]()
    exec(TEXT, module.__dict__)
    module.first_kernel, module.second_kernel = Kernel("first", seen), Kernel("second", seen)
    names = tape.with_stands(module, lambda x: compile_ahead._Stand(x) if isinstance(x, Kernel) else x)
    stands = [names["first_kernel"], names["second_kernel"]]
    assert names["backward"](7, {"chunk": 32}) == 7
    assert [stand.kernels for stand in stands] == [["first made"], ["second made"]]
    assert seen == [
        ("first", (7,), (8, 2), {"C": 32, "num_warps": 4}),
        ("second", (7,), (1,), {"num_warps": 2}),
    ]
    assert isinstance(module.first_kernel, Kernel)


def test_nothing_happens_in_the_interpreter() -> None:
    """No kernel of the module is one that compiles."""
    module = ModuleType("made")
    exec("def forward(x):\n    raise AssertionError", module.__dict__)
    compile_ahead.compile_ahead(module, "forward", (1,))
