"""The strata of an unrolled rule with what the algebra knows of each."""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.algebra.affine import Affine, TooLarge
from ruledsl.algebra.calculus import expand
from ruledsl.algebra.classify import Class, coupled, single
from ruledsl.algebra.hidden import as_states, hidden
from ruledsl.algebra.linear import Linear, NotAffine
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.steps import Map, Step, composed, map_of, steps_of
from ruledsl.algebra.strata import strata
from ruledsl.algebra.verdict import Kind
from ruledsl.lang import typed


@dataclass(frozen=True, slots=True)
class Part:
    """One stratum: its class if it is affine, else why not."""

    states: tuple[State, ...]
    linear: Linear
    found: Class | None
    steps: tuple[Step, ...] = ()  # of a state that is a stratum of its own
    maps: tuple[Map, ...] = ()
    blocks: tuple[tuple[State, Affine], ...] = ()  # of coupled states
    failure: NotAffine | None = None
    too_large: bool = False
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Analysis:
    written: typed.Rule  # unrolled; lets that read their own past are states
    rule: typed.Rule  # its gradients expanded
    scope: Scope
    parts: tuple[Part, ...]
    hidden: tuple[str, ...] = ()  # the lets that became states

    def part(self, state: State) -> Part:
        return next(p for p in self.parts if state in p.states)


def analyse(rule: typed.Rule) -> Analysis:
    """Of an unrolled rule. Raises NoDerivative and TooLarge for what is not followed."""
    written = as_states(rule)
    expanded = expand(written)
    scope = Scope(expanded)
    parts = tuple(part_of(scope, states) for states in strata(scope))
    return Analysis(written, expanded, scope, parts, tuple(hidden(rule)))


def part_of(scope: Scope, states: tuple[State, ...]) -> Part:
    """States taken together, all others as inputs."""
    linear = Linear(scope, frozenset(states))
    names = {(name, None) for name, _ in states}
    frozen = any(scope.seen(a.value).frozen & names for s in states for a in scope.assigns.get(s, []))
    try:
        if len(states) == 1:
            steps = tuple(steps_of(scope, linear, states[0]))
            maps = tuple(map_of(scope, s.value.terms) for s in steps)
            return Part(states, linear, single(list(maps)), steps, maps, frozen=frozen)
        blocks = composed(scope, linear, states)
        return Part(states, linear, coupled(scope, blocks), blocks=tuple(blocks.items()), frozen=frozen)
    except NotAffine as failure:
        return Part(states, linear, None, failure=failure, frozen=frozen)
    except TooLarge as limit:
        return Part(
            states,
            linear,
            Class(Kind.UNDECIDED, "unknown", f"{limit}, which the checker does not follow"),
            too_large=True,
            frozen=frozen,
        )
