"""What must be known before any token is seen: loop bounds, indices, lags, chunk lengths."""

from __future__ import annotations

from ruledsl.lang import syntax
from ruledsl.lang.names import names_of
from ruledsl.lang.report import Report
from ruledsl.lang.scope import Entry, Scope
from ruledsl.lang.typed import Role

UNBOUNDED = "A sum or loop over all tokens needs every one of them: a memory without bound, which grows with t."
LINEAR_FORM = "keep a memory of fixed size instead, the linear form: `S = S + v k^T`, `output o = S q`, with a feature map on q and k"


class Static:
    """Finds what keeps an expression from being a number at compile time."""

    def __init__(self, scope: Scope, report: Report) -> None:
        self.scope, self.report = scope, report

    def require(self, node: syntax.Expr, what: str) -> bool:
        """Tell the first name in `node` that is not fixed when the rule is compiled."""
        for name in names_of(node):
            if why := self.obstacle(name):
                hint = (
                    "a sum over the members can choose: `sum(where(j == b, S[j], 0) for j in 1..n)`"
                    if what == "an index"
                    else ""
                )
                self.report.add(
                    "RD403", f"{what} is fixed when the rule is compiled; `{name.id}` {why}", name.span, hint=hint
                )
                return False
        return True

    def require_bound(self, node: syntax.Expr) -> bool:
        """As `require`, for a loop's bound: one that depends on the token or on t means unbounded state."""
        for name in names_of(node):
            if name.id == "t" or self.varies(name):
                on = "t" if name.id == "t" else f"the token (through `{name.id}`)"
                self.report.add(
                    "RD401", f"unbounded state: this bound depends on {on}", node.span, "the memory grows with t",
                    notes=(UNBOUNDED,), hint=LINEAR_FORM if name.id == "t" else "loop to a fixed number and weigh the turns: `where(j <= n, ..., 0)`",
                )  # fmt: skip
                return False
        return self.require(node, "a loop's bound")

    def varies(self, name: syntax.Name) -> bool:
        entry = self.scope.entries.get(name.id)
        return entry is not None and entry.varies

    def obstacle(self, name: syntax.Name) -> str:
        """Why a name is not a number at compile time, or nothing."""
        if name.id in ("head", "heads", "t"):
            return "is not known then"
        if self.scope.loop(name.id) is not None:
            return ""
        entry = self.scope.entries.get(name.id)
        return self._entry(entry) if entry is not None else ""

    def _entry(self, entry: Entry) -> str:
        if entry.role is Role.CONST:
            if entry.init is None:
                return "is a const whose value is given with the call"
            inner = next((self.obstacle(n) for n in names_of(entry.init) if self.obstacle(n)), "")
            return f"depends on something that {inner}" if inner else ""
        if entry.role is Role.LET and not entry.varies:
            return "is a let: name a fixed number with `const`"
        return f"is {'an' if entry.role in (Role.INPUT, Role.OUTPUT) else 'a'} {entry.role}"
