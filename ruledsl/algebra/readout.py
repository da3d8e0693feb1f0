"""A token as linear reads of the states and everything around them.

Each maximal matrix-vector product with a state becomes a Read; lets and outputs that hold one are rewritten over
`Ref(name, Role.READ)`. Coefficients of later strata may use reads of earlier ones. A use of a state that is no such
product leaves no token form. What is frozen is a constant of the chunk, and stays as it is written. A system whose matrix
holds states is solved by products with an unknown vector, if the matrix is known to be positive definite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from ruledsl.algebra import build
from ruledsl.algebra.affine import TooLarge
from ruledsl.algebra.analysis import Analysis, Part, analyse
from ruledsl.algebra.calculus import NoDerivative
from ruledsl.algebra.coupled import coupled_form
from ruledsl.algebra.held import copied, held
from ruledsl.algebra.joined import joined
from ruledsl.algebra.linear import Linear, NotAffine
from ruledsl.algebra.normal import Demand, NoForm, matrix_form
from ruledsl.algebra.positive import not_definite
from ruledsl.algebra.scope import Scope, State
from ruledsl.algebra.verdict import CoupledForm, MatrixForm, Read, Solved, TokenForm
from ruledsl.lang import typed
from ruledsl.lang.typed import Expr, Ref, Role, Type

_Form = TypeVar("_Form")

MOST_APPLIED = 2000
TOO_DEEP = "the rule is nested too deeply for the checker"


def token_form(rule: typed.Rule) -> tuple[TokenForm | None, str]:
    """Of an unrolled rule; None, and why, if its token has no such form."""
    try:
        return form_of(analyse(rule))
    except (NoDerivative, TooLarge) as e:
        return None, str(e)
    except RecursionError:
        return None, TOO_DEEP


def form_of(analysis: Analysis) -> tuple[TokenForm | None, str]:
    if not analysis.parts:
        return None, "there is no state"
    if analysis.hidden:
        return None, f"`{analysis.hidden[0]}` reads its own past: a state in all but name"
    for part in analysis.parts:
        if why := _refusal(part):
            return None, why
    try:
        return _Builder(analysis).build(), ""
    except NoForm as e:
        return None, str(e)
    except (NotAffine, TooLarge) as e:
        return None, str(e)
    except RecursionError:
        return None, TOO_DEEP


def _refusal(part: Part) -> str:
    names = ", ".join(dict.fromkeys(name for name, _ in part.states))
    if part.found is None:
        return f"{names}: not affine in the state"
    if part.too_large:
        return f"{names}: {part.found.reason}"
    return ""


@dataclass(slots=True)
class _Wanted:
    """A product of a state's version with a state-free vector: S x, or with `left` S^T x. `vector` None: a vector
    state, whole."""

    name: str
    state: State
    version: int
    vector: Expr | None
    left: bool


@dataclass(slots=True)
class _Builder:
    analysis: Analysis
    wanted: list[_Wanted] = field(default_factory=list)
    linears: dict[State, Linear] = field(default_factory=dict)
    lets: dict[str, Expr] = field(default_factory=dict)  # rewritten
    solves: list[Solved] = field(default_factory=list)
    applied: int = 0

    @property
    def scope(self) -> Scope:
        return self.analysis.scope

    def build(self) -> TokenForm:
        scope, rule = self.scope, self.analysis.rule
        outputs = tuple(replace(s, value=self.rewrite(s.value)) for s in rule.body if isinstance(s, typed.Output))
        self.lets |= {o.name: o.value for o in outputs}
        forms: list[MatrixForm] = []
        joint: list[CoupledForm] = []
        parts = joined(scope, held(self.analysis))
        for part in reversed(parts):  # a later stratum's coefficients may want reads of an earlier one
            if len(part.states) > 1 or copied(scope, part):
                found = coupled_form(scope, part, {s: self.demand(s) for s in part.states})
                joint.insert(0, _rewritten(found, self.rewrite))
                continue
            (state,) = part.states
            form = matrix_form(scope, state, list(part.steps), list(part.maps), self.demand(state))
            forms.insert(0, _rewritten(form, self.rewrite))
        token = TokenForm((), (), tuple(forms), outputs, tuple(joint), tuple(self.solves))
        return self.ordered(token, [self.read(w, token.transposed[w.state]) for w in self.wanted])

    def demand(self, state: State) -> Demand:
        mine = [w for w in self.wanted if w.state == state]
        return Demand(frozenset(w.version for w in mine), any(w.vector is None for w in mine))

    def read(self, w: _Wanted, transposed: bool) -> Read:
        vector = build.ONE if w.vector is None else w.vector
        return Read(w.name, w.state[0], w.version, vector, w.left is not transposed, w.state[1])

    # -- rewriting

    def want(self, state: State, version: int, vector: Expr | None, left: bool, type: Type, span: typed.Span) -> Expr:
        if self.scope.assigns.get(state) is None:
            version = 0
        if vector is not None:
            if self.meets(vector, state):
                raise NoForm(f"a read of {state[0]} by a vector that itself reads {state[0]}")
        for w in self.wanted:
            if (w.state, w.version, w.vector, w.left) == (state, version, vector, left):
                return Ref(w.name, Role.READ, type, span=span)
        number = sum(1 for w in self.wanted if w.state[0] == state[0]) + 1
        name = self.fresh(f"{state[0]}_read{number}")
        self.wanted.append(_Wanted(name, state, version, vector, left))
        return Ref(name, Role.READ, type, span=span)

    def fresh(self, name: str) -> str:
        taken = {s.name for s in self.analysis.rule.symbols} | set(self.scope.lets) | set(self.analysis.rule.sizes)
        taken |= {w.name for w in self.wanted} | {n for s in self.solves for n in (s.name, s.unknown)}
        while name in taken:
            name += "_"
        return name

    def solved(self, expr: typed.Solve) -> Expr:
        """The solution of a system whose matrix holds states, by name."""
        if not expr.type.is_vector:
            raise NoForm("a system whose matrix holds a state is solved for a matrix")
        if why := not_definite(self.scope, expr.matrix):
            raise NoForm(f"a system whose matrix holds a state is solved, and {why}")
        number = len(self.solves) + 1
        unknown = self.fresh(f"unknown{number}")
        applied = self.apply(expr.matrix, Ref(unknown, Role.READ, expr.type, span=expr.span))
        found = Solved(self.fresh(f"solved{number}"), unknown, applied, self.rewrite(expr.right), expr.steps)
        self.solves.append(found)
        return Ref(found.name, Role.READ, expr.type, span=expr.span)

    def meets(self, vector: Expr, state: State) -> bool:
        return any(w.state == state for w in self._reads_in(vector))

    def _reads_in(self, expr: Expr) -> list[_Wanted]:
        out = []
        match expr:
            case Ref(name, Role.READ):
                out += [w for w in self.wanted if w.name == name]
                out += [w for s in self.solves if s.name == name for e in (s.applied, s.right) for w in self._reads_in(e)]
            case Ref(name, Role.LET | Role.OUTPUT) if name in self.lets:
                out += self._reads_in(self.lets[name])
        for child in typed.children(expr):
            out += self._reads_in(child)
        return out

    def rewrite(self, expr: Expr) -> Expr:
        """The expression over reads, lets and inputs."""
        seen = self.scope.seen(expr)
        if isinstance(expr, Ref) and expr.role in (Role.LET, Role.OUTPUT):
            return self.reference(expr)
        if not seen.live:
            return build.rebuild(expr, self.rewrite)
        match expr:
            case typed.StateRef(name, type, version, member):
                assert version is not None
                if type.is_matrix:
                    raise NoForm(f"the matrix {name} is used other than in a product with a vector")
                return self.want((name, member), version, None, False, type, expr.span)
            case typed.Product() if not expr.type.is_matrix:
                return self.product(expr)
            case typed.Product(x, y) if x.type.cols == 1:
                return build.product(self.rewrite(x), self.rewrite(y))
            case typed.Solve(matrix) if self.scope.seen(matrix).live:
                return self.solved(expr)
        return build.rebuild(expr, self.rewrite)

    def reference(self, expr: Ref) -> Expr:
        name, value = expr.name, self.scope.lets[expr.name]
        if self.scope.seen(value).live and value.type.is_matrix:
            if expr.lag is not None:
                raise NoForm(f"the matrix {name} of an earlier token holds a state")
            return self.rewrite(value)
        if name not in self.lets:
            self.lets[name] = self.rewrite(value)
        return expr

    def product(self, expr: Expr) -> Expr:
        """A matrix-vector product (or a row by a matrix, or an inner product): chained from the vector's end, so that
        the state only ever meets a vector."""
        factors = self.flat(expr)
        if expr.type.is_scalar and isinstance(factors[-1], typed.StateRef) and not self.scope.seen(factors[0]).live:
            factors = self.flat(build.transpose(expr))
        if factors[-1].type.cols == 1:
            out = self.rewrite(factors[-1])
            for factor in reversed(factors[:-1]):
                out = self.apply(factor, out)
            return out
        return build.transpose(self.product(build.transpose(expr)))

    def flat(self, expr: Expr) -> list[Expr]:
        resolved = self.scope.let(expr)
        if (
            isinstance(resolved, typed.Product)
            and expr.type.is_matrix
            and self.scope.seen(resolved).live
            and resolved.left.type.cols != 1
        ):
            expr = resolved
        if isinstance(expr, typed.Product) and expr.left.type.cols != 1 and not expr.left.type.is_scalar:
            return self.flat(expr.left) + self.flat(expr.right)
        if isinstance(expr, typed.Transpose) and isinstance(expr.operand, typed.Product):
            return self.flat(build.transpose(expr.operand))
        return [expr]

    def apply(self, matrix: Expr, vector: Expr) -> Expr:
        """`matrix vector`, the vector already rewritten."""
        self.applied += 1
        if self.applied > MOST_APPLIED:
            raise NoForm("too many terms around a state")
        seen = self.scope.seen(matrix)
        if not seen.live:
            return build.product(self.rewrite(matrix), vector)
        match matrix:
            case typed.Transpose(typed.StateRef(name, _, version, member)) if not self.meets(vector, (name, member)):
                assert version is not None
                return self.want((name, member), version, vector, True, Type(matrix.operand.type.cols, 1), matrix.span)
        if not matrix.type.is_matrix:
            return build.product(self.rewrite(matrix), vector)
        match self.scope.let(matrix):
            case typed.Apply("add", (x, y)):
                return build.add(self.apply(x, vector), self.apply(y, vector))
            case typed.Apply("sub", (x, y)):
                return build.sub(self.apply(x, vector), self.apply(y, vector))
            case typed.Apply("neg", (x,)):
                return build.neg(self.apply(x, vector))
            case typed.Apply("mul", (x, y)) if x.type.is_scalar or y.type.is_scalar:
                s, m = (x, y) if x.type.is_scalar else (y, x)
                return build.mul(self.rewrite(s), self.apply(m, vector))
            case typed.Apply("div", (x, y)) if y.type.is_scalar:
                return build.div(self.apply(x, vector), self.rewrite(y))
            case typed.StateRef(name, type, version, member):
                assert version is not None
                return self.want((name, member), version, vector, False, Type(type.rows, 1), matrix.span)
            case typed.Transpose(x):
                return self.transposed(x, vector)
            case typed.Product(x, y):
                return self.apply(x, self.apply(y, vector))
            case typed.Diag(x):
                return build.mul(self.rewrite(x), vector)
        raise NoForm("a matrix that holds a state is used other than in a product with a vector")

    def transposed(self, matrix: Expr, vector: Expr) -> Expr:
        """`matrix^T vector`."""
        match self.scope.let(matrix):
            case typed.Apply("add" | "sub" as fn, (x, y)):
                parts = self.apply(build.transpose(x), vector), self.apply(build.transpose(y), vector)
                return build.add(*parts) if fn == "add" else build.sub(*parts)
            case typed.Apply("neg", (x,)):
                return build.neg(self.apply(build.transpose(x), vector))
            case typed.Apply("mul" | "div" as fn, (x, y)) if y.type.is_scalar or x.type.is_scalar:
                s, m = (y, x) if y.type.is_scalar else (x, y)
                inner = self.apply(build.transpose(m), vector)
                return build.mul(self.rewrite(s), inner) if fn == "mul" else build.div(inner, self.rewrite(s))
            case typed.Transpose() | typed.Product() | typed.StateRef() as x:
                flipped = build.transpose(x)
                if flipped != matrix:
                    return self.apply(flipped, vector)
        raise NoForm("a matrix that holds a state is used other than in a product with a vector")

    # -- order

    def ordered(self, token: TokenForm, reads: list[Read]) -> TokenForm:
        """Only the lets that are needed, in the order of the text."""
        names = [s.name for s in self.analysis.rule.body if isinstance(s, typed.Let) and s.name in self.lets]
        lets = tuple(typed.Let(n, self.lets[n]) for n in names)
        return replace(token, lets=lets, reads=tuple(self.sorted_reads(reads)))

    def sorted_reads(self, reads: list[Read]) -> list[Read]:
        """A read whose vector uses another comes after it."""
        out: list[Read] = []
        waiting = list(reads)
        while waiting:
            done = {r.name for r in out}
            ready = [r for r in waiting if all(w.name in done for w in self._reads_in(r.vector))]
            assert ready, "reads depend on each other"
            out += ready
            waiting = [r for r in waiting if r not in ready]
        return out


def _rewritten(part: _Form, change: Callable[[Expr], Expr]) -> _Form:
    """A form, or part of one, with `change` applied to its expressions."""

    def inside(x: Any) -> Any:
        if hasattr(x, "span"):
            return change(x)
        if isinstance(x, tuple):
            return tuple(map(inside, x))
        return _rewritten(x, change) if is_dataclass(x) else x

    return replace(part, **{f.name: inside(getattr(part, f.name)) for f in fields(part)})  # type: ignore[type-var, arg-type]
