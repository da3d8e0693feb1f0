"""What every diagnostic code means: the folder `codes/`, one text and one example per code.

`codes/RDxxx.txt` is a title line, paragraphs that say what and why, then a line `fix:` and the corrected rule.
`codes/RDxxx.rule` is a rule that raises exactly this code. A code that no small file can raise has a section `example:`
before `fix:` instead, and both are in words.

    RD1xx  syntax                          RD5xx  calculus: grad, frozen, solve
    RD2xx  names and declarations          RD6xx  limits
    RD3xx  shapes                          RD7xx  verdict and run-time notes
    RD4xx  time and loops
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "codes"


@dataclass(frozen=True, slots=True)
class Entry:
    code: str
    title: str
    explanation: str  # paragraphs, separated by an empty line
    example: bytes | None  # a rule that raises the code; bytes, because one example is no text
    sketch: str | None  # an example in words, where there is no such rule
    fix: str

    @property
    def shown(self) -> str:
        """The example for people."""
        return self.sketch or (self.example or b"").decode("utf-8", errors="replace")


class _Catalogue(Mapping[str, Entry]):
    """Reads an entry when it is asked for."""

    def __getitem__(self, code: str) -> Entry:
        if code not in _codes():
            raise KeyError(code)
        return _read(code)

    def __iter__(self) -> Iterator[str]:
        return iter(_codes())

    def __len__(self) -> int:
        return len(_codes())


CATALOGUE: Mapping[str, Entry] = _Catalogue()


def explain(code: str) -> Entry | None:
    """The entry of a code, written in any case and with or without `RD`; None when there is none."""
    code = code.strip().upper()
    return CATALOGUE.get(code if code.startswith("RD") else f"RD{code}")


@cache
def _codes() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in FOLDER.glob("RD*.txt")))


@cache
def _read(code: str) -> Entry:
    text = (FOLDER / f"{code}.txt").read_text(encoding="utf-8")
    title, _, rest = text.partition("\n")
    rest, _, fix = rest.partition("\nfix:\n")
    explanation, _, sketch = rest.partition("\nexample:\n")
    rule = FOLDER / f"{code}.rule"
    example = rule.read_bytes() if rule.is_file() else None
    words = sketch.strip("\n") + "\n" if sketch.strip() else None
    return Entry(code, title.strip(), explanation.strip(), example, words, fix.strip("\n") + "\n")
