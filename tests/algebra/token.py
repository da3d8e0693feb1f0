"""One token on Python floats, twice: as the unrolled rule says it, and as its TokenForm says it."""

from __future__ import annotations

import random
from typing import Any

from ruledsl.algebra.calculus import expand
from ruledsl.algebra.evaluate import Matrix, evaluate, matmul, solve
from ruledsl.algebra.verdict import CoupledForm, MatrixForm, Solved, Step, TokenForm
from ruledsl.lang import typed
from ruledsl.lang.typed import Role, dim_value

Env = dict[Any, Any]


def transposed(m: Matrix) -> Matrix:
    return [list(r) for r in zip(*m, strict=True)]


def sizes_of(rule: typed.Rule, bound: dict[str, int]) -> dict[str, int]:
    """Different numbers for the free sizes, all even."""
    free = [s for s in rule.sizes if s not in bound]
    return bound | {name: 4 + 2 * i for i, name in enumerate(free)}


def sample(rule: typed.Rule, sizes: dict[str, int], seed: int) -> Env:
    """Random inputs, params and states inside their declared ranges; lagged values too."""
    source = random.Random(seed)
    env: Env = {("t", 0): float(source.randrange(5)), ("head", 0): 1.0, ("heads", 0): 4.0}
    lags: set[tuple[str, int, typed.Type]] = set()

    def walk(e: typed.Expr) -> None:
        if isinstance(e, typed.Ref) and e.lag is not None:
            assert isinstance(e.lag, typed.Number)
            lags.add((e.name, int(e.lag.value), e.type))
        for c in typed.children(e):
            walk(c)

    for s in rule.body:
        assert not isinstance(s, typed.For)
        walk(s.value)

    def entry(x: typed.Interval | None) -> float:
        if x is None:
            return source.gauss(0, 1)
        low, high = max(x.low, -3.0), min(x.high, 3.0)
        return source.uniform(low + 1e-3 * (high - low), high - 1e-3 * (high - low))

    def value(t: typed.Type, x: typed.Interval | None, unit: bool, perm: bool) -> Any:
        if t.family:
            return [value(t.member, x, unit, perm) for _ in range(dim_value(t.family[0], sizes))]
        rows, cols = dim_value(t.rows, sizes), dim_value(t.cols, sizes)
        if perm:
            order = source.sample(range(rows), rows)
            return [[float(order[i] == j) for j in range(cols)] for i in range(rows)]
        m = [[entry(x) for _ in range(cols)] for _ in range(rows)]
        if unit:
            norm = sum(v * v for r in m for v in r) ** 0.5
            m = [[v / norm for v in r] for r in m]
        return m

    for s in rule.symbols:
        if s.role is Role.STATE:
            members = range(1, dim_value(s.type.family[0], sizes) + 1) if s.type.family else [None]
            for member in members:
                env[s.name, 0, member] = value(typed.Type(s.type.rows, s.type.cols), None, False, False)
            env[s.name, -1] = value(typed.Type(s.type.rows, s.type.cols), None, False, False)
        elif s.role is Role.CONST and s.init is not None:
            env[s.name, 0] = evaluate(s.init, env, {}, sizes)
        else:
            env[s.name, 0] = value(s.type, s.interval, s.unit, s.perm)
    for name, lag, type in sorted(lags, key=lambda x: (x[0], x[1])):
        known = next((s for s in rule.symbols if s.name == name), None)
        env[name, lag] = (
            value(known.type, known.interval, known.unit, known.perm) if known else value(type, None, False, False)
        )
    return env


def run(rule: typed.Rule, env: Env, sizes: dict[str, int]) -> tuple[dict[Any, Matrix], dict[str, Matrix]]:
    """Statement by statement: the last version of each state, and the outputs."""
    rule, env = expand(rule), dict(env)
    last: dict[Any, int] = {}
    outputs: dict[str, Matrix] = {}
    for s in rule.body:
        assert not isinstance(s, typed.For)
        value = evaluate(s.value, env, {}, sizes)
        match s:
            case typed.Assign(state, member):
                key = state, None if member is None else int(member.value)  # type: ignore[union-attr]
                last[key] = last.get(key, 0) + 1
                old = env[state, 0, key[1]]
                env[state, last[key], key[1]] = (
                    value if len(value) == len(old) else [[value[0][0]] * len(old[0]) for _ in old]
                )
            case _:
                env[s.name, 0] = value
                if isinstance(s, typed.Output):
                    outputs[s.name] = value
    return {k: env[k[0], v, k[1]] for k, v in last.items()}, outputs


def run_form(form: TokenForm, env: Env, sizes: dict[str, int]) -> tuple[dict[Any, Matrix], dict[str, Matrix]]:
    return _Form(form, env, sizes).run()


