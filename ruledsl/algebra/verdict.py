"""What the algebra found out about a rule.

    Verdict   = Verdict(rule, kind, strata, token, stability, price, ...)
    Stratum   = Stratum(states, kind, structure, reason, blame?)      -- one strongly connected component of the states
    TokenForm = TokenForm(lets, reads, forms, outputs, coupled, solves) -- what the chunk floor builds from; None: no chunk form
    MatrixForm= MatrixForm(state, transposed, steps)
    CoupledForm = CoupledForm(states, writes, versions, copies)       -- states that one token maps jointly
    Step      = Step(version, decay?, left?, writes)
    Write     = Write(key, value?, gain?, read?)
    Read      = Read(name, state, version, vector, left)
    Solved    = Solved(name, unknown, applied, right, steps?)        -- a system whose matrix holds states

One token of a matrix state is a sequence of sub-steps (the versions 1, 2, ... of `typed`), each

    S  <-  diag(left) S diag(right)  +  sum_j z_j key_j^T,      z_j = gain_j * (S read_j) + value_j

with S the version *before* the step and every coefficient free of this state: expressions over inputs, params, consts,
lets, and reads of earlier strata. A step whose writes read after its decay (S = a*S; S = S + b*(v - S k) k^T) is
one step with `after_decay=True` on those writes. A form may hold for the transposed state (`transposed`): then the
formula above is about S^T, and a vector state h[K] is the 1-row matrix h^T or the K x 1 matrix h, whichever fits.

States that depend on each other have no sub-steps of their own. Every version of theirs that matters is written over the
states as the token began, S_1 .. S_n, with scalar coefficients c and d:

    version  =  sum_j c_j S_j  +  sum_w d_w row_w key_w^T,      row_w = value_w + sum_j gain_j * (S_j read_j)

where some of the S_j may be copies: what is made of frozen states and added, which every token keeps. The last
versions together are (S_1 .. S_n) <- (P (x) I)(S_1 .. S_n) + low rank, with P the small matrix of the c.

All expressions are `typed` trees of the *unrolled* rule. Lets that read a state are rewritten over `Ref(name, Role.READ)`,
one per `Read`; what is frozen stands as it is written, a constant of the chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import gcd
from typing import Any

from ruledsl.algebra.text import plain
from ruledsl.lang import typed
from ruledsl.lang.source import Span
from ruledsl.lang.walk import expressions, subexpressions


class Kind(StrEnum):
    CLOSED = "closed"  # 1 composition has an O(1) description
    CHUNKWISE = "chunkwise"  # 2 diagonal + low rank: rank grows per token, bounded by a chunk
    DENSE = "dense"  # 3 affine, but composing costs a dense product
    REPARAMETRISED = "reparametrised"  # 4 associative after a change of variables
    FROZEN = "frozen"  # 5 affine given the chunk's first state
    SEQUENTIAL = "sequential"  # 6 not associative
    UNDECIDED = "undecided"  # not proven either way; runs as sequential

    @property
    def number(self) -> int:
        """1 to 6, and 7 for undecided."""
        return list(Kind).index(self) + 1

    @property
    def parallel(self) -> bool:
        """What `--require chunk` accepts."""
        return self in (Kind.CLOSED, Kind.CHUNKWISE, Kind.REPARAMETRISED, Kind.FROZEN)

    @property
    def numbered(self) -> str:
        """`chunkwise (2)`; undecided has no number that means anything."""
        return str(self) if self is Kind.UNDECIDED else f"{self} ({self.number})"

    @property
    def meaning(self) -> str:
        """What the verdict says about training, in one line."""
        return _MEANING[self]


_MEANING = {
    Kind.CLOSED: "a run of tokens composes to one map of constant size",
    Kind.CHUNKWISE: "a chunk of tokens is computed at once",
    Kind.DENSE: "composing tokens costs dense products",
    Kind.REPARAMETRISED: "composes after a change of variables",
    Kind.FROZEN: "a chunk of tokens is computed at once, given its first state",
    Kind.SEQUENTIAL: "tokens have to be taken one by one",
    Kind.UNDECIDED: "not proven either way; tokens are taken one by one",
}


@dataclass(frozen=True, slots=True)
class Decay:
    """A diagonal (or scalar) factor of the transition. `log` is its logarithm where taking it is safe: D is exp(e),
    sigmoid(e) ..., or its range is bounded away from 0. Without `log` the decay may be 0 or negative and only
    products of it may be formed."""

    value: typed.Expr  # scalar, or a vector over the decayed axis
    log: typed.Expr | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """One rank-one term z key^T with z = scale * (gain * (S read) + value). `scale` is the factor that the read and
    the value share (b in b*(v - S k) k^T, where gain is -1 and value is v); it may join the key instead."""

    key: typed.Expr  # vector over the form's columns
    value: typed.Expr | None = None  # vector over the form's rows
    gain: typed.Expr | None = None  # scalar; set exactly when `read` is
    read: typed.Expr | None = None  # vector over the form's columns
    scale: typed.Expr | None = None  # scalar; None: 1
    after_decay: bool = False  # the read sees this step's decay


@dataclass(frozen=True, slots=True)
class Step:
    version: int  # the state's version after this step
    right: Decay | None = None  # over columns, or scalar
    left: Decay | None = None  # over rows
    writes: tuple[Write, ...] = ()


@dataclass(frozen=True, slots=True)
class MatrixForm:
    """The recurrence of one matrix (or vector) state in normal form."""

    state: str
    rows: typed.Dim
    cols: typed.Dim
    transposed: bool  # the form's matrix is the declared state transposed
    steps: tuple[Step, ...]
    member: int | None = None  # of a family of states


@dataclass(frozen=True, slots=True)
class CoupledState:
    state: str
    transposed: bool  # the form's matrix is the declared state transposed
    member: int | None = None  # of a family of states


@dataclass(frozen=True, slots=True)
class CoupledCopy:
    """A matrix or vector made of what is frozen, which no token of the chunk changes."""

    value: typed.Expr
    transposed: bool


@dataclass(frozen=True, slots=True)
class CoupledRead:
    """gain * (S_j read), of the states as the token began."""

    source: int  # j, which of the form's states
    gain: typed.Expr  # scalar
    read: typed.Expr  # vector over the form's columns


@dataclass(frozen=True, slots=True)
class CoupledWrite:
    """row key^T, row = value + the reads. The versions say which of them holds how much of it."""

    key: typed.Expr  # vector over the form's columns
    value: typed.Expr | None = None  # vector over the form's rows
    reads: tuple[CoupledRead, ...] = ()


@dataclass(frozen=True, slots=True)
class CoupledVersion:
    """A version of a state: sum_j c_j S_j + sum_w d_w row_w key_w^T. Coefficients that are 0 are left out."""

    target: int  # which of the form's states
    version: int
    states: tuple[tuple[int, typed.Expr], ...]  # (j, c_j); the copies are numbered after the states
    writes: tuple[tuple[int, typed.Expr], ...]  # (w, d_w)


@dataclass(frozen=True, slots=True)
class CoupledForm:
    """The joint recurrence of states of one shape. `versions`: the last one of each state that is ever assigned (a state
    without one stays as it is), and those that are read. P is `gate` (None: 1) times the matrix of the `entries`, by
    (i, j); those that are 0 are left out."""

    states: tuple[CoupledState, ...]
    rows: typed.Dim
    cols: typed.Dim
    writes: tuple[CoupledWrite, ...]
    versions: tuple[CoupledVersion, ...]
    gate: Decay | None
    entries: tuple[tuple[int, int, typed.Expr], ...]
    copies: tuple[CoupledCopy, ...] = ()

    @property
    def held(self) -> tuple[CoupledState | CoupledCopy, ...]:
        """The states and the copies, in the order of their numbers."""
        return (*self.states, *self.copies)

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called."""
        own = (s.state if s.member is None else f"{s.state}[{s.member}]" for s in self.states)
        return (*own, *(plain(c.value) for c in self.copies))

    def last(self, target: int) -> CoupledVersion:
        """What a token makes of a state."""
        found = [v for v in self.versions if v.target == target]
        return max(found, key=lambda v: v.version)


