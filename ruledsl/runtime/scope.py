"""What names mean at one place of a token's program, and what one token hands to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ruledsl.lang import typed

Key = tuple[str, int | None]  # a state, or member j of a family of states


@dataclass(frozen=True, slots=True)
class Carry:
    """What one token hands to the next."""

    states: Mapping[str, Tensor]  # [B, H, (family...), rows, cols]
    prev: Mapping[str, Tensor] = field(default_factory=dict)  # [B, H, lag, ...], oldest first
    frozen: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)  # by state and chunk length
    t: Tensor | None = None  # [B], int64
    begins: bool = False  # known to stand before the first token: t is 0


@dataclass(frozen=True, slots=True)
class Let:
    value: Tensor
    expr: typed.Expr
    scope: Scope  # as it was when the let was evaluated


@dataclass(frozen=True, slots=True)
class Version:
    key: Key
    number: int


@dataclass(frozen=True, slots=True)
class Copy:
    name: str
    chunk: int


@dataclass(frozen=True, slots=True)
class Local:
    name: str


Target = Version | Copy | Local  # what a derivative is taken with respect to


@dataclass(frozen=True, slots=True)
class Scope:
    """What a name means at one place of the program. Frozen: a statement makes the next scope."""

    given: Mapping[str, Tensor]  # inputs and params
    carry: Carry
    history: Mapping[Key, list[Tensor]]  # every version of every state, shared by the token's scopes
    versions: Mapping[Key, int]  # the current one
    lets: Mapping[str, Let]
    loops: Mapping[str, int]
    point: tuple[Target, Tensor] | None = None  # inside a derivative: the variable and its value


@dataclass(frozen=True, slots=True)
class Named:
    """The targets that belong to one state or member."""

    name: str
    member: int | None

    def __contains__(self, target: Target) -> bool:
        match target:
            case Version(key):
                return key == (self.name, self.member)
            case Copy(name):
                return name == self.name and self.member is None
            case _:
                return False
