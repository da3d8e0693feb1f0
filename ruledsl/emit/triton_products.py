"""Products between tokens, lanes and states: dots, and the device functions that stand for Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence

from ruledsl.chunk.program import Node
from ruledsl.emit.triton_demand import Demand, Recipe
from ruledsl.emit.triton_frame import Frame, flip
from ruledsl.emit.triton_memory import Memory
from ruledsl.schedule.attributes import applied, flags, gathered, logged
from ruledsl.schedule.kernels import Buffer
from ruledsl.schedule.unsupported import unsupported

HELPERS = frozenset({"chain_gram", "chain_apply", "spans", "spans_gate", "scan"})
FUNCTIONS = HELPERS | {"before", "after", "whole", "running"}  # said as calls; those of HELPERS make their tile with dots


def real_dot(frame: Frame, node: Node) -> bool:
    """A product that runs on tensor cores: no axis of 1."""
    contracted = frame.node(node.args[0]).shape[0 if flags(node)[0] else 1]
    return 1 not in (*node.shape, contracted)


def dot(frame: Frame, node: Node, o: str) -> Recipe:
    """A product in the orientation that is wanted: (X Y)^T is Y^T X^T, never a transposed product."""
    (x, y), (ta, tb) = node.args, flags(node)
    m, n = node.shape
    if o == "t":
        x, y, ta, tb, m, n = y, x, not tb, not ta, n, m
    axis = 0 if ta else 1
    ox, oy = ("t" if ta else "n"), ("t" if tb else "n")
    over_blocks = frame.loops and frame.is_rows(x, axis)
    if frame.node(x).shape[axis] == 1:
        return Recipe(((x, ox), (y, oy)), "{0} * {1}", inline=True)
    if n == 1 and m != 1:
        left = frame.clear("{0}", x, axis, ox)
        return Recipe(
            ((x, ox), (y, flip(oy))), f"tl.sum({left} * {{1}}, axis=1, keep_dims=True)", accumulate=over_blocks
        )
    if m == 1:
        left = frame.clear("{0}", x, axis, flip(ox))
        return Recipe(
            ((x, flip(ox)), (y, oy)), f"tl.sum({left} * {{1}}, axis=0, keep_dims=True)", accumulate=over_blocks
        )
    x, y = _operand(frame, x), _operand(frame, y)
    left, right = frame.clear("{0}", x, axis, ox), frame.clear("{1}", y, 1 if tb else 0, oy)
    text = f"tl.dot({left}.to(OP), {right}.to(OP), input_precision=IP)"
    return Recipe(((x, ox), (y, oy)), text, accumulate=over_blocks)


def _operand(frame: Frame, index: int) -> int:
    """Operands are rounded by the product itself."""
    while frame.node(index).op == "cast" and not frame.leaf(index):
        index = frame.node(index).args[0]
    return index


def _known(frame: Frame) -> str:
    """What is known of whether the running decays of a chunk fit one product."""
    return "FITS" if frame.kernel.twice else "None"


def _decay(frame: Frame, memory: Memory, decay: int, place: int) -> tuple[str, str, tuple[str, ...]]:
    """A decay as products between tokens take it, the value at `place` of their arguments; then what they are told of it; and the
    device functions for it."""
    if frame.node(decay).op == "running":
        return f"{{{place}}}", f"{_known(frame)}, 0", ()
    base, lanes, count = memory.levels_parts(decay)
    return f"tabled({{{place}}}, {base}, {lanes}, {count}, C, LEVELS, OP)", f"None, {count}", ("tabled",)


def helper(frame: Frame, memory: Memory, index: int, node: Node) -> Recipe:
    """A call of a device function."""
    match node.op:
        case "spans":
            return Recipe((), f"spans({memory.levels_parts(node.args[0])[0]}, C, LEVELS)", helpers=("spans",))
        case "spans_gate":
            spans, _, ct = node.args
            return Recipe(_plain((spans, ct)), "spans_gate({0}, {1}, OP, IP)", helpers=("spans_gate",))
        case "running":
            return Recipe(_plain(node.args), f"running({{0}}, {bool(node.attr)}, {_known(frame)}, C, OP)", helpers=("running",))
        case "before" | "after" if frame.node(node.args[0]).op == "running":
            return Recipe(_plain(node.args), f"{{0}}[{int(node.op == 'after')}]", inline=True)
        case "whole" if frame.node(node.args[0]).op == "running":
            (log,) = frame.node(node.args[0]).args
            return Recipe(_plain((log,)), "tl.exp(tl.sum({0}, axis=0, keep_dims=True))")
        case "before" | "after":
            base, lanes, count = memory.levels_parts(node.args[0])
            tile = "LEVELS" if node.op == "before" else "LEVELS + 1"
            return Recipe((), f"table({base}, {lanes}, {tile}, {count}, C)", helpers=("table",))
        case "whole":
            text = "tl.reduce({0}, 0, multiply, keep_dims=True)"
            return Recipe(_plain(node.args), text, helpers=("multiply",))
        case "chain_apply":
            m, x, decay = node.args
            _, adjoint = applied(node)
            products, told, helpers = _decay(frame, memory, decay, 2)
            text = f"chain_apply({{0}}, {{1}}, {products}, {adjoint}, {told}, C, LEVELS, OP, IP)"
            demands = ((m, "t" if adjoint else "n"), (x, "n"), (decay, "n"))
            return Recipe(demands, text, helpers=("chain_apply", *helpers))
        case op:
            raise unsupported(f"`{op}` has no Triton form")


def chain_grams(frame: Frame, memory: Memory, grams: Sequence[int]) -> Recipe:
    """Gram matrices with one decay: a tuple of tiles."""
    nodes = [frame.node(i) for i in grams]
    xs, ys, (decay, *_) = zip(*(n.args for n in nodes), strict=True)
    parts = len(grams)
    left = "".join(frame.clear(f"{{{j}}}", x, 1, "n") + ", " for j, x in enumerate(xs)).rstrip()
    right = "".join(f"{{{parts + j}}}, " for j in range(parts)).rstrip()
    demands = _plain((*xs, *ys, decay))
    products, told, helpers = _decay(frame, memory, decay, 2 * parts)
    text = f"chain_gram(({left}), ({right}), {products}, {parts}, {told}, C, LEVELS, OP, IP)"
    return Recipe(demands, text, helpers=("chain_gram", *helpers))


def chain_back(frame: Frame, memory: Memory, index: int, buffer: Buffer | None) -> Recipe:
    """Everything that the Gram matrices of a gate hand back: two tiles each; of a `decay_gate`, level products that are
    stored in `buffer`; of a `log_gate`, two tiles more."""
    gate = frame.node(index)
    decay, *args = gate.args
    parts = _parts(gate)
    xs, ys, ms = (args[i : 3 * parts : 3] for i in range(3))
    given = ", ".join("(" + "".join(f"{{{parts * i + j}}}, " for j in range(parts)).rstrip() + ")" for i in range(4))
    demands = (*_plain((*xs, *ys, *ms)), *((m, "t") for m in ms))
    if buffer is None:
        text = f"chain_back_log({given}, {{{4 * parts}}}, {parts}, {_known(frame)}, C, LEVELS, OP, IP)"
        return Recipe((*demands, (decay, "n")), text, helpers=("chain_back_log",))
    table, columns, count = memory.levels_parts(decay)
    kept = frame.mask(xs[0], 1) or f"{frame.lanes(xs[0], 1)[0]} >= 0"
    text = f"chain_back({given}, {table}, {memory.levels_base(buffer)}, {columns}, {kept}, {parts}, {count}, C, LEVELS, OP, IP)"
    return Recipe(demands, text, helpers=("chain_back",))


def back_part(frame: Frame, gates: Sequence[int], index: int) -> tuple[Demand, int] | None:
    """A `chain_apply` that is one of the tiles that the `chain_back` of a gate of this kernel gives: which one."""
    node = frame.node(index)
    for number in gates:
        gate = frame.node(number)
        if node.args[2] != gate.args[0]:
            continue
        if index in frame.graph.ancestors(gate.args):
            continue  # it is needed before
        _, *args = gate.args
        _, adjoint = applied(node)
        for part in range(_parts(gate)):
            x, y, m = args[3 * part : 3 * part + 3]
            if node.args[:2] == (m, x if adjoint else y):
                return (number, "back"), 2 * part + adjoint
    return None


def _parts(gate: Node) -> int:
    return logged(gate)[0] if gate.op == "log_gate" else gathered(gate)[0]


def _plain(args: Sequence[int]) -> tuple[Demand, ...]:
    return tuple((i, "n") for i in args)
