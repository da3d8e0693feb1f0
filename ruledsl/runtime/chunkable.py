"""Whether a rule has a chunk program that the runtime can feed. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ruledsl import pipeline
from ruledsl.algebra.verdict import TokenForm
from ruledsl.chunk.program import Node, Program
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.lang import typed
from ruledsl.runtime.statics import carried
from ruledsl.schedule.attributes import is_zeros


@dataclass(frozen=True, slots=True)
class Chunkable:
    """A rule's chunk program at some sizes of families and loops."""

    program: Program
    token: TokenForm
    unrolled: typed.Rule
    sizes: Mapping[str, int]

    @property
    def kernels(self) -> bool:
        """Do chunk kernels take it? They hold no family of states, none as its chunk began, no system, and do not put tiles of
        several columns side by side."""
        plain = not self.token.families and self.program.chunk is None
        return plain and not any(map(self._joins, self.program.nodes))

    def _joins(self, node: Node) -> bool:
        parts = [self.program.nodes[a] for a in node.args] if node.op == "cat" else []
        return node.op == "kron" or any(p.shape[1] != 1 and not is_zeros(p) for p in parts)


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
