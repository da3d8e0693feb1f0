"""What a token costs, as closed formulas over the rule's sizes and the chunk length C.

Products and element-wise operations are counted (2 flops per multiply-add, 1 per entry and element-wise operation);
softmax and norms count as 4 per entry. Inputs and outputs are 2 bytes, the state 4, or 8 where a rule computes in float64.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

from ruledsl.algebra.analysis import Analysis
from ruledsl.algebra.evaluate import Unknown
from ruledsl.algebra.precision import inverted
from ruledsl.algebra.verdict import CoupledForm, Kind, Price, Solved, TokenForm
from ruledsl.lang import typed
from ruledsl.lang.typed import Dim, DimOp, Expr, Role, Type
from ruledsl.lang.walk import mentions, subexpressions

Count = Counter[tuple[str, ...]]  # product of sizes -> number


def price(analysis: Analysis, token: TokenForm | None, bound: Mapping[str, int]) -> Price:
    """`bound`: the sizes that loops were written out at; the formulas hold for these."""
    rule = analysis.rule
    state, inputs, outputs = Count(), Count(), Count()
    for s in rule.of(Role.STATE):
        state += _entries(s.type)
    for s in rule.of(Role.INPUT):
        inputs += _entries(s.type)
    for o in rule.outputs:
        outputs += _entries(o.value.type)
    step = _step(rule)
    entry = 8 if inverted(analysis.scope) else 4
    moved = _times(inputs + outputs, 2)
    train = _chunk(token, rule) if token is not None else None
    return Price(
        state_bytes=show(_times(state, entry)),
        train_flops=show(step if train is None else train),
        decode_flops=show(step),
        train_bytes=show(moved),
        decode_bytes=show(_times(state, 2 * entry) + moved),
        note=_note(analysis, train is not None, bound),
    )


def _note(analysis: Analysis, chunked: bool, bound: Mapping[str, int]) -> str:
    at = f"; counted at {', '.join(f'{k} = {v}' for k, v in bound.items())}" if bound else ""
    dense = [p for p in analysis.parts if p.found is not None and p.found.kind is Kind.DENSE]
    if dense:
        return f"train: counted as the recurrent step; composing two tokens costs a dense product, see the reason{at}"
    return f"train: {'the chunk form, its solve counted once per chunk' if chunked else 'the recurrent step'}{at}"


# ------------------------------------------------------------------------------------------------ sizes as polynomials


def dim(d: Dim) -> Count:
    match d:
        case int():
            return Counter({(): d})
        case str():
            return Counter({(d,): 1})
        case DimOp("+", left, right):
            return dim(left) + dim(right)
        case DimOp("-", left, right):
            out = dim(left)
            out.subtract(dim(right))
            return out
        case DimOp("*", left, right):
            return _product(dim(left), dim(right))
        case DimOp("/", left, int() as n):
            return _times(dim(left), 1 / n)
    raise Unknown(str(d))


def _product(x: Count, y: Count) -> Count:
    out: Count = Counter()
    for a, m in x.items():
        for b, n in y.items():
            out[tuple(sorted(a + b))] += m * n
    return out


def _times(x: Count, by: float) -> Count:
    return Counter({k: v * by for k, v in x.items()})  # type: ignore[misc]


def _entries(type: Type) -> Count:
    out: Count = Counter({(): 1})
    for d in (*type.family, type.rows, type.cols):
        out = _product(out, dim(d))
    return out


def show(count: Count) -> str:
    terms = []
    for names, n in sorted(count.items(), key=lambda t: (-len(t[0]), t[0])):
        if not n:
            continue
        whole = Fraction(n).limit_denominator(12)
        number, under = str(whole.numerator), f"/{whole.denominator}" if whole.denominator != 1 else ""
        powers = [name if k == 1 else f"{name}^{k}" for name, k in Counter(names).items()]
        terms.append("*".join(([number] if number != "1" or not powers else []) + powers) + under)
    return " + ".join(terms).replace("+ -", "- ") or "0"


# ------------------------------------------------------------------------------------------------ flops


def _step(rule: typed.Rule) -> Count:
    """One token as written, every let once."""
    out: Count = Counter()
    for statement in rule.body:
        if not isinstance(statement, typed.For):
            out += flops(statement.value)
    return out


def flops(expr: Expr) -> Count:
    out: Count = Counter()
    for child in typed.children(expr):
        out += flops(child)
    entries = _entries(Type(expr.type.rows, expr.type.cols))
    match expr:
        case typed.Product(typed.Diag(), _) | typed.Product(_, typed.Diag()):
            out += entries
        case typed.Product(x, _):
            out += entries if x.type.cols == 1 else _times(_product(entries, dim(x.type.cols)), 2)
        case typed.Apply() | typed.Compare():
            out += entries
        case typed.RowWise() | typed.Rotate():
            out += _times(entries, 4)
        case typed.Reduce(_, x):
            out += _entries(Type(x.type.rows, x.type.cols))
        case typed.Solve(matrix, right, _, typed.Number(turns)):
            out += _times(_product(_entries(matrix.type), dim(right.type.cols)), 2 * turns)
        case typed.Solve(matrix, right):
            out += _times(_product(_entries(matrix.type), dim(matrix.type.rows)), 2 / 3)
            out += _times(_product(_entries(matrix.type), dim(right.type.cols)), 2)
    return out


def _chunk(token: TokenForm, rule: typed.Rule) -> Count:
    """The chunk form per token: products with the state, C x C products of keys, their application, the solve, and what is
    written from values at the state of the chunk's start."""
    c: Count = Counter({("C",): 1})
    out: Count = Counter()
    for form in token.forms:
        rows, cols = dim(form.rows), dim(form.cols)
        writes = [w for s in form.steps for w in s.writes]
        reads = sum(1 for w in writes if w.read is not None)
        outs = _asked(token, {(form.state, form.member)})
        entries, every = _product(rows, cols), _number(reads) + outs
        out += _times(_product(entries, _number(len(writes)) + every), 2)
        out += _times(_product(_product(c, cols), every), 2 * len(writes))
        out += _times(_product(_product(c, rows), _number(reads * reads) + _times(outs, len(writes))), 2)
        out += _times(_product(c, c), reads**3 / 3)
    for joint in token.coupled:
        out += _coupled(joint, token, c)
    written = [w for f in token.forms for s in f.steps for w in s.writes] + [w for j in token.coupled for w in j.writes]
    for value in (e for w in written for e in (w.key, w.value) if e is not None and mentions(e, typed.Frozen)):
        out += flops(value)
    for value in [x.value for x in token.lets] + [x.value for x in token.outputs]:
        out += flops(value)
    for system in token.solves:
        out += _product(flops(system.applied), _turns(system)) + flops(system.right)
    return out


