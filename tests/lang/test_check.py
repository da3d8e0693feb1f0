"""Names, shapes, roles and promises: what types, what it types to, and what is refused with which message."""

from __future__ import annotations

import random
import time
from dataclasses import fields
from pathlib import Path

import pytest

from ruledsl.lang import typed
from ruledsl.lang.check import check
from ruledsl.lang.diagnostic import Diagnostic, RuleError
from ruledsl.lang.parse import parse
from ruledsl.lang.show import expr_text, rule_text
from ruledsl.lang.source import NOWHERE, Source
from ruledsl.lang.typed import DimOp, Interval, Role
from ruledsl.lang.verify import verify

CORPUS = sorted((Path(__file__).parent.parent / "corpus").glob("*.rule"))
REFUSED = {"softmax", "case_61"}
TYPED = [path for path in CORPUS if path.stem not in REFUSED]
CODES = Path(typed.__file__).parent / "codes"
EXAMPLES = sorted(p for p in CODES.glob("RD[2-5]*.rule"))

HEAD = "state S[V, K]\ninput q[K], k[K], v[V], a, b\n"


def rule(text: str) -> typed.Rule:
    checked = check(parse(Source(text)))
    verify(checked)
    return checked


def mistakes(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(RuleError) as error:
        check(parse(Source(text)))
    return error.value.diagnostics


def codes(text: str) -> list[str]:
    return [d.code for d in mistakes(text)]


def at(text: str, diagnostic: Diagnostic) -> str:
    return Source(text).slice(diagnostic.span)


def shapes(checked: typed.Rule) -> dict[str, tuple[typed.Dim, ...]]:
    return {s.name: s.type.dims for s in checked.symbols}


# ------------------------------------------------------------------------------------------------ what types


def test_the_corpus_is_whole() -> None:
    assert len(CORPUS) == 99 and len(TYPED) == 97


@pytest.mark.parametrize("path", TYPED, ids=lambda p: p.stem)
def test_corpus_text_is_well_typed(path: Path) -> None:
    checked = rule(path.read_text())
    assert checked.outputs
    # every node knows its place in the text
    for statement in checked.body:
        for f in fields(statement):
            value = getattr(statement, f.name)
            if isinstance(value, typed.Apply | typed.Product):
                assert value.span != NOWHERE


@pytest.mark.parametrize("path", TYPED, ids=lambda p: p.stem)
def test_shown_text_checks_to_the_same_rule(path: Path) -> None:
    checked = rule(path.read_text())
    again = rule(rule_text(checked))
    assert again.body == checked.body
    assert {(s.name, s.type, s.interval, s.unit, s.perm, s.init, s.learned) for s in again.symbols} == {
        (s.name, s.type, s.interval, s.unit, s.perm, s.init, s.learned) for s in checked.symbols
    }


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_softmax_attention_is_refused(name: str) -> None:
    text = next(p for p in CORPUS if p.stem == name).read_text()
    for diagnostic in mistakes(text):
        assert diagnostic.code in ("RD401", "RD402")
        assert "unbounded state" in diagnostic.headline
        assert any("grows with t" in note for note in diagnostic.notes)
        assert "linear form" in diagnostic.hint and "S = S + v k^T" in diagnostic.hint


def test_one_line_is_a_rule() -> None:
    checked = rule("S = a*S + b*(v - S k) k^T")
    assert shapes(checked) == {"S": ("V", "K"), "q": ("K",), "k": ("K",), "v": ("V",), "a": (), "b": ()}
    assert [s.name for s in checked.of(Role.STATE)] == ["S"]
    assert all(s.inferred for s in checked.symbols)
    assert checked.sizes == ("V", "K")
    assert expr_text(checked.outputs[0].value) == "S q"
    assert any("output o = S q" in note for note in checked.notes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h = f*h + (1 - f)*x", {"h": (), "f": (), "x": ()}),
        ("h = f .* h + (1 - f) .* x", {"h": ("D",), "x": ("D",), "f": ("D",)}),
        ("S = S diag(w) + v k^T", {"S": ("V", "K"), "q": ("K",), "k": ("K",), "v": ("V",), "w": ("K",)}),
        ("h = tanh(W h + x)", {"h": ("D",), "W": ("D", "D"), "x": ("D",)}),
        (
            "for j in 1..n: S = S + b[j]*(v[j] - S k[j]) k[j]^T",
            {"S": ("V", "K"), "q": ("K",), "k": ("n", "K"), "v": ("n", "V"), "b": ("n",)},
        ),
        ("S = S S + v k^T", {"S": ("K", "K"), "q": ("K",), "k": ("K",), "v": ("K",)}),
        ("const c = 2\nh = c*h + x + dot(w, w)", {"h": (), "x": (), "w": ("N",), "c": ()}),
    ],
)
def test_inference(text: str, expected: dict[str, tuple[typed.Dim, ...]]) -> None:
    assert shapes(rule(text)) == expected


