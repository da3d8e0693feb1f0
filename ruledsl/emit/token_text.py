"""One token of a rule as a Python function: the rule, statement by statement, as it was checked and unrolled.

    token(x, state, sizes) -> (outputs, state)

x: inputs, params and given consts by name; state: declared states, `prev.NAME`, `frozen.NAME` and `t` by key; all are
[B or 1, H or 1, (family,) rows, columns] (`prev` has the past values on a third axis, oldest first; `t` is [B, 1, 1, 1]).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ruledsl.emit.names import Names, identifier, quoted
from ruledsl.emit.token_expression import State, Values, shared, static, token_expression
from ruledsl.emit.torch_expression import Scope, tensor
from ruledsl.lang import typed
from ruledsl.lang.typed import Role
from ruledsl.lang.walk import subexpressions


@dataclass(frozen=True, slots=True)
class Carried:
    """What a state holds besides the declared ones."""

    lags: Mapping[str, int]  # input, let or output -> how many past values
    frozen: Mapping[str, int]  # state -> chunk length
    position: bool


def carried(rule: typed.Rule) -> Carried:
    """From the unrolled rule. A state that is frozen for two chunk lengths is an AssertionError."""
    lags: dict[str, int] = {}
    frozen: dict[str, int] = {}
    position = False
    for statement in rule.body:
        assert not isinstance(statement, typed.For)
        for e in subexpressions(statement.value):
            match e:
                case typed.Ref(name, _, _, lag) if lag is not None and static(lag) > 0:
                    lags[name] = max(lags.get(name, 0), static(lag))
                case typed.Frozen(name, _, chunk):
                    assert frozen.setdefault(name, static(chunk)) == static(chunk), (
                        f"{name} is frozen for two chunk lengths"
                    )
                case typed.Builtin("t"):
                    position = True
    return Carried(lags, frozen, position or bool(frozen))


@dataclass(frozen=True, slots=True)
class _Named:
    """A let or output as it was evaluated."""

    name: str
    value: typed.Expr
    values: Values


@dataclass
class _Writer:
    """The lines of the function so far."""

    rule: typed.Rule
    names: Names
    lines: list[str] = field(default_factory=list)
    named: list[_Named] = field(default_factory=list)

    def assign(self, wish: str, e: typed.Expr, v: Values) -> str:
        v = replace(v, known={})
        for node in shared(e):
            part = self.names.new(f"{wish}_part")
            self.lines.append(f"{part} = {tensor(token_expression(node, v), v.scope).code}")
            v = replace(v, known={**v.known, id(node): part})
        text = tensor(token_expression(e, v), v.scope).code
        name = self.names.new(wish)
        self.lines.append(f"{name} = {text}")
        return name

    # -------------------------------------------------------------------------------------------- grad(...)

    def derivative(self, e: typed.Grad, v: Values) -> str:
        """A function of the loss, and torch's derivative of it at the one value that the loss reads."""
        variable, function = self.names.new("at"), self.names.new("loss")
        changed: set[str] = set()
        inner = v
        match e.wrt:
            case typed.StateRef(state, _, version, member):
                at = v.state(state, member, version)
                inner = v.with_state(
                    (state, member), v.current[state, member] if version is None else version, variable
                )
            case typed.Frozen(state):
                at, inner = v.frozen[state], replace(v, frozen={**v.frozen, state: variable})
            case typed.Ref(name):
                at, inner = v.names[name], replace(v, names={**v.names, name: variable})
                changed.add(name)
            case other:
                raise AssertionError(f"no derivative with respect to {other}")
        outside, self.lines = self.lines, []
        for let in self.named:  # what the loss reads through lets is evaluated again
            if let.name not in changed and _reads(let.value, e.wrt, changed):
                changed.add(let.name)
                again = replace(
                    let.values,
                    names={**let.values.names, **{n: inner.names[n] for n in changed if n in inner.names}},
                    versions=inner.versions,
                    frozen=inner.frozen,
                )
                inner = replace(
                    inner, names={**inner.names, let.name: self.assign(identifier(let.name), let.value, again)}
                )
        loss = self.assign("value", e.loss, inner)
        body, self.lines = self.lines, outside
        result = self.names.new("slope")
        self.lines += [f"def {function}({variable}):", *("    " + line for line in body), f"    return {loss}.sum()"]
        self.lines.append(f"{result} = torch.func.grad({function})({at})")
        return result


def _reads(e: typed.Expr, wrt: typed.Expr, changed: set[str]) -> bool:
    return any(
        x == wrt or (isinstance(x, typed.Ref) and x.lag is None and x.name in changed) for x in subexpressions(e)
    )


