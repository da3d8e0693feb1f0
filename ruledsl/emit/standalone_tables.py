"""The parts of a standalone module that hold what the rule declares: sizes, shapes, first values, examples."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from ruledsl.emit import functions
from ruledsl.emit.names import Names, identifier, quoted
from ruledsl.emit.token_expression import Values, token_expression
from ruledsl.emit.token_text import Carried
from ruledsl.emit.torch_expression import Scope, tensor
from ruledsl.lang import typed
from ruledsl.lang.systems import in_systems
from ruledsl.lang.typed import Dim, DimOp, Role

OWN = frozenset(
    {
        "forward",
        "backward",
        "token",
        "sizes_of",
        "shapes",
        "first_state",
        "example",
        "RULE",
        "run_chunks",
        "chunked",
        "recurrent",
        "step",
        "batch",
        "length",
        "heads",
        "like",
        "given",
        "state",
    }
)


def axes(type_: typed.Type) -> int:
    """How many axes of the user's tensor are rows and columns."""
    return 0 if type_.is_scalar else 1 if type_.is_vector else 2


def free_states(rule: typed.Rule) -> list[typed.Symbol]:
    """States that may start from anything: a declared first value can be the only sensible kind."""
    return [s for s in rule.of(Role.STATE) if s.init is None]


def fixed(rule: typed.Rule) -> list[typed.Symbol]:
    return [s for s in rule.symbols if s.role is Role.PARAM or (s.role is Role.CONST and s.init is None)]


def arguments(rule: typed.Rule) -> list[typed.Symbol]:
    return [*rule.of(Role.INPUT), *fixed(rule)]


def type_of(rule: typed.Rule, name: str) -> typed.Type:
    return next((s.type for s in rule.symbols if s.name == name), None) or rule.let(name).value.type


def sizes_of(rule: typed.Rule, bound: Mapping[str, int]) -> str:
    entries = []
    for size in rule.sizes:
        entries.append(f"{quoted(size)}: {bound[size] if size in bound else _where(rule, size)}")
    return "\n".join(
        [
            "def sizes_of(x, state):",
            '    """The sizes of the rule, from the shapes of what is given."""',
            f"    return {{{', '.join(entries)}}}",
        ]
    )


def _where(rule: typed.Rule, size: str) -> str:
    """Where a size can be read: from an argument, from an argument with a multiple or a part of it, from a state."""
    found: list[tuple[int, str]] = []
    for rank, source, symbols in ((0, "x", arguments(rule)), (4, "state", rule.of(Role.STATE))):
        for s in symbols:
            for i, dim in enumerate(reversed(s.type.dims), 1):
                extent = f"{source}[{quoted(s.name)}].shape[-{i}]"
                match dim:
                    case str() if dim == size:
                        found.append((rank, extent))
                    case DimOp("/", str() as whole, int() as parts) if whole == size:
                        found.append((rank + 1, f"{extent} * {parts}"))
                    case DimOp("*", int() as times, str() as one) | DimOp("*", str() as one, int() as times) if (
                        one == size
                    ):
                        found.append((rank + 1, f"{extent} // {times}"))
    assert found, f"no tensor tells the size {size}"
    return min(found)[1]


def bind(scope: Scope, text: str) -> list[str]:
    """The sizes that a text reads."""
    words = set(re.findall(r"\w+", text))
    return [f"{name} = sizes[{quoted(size)}]" for size, name in scope.sizes.items() if name in words]


def _tuple(scope: Scope, dims: tuple[Dim, ...]) -> str:
    parts = [scope.axis(d) for d in dims]
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def shapes(rule: typed.Rule, scope: Scope) -> str:
    entries = [f"{quoted(s.name)}: {_tuple(scope, s.type.dims)}," for s in arguments(rule)]
    lines = [f"    {line}" for line in bind(scope, " ".join(entries))]
    return "\n".join(
        [
            "def shapes(sizes):",
            '    """The axes that each argument has of its own."""',
            *lines,
            "    return {",
            *(f"        {e}" for e in entries),
            "    }",
        ]
    )


