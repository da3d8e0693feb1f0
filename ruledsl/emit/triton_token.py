"""A token program and its gradient as a Triton module: the three kernels of `token_kernels` and the functions that launch them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ruledsl.chunk.program import PortKind
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.emit.kernel_text import kernel, used_lines
from ruledsl.emit.names import quoted, size_text
from ruledsl.emit.token_kernels import Module
from ruledsl.emit.token_space import name_of
from ruledsl.schedule.token_split import Split

SEGMENT = 64  # tokens between kept states
_STEP_TILE = 1_024  # entries of a block of a state in a step: 32 a thread of one warp, which sums over them without barriers


@dataclass(frozen=True, slots=True)
class TokenText:
    """A module's text and what its caller has to know. `inputs` and `params` by name; `states` as in `Program.types`."""

    text: str
    span: int  # entries that one kernel program keeps of the states
    blocks: int
    largest: int  # entries of the largest tile
    step_largest: int  # the same in the step's kernel
    inputs: tuple[str, ...]
    params: tuple[str, ...]
    states: tuple[str, ...]
    with_gradient: frozenset[str]  # of these the backward pass gives a gradient
    partial: frozenset[str]  # of these every block gives a part of the gradient


def triton_token(split: Split, sizes: Mapping[str, int], block: int, header: str) -> TokenText:
    """The module for tiles of these sizes. `block`: lanes of a block of the axis that is cut.

    A step that writes in place where it reads is not cut if blocks share a state: one would read what another wrote.
    Raises UnsupportedForm.
    """
    try:
        main = Module(split, sizes, block)
        return _text(main, _step(split, sizes, block, main), header)
    except RecursionError:
        raise UnsupportedForm("the rule is nested too deeply for a kernel of single tokens") from None


def _step(split: Split, sizes: Mapping[str, int], block: int, main: Module) -> Module:
    """A step's blocks may be smaller than those of a sequence: nothing but the state's bytes counts."""
    if split.shared:
        return Module(split.uncut(), sizes, 1)
    if main.space.cut is None or main.space.cut in main.space.wide:
        return main
    step = main
    while block > 1 and _largest(step) > _STEP_TILE:
        block //= 2
        step = Module(split, sizes, block)
    return step


def _largest(module: Module) -> int:
    body = module.forward_body("", "", "v")
    return max(body.entries(i) for i in range(len(module.split.forward.program.nodes)))


def _text(main: Module, step: Module, header: str) -> TokenText:
    for make in (step.step, main.forward, main.backward):
        make()  # every size has its label before the first kernel is written
    n = main.space.number(main.space.cut) if main.space.cut is not None else 1
    blocks = -(-n // main.space.block) if main.cut else 1
    body = main.forward_body("", "", "v")
    bodies = {
        "step": (step, step.step()),
        "forward": (main, main.forward()),
        "backward": (main, main.backward()),
    }
    parts = [f"{header}\nimport torch\nimport triton\nimport triton.language as tl"]
    launchers = []
    for name, (module, lines) in bodies.items():
        lines = used_lines(lines)
        arguments, constants = kernel_arguments(module, lines)
        parts.append(kernel(name, arguments, constants, lines))
        launchers.append(_launcher(module, name, arguments, constants))
    parts += launchers
    ports = [*main.split.forward.program.ports, *main.split.gradient.program.ports]
    return TokenText(
        "\n\n\n".join(parts) + "\n",
        sum(body.entries(h.leave) for h in main.states),
        blocks,
        _largest(main),
        _largest(step),
        tuple(dict.fromkeys(p.name for p in ports if p.kind is PortKind.INPUT)),
        tuple(dict.fromkeys(p.name for p in ports if p.kind is PortKind.PARAM)),
        tuple(dict.fromkeys(h.port.name for h in main.states)),
        main.with_gradient,
        main.partial,
    )


def kernel_arguments(module: Module, lines: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The kernel's arguments with what the launcher passes, and its constants."""
    used = set(re.findall(r"\w+", "\n".join(lines)))
    found: list[tuple[str, str]] = []
    for name in module.types:
        key = quoted(name)
        found += [
            (name_of("x", name), f"x[{key}]"),
            (name_of("xt", name), f"x[{key}].stride(0)"),
            (name_of("xh", name), f"x[{key}].stride(1)"),
            (name_of("xg", name), f"H // x[{key}].shape[1]"),
            (name_of("p", name), f"x[{key}]"),
            (name_of("s", name), f"states[{key}]"),
            (name_of("f", name), f"final[{key}]"),
            (name_of("o", name), f"outputs[{key}]"),
            (name_of("c", name), f"d_outputs[{key}]"),
            (name_of("df", name), f"d_final[{key}]"),
            (name_of("g", name), f"found[{key}]"),
        ]
    found += [(n, n) for n in ("kept", "scratch", "position", "bounds", "slots", "N", "S", "H")]
    constants = [n for label in module.space.labels.values() for n in (f"n{label}", f"B{label}")]
    constants += ["C", "TURNS", "BLOCK", "BLOCKS", "POOLED"]
    return [(n, e) for n, e in found if n in used], [c for c in constants if c in used]


def size_lines(module: Module) -> list[str]:
    lines = []
    for dim, label in module.space.labels.items():
        lines.append(f"n{label} = {size_text(dim, lambda name: f'sizes[{quoted(name)}]')}")
        lines.append(
            f"B{label} = {'max(16, ' if dim in module.space.wide else ''}triton.next_power_of_2(n{label}){')' if dim in module.space.wide else ''}"
        )
    if module.cut and module.space.cut is not None:
        lines += [
            f"BLOCK = {module.space.block}",
            f"BLOCKS = triton.cdiv(n{module.space.label(module.space.cut)}, BLOCK)",
        ]
    return lines


def _launcher(module: Module, name: str, arguments: list[tuple[str, str]], constants: list[str]) -> str:
    head = {
        "step": "step(x, states, final, position, slots, outputs, B, H, sizes, warps)",
        "forward": "forward(x, states, final, position, bounds, kept, outputs, H, sizes, warps)",
        "backward": "backward(x, kept, position, bounds, scratch, d_outputs, d_final, found, N, H, sizes, warps)",
    }[name]
    rows = "B" if name == "step" else "S"
    values = ", ".join(e for _, e in arguments)
    special = {"POOLED": "slots is not None", "C": str(SEGMENT)}
    known = ", ".join(f"{c}={special.get(c, c)}" for c in constants)
    lines = [f'"""{_SAID[name]}"""', *size_lines(module)]
    if name != "step":
        lines.append("S = bounds.shape[0] - 1")
    grid = f"({rows} * H, {'BLOCKS' if module.cut else '1'})"
    lines += [
        f"{name}_kernel[{grid}](",
        f"    {values},",
        f"    {known + ', ' if known else ''}num_warps=warps,",
        ")",
    ]
    text = "\n".join("    " + line for line in lines)
    return f"def {head}:\n{text}"


_SAID = {
    "step": "x [B, Hg, ...] by name, params [H, ...]; states and final [B or slots, H, ...]; outputs [B, H, ...].",
    "forward": "x [tokens, Hg, ...] by name, params [H, ...]; states and final [S, H, ...]; outputs [tokens, H, ...].",
    "backward": "Gradients into found: of inputs [(blocks,) tokens, H, ...], of params and states [(blocks,) S, H, ...].",
}
