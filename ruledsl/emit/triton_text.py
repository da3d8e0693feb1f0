"""A Triton module for a schedule: kernels, and the two functions that launch them.

`triton_text(kernels, forward, gradient, padded, header, helpers, lines)` gives the text of a module with

    forward(inputs, initial, chunks, heads, sizes, plan) -> (outputs, final, kept)
    backward(inputs, initial, chunks, heads, sizes, plan, kept, d_outputs, d_final) -> (gradients, d_initial)

inputs: tensors by port key, tokens flattened: inputs [tokens, heads of the input, ...], params [heads, ...]; a lagged input
has a tensor of its own, `name@J`. initial, final, d_initial, d_final: states by name [sequences, heads, rows, cols]
float32 in the form's orientation. chunks: int64 tables `starts`, `counts`, `places` (first token, real tokens, position
in its sequence; per chunk), `begins`, `ends` (chunks of a sequence) and `firsts`, `lasts` (its tokens; per sequence). plan: `chunk` (tokens, a power of
two), `block` (rows of the state per program), `warps`, `stages`, `precision`. Gradients of params come per chunk and are
summed by the caller. kept: tensors by name, [chunks, heads, rows, columns]; backward makes them again where it gets None (its
chunks are of another length). The text is a function of the rule, its padded sizes and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ruledsl.chunk.program import Program
from ruledsl.emit.triton_definition import definition
from ruledsl.emit.triton_frame import Frame
from ruledsl.emit.triton_launch import STRIDED, launcher
from ruledsl.lang.typed import Dim
from ruledsl.schedule.graph import Graph
from ruledsl.schedule.kernels import Kernels


def triton_text(
    kernels: Kernels,
    forward: Program,
    gradient: Program,
    padded: frozenset[Dim],
    header: str,
    helpers: Mapping[str, str],
    lines: Mapping[str, int],
) -> str:
    """`header`: comment lines for the top; `helpers`: source of the device functions by name; `lines`: of the rule's text, by
    name (`rule_lines`)."""
    head = f"{header}\nimport torch\nimport triton\nimport triton.language as tl\n"
    parts = [head, *kernel_texts(kernels, forward, gradient, padded, helpers, lines)]
    return "\n\n".join(p.rstrip() + "\n" for p in parts)


def kernel_texts(
    kernels: Kernels,
    forward: Program,
    gradient: Program,
    padded: frozenset[Dim],
    helpers: Mapping[str, str],
    lines: Mapping[str, int],
) -> list[str]:
    """The definitions of such a module."""
    graphs = {"forward": Graph(forward), "gradient": Graph(gradient)}
    ahead, back = (
        [definition(Frame(k, graphs[k.program], k.rows, padded, lines)) for k in side]
        for side in (kernels.forward, kernels.backward)
    )
    used = _with_callees({name for d in (*ahead, *back) for name in d.helpers}, helpers)
    return [
        *(text for name, text in helpers.items() if name in used),
        *(d.text for d in (*ahead, *back) if d.text),
        STRIDED,
        launcher("forward", ahead, forward, kernels.kept),
        launcher("backward", back, gradient, kernels.kept),
    ]


def _with_callees(names: Iterable[str], helpers: Mapping[str, str]) -> set[str]:
    """The functions, and those that they call."""
    used: set[str] = set()
    todo = set(names)
    while todo:
        name = todo.pop()
        if name not in used:
            used.add(name)
            todo |= {other for other in helpers if other != name and f"{other}(" in helpers[name]}
    return used
