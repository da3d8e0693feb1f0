"""A schedule as torch text: the forward and the backward pass of a rule over tiles.

The module that is written defines

    forward(tiles, states, starts, sizes) -> (outputs, entering, leaving)
    backward(tiles, entering, ends, douts, dleaving, sizes) -> (dtiles, dentering)

tiles: {key: [B, H, N, rows, columns]} for N chunks, keys as in `schedule.keys`, axes of 1 spread, N full for tokens.
states, leaving, dleaving, dentering: {state: [B, H, rows, columns]}, or [sequences, H, rows, columns] when packed;
then starts (ends) = (is the chunk its sequence's first (last)? [N] bool, sequence of the chunk [N] long), else None.
entering: {state: [B, H, N, rows, columns]}. douts, outputs: {output: [B, H, N, C, columns]}; axes of 1 where an output
does not vary. dtiles has the shapes of tiles. The text imports torch and math only.
"""

from __future__ import annotations

from ruledsl.chunk.program import PortKind, Program, ResultKind
from ruledsl.emit import functions
from ruledsl.emit.names import Names, comment, identifier, quoted
from ruledsl.emit.torch_expression import Scope
from ruledsl.emit.torch_pass import PassText
from ruledsl.lang.typed import Dim, DimOp
from ruledsl.schedule.keys import port_key
from ruledsl.schedule.plan import Schedule

IMPORTS = "import math\n\nimport torch\nimport torch.nn.functional as F"


def torch_text(schedule: Schedule, rule_text: str) -> str:
    """The module. `rule_text` becomes comments."""
    scope = Scope(size_names(schedule))
    passes = pass_texts(schedule, scope)
    head = [*comment(rule_text), "#", f"# {schedule.chunk} tokens at once; the serial path as {schedule.form.value}."]
    return "\n\n\n".join(["\n".join(head) + "\n\n" + IMPORTS, *functions.cut(scope.called), *passes]) + "\n"


def pass_texts(schedule: Schedule, scope: Scope) -> list[str]:
    """The two functions; `scope` is told of what they call."""
    taken = functions.defined() | {"forward", "backward"}
    return [_forward(schedule, scope, taken), _backward(schedule, scope, taken)]


def _forward(schedule: Schedule, scope: Scope, taken: frozenset[str]) -> str:
    writer = PassText(schedule.forward, scope, taken, "states", "starts", reverse=False)
    lines = [
        "def forward(tiles, states, starts, sizes):",
        '    """(outputs, states entering each chunk, states leaving the last)."""',
    ]
    lines += _indented(list(writer.body()))
    outputs = {r.name: writer.result(r.node) for r in writer.program.results if r.kind is ResultKind.OUTPUT}
    lines += ["", f"    return {_dict(outputs)}, {_dict(writer.stacked)}, {_dict(writer.left)}"]
    return "\n".join(lines)


def _backward(schedule: Schedule, scope: Scope, taken: frozenset[str]) -> str:
    writer = PassText(schedule.backward, scope, taken, "dleaving", "ends", reverse=True)
    lines = [
        "def backward(tiles, entering, ends, douts, dleaving, sizes):",
        '    """(gradients of tiles, gradients of the initial states)."""',
    ]
    lines += _indented(list(writer.body()))
    gradients = {}
    for r in writer.program.results:
        if r.kind is ResultKind.GRADIENT and r.port is not None and r.port.kind is not PortKind.STATE:
            key = port_key(r.port)
            gradients[key] = f"{scope.call('fit')}({writer.result(r.node)}, tiles[{quoted(key)}])"
    lines += ["", f"    return {_dict(gradients)}, {_dict(writer.left)}"]
    return "\n".join(lines)


def _indented(lines: list[str]) -> list[str]:
    return [("    " + line) if line else "" for line in lines]


def _dict(items: dict[str, str]) -> str:
    return "{" + ", ".join(f"{quoted(key)}: {value}" for key, value in items.items()) + "}"


def size_names(schedule: Schedule) -> dict[str, str]:
    """A variable for each size that the programs mention."""
    found: set[str] = set()
    for program in (schedule.forward.program, schedule.backward.program):
        found |= _mentioned(program)
    names = Names(functions.defined())
    return {size: names.new(identifier(size)) for size in sorted(found)}


def _mentioned(program: Program) -> set[str]:
    found = {p.name for p in program.ports if p.kind is PortKind.SIZE}

    def symbols(dim: Dim) -> None:
        match dim:
            case str():
                found.add(dim)
            case DimOp(_, left, right):
                symbols(left)
                symbols(right)

    for node in program.nodes:
        for value in (*node.shape, *([node.attr] if node.op == "cut" else [])):
            if isinstance(value, (str, DimOp)):
                symbols(value)
    return found
