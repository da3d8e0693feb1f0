"""The part of a standalone module that runs its chunk form as Triton kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from ruledsl.algebra.verdict import TokenForm
from ruledsl.chunk.program import PortKind, Program, ResultKind, Rows
from ruledsl.emit.names import quoted
from ruledsl.emit.standalone_tables import bind, type_of
from ruledsl.emit.token_text import Carried
from ruledsl.emit.torch_expression import Scope
from ruledsl.emit.triton_functions import device_functions, host_functions
from ruledsl.emit.triton_names import tensor_key
from ruledsl.emit.triton_text import kernel_texts
from ruledsl.lang import typed
from ruledsl.lang.typed import Dim
from ruledsl.schedule.kernels import Kernels
from ruledsl.schedule.tiles import Tiles

IMPORTS = "import triton\nimport triton.language as tl\nfrom triton.runtime.errors import OutOfResources"
DEVICE = 'DEVICE = "cuda" if torch.cuda.is_available() else "cpu"'


@dataclass(frozen=True, slots=True)
class KernelForm:
    """A chunk form as kernels: what `schedule.kernels.cut` made of two programs, and tiles to try."""

    kernels: Kernels
    forward: Program
    gradient: Program
    tiles: tuple[Tiles, ...]
    lines: Mapping[str, int]  # of the rule's text, by name

    @property
    def text(self) -> list[str]:
        """Kernels, launchers, and what they call; for any sizes."""
        axes = {axis for p in (self.forward, self.gradient) for n in p.nodes for axis in n.shape}
        padded: frozenset[Dim] = frozenset(axis for axis in axes if not isinstance(axis, Rows) and axis != 1)
        return kernel_texts(self.kernels, self.forward, self.gradient, padded, device_functions(), self.lines)

    @property
    def settings(self) -> str:
        """What the functions around the kernels look up."""
        entries = "".join(f"    {row},\n" for row in dict.fromkeys(_row(t, self.kernels.kinds) for t in self.tiles))
        return (
            "# tokens of a chunk, and how each kind of kernel runs; the first that fits is taken\n"
            f"TILES = (\n{entries})\n"
            "OPERANDS = torch.float32  # of the products; torch.bfloat16 is faster and rounds\n"
            f"{DEVICE}"
        )


_HOST = ("ChunkTables", "launch", "Kernels")


def _row(tiles: Tiles, kinds: Sequence[str]) -> str:
    loops = ((kind, getattr(tiles, kind)) for kind in kinds)
    said = (f"{quoted(kind)}: Loop({', '.join(str(v) for v in astuple(x) if v is not None)})" for kind, x in loops)
    return f"{{{quoted('chunk')}: {tiles.chunk}, {', '.join(said)}}}"


def opened(
    scope: Scope, inputs: Sequence[str], params: Sequence[str], states: Sequence[str], shapes: Sequence[str], position: str
) -> list[str]:
    """The beginning of `run_chunks`: tensors as the kernels' autograd function takes them, from entries `name: value`."""
    return [
        "def run_chunks(inputs, fixed, state, sizes):",
        '    """Outputs [B, T, H, rows, columns] and the state after the last token, in float32."""',
        "    inputs, fixed = ({n: x.float() for n, x in given.items()} for given in (inputs, fixed))",
        '    state = {n: x if n == "t" else x.float() for n, x in state.items()}',
        "    like = next(iter(inputs.values()))",
        "    batch, length = like.shape[:2]",
        *(f"    {line}" for line in bind(scope, " ".join(shapes))),
        f"    tokens = {{{', '.join(inputs)}}}",
        f"    params = {{{', '.join(params)}}}",
        f"    states = {{{', '.join(states)}}}",
        f"    shapes = {{{', '.join(shapes)}}}",
        f"    position = {position}",
        "    names = (tuple(tokens), tuple(params), tuple(states), shapes)",
        "    tensors = (*tokens.values(), *params.values(), *states.values())",
    ]


def run_kernels(rule: typed.Rule, held: Carried, token: TokenForm, form: KernelForm, scope: Scope) -> list[str]:
    """`run_chunks`, in front of it what it is made of."""
    ports = {tensor_key(p): p for p in (*form.forward.ports, *form.gradient.ports)}
    inputs, params = [], []
    for key, port in sorted(ports.items()):
        match port.kind:
            case PortKind.INPUT:
                text = f"inputs[{quoted(port.name)}]"
                past = f"lagged({text}, {port.lag}, state[{quoted(f'prev.{port.name}')}])" if port.lag else text
                inputs.append(f"{quoted(key)}: {past}")
            case PortKind.PARAM:
                turn = "" if type_of(rule, port.name).is_matrix else ".mT"
                params.append(f"{quoted(key)}: fixed[{quoted(port.name)}]{turn}")
            case _:
                pass
    turned = {state: ".mT" if flipped else "" for (state, _), flipped in token.transposed.items()}
    names = [r.name for r in form.forward.results if r.kind is ResultKind.STATE]
    states = [f"{quoted(n)}: state[{quoted(n)}]{turned[n]}" for n in names]
    shapes = [
        f"{quoted(o.name)}: ({scope.axis(o.value.type.rows)}, {scope.axis(o.value.type.cols)})" for o in rule.outputs
    ]
    outputs = [f"{quoted(o.name)}: found[{i}]" for i, o in enumerate(rule.outputs)]
    leaving = [f"{quoted(n)}: found[{len(outputs) + i}]{turned[n]}" for i, n in enumerate(names)]
    leaving += [
        f"{quoted(f'prev.{n}')}: {scope.call('kept_values')}(inputs[{quoted(n)}], state[{quoted(f'prev.{n}')}])"
        for n in held.lags
    ]
    leaving += ['"t": state["t"] + length'] if held.position else []
    position = 'state["t"].flatten()' if held.position else "torch.zeros(batch, dtype=torch.int64, device=like.device)"
    lines = [
        *opened(scope, inputs, params, states, shapes, position),
        "    found = Kernels.apply((forward, backward), sizes, position, names, *tensors)",
        f"    return {{{', '.join(outputs)}}}, {{**state, {', '.join(leaving)}}}",
    ]
    lagged = any(p.lag for p in ports.values())
    host = host_functions()
    around = [host[name] for name in (*_HOST, *["lagged"] * lagged)]
    return [*form.text, host["Loop"], form.settings, *around, "\n".join(lines)]