def test_the_read_out_follows_the_state() -> None:
    for text, shown in (("h = f*h + x", "h"), ("h = f .* h + x", "h"), ("S = S + v k^T", "S q")):
        assert expr_text(rule(text).outputs[0].value) == shown


def test_case_decides_what_brackets_mean() -> None:
    checked = rule(
        "state S[L, V, K]\ninput q[K], k[n, K], v[V], W[V, K], w[L], D[V], g\n"
        "for j in 1..n:\n    for l in 1..L: S[l] = g*S[l] + w[l]*W + v k[j]^T\noutput o = S[1] q + D"
    )
    kinds = {s.name: str(s.type) for s in checked.symbols}
    assert kinds == {
        "S": "matrix[V, K] family[L]", "q": "vector[K]", "k": "vector[K] family[n]", "v": "vector[V]",
        "W": "matrix[V, K]", "w": "vector[L]", "D": "vector[V]", "g": "scalar",
    }  # fmt: skip


def test_sizes_that_only_states_mention_are_computed() -> None:
    checked = rule((Path(__file__).parent.parent / "corpus" / "based.rule").read_text())
    rows = checked.symbol("z").type.rows
    assert checked.sizes == ("V", "K") and isinstance(rows, DimOp)
    assert typed.dim_value(rows, {"K": 3}) == 13


def test_promises_and_first_values() -> None:
    checked = rule(
        "state S[V, K] = learned, P[K, K] = 100*I, m = -1e30\n"
        "input q[K], k[K] unit, v[V], a in (0, 1], b in [0, inf), Q[K, K] perm\nconst g = 1 - 2^(-5 - head), s\n"
        "S = a*S + b*v k^T\nP = g*P Q\nm = max(m, s)\noutput o = S P q + m"
    )
    by_name = {s.name: s for s in checked.symbols}
    assert by_name["a"].interval == Interval(0, 1, True, False)
    assert by_name["b"].interval == Interval(0, float("inf"), False, True)
    assert by_name["k"].unit and by_name["Q"].perm and by_name["S"].learned
    assert expr_text(by_name["P"].init) == "100*I" and by_name["P"].init.type == by_name["P"].type  # type: ignore[arg-type, union-attr]
    assert by_name["m"].init == typed.Number(-1e30)
    assert by_name["g"].init is not None and by_name["s"].init is None


def test_products_become_plain() -> None:
    checked = rule(HEAD + "S = S + outer(v, k)*dot(q, k)\noutput o = norm(v)*max(a, b, 2)*(k^T q)*clip(v, 0, 1)")
    update, out = (s.value for s in checked.body)  # type: ignore[union-attr]
    kinds = [type(n).__name__ for n in typed.children(update)]
    assert kinds == ["StateRef", "Apply"]
    assert expr_text(update) == "S + v k^T*q^T k"
    assert expr_text(out) == "norm(v)*max(max(a, b), 2)*k^T q*min(max(v, 0), 1)"


def test_an_inner_product_stands_beside_a_vector() -> None:
    value = rule("state S[V, K]\ninput r[K], k[K], v[V]\noutput o = (r^T k) v\nS = S + v k^T").outputs[0].value
    assert isinstance(value, typed.Apply) and value.fn == "mul" and str(value.type) == "vector[V]"


def test_a_number_fills_a_state() -> None:
    checked = rule(HEAD + "S = 0\nS = S + v k^T\noutput o = S q")
    first = checked.body[0]
    assert isinstance(first, typed.Assign) and first.value.type == checked.symbol("S").type


def test_past_values() -> None:
    checked = rule(HEAD + "let x = prev(o) + prev(v, 2)\nS = a*prev(S) + x prev(k)^T\noutput o = S q")
    let, update = checked.body[0], checked.body[1]
    lags = [n.lag for n in typed.children(let.value) if isinstance(n, typed.Ref)]  # type: ignore[union-attr]
    assert lags == [typed.Number(1.0), typed.Number(2.0)]
    assert expr_text(update.value) == "a*prev(S) + x prev(k)^T"  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_each_code_has_an_example_and_a_fix(path: Path) -> None:
    assert set(codes(path.read_text())) == {path.stem}
    title, _, rest = path.with_suffix(".txt").read_text().partition("\n")
    assert title and "\nfix:\n" in rest
    rule(rest.partition("\nfix:\n")[2])


def test_every_code_in_use_has_a_pair() -> None:
    used = set()
    for source in Path(typed.__file__).parent.glob("*.py"):
        words = source.read_text().split('"')
        used |= {w for w in words if len(w) == 5 and w.startswith(("RD2", "RD3", "RD4", "RD5")) and w[2:].isdigit()}
    assert used == {p.stem for p in EXAMPLES}


