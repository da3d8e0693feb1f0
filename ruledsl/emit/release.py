"""Letting go of tiles in straight-line text: a long pass would otherwise hold every one of them until it returns."""

from __future__ import annotations

import re
from collections.abc import Iterable

TOGETHER = 3  # names in one `del`


def release(lines: list[str], keep: Iterable[str]) -> list[str]:
    """The lines with `del` statements for names that are assigned at the top level and not used again. `keep` holds
    names that are used after the last line; what comes from an argument is the caller's. An indented block counts as one statement with the line that opens it, and what a function
    reads is used where the function is."""
    kept = set(keep)
    assigned = {m[1] for line in lines if (m := re.match(r"(\w+) = (?!(tiles|entering|douts)\[)", line))} - kept
    block, end = [0] * len(lines), len(lines) - 1
    for i in range(len(lines) - 1, -1, -1):
        block[i] = end
        if not lines[i].startswith(" "):
            block[i] = end if i + 1 < len(lines) and lines[i + 1].startswith(" ") else i
            end = i - 1
    last: dict[str, int] = {}
    inner: dict[str, set[str]] = {}  # the words of each function
    for i, line in enumerate(lines):
        words = set() if line.startswith("#") else set(re.findall(r"\w+", line))
        last |= dict.fromkeys(words, block[i])
        for name in words & inner.keys():
            last |= dict.fromkeys(inner[name], block[i])
        if m := re.match(r"def (\w+)", line):
            inner[m[1]] = {w for own in lines[i : block[i] + 1] for w in re.findall(r"\w+", own)}
    last = {word: i for word, i in last.items() if word in assigned}
    done: list[str] = []
    waiting: list[str] = []
    for i, line in enumerate(lines):
        done.append(line)
        waiting += [name for name, at in last.items() if at == i]
        if len(waiting) >= TOGETHER and i + 1 < len(lines):
            done.append(f"del {', '.join(waiting)}")
            waiting = []
    return done