@dataclass(frozen=True, slots=True)
class Read:
    """`Ref(name, Role.READ)` stands for  M vector  (a vector over the form's rows; M the form's matrix at `version`),
    or, with `left`, for  M^T vector  (over the form's columns)."""

    name: str
    state: str
    version: int
    vector: typed.Expr
    left: bool = False
    member: int | None = None


@dataclass(frozen=True, slots=True)
class Solved:
    """`Ref(name, Role.READ)` stands for the vector x with `applied` = `right`, where `applied` is the product of the
    system's matrix with x = `Ref(unknown, Role.READ)`, over reads of the states by it. The matrix is symmetric positive
    definite while the states hold what the rule makes of them."""

    name: str
    unknown: str
    applied: typed.Expr
    right: typed.Expr
    steps: typed.Expr | None = None  # the most conjugate-gradient steps; None: no bound of the rule's


@dataclass(frozen=True, slots=True)
class TokenForm:
    """A token as linear reads of the states and everything around them. Straight-line, in dependency order."""

    lets: tuple[typed.Let, ...]
    reads: tuple[Read, ...]
    forms: tuple[MatrixForm, ...]  # in the order of the strata
    outputs: tuple[typed.Output, ...]
    coupled: tuple[CoupledForm, ...] = ()
    solves: tuple[Solved, ...] = ()

    @property
    def transposed(self) -> dict[tuple[str, int | None], bool]:
        """By state and member: whether the form's matrix is the declared state transposed."""
        joint = {(s.state, s.member): s.transposed for c in self.coupled for s in c.states}
        return {(f.state, f.member): f.transposed for f in self.forms} | joint

    @property
    def families(self) -> bool:
        """Is there a family of states?"""
        return any(member is not None for _, member in self.transposed)