def token_text(rule: typed.Rule, scope: Scope, bound: Mapping[str, int], taken: frozenset[str]) -> str:
    """The function, for an unrolled rule. `scope` is told of what it calls."""
    held = carried(rule)
    names = Names(taken | set(scope.sizes.values()) | {"x", "state", "t", "head", "heads", "like"})
    writer = _Writer(rule, names)
    versions: dict[tuple[State, int], str] = {}
    frozen: dict[str, str] = {}
    own: dict[str, str] = {}
    head = _arguments(rule, names, own)
    for s in rule.of(Role.STATE):
        name = names.new(identifier(s.name))
        head.append(f"{name} = state[{quoted(s.name)}]")
        for key in _members(s, bound):
            versions[key, 0] = name if key[1] is None else f"{name}[:, :, {key[1] - 1}]"
        if s.name in held.frozen:
            frozen[s.name] = names.new(f"frozen_{name}")
            head.append(
                f'{frozen[s.name]} = torch.where(state["t"] % {held.frozen[s.name]} == 0, {name}, state[{quoted(f"frozen.{s.name}")}])'
            )
    rings = {}
    for name in held.lags:
        rings[name] = names.new(f"past_{identifier(name)}")
        head.append(f"{rings[name]} = state[{quoted(f'prev.{name}')}]")
    v = Values(scope, bound, own, versions, {key: 0 for key, _ in versions}, frozen, rings, writer.derivative)
    for s in rule.of(Role.CONST):
        if s.init is not None:
            v = replace(v, names={**v.names, s.name: writer.assign(identifier(s.name), s.init, v)})
    outputs: dict[str, str] = {}
    for statement in rule.body:
        v = _statement(statement, v, writer, outputs)
    results = ", ".join(f"{quoted(name)}: {text}" for name, text in outputs.items())
    lines = [*head, *writer.lines, f"return {{{results}}}, {{{', '.join(_leaving(rule, held, v, bound))}}}"]
    lines = [*_builtins(rule, scope, lines), *lines]
    return "\n".join(
        [
            "def token(x, state, sizes):",
            '    """One token, as the rule says it: (outputs, state)."""',
            *("    " + line for line in lines),
        ]
    )


def _statement(statement: typed.Statement, v: Values, writer: _Writer, outputs: dict[str, str]) -> Values:
    match statement:
        case typed.Let(name, value) | typed.Output(name, value):
            new = writer.assign(identifier(name), value, v)
            writer.named.append(_Named(name, value, v))
            if isinstance(statement, typed.Output):
                outputs[name] = new
            return replace(v, names={**v.names, name: new})
        case typed.Assign(state, member, value):
            type_ = writer.rule.symbol(state).type
            new = writer.assign(identifier(state) + ("" if member is None else f"_{static(member)}"), value, v)
            parts: dict[State, str]
            if type_.family and member is None:
                parts = {(state, j): f"{new}[:, :, {j - 1}]" for j in range(1, v.family(type_) + 1)}
            else:
                parts = {(state, None if member is None else static(member)): new}
            current = {**v.current, **{key: v.current[key] + 1 for key in parts}}
            return replace(
                v,
                current=current,
                versions={**v.versions, **{(key, current[key]): text for key, text in parts.items()}},
            )
        case typed.For():
            raise AssertionError("a loop in an unrolled rule")


def _arguments(rule: typed.Rule, names: Names, own: dict[str, str]) -> list[str]:
    lines = []
    for s in rule.symbols:
        if s.role in (Role.INPUT, Role.PARAM) or (s.role is Role.CONST and s.init is None):
            own[s.name] = names.new(identifier(s.name))
            lines.append(f"{own[s.name]} = x[{quoted(s.name)}]")
    return lines


def _members(s: typed.Symbol, bound: Mapping[str, int]) -> Iterator[State]:
    if s.type.family:
        yield from ((s.name, j) for j in range(1, typed.dim_value(s.type.family[0], bound) + 1))
    else:
        yield s.name, None


def _builtins(rule: typed.Rule, scope: Scope, lines: list[str]) -> Iterator[str]:
    words = {word for line in lines for word in re.findall(r"\w+", line)}
    yield "like = next(iter(x.values()))"
    if words & {"head", "heads"}:
        yield 'heads = sizes[":heads"]'
    if "head" in words:
        yield "head = torch.arange(heads, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)"
    for size, name in scope.sizes.items():
        if name in words:
            yield f"{name} = sizes[{quoted(size)}]"
    if any(isinstance(e, typed.Builtin) and e.name == "t" for st in rule.body for e in subexpressions(st.value)):  # type: ignore[union-attr]
        yield 't = state["t"].to(like.dtype)'


def _leaving(rule: typed.Rule, held: Carried, v: Values, bound: Mapping[str, int]) -> Iterator[str]:
    for s in rule.of(Role.STATE):
        parts = [v.state(s.name, member, None) for _, member in _members(s, bound)]
        yield f"{quoted(s.name)}: " + (f"torch.stack([{', '.join(parts)}], 2)" if s.type.family else parts[0])
    for name in held.lags:
        ring = v.rings[name]
        yield f"{quoted(f'prev.{name}')}: torch.cat([{ring}, {v.names[name]}.expand_as({ring}[:, :, 0])[:, :, None]], 2)[:, :, 1:]"
    for name in held.frozen:
        yield f"{quoted(f'frozen.{name}')}: {v.frozen[name]}"
    if held.position:
        yield '"t": state["t"] + 1'
