"""The part of a standalone module that scans tokens in Triton kernels; sequences are taken whole."""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.chunk.program import Program, ResultKind
from ruledsl.emit.names import quoted
from ruledsl.emit.standalone_kernels import DEVICE, opened
from ruledsl.emit.standalone_scan import held
from ruledsl.emit.standalone_tables import bind
from ruledsl.emit.torch_expression import Scope
from ruledsl.emit.triton_functions import host_functions
from ruledsl.emit.triton_scan import WalkText
from ruledsl.lang import typed
from ruledsl.lang.typed import Dim
from ruledsl.schedule.scan_tiles import ScanTiles

_HOST = ("Kernels", "ScanKernels", "padded")


@dataclass(frozen=True, slots=True)
class ScanKernelForm:
    """Kernels for any sizes; the tiles are those for float32 and sizes of 64."""

    token: Program
    tiles: ScanTiles
    run: WalkText
    back: WalkText
    cut: Dim | None  # the size that is cut into blocks


def run_scan_kernels(rule: typed.Rule, form: ScanKernelForm, scope: Scope) -> list[str]:
    """`run_chunks`, in front of it what it is made of."""
    states = [r for r in form.token.results if r.kind is ResultKind.STATE and r.port is not None]
    names = list(dict.fromkeys(r.port.name for r in states if r.port is not None))
    spans = [f"padded({scope.extent(form.token.nodes[r.node])})" for r in states]
    blocks = "1" if form.cut is None else f"-(-({scope.dim(form.cut)}) // {form.tiles.block})"
    table = [
        "def blocks_of(sizes):",
        *(f"    {line}" for line in bind(scope, blocks)),
        f"    return {blocks}",
        "",
        "",
        "def span_of(sizes):",
        *(f"    {line}" for line in bind(scope, " ".join(spans))),
        f"    return {' + '.join(spans)}",
        "",
        "",
        "# tokens between kept states, turns of as many tokens as kernels write out; gradients, and those that blocks have parts of",
        "SCAN = {",
        f'    "segment": {form.tiles.segment}, "turns": {form.tiles.segment // form.tiles.turn}, "warps": {form.tiles.warps},',
        '    "blocks": blocks_of, "span": span_of,',
        f'    "gradients": {sorted(form.back.with_gradient)!r},',
        f'    "partial": {sorted(form.back.partial)!r},',
        "}",
        DEVICE,
    ]
    shapes = [
        f"{quoted(o.name)}: ({', '.join(scope.axis(d) for d in (*o.value.type.family, o.value.type.rows, o.value.type.cols))})"
        for o in rule.outputs
    ]
    given = [f"{quoted(n)}: inputs[{quoted(n)}]" for n in form.back.inputs]
    params = [f"{quoted(n)}: fixed[{quoted(n)}]" for n in form.back.params]
    entering = [f"{quoted(n)}: state[{quoted(held(n)[0])}]" for n in names]
    count = len(rule.outputs)
    outputs = [f"{quoted(o.name)}: found[{i}]" for i, o in enumerate(rule.outputs)]
    leaving = [f"{quoted(held(n)[0])}: found[{count + i}]" for i, n in enumerate(names)]
    position = 'state["t"].flatten() if "t" in state else torch.zeros(batch, dtype=torch.int64, device=like.device)'
    lines = [
        *opened(scope, given, params, entering, shapes, position),
        "    found = ScanKernels.apply((run, back, SCAN), sizes, position, names, *tensors)",
        f"    state = {{**state, {', '.join(leaving)}}}",
        '    if "t" in state:',
        '        state["t"] = state["t"] + length',
        f"    return {{{', '.join(outputs)}}}, state",
    ]
    host = host_functions()
    return [form.run.text, form.back.text, *(host[n] for n in _HOST), "\n".join(table), "\n".join(lines)]
