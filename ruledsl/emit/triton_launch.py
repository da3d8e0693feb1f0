"""The functions that allocate and launch: `forward` and `backward` of a generated module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ruledsl.chunk.program import PortKind, Program, ResultKind, Rows
from ruledsl.emit.triton_definition import LIBRARY, Definition
from ruledsl.emit.triton_expression import wrapped
from ruledsl.emit.triton_frame import Frame
from ruledsl.emit.triton_memory import TensorKind, result_type
from ruledsl.emit.triton_names import (
    cotangent_name,
    dim_name,
    dim_text,
    fits_name,
    result_name,
    safe,
    tensor_key,
    tensor_name,
)
from ruledsl.lang.typed import Dim, DimOp, dim_value
from ruledsl.schedule.attributes import gathered
from ruledsl.schedule.kernels import Buffer, Kernel, Mode
from ruledsl.schedule.tiles import power


def launcher(
    direction: str, definitions: Sequence[Definition], program: Program, kept: Sequence[tuple[Buffer, Buffer]]
) -> str:
    """`direction`: "forward" or "backward"; `program`: whose outputs and final states, or gradients, it returns; `kept`: what
    the backward pass takes over."""
    back = direction == "backward"
    dims: dict[str, Dim] = {}
    for d in definitions:
        dims |= d.dims
    for _, type_ in program.types:
        for dim in type_.dims:
            if isinstance(dim, str):
                dims[dim_name(dim)] = dim
    symbols = sorted(d for d in dims.values() if isinstance(d, str))
    derived = [d for d in dims.values() if not isinstance(d, str)]
    lines = [
        *_sizes([*symbols, *derived]),
        'C = plan["chunk"]',
        "LEVELS = C.bit_length() - 1",
        "count, sequences = chunks.starts.numel(), chunks.begins.numel()",
        'tokens, device, dtype = plan["tokens"], chunks.starts.device, plan["dtype"]',
        "OP = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[dtype]",
        'IP = plan["precision"]',
        *_blocks(definitions),
    ]
    ours = [b.name for pair in kept for b in pair]
    made: set[str] = set()
    if back and kept:
        again = "forward(inputs, initial, chunks, H, sizes, plan)[2]"
        lines.append(f"kept = {again} if kept is None else kept  # made again for chunks of another length")
        lines += [f'{b.name} = kept["{b.name}"]' for _, b in kept]
    last = {b.name: at for at, d in enumerate(definitions) for b in _buffers(d.kernel) if b.name not in ours}
    for at, d in enumerate(definitions):
        lines += _allocate(d, made)
        lines += _launch(d)
        done = [name for name, end in last.items() if end == at < len(definitions) - 1]
        lines += [f"del {', '.join(done)}"] if done else []  # its memory serves the next kernels
    outputs, states = _returned(definitions, "gradient" if back else "forward")
    handed = [] if back else [_table({b.name: a.name for a, b in kept})]
    lines += wrapped("return (", [_table(outputs), _table(states), *handed], ")")
    extra = ", kept, d_outputs, d_final" if back else ""
    body = "\n".join(f"    {line}" for line in lines)
    said = "Gradients of inputs, params and initial states." if back else "Outputs, final states, what backward keeps."
    return f'def {direction}(inputs, initial, chunks, H, sizes, plan{extra}):\n    """{said}"""\n{body}\n'


STRIDED = '''def strided(x, H):
    """A tensor [tokens, heads, ...] as kernels take it: with strides of token and head, and how many heads share one."""
    return x, x.stride(0), x.stride(1), H // x.shape[1]


def power(n):
    """The least power of two from n."""
    return 1 << (n - 1).bit_length()
'''


def padded_sizes(programs: Iterable[Program], sizes: Mapping[str, int]) -> frozenset[Dim]:
    """The axes of the programs' tiles that have padded lanes at these sizes."""
    axes = {axis for p in programs for node in p.nodes for axis in node.shape}
    found = {axis for axis in axes if not isinstance(axis, Rows) and axis != 1}
    return frozenset(d for d in found if (v := dim_value(d, sizes)) < 32 or v != _lanes(d, sizes))


def _lanes(dim: Dim, sizes: Mapping[str, int]) -> int:
    """What `_padded` comes to at these sizes."""
    base, steps = _padding(dim)
    lanes = max(32, power(dim_value(base, sizes)))
    for op, factor in steps:
        lanes = lanes * factor if op == "*" else lanes // factor
    return lanes