def tables(rule: typed.Rule, held: Carried) -> str:
    def table(items: Mapping[str, int]) -> str:
        return "{" + ", ".join(f"{quoted(k)}: {n}" for k, n in items.items()) + "}"

    states = {s.name: axes(s.type) for s in rule.of(Role.STATE)}
    states |= {f"prev.{n}": axes(type_of(rule, n)) for n in held.lags} | {f"frozen.{n}": states[n] for n in held.frozen}
    states |= {"t": 0} if held.position else {}
    lines = [
        "# the axes of rows and columns that each tensor has",
        "RULE = {",
        f'    "inputs": {table({s.name: axes(s.type) for s in rule.of(Role.INPUT)})},',
        f'    "fixed": {table({s.name: axes(s.type) for s in fixed(rule)})},',
        f'    "states": {table(states)},',
        f'    "outputs": {table({o.name: axes(o.value.type) for o in rule.outputs})},',
        '    "sizes": sizes_of,',
        '    "shapes": shapes,',
        '    "first": first_state,',
        "}",
    ]
    return "\n".join(lines)


def first_state(rule: typed.Rule, held: Carried, scope: Scope, bound: Mapping[str, int]) -> str:
    def axes(type_: typed.Type) -> str:
        return ", ".join(scope.axis(d) for d in (*type_.family, type_.rows, type_.cols))

    inner = Scope(scope.sizes, "like", scope.called)
    lines, entries = [], []
    names: dict[str, str] = {}
    values = Values(inner, bound, names, {}, {}, {}, {}, lambda e, v: "")
    own = Names(set(scope.sizes.values()) | OWN | functions.defined() | {"sizes", "head"})
    if any(s.init is not None for s in rule.of(Role.STATE)):
        for s in rule.of(Role.CONST):
            if s.init is not None:
                text = tensor(token_expression(s.init, values), inner).code
                names[s.name] = own.new(identifier(s.name))
                lines.append(f"{names[s.name]} = {text}")
    for s in rule.of(Role.STATE):
        if s.learned:
            continue
        if s.init is None:
            entries.append((s.name, f"like.new_zeros(batch, heads, {axes(s.type)})"))
        else:
            value = tensor(token_expression(s.init, values), inner)
            entries.append((s.name, f"{value.inside(4)}.expand(batch, heads, {axes(s.type)})"))
    entries += [
        (f"prev.{n}", f"like.new_zeros(batch, heads, {lag}, {axes(type_of(rule, n))})") for n, lag in held.lags.items()
    ]
    entries += [(f"frozen.{n}", f"like.new_zeros(batch, heads, {axes(type_of(rule, n))})") for n in held.frozen]
    if held.position:
        entries.append(("t", "torch.zeros(batch, 1, 1, 1, dtype=torch.int64, device=like.device)"))
    body = [*lines, "return {", *(f"    {quoted(key)}: {text}," for key, text in entries), "}"]
    whole = " ".join(body)
    if "head" in whole.replace("heads", ""):
        body.insert(0, "head = torch.arange(heads, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)")
    body = [*bind(scope, whole), *body]
    return "\n".join(
        [
            "def first_state(batch, heads, sizes, like):",
            '    """What stands before the first token."""',
            *("    " + line for line in body),
        ]
    )


def example(rule: typed.Rule, scope: Scope) -> str:
    entries, systems = [], in_systems(rule)
    for s in [*arguments(rule), *free_states(rule)]:
        lead = {Role.INPUT: "batch, length, heads", Role.STATE: "batch, heads"}.get(s.role, "heads")
        dims = "".join(f", {scope.axis(d)}" for d in s.type.dims)
        entries.append(
            f"{quoted(s.name)}: sampled(({lead}{dims}{',' if ',' not in lead + dims else ''}), generator{_range(s, s.name in systems)}),"
        )
    bound = [f"    {line}" for line in bind(scope, " ".join(entries))]
    return "\n".join(
        [
            "def example(batch, length, heads, sizes):",
            '    """Random arguments within the declared ranges, and states."""',
            "    generator = torch.Generator().manual_seed(0)",
            *bound,
            "    return {",
            *(f"        {e}" for e in entries),
            "    }",
        ]
    )


def _range(s: typed.Symbol, in_system: bool) -> str:
    low = high = None
    if s.interval is not None:
        low = s.interval.low if math.isfinite(s.interval.low) else None
        high = s.interval.high if math.isfinite(s.interval.high) else None
    kind = (
        "permutation"
        if s.perm
        else "unit"
        if s.unit
        else "value"
        if s.type.is_scalar
        else "semidefinite"
        if in_system
        else "matrix"
        if s.type.is_matrix
        else "vector"
    )
    return (
        (f", low={low!r}" if low is not None else "")
        + (f", high={high!r}" if high is not None else "")
        + ("" if kind == "value" else f', kind="{kind}"')
    )