def _number(n: float) -> Count:
    return Counter({(): n}) if n else Counter()  # type: ignore[dict-item]


def _turns(system: Solved) -> Count:
    """How often the matrix is applied."""
    match system.steps:
        case typed.Number(turns):
            return _number(turns)
        case _:
            return dim(system.right.type.rows)


def _asked(token: TokenForm, states: set[tuple[str, int | None]]) -> Count:
    """How often the read-outs read the states: those of a system once for each time that its matrix is applied."""
    systems = {s.unknown: _turns(s) for s in token.solves}
    out: Count = Counter()
    for r in token.reads:
        if (r.state, r.member) in states:
            found = [systems[e.name] for e in subexpressions(r.vector) if isinstance(e, typed.Ref) and e.name in systems]
            out += found[0] if found else _number(1)
    return out


def _coupled(form: CoupledForm, token: TokenForm, c: Count) -> Count:
    """As above for states that are mapped jointly; their products of small matrices and weights are C x C tiles too."""
    rows, cols, n = dim(form.rows), dim(form.cols), len(form.held)
    own = {(s.state, s.member) for s in form.states}
    writes, rank = len(form.writes), sum(1 for w in form.writes if w.reads)
    asked = sum(len(w.reads) for w in form.writes)
    outs = _asked(token, own)
    every = _number(asked) + outs
    out = _times(_product(_product(rows, cols), _number(writes) + every), 2 * n)
    out += _times(_product(_product(c, cols), every), 2 * writes)
    out += _times(_product(_product(c, rows), _number(rank * rank) + _times(outs, writes)), 2)
    out += _times(_product(c, c), rank**3 / 3)
    return out + _times(_product(c, _number(1 + rank * asked) + _times(outs, writes)), 2 * n * n)