def _padding(dim: Dim) -> tuple[Dim, list[tuple[str, int]]]:
    """The size that is padded to a power of two, and what is done to its lanes then: K/2 has half as many as K, so that pairs of
    columns stay pairs."""
    match dim:
        case DimOp("/", left, int(right)) if right == power(right):
            op = "//"
        case DimOp("*", int(right), left) | DimOp("*", left, int(right)) if right == power(right):
            op = "*"
        case _:
            return dim, []
    base, steps = _padding(left)
    return base, [*steps, (op, right)]


# ------------------------------------------------------------------------------------------------ sizes


def _sizes(dims: Iterable[Dim]) -> list[str]:
    lines = []
    for dim in dims:
        name = dim_name(dim)
        value = f'sizes["{dim}"]' if isinstance(dim, str) else dim_text(dim)
        lines += [f"{name} = {value}", f"B_{name} = {_padded(dim)}"]
    return lines


def _padded(dim: Dim) -> str:
    base, steps = _padding(dim)
    return f"max(32, power({dim_text(base)}))" + "".join(f" {op} {factor}" for op, factor in steps)


def _blocks(definitions: Sequence[Definition]) -> list[str]:
    """How many rows of the state one program has, for every size that numbers them."""
    sizes = dict.fromkeys(
        dim_name(d.frame.row_size) for d in definitions if d.frame.row_size is not None and d.serial
    )
    return [f'BLOCK_{name} = min(plan["serial"].side, max(16, B_{name}))' for name in sizes]


# ------------------------------------------------------------------------------------------------ allocation


def _made(kernel: Kernel) -> list[Buffer]:
    return [*kernel.writes, *(c.keep for c in kernel.carries if c.keep)]


def _buffers(kernel: Kernel) -> list[Buffer]:
    return [*kernel.reads, *_made(kernel)]


def _allocate(d: Definition, made: set[str]) -> list[str]:
    """The tensors that a kernel writes, as far as no kernel before it did."""
    frame, kernel = d.frame, d.kernel
    lines = []
    for b in _made(kernel):
        if b.name not in made:
            made.add(b.name)
            rows, columns = (frame.count(e) for e in frame.node(b.node).shape)
            dtype = "dtype" if b.operand else "torch.float32"
            shape = f"count, H, LEVELS + 1, {rows}, {columns}" if b.levels else f"count, H, {rows}, {columns}"
            lines.append(f"{b.name} = torch.empty(({shape}), dtype={dtype}, device=device)")
    for r in kernel.results:
        name = result_name(r)
        if name in made:
            continue
        made.add(name)
        if r.kind is ResultKind.STATE:
            lines.append(f'{name} = torch.clone(initial["{r.name}"])  # a sequence without tokens keeps it')
            continue
        axes = [dim_text(dim) for dim in result_type(frame, r).dims]
        if d.tensors[name] is TensorKind.PARTIAL:
            shape = ", ".join(["count", "H", *axes])
            lines.append(f"{name} = torch.zeros(({shape}), dtype=torch.float32, device=device)")
            continue
        key = r.name if r.port is None else tensor_key(r.port)
        whole = "zeros" if r.port is not None and r.port.member else "empty"
        shape = ", ".join(["tokens", "H", *axes])
        lines.append(f'{name} = torch.{whole}(({shape}), dtype=plan["dtypes"]["{key}"], device=device)')
    if "FITS" in d.constants:
        lines.append(f"{fits_name(kernel.name)} = torch.empty((count, H), dtype=torch.int8, device=device)")
    source = _states(kernel)
    return lines + [f'{kernel.name}_{safe(c.state)} = torch.empty_like({source}["{c.state}"])' for c in kernel.carries]


# ------------------------------------------------------------------------------------------------ launches


def _states(kernel: Kernel) -> str:
    """Where the caller's values of what a kernel carries are."""
    return "d_final" if kernel.reverse else "initial"


