"""ruledsl: write how a memory changes per token; learn whether it trains in parallel; get the kernels and the layer.

`load` returns a callable rule (and imports torch); `check` only judges one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ruledsl.lang.diagnostic import RuleError

if TYPE_CHECKING:
    from ruledsl.algebra.verdict import Verdict
    from ruledsl.runtime.rule import Rule, load

__version__ = "0.1.0"
__all__ = ["Rule", "RuleError", "__version__", "check", "load"]


def check(path_or_text: str | os.PathLike[str]) -> Verdict:
    """Parse, check and judge a rule, without torch. RuleError lists every mistake in it."""
    from ruledsl import pipeline

    return pipeline.verdict(pipeline.check(pipeline.parse(pipeline.read(path_or_text))))


def __getattr__(name: str) -> Any:
    if name in ("load", "Rule"):
        from ruledsl.runtime import rule

        return getattr(rule, name)
    raise AttributeError(f"module 'ruledsl' has no attribute {name!r}")
