"""Where a gradient is taken: the one version of the state that the loss reads."""

from __future__ import annotations

from collections.abc import Mapping

from ruledsl.lang import typed
from ruledsl.lang.diagnostic import Diagnostic
from ruledsl.lang.source import Span
from ruledsl.lang.typed import Role

Point = tuple[str, int | None]  # a state, and the member of a family


def gradient_point(
    loss: typed.Expr, wrt: typed.Expr, values: Mapping[str, typed.Expr], found: list[Diagnostic], span: Span
) -> typed.Expr:
    """The version of the state (or the let) that an unrolled loss reads; `values` are the lets above it. None or two
    are mistakes, added to `found`."""
    wrt = _alias(wrt, values)
    reads, lets = _reads(loss, values)
    if isinstance(wrt, typed.Ref):
        if wrt.name not in lets:
            found.append(
                Diagnostic(
                    "RD502", f"the loss does not read `{wrt.name}`: its gradient is zero", span, "not read by the loss"
                )
            )
        return wrt
    name, member = _point(wrt)
    shown = name if member is None else f"{name}[{member}]"
    versions = [r for r in reads if _point(r) == (name, member)]
    if not versions:
        found.append(
            Diagnostic(
                "RD502",
                f"the loss does not read `{shown}`: its gradient is zero",
                span,
                "not read by the loss",
                hint=_instead(reads) or f"a prediction made from the state, such as `0.5*norm2({shown} k - v)`",
            )
        )
        return wrt
    if len(versions) > 1:
        notes = ("A gradient is taken at one version: " + " or ".join(sorted(_version(v) for v in versions)) + ".",)
        found.append(
            Diagnostic(
                "RD503",
                f"the loss reads {len(versions)} versions of `{shown}`",
                span,
                "at which one?",
                notes,
                f"read one of them under `stopgrad`, or form the loss before `{shown}` is assigned",
            )
        )
        return wrt
    return versions[0]


def _instead(reads: list[typed.Expr]) -> str:
    names = list(dict.fromkeys(_point(r)[0] for r in reads))
    shown = " and ".join(f"`{n}`" for n in names)
    return f"the loss reads {shown}: did you mean `grad(..., {names[0]})`?" if names else ""


def _alias(expr: typed.Expr, values: Mapping[str, typed.Expr]) -> typed.Expr:
    """What a let stands for, if it is just another name of a state."""
    seen = expr
    while isinstance(seen, typed.Ref) and seen.role is Role.LET and seen.lag is None and seen.name in values:
        seen = values[seen.name]
    return seen if _is_point(seen) else expr


def _is_point(expr: typed.Expr) -> bool:
    return isinstance(expr, typed.StateRef | typed.Frozen) or (
        isinstance(expr, typed.Member) and isinstance(expr.base, typed.Frozen) and bool(expr.base.type.family)
    )


def _point(expr: typed.Expr) -> Point:
    match expr:
        case typed.StateRef(name, _, _, member):
            return name, member
        case typed.Frozen(name):
            return name, None
        case typed.Member(typed.Frozen(name), typed.Number(index)):
            return name, int(index)
    raise AssertionError(expr)


def _version(expr: typed.Expr) -> str:
    match expr:
        case typed.StateRef(_, _, version):
            return "as this token began" if version == 0 else f"after assignment {version}"
    return "frozen at the chunk's start"


def _reads(loss: typed.Expr, values: Mapping[str, typed.Expr]) -> tuple[list[typed.Expr], set[str]]:
    """Versions of states that an expression depends on through lets, each once, and those lets. `stopgrad` hides."""
    reads: dict[typed.Expr, None] = {}
    lets: set[str] = set()
    seen: set[int] = set()
    stack = [loss]
    while stack:
        node = stack.pop()
        if id(node) in seen or (isinstance(node, typed.Apply) and node.fn == "stopgrad"):
            continue
        seen.add(id(node))
        if _is_point(node):
            reads[node] = None
        elif isinstance(node, typed.Ref) and node.role in (Role.LET, Role.OUTPUT):
            if node.lag is None and node.name not in lets:
                lets.add(node.name)
                stack.append(values[node.name])
        else:
            stack.extend(typed.children(node))
    return list(reads), lets
