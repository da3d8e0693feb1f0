"""Whether a rule has a chunk program that the runtime can feed. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ruledsl import pipeline
from ruledsl.algebra.verdict import TokenForm
from ruledsl.chunk.program import Node, PortKind, Program
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.lang import typed
from ruledsl.runtime.statics import carried
from ruledsl.schedule.attributes import is_zeros
from ruledsl.schedule.graph import Graph


@dataclass(frozen=True, slots=True)
class Chunkable:
    """A rule's chunk program at some sizes of families and loops."""

    program: Program
    token: TokenForm
    unrolled: typed.Rule
    sizes: Mapping[str, int]

    @property
    def kernels(self) -> bool:
        """Do chunk kernels take it? They hold no family of states, do not put tiles of several columns side by side and choose no
        largest entries. Of a frozen state they make no diagonal decay and no system: those have kernels of their own, before the
        one that carries the state."""
        return not self.token.families and not any(map(self._foreign, self.program.nodes)) and not self._from_frozen()

    def _foreign(self, node: Node) -> bool:
        parts = [self.program.nodes[a] for a in node.args] if node.op == "cat" else []
        return node.op in ("kron", "topk") or any(p.shape[1] != 1 and not is_zeros(p) for p in parts)

    def _from_frozen(self) -> bool:
        if self.program.chunk is None:
            return False
        graph = Graph(self.program)
        needed: list[int] = []
        gates: list[int] = []
        for node in self.program.nodes:
            match node.op:
                case "solve":
                    needed.append(node.args[0])
                case "conjugate":
                    needed += node.args
                case "gram" | "gram_apply":
                    gates += node.args[2:]
                case "cumprod":
                    gates += node.args
        needed += [a for a in gates if self.program.nodes[a].shape[1] != 1]
        return not graph.ancestors(needed).isdisjoint(graph.ports(PortKind.STATE).values())


def chunkable(rule: typed.Rule, sizes: Mapping[str, int]) -> Chunkable | str:
    """The chunk program, or why there is none. `sizes` binds `pipeline.unroll_sizes(rule)`."""
    unrolled = pipeline.unroll(rule, sizes)
    token, why = pipeline.token_form(unrolled)
    if token is None:
        return f"the rule has no chunk form: {why}"
    inputs = {s.name for s in rule.of(typed.Role.INPUT)}
    carries = carried(unrolled, sizes)
    computed = [name for name in carries.lags if name not in inputs]
    if computed:
        return f"the rule has no chunk form: `{computed[0]}` is computed and looked back at"
    try:
        return Chunkable(pipeline.chunk(token, unrolled, sizes), token, unrolled, dict(sizes))
    except UnsupportedForm as e:
        return f"the rule has no chunk form: {e}"