@dataclass(frozen=True, slots=True)
class Stratum:
    """States that depend on each other, judged together; earlier strata are inputs to later ones."""

    states: tuple[str, ...]
    kind: Kind
    structure: str  # "scalar", "diagonal", "diagonal + rank 1", "dense", ...
    reason: str  # one sentence: why this kind
    blame: Span | None = None  # the sub-expression that breaks associativity
    rank: int | None = None  # rank added per token, for chunkwise; per loop turn it is stated in `reason`


@dataclass(frozen=True, slots=True)
class Witness:
    """Tokens that, repeated in this order, multiply the state by `rate` each. Values are lists of rows, or lists of
    such for families."""

    rate: float
    tokens: tuple[dict[str, Any], ...]  # the inputs that the transition uses
    params: dict[str, Any]
    sizes: dict[str, int]
    wild: bool  # undeclared inputs of any size; otherwise scalars in [0, 1] and vectors of norm 1


@dataclass(frozen=True, slots=True)
class Stability:
    """A bound on the norm of the token's linear map, from the declared ranges."""

    claim: str  # "contractive", "marginal", "can grow", "not proven", "not applicable"
    bound: str  # the bound as text, e.g. "max(|a|, |a - b|) <= 1"
    proof: str  # how it follows, or the witness
    assumptions: tuple[str, ...] = ()  # promises the claim rests on
    memory: str = ""  # how fast a write fades
    growth: str = ""  # a bound on the state's norm after T tokens
    rate: float | None = None  # what the norm of one token's map never exceeds, where it is proven to be 1 or less
    witness: Witness | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Price:
    """Closed formulas as text over the rule's sizes and C, the chunk length; bytes for 2-byte inputs, 4-byte state."""

    state_bytes: str  # per head, constant in T
    train_flops: str  # per token and head, forward, chunk form (or recurrent when there is none)
    decode_flops: str  # per token and head
    train_bytes: str  # per token and head: inputs and outputs once
    decode_bytes: str  # per token and head: state read and written, inputs, outputs

    note: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`rule` is the unrolled rule that was judged (family sizes bound as in `sizes`)."""

    rule: typed.Rule
    kind: Kind
    strata: tuple[Stratum, ...]
    token: TokenForm | None  # None: there is no chunk form, `no_form` says why
    no_form: str
    stability: Stability
    price: Price
    transition: str  # "S <- S (a I - b k k^T) + b v k^T" as plain text
    latex: str  # the same as LaTeX
    sizes: dict[str, int] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = ()

    @property
    def chunk(self) -> int | None:
        """The chunk length that the rule itself fixes by what it freezes; None: nothing."""
        held = (e for s in self.rule.body for x in expressions(s) for e in subexpressions(x) if isinstance(e, typed.Frozen))
        return gcd(*(int(e.chunk.value) for e in held if isinstance(e.chunk, typed.Number))) or None

    @property
    def headline(self) -> str:
        """`FILE: KIND (NUMBER): MEANING`."""
        return f"{self.rule.source.name}: {self.kind.numbered}: {self.kind.meaning}"

    @property
    def reason(self) -> str:
        """The reason of the stratum that decided."""
        return max(self.strata, key=lambda s: s.kind.number).reason if self.strata else "there is no state"

    @property
    def blame(self) -> Span | None:
        return max(self.strata, key=lambda s: s.kind.number).blame if self.strata else None

    def explain(self) -> str:
        """What `ruledsl explain` prints: why, how tokens compose, the chunk form, the adjoint, what would fix a no."""
        from ruledsl.algebra.explain import explain
        from ruledsl.algebra.explain.render import plain

        return plain(explain(self))

    def _repr_latex_(self) -> str:
        from ruledsl.algebra.explain.notebook import latex

        return latex(self)

    def _repr_markdown_(self) -> str:
        from ruledsl.algebra.explain.notebook import markdown

        return markdown(self)
