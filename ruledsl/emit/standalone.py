"""A rule as a module of its own, for a user with torch and nothing else.

It defines `chunked`, `recurrent` and `step` over the user's tensors, in front of them the functions they are made of,
and compares `chunked` with `recurrent` when it is run. A rule without chunk form has no `chunked`; then `recurrent` is
compared with itself in two parts.
"""

from __future__ import annotations

from collections.abc import Mapping

from ruledsl.algebra.verdict import TokenForm
from ruledsl.emit import functions
from ruledsl.emit.names import RESERVED, Names, comment, identifier, quoted
from ruledsl.emit.standalone_chunks import run_chunks
from ruledsl.emit.standalone_kernels import IMPORTS as KERNEL_IMPORTS
from ruledsl.emit.standalone_kernels import KernelForm, run_kernels
from ruledsl.emit.standalone_scan import IMPORTS as SCAN_IMPORTS
from ruledsl.emit.standalone_scan import RUN, ScanForm, run_scan
from ruledsl.emit.standalone_scan_kernels import ScanKernelForm, run_scan_kernels
from ruledsl.emit.standalone_tables import (
    OWN,
    arguments,
    example,
    first_state,
    fixed,
    free_states,
    shapes,
    sizes_of,
    tables,
)
from ruledsl.emit.token_text import carried, token_text
from ruledsl.emit.torch_expression import Scope
from ruledsl.emit.torch_text import IMPORTS, pass_texts
from ruledsl.lang import typed
from ruledsl.lang.typed import Role
from ruledsl.schedule.plan import Schedule
from ruledsl.schedule.unsupported import Unsupported

Form = Schedule | KernelForm | ScanForm | ScanKernelForm
_SCANS = (ScanForm, ScanKernelForm)
_KERNELS = (KernelForm, ScanKernelForm)


def standalone(
    rule: typed.Rule,
    sizes: Mapping[str, int],
    rule_text: str,
    token: TokenForm | None = None,
    schedule: Form | None = None,
) -> str:
    """The module for an unrolled rule. `sizes`: those that unrolling bound. `token` and `schedule`: of its chunk form, for
    torch or as kernels; or a scan. Raises Unsupported."""
    if not rule.of(Role.INPUT):
        raise Unsupported("the rule has no inputs: there is no sequence to run it on")
    held = carried(rule)
    if not isinstance(schedule, _SCANS):
        if isinstance(schedule, KernelForm) and (held.frozen or not takes_chunks(rule)):
            raise Unsupported(
                "a state copied from a chunk's start, or a computed value that is looked back at, has no kernels here; --backend torch writes it"
            )
        if not takes_chunks(rule):
            schedule = None
    names = Names(functions.defined() | OWN)
    scope = Scope({size: names.new(identifier(size)) for size in rule.sizes})
    parts = [token_text(rule, Scope(scope.sizes, "like", scope.called), sizes, functions.defined() | OWN)]
    if isinstance(schedule, KernelForm) and token is not None:
        parts += run_kernels(rule, held, token, schedule, scope)
    elif isinstance(schedule, ScanKernelForm):
        parts += run_scan_kernels(rule, schedule, scope)
    elif isinstance(schedule, ScanForm):
        parts += run_scan(rule, schedule, Scope(scope.sizes, "like", scope.called), functions.defined() | OWN)
    elif isinstance(schedule, Schedule) and token is not None:
        parts += [*pass_texts(schedule, scope), run_chunks(rule, held, token, schedule, scope)]
    else:
        schedule = None
    parts += [sizes_of(rule, sizes), shapes(rule, scope), first_state(rule, held, scope, sizes), tables(rule, held)]
    parts += public(rule, schedule) + [example(rule, scope), _main(rule, sizes, schedule, scope)]
    for name in ("prepared", "finished", "run_tokens", "agreement", "sampled"):
        scope.call(name)
    extra = KERNEL_IMPORTS if isinstance(schedule, _KERNELS) else SCAN_IMPORTS if isinstance(schedule, ScanForm) else ""
    imports = f"{IMPORTS}\n{extra}" if extra else IMPORTS
    head = "\n".join([*comment(rule_text), "#", *_notes(schedule)]) + "\n\n" + imports
    return "\n\n\n".join(p.rstrip("\n") for p in [head, *functions.cut(scope.called), *parts]) + "\n"


def takes_chunks(rule: typed.Rule) -> bool:
    """Whether a module can hold the chunk form of an unrolled rule, if it has one: what is computed and looked back at has no tile."""
    return {s.name for s in rule.of(Role.INPUT)}.issuperset(carried(rule).lags)


def _notes(schedule: Form | None) -> list[str]:
    if isinstance(schedule, _KERNELS):
        return [
            "# `chunked` runs Triton kernels, on CUDA, or with TRITON_INTERPRET=1 on any device (slowly); `recurrent` and",
            "# `step` are the rule as written. Numbers in the names of kernels' values are nodes of its program.",
        ]
    if isinstance(schedule, ScanForm):
        return [
            f"# `chunked` scans {RUN} tokens at once: the maps of neighbouring tokens are composed, entry by entry; `recurrent`",
            "# and `step` are the rule as written.",
        ]
    if schedule is None:
        return ["# This rule runs token by token: `recurrent` and `step`."]
    return [f"# `chunked` takes {schedule.chunk} tokens at once; `recurrent` and `step` are the rule as written."]


def _length(schedule: Form) -> int:
    """Tokens that are taken at once."""
    return schedule.chunk if isinstance(schedule, Schedule) else RUN


