"""Choices that several commands offer."""

from __future__ import annotations

from enum import StrEnum


class Backend(StrEnum):
    TORCH = "torch"
    TRITON = "triton"


class Stage(StrEnum):
    SYNTAX = "syntax"
    TYPED = "typed"
    VERDICT = "verdict"
    CHUNK = "chunk"
    GRADIENT = "gradient"
    SCHEDULE = "schedule"
    SOURCE = "source"


class Format(StrEnum):
    HUMAN = "human"
    JSON = "json"
    GITHUB = "github"
    SARIF = "sarif"


class Need(StrEnum):
    CHUNK = "chunk"


class Notation(StrEnum):
    TEXT = "text"
    LATEX = "latex"