@pytest.mark.parametrize(
    ("line", "code", "place", "hint"),
    [
        ("S = a*S + b*(v - S kk) k^T", "RD201", "kk", "did you mean `k`?"),
        ("S = a S + v k^T", "RD303", "a S", "`a*S`"),
        ("S = a*S + v k", "RD302", "v k", "`v k^T`"),
        ("S = a*S + b*(v - k S) k^T", "RD302", "k S", "`S k`"),
        ("S = S + v*k", "RD306", "v*k", "`v k^T`"),
        ("S = S + v .* k", "RD307", "v .* k", "`v k^T`"),
        ("S = S + a .* v k^T", "RD307", "a .* v k^T", "`a*v k^T`"),
        ("S = S + v k^T - 1", "RD304", "S + v k^T - 1", "`ones`"),
        ("S = S + (S - v) k^T", "RD301", "S - v", ""),
        ("S = S/v", "RD305", "v", "`S ./ x`"),
        ("S = k v^T", "RD309", "k v^T", "transpose"),
        ("S = S^2", "RD310", "S^2", "`.^`"),
        ("S = S + v prev(a + b)^T", "RD404", "a + b", "let y = a + b"),
        ("q = S k", "RD204", "q", "let q2"),
        ("S = S + dot(v, k)*v k^T", "RD308", "dot(v, k)", ""),
    ],
)
def test_messages_name_the_place_and_the_fix(line: str, code: str, place: str, hint: str) -> None:
    text = HEAD + line + "\noutput o = S q"
    found = [d for d in mistakes(text) if d.code == code]
    assert len(found) == 1
    assert at(text, found[0]) == place and hint in found[0].hint


def test_shape_messages_name_both_shapes() -> None:
    (found,) = mistakes(HEAD + "S = a*S + k v^T\noutput o = S q")
    assert "matrix[V, K]" in found.headline and "matrix[K, V]" in found.headline


def test_several_mistakes_at_once_and_no_echo() -> None:
    text = HEAD + "let x = y + a\nlet z = x .* x\nS = a S + z k^T\nS = S + 2*(v .* k) k^T\nM = S\noutput o = z + c"
    assert codes(text) == ["RD201", "RD303", "RD307", "RD204", "RD201"]


def test_after_a_declaration_nothing_is_inferred() -> None:
    assert set(codes("state S[V, K]\nS = S + v k^T\noutput o = S v")) == {"RD201"}
    assert "RD204" in codes("input q[K], k[K], v[V]\nS = S + v k^T\noutput o = S q")


def test_gradients_are_checked_through_lets() -> None:
    assert codes(HEAD + "let y = S k\nS = a*S\nlet l = norm2(S k - y)\nS = S - grad(l, S)\noutput o = S q") == ["RD503"]
    rule(HEAD + "let y = S k\nS = a*S\nlet l = norm2(S k - stopgrad(y))\nS = S - grad(l, S)\noutput o = S q")
    assert codes(HEAD + "let y = prev(v)\nS = S - grad(norm2(y), S)\noutput o = S q") == ["RD502"]


def test_an_index_may_leave_its_family_where_it_is_not_read() -> None:
    head = "state S[V, K]\ninput q[K], k[n, K], v[V]\n"
    rule(head + "for j in 1..n: S = S + v (where(j > 1, k[j - 1], 0))^T\noutput o = S q")
    assert codes(head + "for j in 1..n: S = S + v k[j - 1]^T\noutput o = S q") == ["RD215"]


def test_expansion_is_bounded() -> None:
    nested = "v"
    for _ in range(60):
        nested = f"norm2({nested})"
    for line in (f"S = S + {nested}*v k^T", "for i in 1..900:\n    for j in 1..900: S = S + v k^T"):
        started = time.perf_counter()
        assert codes(HEAD + line + "\noutput o = S q") == ["RD408"]
        assert time.perf_counter() - started < 2


def test_deep_expressions_are_no_crash() -> None:
    wide = " + ".join(["v"] * 140)
    deep = "sigmoid(-" * 70 + "v" + ")" * 70
    rule(HEAD + f"S = S + ({wide}) k^T + ({deep}) k^T\noutput o = S q")


@pytest.mark.parametrize("seed", range(4))
def test_broken_texts_are_told_not_crashed(seed: int) -> None:
    """Drop, double or exchange words of corpus texts: the outcome is a rule or diagnostics inside the text."""
    draw = random.Random(seed)
    for path in CORPUS:
        words = path.read_text().split(" ")
        i, j = draw.randrange(len(words)), draw.randrange(len(words))
        match draw.randrange(3):
            case 0:
                del words[i]
            case 1:
                words.insert(j, words[i])
            case _:
                words[i], words[j] = words[j], words[i]
        text = " ".join(words)
        try:
            parsed = parse(Source(text))
        except RuleError:
            continue  # no tree to check
        try:
            verify(check(parsed))
        except RuleError as error:
            assert error.diagnostics
            assert all(0 <= d.span.start <= d.span.end <= len(text) for d in error.diagnostics)


def test_checking_is_quick() -> None:
    largest = max(TYPED, key=lambda p: p.stat().st_size)
    parsed = parse(Source(largest.read_text()))
    best = min(_seconds(parsed) for _ in range(3))
    assert best < 0.2


def _seconds(parsed: object) -> float:
    started = time.perf_counter()
    check(parsed)  # type: ignore[arg-type]
    return time.perf_counter() - started