def keywords(rule: typed.Rule) -> dict[str, str]:
    names = Names({"initial_state", "self"} - RESERVED)
    return {s.name: names.new(identifier(s.name)) for s in arguments(rule)}


def _dims(type_: typed.Type) -> str:
    return "".join(f", {''.join(c for c in str(d) if c.isascii())}" for d in type_.dims)


def public(rule: typed.Rule, schedule: Form | None) -> list[str]:
    words = keywords(rule)
    given = "{" + ", ".join(f"{quoted(name)}: {word}" for name, word in words.items()) + "}"
    lines = [f"    {words[s.name]}: [B, T, H{_dims(s.type)}]" for s in rule.of(Role.INPUT)]
    lines += [f"    {words[s.name]}: [H{_dims(s.type)}]" for s in fixed(rule)]
    states = ", ".join(f"{identifier(s.name)} [B, H{_dims(s.type)}]" for s in rule.of(Role.STATE)) or "nothing"
    signature = ", ".join(words.values())
    doc = [
        *lines,
        "",
        f"    initial_state: what an earlier call returned, or a dict with {states}; None: from the start.",
        '    """',
    ]

    def defined(name: str, what: str, run: str) -> str:
        body = [
            f"def {name}(*, {signature}, initial_state=None):",
            f'    """{what} Returns (output, state).',
            "",
            *doc,
            f"    return _whole({run}, {given}, initial_state)",
        ]
        return "\n".join(body)

    parts = [
        "def _tokens(inputs, fixed, state, sizes):\n    return run_tokens(token, inputs, fixed, state, sizes)",
        "def _whole(run, given, initial_state):\n    inputs, fixed, state, sizes = prepared(RULE, given, initial_state)\n    return finished(RULE, *run(inputs, fixed, state, sizes))",
    ]
    if schedule is not None:
        parts.append(defined("chunked", "All tokens, many at once; differentiable once.", "run_chunks"))
    parts.append(
        defined("recurrent", "All tokens, one after the other; differentiable any number of times.", "_tokens")
    )
    inputs = [words[s.name] for s in rule.of(Role.INPUT)]
    opened = (
        "{"
        + ", ".join(f"{quoted(name)}: {word}" + ("[:, None]" if word in inputs else "") for name, word in words.items())
        + "}"
    )
    step = [
        f"def step(state, *, {signature}):",
        '    """One token, [B, H, ...] instead of [B, T, H, ...]; state: of the call before, None at the start."""',
        f"    output, state = _whole(_tokens, {opened}, state)",
        "    return ({name: x[:, 0] for name, x in output.items()} if isinstance(output, dict) else output[:, 0]), state",
    ]
    return [*parts, "\n".join(step)]


def _main(rule: typed.Rule, bound: Mapping[str, int], schedule: Form | None, scope: Scope) -> str:
    sizes = {size: bound.get(size, 4 + 2 * i) for i, size in enumerate(rule.sizes)}
    table = "{" + ", ".join(f"{quoted(k)}: {n}" for k, n in sizes.items()) + "}"
    kernels = isinstance(schedule, _KERNELS)
    length = 9 if schedule is None else 37 if kernels else 2 * _length(schedule) + 3
    states = "{" + ", ".join(f"{quoted(s.name)}: x[{quoted(s.name)}]" for s in free_states(rule)) + "}"
    words = keywords(rule)
    inputs = {s.name for s in rule.of(Role.INPUT)}

    def given(cut: str) -> str:
        return ", ".join(
            f"{word}=x[{quoted(name)}]" + (f"[:, {cut}]" if cut and name in inputs else "")
            for name, word in words.items()
        )

    lines = [
        "def _reference(x):",
        f"    output, state = recurrent({given('')}, initial_state={states})",
        '    return (output if isinstance(output, dict) else {"": output}), state',
        "",
        "",
    ]
    if schedule is not None:
        lines += [
            "def _tested(x):",
            *(["    x = {name: value.to(DEVICE, torch.float32) for name, value in x.items()}"] if kernels else []),
            f"    output, state = chunked({given('')}, initial_state={states})",
            '    output = output if isinstance(output, dict) else {"": output}',
            *(
                [
                    "    widened = ({n: v.double() if v.is_floating_point() else v for n, v in given.items()} for given in (output, state))",
                    "    output, state = ({n: v.cpu() for n, v in given.items()} for given in widened)",
                ]
                if kernels
                else []
            ),
            "    return output, state",
        ]
        what = "chunked (float32) against recurrent" if kernels else "chunked against recurrent"
    else:
        lines += [
            "def _tested(x):",
            f"    first, state = recurrent({given(':4')}, initial_state={states})",
            f"    second, state = recurrent({given('4:')}, initial_state=state)",
            '    first, second = (x if isinstance(x, dict) else {"": x} for x in (first, second))',
            "    return {name: torch.cat([first[name], second[name]], 1) for name in first}, state",
        ]
        what = "recurrent in two parts against recurrent"
    wanted = (
        "("
        + "".join(f"{quoted(s.name)}, " for s in arguments(rule) + free_states(rule) if s.role is not Role.CONST)
        + ")"
    )
    lines += [
        "",
        "",
        'if __name__ == "__main__":',
        f"    errors = agreement(_tested, _reference, example(2, {length}, 2, {table}), {wanted})",
        f'    print("{what}, float64: outputs {{:.1e}}, state {{:.1e}}, gradients {{:.1e}}".format(*errors))',
        f"    raise SystemExit(not all(error < {1e-4 if kernels else 1e-6} for error in errors))",
    ]
    return "\n".join(lines)
