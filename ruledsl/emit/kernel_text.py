"""Text of kernels, whatever they are made of: a kernel as a function, without what nothing reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence


def used_lines(lines: list[str], effects: Sequence[str] = ()) -> list[str]:
    """Without the assignments of single names that nothing reads, unless they call one of `effects`, and without the branches
    that this leaves empty."""
    while True:
        count = Counter(re.findall(r"\w+", "\n".join(lines)))
        kept = [
            line for line in lines
            if not ((m := re.match(r"\s*(\w+) = ", line)) and count[m[1]] == 1) or any(f"{e}(" in line for e in effects)
        ]  # fmt: skip
        kept = [line for i, line in enumerate(kept) if not (line.lstrip().startswith("if ") and _is_empty(kept, i))]
        if len(kept) == len(lines):
            return lines
        lines = kept


def _is_empty(lines: list[str], i: int) -> bool:
    """Whether nothing stands below the head of a block."""
    return i + 1 == len(lines) or _indent(lines[i + 1]) <= _indent(lines[i])


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def kernel(name: str, arguments: list[tuple[str, str]], constants: list[str], lines: list[str]) -> str:
    """The definition of `NAME_kernel`; of its arguments, pairs with what the launcher passes, the names."""
    values = ", ".join(n for n, _ in arguments)
    known = ", ".join(f"{c}: tl.constexpr" for c in constants)
    body = "\n".join("    " + line for line in lines)
    return f"@triton.jit\ndef {name}_kernel(\n    {values},\n    {known + ',' if known else ''}\n):\n{body}"
