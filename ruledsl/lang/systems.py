"""The linear systems that a rule solves."""

from __future__ import annotations

from ruledsl.lang import typed
from ruledsl.lang.typed import Role
from ruledsl.lang.walk import expressions, subexpressions


def in_systems(rule: typed.Rule) -> frozenset[str]:
    """The square matrix states that the matrix of a `solve` reads."""
    values = [e for s in rule.body for e in expressions(s)]
    lets = {s.name: s.value for s in rule.body if isinstance(s, typed.Let)}
    todo = [e.matrix for value in values for e in subexpressions(value) if isinstance(e, typed.Solve)]
    found, done = set[str](), set[str]()
    while todo:
        for e in subexpressions(todo.pop()):
            if isinstance(e, typed.StateRef):
                found.add(e.name)
            elif isinstance(e, typed.Ref) and e.name in lets and e.name not in done:
                done.add(e.name)
                todo.append(lets[e.name])
    members = {s.name: s.type.member for s in rule.of(Role.STATE)}
    return frozenset(n for n in found if members[n].is_matrix and members[n].rows == members[n].cols)
