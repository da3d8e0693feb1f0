"""What an explanation is, as plain text or as LaTeX.

Explanation = Explanation(headline, sections, tex)
Section     = Section(title, lines)
Line        = Equation(left, right, relation, note)    in the notation asked for
            | Sentence(text)                           words; formulas in it stand between $ in LaTeX
            | Quote(text)                              a rule's text, or a place in it: shown as it stands
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Equation:
    left: str
    right: str
    relation: str = "="  # "=" or "<-"
    note: str = ""  # where it holds: "s < t, else 0"


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str


@dataclass(frozen=True, slots=True)
class Quote:
    text: str


Line = Equation | Sentence | Quote


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    headline: str
    sections: tuple[Section, ...]
    tex: bool = False

    def section(self, title: str) -> Section:
        return next(s for s in self.sections if s.title == title)