class _Form:
    def __init__(self, form: TokenForm, env: Env, sizes: dict[str, int]) -> None:
        self.form, self.sizes = form, sizes
        self.env = {k: v for k, v in env.items() if len(k) == 2}  # no state is visible but through reads
        self.states = {k: v for k, v in env.items() if len(k) == 3}
        self.lets = {x.name: x.value for x in (*form.lets, *form.outputs)}
        self.matrices: dict[Any, dict[int, Matrix]] = {}

    def run(self) -> tuple[dict[Any, Matrix], dict[str, Matrix]]:
        last = {}
        for f in self.form.forms:
            self.walk(f)
            m = self.matrices[f.state, f.member][f.steps[-1].version if f.steps else 0]
            last[f.state, f.member] = transposed(m) if f.transposed else m
        for c in self.form.coupled:
            self.walk_coupled(c)
            for i, s in enumerate(c.states):
                m = self.matrices[s.state, s.member][c.last(i).version]
                last[s.state, s.member] = transposed(m) if s.transposed else m
        return last, {o.name: self.value(o.value) for o in self.form.outputs}

    def walk(self, f: MatrixForm) -> None:
        if (f.state, f.member) in self.matrices:
            return
        m = self.states[f.state, 0, f.member]
        m = transposed(m) if f.transposed else m
        assert (len(m), len(m[0])) == (dim_value(f.rows, self.sizes), dim_value(f.cols, self.sizes))
        found = self.matrices[f.state, f.member] = {0: m}
        for step in f.steps:
            m = self.step(step, m)
            found[step.version] = m

    def walk_coupled(self, c: CoupledForm) -> None:
        keys = [(s.state, s.member) for s in c.states]
        if keys[0] in self.matrices:
            return
        old = [transposed(m) if s.transposed else m for s in c.states for m in [self.states[s.state, 0, s.member]]]
        self.matrices |= {key: {0: m} for key, m in zip(keys, old, strict=True)}
        old += [transposed(m) if s.transposed else m for s in c.copies for m in [self.value(s.value)]]
        rows, cols = dim_value(c.rows, self.sizes), dim_value(c.cols, self.sizes)
        written = []
        for w in c.writes:
            row = [[0.0] for _ in range(rows)] if w.value is None else self.value(w.value)
            for r in w.reads:
                gain, seen = self.value(r.gain)[0][0], matmul(old[r.source], self.value(r.read))
                row = [[a[0] + gain * b[0]] for a, b in zip(row, seen, strict=True)]
            written.append(matmul(row, transposed(self.value(w.key))))
        for v in c.versions:
            parts = [(self.value(x)[0][0], old[j]) for j, x in v.states]
            parts += [(self.value(x)[0][0], written[w]) for w, x in v.writes]
            total = [[sum(n * m[i][j] for n, m in parts) for j in range(cols)] for i in range(rows)]
            self.matrices[keys[v.target]][v.version] = total

    def step(self, step: Step, m: Matrix) -> Matrix:
        rows, cols = len(m), len(m[0])
        right = [1.0] * cols if step.right is None else self.diagonal(step.right.value, cols)
        left = [1.0] * rows if step.left is None else self.diagonal(step.left.value, rows)
        decayed = [[left[i] * m[i][j] * right[j] for j in range(cols)] for i in range(rows)]
        out = [list(r) for r in decayed]
        for w in step.writes:
            z = [[0.0] for _ in range(rows)]
            assert (w.gain is None) == (w.read is None) and (w.read is not None or w.value is not None)
            if w.read is not None:
                assert w.gain is not None
                seen = matmul(decayed if w.after_decay else m, self.value(w.read))
                gain = self.value(w.gain)[0][0]
                z = [[gain * v[0]] for v in seen]
            if w.value is not None:
                z = [[a[0] + b[0]] for a, b in zip(z, self.value(w.value), strict=True)]
            scale = 1.0 if w.scale is None else self.value(w.scale)[0][0]
            key = self.value(w.key)
            assert len(key) == cols
            out = [[out[i][j] + scale * z[i][0] * key[j][0] for j in range(cols)] for i in range(rows)]
        return out

    def diagonal(self, expr: typed.Expr, n: int) -> list[float]:
        value = self.value(expr)
        return [value[0][0]] * n if len(value) == 1 else [r[0] for r in value]

    def value(self, expr: typed.Expr) -> Matrix:
        for name in reads_in(expr, self.lets):
            if (name, 0) not in self.env:
                self.env[name, 0] = self.read(name)
        return evaluate(expr, self.env, self.lets, self.sizes)

    def solved(self, system: Solved) -> Matrix:
        """The matrix column by column: what is applied to each unit vector."""
        right, outer, columns = self.value(system.right), self.env, []
        for i in range(len(right)):
            self.env = outer | {(system.unknown, 0): [[float(i == j)] for j in range(len(right))]}
            columns.append([row[0] for row in self.value(system.applied)])
        self.env = outer
        return solve(transposed(columns), right)

    def read(self, name: str) -> Matrix:
        for system in self.form.solves:
            if system.name == name:
                return self.solved(system)
        r = next(r for r in self.form.reads if r.name == name)
        state = r.state, r.member
        for c in self.form.coupled:
            if state in [(s.state, s.member) for s in c.states]:
                self.walk_coupled(c)
        for f in self.form.forms:
            if (f.state, f.member) == state:
                self.walk(f)
        m = self.matrices[r.state, r.member][r.version]
        return matmul(transposed(m) if r.left else m, self.value(r.vector))


def reads_in(expr: typed.Expr, lets: dict[str, typed.Expr]) -> set[str]:
    out = set()
    if isinstance(expr, typed.Ref):
        if expr.role is Role.READ:
            out.add(expr.name)
        elif expr.lag is None and expr.name in lets:
            out |= reads_in(lets[expr.name], lets)
    assert not isinstance(expr, typed.StateRef | typed.Grad), "a form holds no state, and no gradient"
    return out.union(*(reads_in(c, lets) for c in typed.children(expr)))