def _launch(d: Definition) -> list[str]:
    kernel = d.kernel
    if kernel.mode in LIBRARY:
        return _launch_library(d)
    values: list[str] = []
    for name, kind in d.tensors.items():
        match kind:
            case TensorKind.TOKEN:
                values.append(f"*strided({_source(d.frame, name)}, H)")
            case TensorKind.PARAM:
                values.append(_source(d.frame, name))
            case _:
                values.append(name)
    for c in kernel.carries:
        values += [f'{_states(kernel)}["{c.state}"]', f"{kernel.name}_{safe(c.state)}"]
    values += [f"chunks.{table}" for table in d.tables] + ["H"]
    rows = dim_name(d.frame.row_size) if d.frame.row_size is not None else "1"
    loop = f'plan["{Mode.SERIAL if d.serial else kernel.load}"]'
    if d.serial:
        block = f"BLOCK_{rows}" if kernel.split else f"max(16, B_{rows})"
    else:
        block = f"min({loop}.side, {f'B_{rows}' if kernel.columns else f'max(16, B_{rows})'})"
    given = {"ROWS": rows, "BLOCK": block, "BLOCKS": f"-(-{rows} // {block})", "STAGES": f"{loop}.stages"}
    if kernel.mode is Mode.SYSTEM:
        given |= {"OP": "tl.float32", "IP": '"tf32" if IP == "ieee" else IP'}
    values += [f"{c}={given.get(c, c)}" for c in d.constants]
    warps = f"{loop}.warps"
    if kernel.mode is Mode.SYSTEM:  # 16 entries of a tile for each thread
        warps = f"min(8, max(4, C * {d.frame.size(kernel.writes[0].node, 1)} // 512))"
    values += [f"num_warps={warps}", f"num_stages={f'{loop}.stages' if d.serial else 1}", f"maxnreg={loop}.registers"]
    blocks = f"-(-{rows} // {block})" if kernel.split and rows != "1" else "1"
    grid = f"(sequences * H, {blocks})" if d.serial else "(count, H)"
    lines = wrapped(f"{kernel.name}_kernel[{grid}](", values, ")")
    return ["for FITS in (True, False):", *(f"    {line}" for line in lines)] if "FITS" in d.constants else lines


def _launch_library(d: Definition) -> list[str]:
    kernel, frame = d.kernel, d.frame
    rows, columns = (frame.count(e) for e in frame.node(kernel.writes[0].node).shape)
    tensors = [b.name for b in (*kernel.reads, *kernel.writes)]
    if kernel.mode is Mode.SOLVE:
        given = [f"M={rows}", f"WIDE=power({rows})", 'IP="tf32x3"', f"num_warps=max(1, {rows} // 32)"]
        grid = "(count, H)"
    else:
        given = [f"N={columns}", "C=C", "LEVELS=LEVELS", "WIDE=power(LEVELS + 1)", "LANES=128", "num_warps=1"]
        if kernel.mode is Mode.LEVELS:  # a head's lanes are in one program
            given += [f"FEW={not frame.graph.has_gate(kernel.writes[0].node)} and 128 % {columns} == 0"]
        if kernel.mode is Mode.GATE:
            parts, before, after = gathered(frame.node(kernel.writes[0].node))
            given += [f"PARTS={parts > 0}", f"BEFORE={before}", f"AFTER={after}"]
        grid = f"(count, -(-H * {columns} // 128))"
    return wrapped(f"{LIBRARY[kernel.mode]}[{grid}](", [*tensors, "chunks.counts", "H", *given], ")")


def _source(frame: Frame, name: str) -> str:
    """The caller's tensor behind a pointer argument."""
    for port in frame.program.ports:
        if port.kind is PortKind.COTANGENT and name == cotangent_name(port.name):
            return f'd_outputs["{port.name}"]'
        if port.kind in (PortKind.INPUT, PortKind.PARAM) and name == tensor_name(port):
            return f'inputs["{tensor_key(port)}"]'
    raise AssertionError(name)


def _returned(definitions: Sequence[Definition], program: str) -> tuple[dict[str, str], dict[str, str]]:
    """Variables by key: outputs or gradients, and states; `program`: whose states are returned."""
    found: dict[str, str] = {}
    states: dict[str, str] = {}
    for d in definitions:
        for r in d.kernel.results:
            if r.kind is ResultKind.STATE:
                states[r.name] = result_name(r)
                continue
            found[r.name if r.kind is ResultKind.OUTPUT or r.port is None else tensor_key(r.port)] = result_name(r)
        if d.kernel.program == program and d.kernel.reverse == (program == "gradient"):
            states |= {c.state: f"{d.kernel.name}_{safe(c.state)}" for c in d.kernel.carries}
    return found, states


def _table(entries: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'"{key}": {name}' for key, name in entries.items()) + "}"
