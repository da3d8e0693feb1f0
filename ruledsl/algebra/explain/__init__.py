"""Why a verdict is what it is, and what follows from it, as plain text, LaTeX and data.

    explain         Verdict -> Explanation: sections of equations, sentences and quoted rules
    law, monoids    how two tokens compose: affine maps; changes of variable
    equations       the chunk form with the rule's own names
    adjoint         the token's transpose, and the gradients by its inputs
    regression      the loss that a token is a gradient step on, where there is one
    counterexample  numbers that show a no (`numbers`: one token on small numbers)
    remedies        nearby rules with a better verdict, each tried (`edits`: changes to a rule's text)
    render          an Explanation as text, as an align* block, as data; notebook: a rule and its verdict

An Explanation is made for one notation: plain text is the language's own, so that a line can be pasted into a rule.
"""

from ruledsl.algebra.explain.explain import explain
from ruledsl.algebra.explain.remedies import Remedy, remedies

__all__ = ["Remedy", "explain", "remedies"]
