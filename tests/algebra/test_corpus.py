"""Every text of the corpus: verdict, class and blamed place of each stratum, against a table that was read line by line.

`corpus.txt` has one line per stratum, `text | states | verdict | class | line:column blamed text`; for a text that is
refused, one line per mistake with its code. After a change that is meant, `python -m tests.algebra.test_corpus` writes
the table as it is now; read the difference before it is committed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ruledsl.algebra.verdict import Kind
from ruledsl.lang.diagnostic import RuleError
from ruledsl.lang.source import Source, Span

from .corpus import CORPUS, checked, stated, text, verdict

TABLE = Path(__file__).with_name("corpus.txt")


def rows(name: str) -> Iterator[str]:
    if stated(name) == "refused":
        with pytest.raises(RuleError) as caught:
            checked(text(name))
        error = caught.value
        for d in error.diagnostics:
            yield " | ".join([name, "-", "refused", d.code, place(error.source, d.span)])
        return
    found = verdict(name)
    for s in found.strata:
        blamed = place(found.rule.source, s.blame)
        yield " | ".join([name, ", ".join(s.states), str(s.kind), s.structure, blamed]).rstrip(" |")


def place(source: Source, span: Span | None) -> str:
    if span is None:
        return ""
    line, column = source.position(span.start)
    return f"{line}:{column} {' '.join(source.slice(span).split())}"


def expected() -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        out.setdefault(line.split(" | ")[0], []).append(line)
    return out


def test_the_table_holds_every_text() -> None:
    assert set(expected()) == set(CORPUS) and len(CORPUS) >= 99


@pytest.mark.parametrize("name", CORPUS)
def test_verdict_class_and_blame(name: str) -> None:
    assert list(rows(name)) == expected()[name]


@pytest.mark.parametrize("name", [n for n in CORPUS if stated(n) != "refused"])
def test_a_no_has_a_place(name: str) -> None:
    """And a yes has none; the deciding stratum is the one that the file states."""
    found = verdict(name)
    assert str(found.kind) == stated(name)
    for s in found.strata:
        assert (s.blame is not None) == (s.kind in (Kind.DENSE, Kind.SEQUENTIAL, Kind.UNDECIDED))


@pytest.mark.parametrize(
    ("name", "words"),
    [("case_31", "(`k` reads `prev(o)`)"), ("case_28b", "(`ir` reads `h`)"), ("slstm", "(`i` reads `h`)")],
)
def test_what_carries_the_state_into_the_blamed_place_is_told(name: str, words: str) -> None:
    assert words in verdict(name).reason


if __name__ == "__main__":
    TABLE.write_text("".join(f"{line}\n" for name in CORPUS for line in rows(name)), encoding="utf-8")
