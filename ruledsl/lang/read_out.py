"""The read-out of a rule that declares none."""

from __future__ import annotations

from ruledsl.lang import syntax
from ruledsl.lang.infer import Infer
from ruledsl.lang.scope import Entry, Scope
from ruledsl.lang.shapes import is_matrix, is_vector, known, poisoned
from ruledsl.lang.source import Span
from ruledsl.lang.typed import Role


def default_read_out(scope: Scope, infer: Infer, whole: Span) -> tuple[syntax.Output, str] | None:
    """`S q` for the only state, or the state itself if it is a vector or scalar, with a note that says so. Tells why
    there is none (the whole rule is at `whole`)."""
    report = infer.report
    states = [e for e in scope.entries.values() if e.role is Role.STATE]
    if not states:
        report.add("RD212", "a rule has a state or an output", whole, hint="`S = S + v k^T`")
        return None
    state = states[0]
    if len(states) > 1 or state.shape.family:
        why = "several states" if len(states) > 1 else "a family of states"
        hint = f"`output o = {state.name} q`"
        report.add("RD212", f"no output, and {why}: which one is read?", state.span, hint=hint)
        return None
    if poisoned(state.shape, infer.sizes):
        return None
    names = ("o", "out_", *(f"o{i}" for i in range(2, 99)))
    name = next(n for n in names if n not in scope.entries and n not in scope.sizes)
    read: syntax.Expr = syntax.Name(state.name, span=state.span)
    text = state.name
    if is_matrix(state.shape, infer.sizes):
        if why := _unfit(scope, infer, state):
            hint = f"declare `input q` with the columns of `{state.name}`, or an output"
            report.add("RD212", f"no output, and {why} for the usual one, `{state.name} q`", state.span, hint=hint)
            return None
        read = syntax.Binary(" ", read, syntax.Name("q", span=state.span), span=state.span)
        text = f"{state.name} q"
    return syntax.Output(name, read, span=state.span), f"no output is declared: `output {name} = {text}` is assumed"


def _unfit(scope: Scope, infer: Infer, state: Entry) -> str:
    """Why `S q` cannot be the read-out, or nothing."""
    query, sizes = scope.entries.get("q"), infer.sizes
    if query is None:
        return "" if scope.open else "no input `q`"
    if not is_vector(query.shape, sizes) and known(query.shape, sizes):
        return "`q` is no vector"
    if not scope.open and not sizes.same(query.shape.rows, state.shape.cols):
        return "`q` has another size than needed"
    return ""
