"""Whether a rule's states go entry by entry, so that its tokens can be scanned. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from ruledsl import pipeline
from ruledsl.chunk.scan import Scan, scans
from ruledsl.chunk.token_program import token_program
from ruledsl.chunk.unsupported import UnsupportedForm
from ruledsl.lang import typed
from ruledsl.lang.diagnostic import RuleError
from ruledsl.runtime.statics import carried


def scannable(rule: typed.Rule, sizes: Mapping[str, int]) -> tuple[Scan, Scan] | str:
    """The scans of a rule and of its gradient, or why there are none. `sizes` binds `pipeline.unroll_sizes(rule)`."""
    try:
        unrolled = pipeline.unroll(rule, sizes)
        carries = carried(unrolled, sizes)
        return scans(token_program(unrolled, sizes, carries.lags, carries.frozen))
    except UnsupportedForm as e:
        return f"it is no scan: {e}"
    except RuleError as e:
        return f"it is no scan: {e.diagnostics[0].headline}"


def larger(sizes: Mapping[str, int]) -> dict[str, int]:
    """Twice the sizes at which loops are judged: states that depend on each other may be few at small ones only."""
    return {n: 2 * size for n, size in sizes.items()}
