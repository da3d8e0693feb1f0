"""The text of generated Triton modules: what it may not contain, and that people can read it."""

from __future__ import annotations

import ast
import re
from functools import cache
from itertools import product as pairs
from pathlib import Path

import pytest

from ruledsl import pipeline
from ruledsl.emit.triton_expression import fill, level, product, total, wrapped
from ruledsl.emit.triton_functions import device_functions
from ruledsl.emit.triton_launch import padded_sizes
from ruledsl.emit.triton_names import dim_name, safe
from ruledsl.emit.triton_spelling import spell
from ruledsl.emit.triton_text import triton_text
from ruledsl.lang.typed import DimOp
from ruledsl.schedule.cut import cut

CORPUS = Path(__file__).resolve().parent.parent / "corpus"
NAMES = (
    "linear",
    "ssd",
    "gla",
    "delta",
    "gated_delta",
    "gated_delta_product",
    "dplr",
    "rwkv7",
    "linear_normalised",
    "gsa",
)


def made(name: str, size: int = 20) -> str:
    source = pipeline.read(CORPUS / f"{name}.rule")
    verdict = pipeline.verdict(pipeline.check(pipeline.parse(source)))
    assert verdict.token is not None
    forward, gradient = pipeline.kernel_programs(verdict.token, verdict.rule, verdict.sizes)
    padded = padded_sizes((forward, gradient), dict.fromkeys(verdict.rule.sizes, size))
    lines = pipeline.rule_lines(verdict.rule, source)
    return triton_text(cut(forward, gradient), forward, gradient, padded, "# rule", device_functions(), lines)


text = cache(made)


# ------------------------------------------------------------------------------------------------ texts


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bytes_every_time(name: str) -> None:
    assert made(name) == text(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_module_imports_torch_and_triton_only(name: str) -> None:
    tree = ast.parse(text(name))
    found = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert found == {"torch", "triton", "triton.language"}
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]


@pytest.mark.parametrize("name", NAMES)
def test_what_triton_gets_wrong_is_never_written(name: str) -> None:
    """Transposing what dots added up and using it in a dot (3.4 to 3.7.0 on Hopper); block pointers (gone in 3.8)."""
    assert "make_block_ptr" not in text(name)
    for kernel in _kernels(name):
        dots = {
            target.id
            for n in ast.walk(kernel)
            if isinstance(n, ast.Assign | ast.AugAssign) and _calls(n.value, "dot", "inverse")
            for target in ([n.target] if isinstance(n, ast.AugAssign) else n.targets)
            if isinstance(target, ast.Name) and not _calls(n.value, "sum")
        }
        for n in ast.walk(kernel):
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == "trans":
                assert not {m.id for m in ast.walk(n) if isinstance(m, ast.Name)} & dots, ast.unparse(n)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_computed_in_vain(name: str) -> None:
    for kernel in _kernels(name):
        stored = [n.id for n in ast.walk(kernel) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        read = {n.id for n in ast.walk(kernel) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        vain = {n for n in set(stored) - read if not re.fullmatch(r"back\d+_\d+", n)}  # what those make is stored
        assert vain <= {"block", "chunk", "back"}, kernel.name
        assert {a.arg for a in kernel.args.args} <= read, kernel.name
        for n in ast.walk(kernel):
            assert not (
                isinstance(n, ast.Assign)
                and isinstance(n.value, ast.Name)
                and not n.value.id.endswith(("next", "next_t"))
            )
        assert " + 0 " not in ast.unparse(kernel) and " * 1 " not in ast.unparse(kernel)


@pytest.mark.parametrize("name", NAMES)
def test_every_function_says_what_it_is(name: str) -> None:
    for kernel in _kernels(name):
        assert (ast.get_docstring(kernel) or "").endswith(".")


def test_masks_only_where_lanes_are_padded() -> None:
    padded, whole = made("gated_delta", 20), made("gated_delta", 64)
    assert "m_K" in padded and "m_K" not in whole and "tl.minimum(tl.arange(0, B_K)" not in whole


def test_values_are_called_what_the_rule_calls_them() -> None:
    found = text("gated_delta")
    for line in ("k = tl.load(k_ptr", "S_t = S_next_t", "d_v = tl.dot(", "tl.store(o_ptr"):
        assert line in found


def test_loads_updates_and_stores_say_which_line_they_come_from() -> None:
    rule = (CORPUS / "gated_delta.rule").read_text().split("\n")
    marked = re.findall(r"\n +([^\n]*)  # rule:(\d+)", text("gated_delta"))
    of = {code.split(" = ")[0] if " = " in code else code.split(" ")[0]: rule[int(line) - 1] for code, line in marked}
    assert of["k"].startswith("input") and of["S_next_t"] == "S = S + b*(v - S k) k^T"
    assert of["tl.store(o_ptr"].startswith("output o") and of["tl.store(d_q_ptr"].startswith("input")


def _kernels(name: str) -> list[ast.FunctionDef]:
    return [n for n in ast.parse(text(name)).body if isinstance(n, ast.FunctionDef) and n.name.endswith("_kernel")]


def _calls(node: ast.AST, *names: str) -> bool:
    calls = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
    return any((f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "")) in names for f in calls)


# ------------------------------------------------------------------------------------------------ names


WORDS = ("k", "S", "row", "count", "inverse", "tl", "mul_3", "k_ptr", "lag", "x_lag1", "d_o", "S_t", "S_next", "K_by_2", "N4", "print", "lambda", "i_K", "B_K", "BLOCK_V", "k_", "k__", "_", "__k", "dunder__k")  # fmt: skip


def test_safe_names_are_one_to_one() -> None:
    assert len({safe(w) for w in WORDS}) == len(WORDS)
    assert safe("k") == "k" and safe("S") == "S" and safe("row") == "row_"


@pytest.mark.parametrize("word", WORDS)
def test_no_name_of_a_rule_is_a_generated_name(word: str) -> None:
    name = safe(word)
    made_of_others = {
        f"{safe(w)}{end}"
        for w in WORDS
        for end in ("_t", "_next", "_next_t", "_ptr", "_token", "_head", "_group", "_lag1", "_7")
    }
    made_of_others |= {f"{start}{safe(w)}" for w in WORDS for start in ("d_", "i_", "m_", "B_", "enter_", "forward_")}
    assert name not in made_of_others
    assert name not in device_functions() and name not in {"forward", "backward", "strided", "torch", "tl"}


def test_device_functions_are_taken() -> None:
    assert all(safe(name) != name for name in device_functions())


def test_sizes_have_names_of_their_own() -> None:
    half, nested = DimOp("/", "K", 2), DimOp("*", DimOp("+", "K", 1), 2)
    other = DimOp("+", "K", DimOp("*", 1, 2))
    found = [dim_name(d) for d in ("K", "K_by_2", half, nested, other, 4, "N4")]
    assert len(set(found)) == len(found) and found[2] == "K_by_N2"


# ------------------------------------------------------------------------------------------------ expressions


@pytest.mark.parametrize(
    ("template", "args", "expected"),
    [
        ("{0} + {1}", ["a + b", "c + d"], "a + b + (c + d)"),
        ("{0} * {1}", ["a + b", "-1.0"], "(a + b) * -1.0"),
        ("{0} / {1}", ["a * b", "c * d"], "a * b / (c * d)"),
        ("{0} - {1}", ["a - b", "c * d"], "a - b - c * d"),
        ("-{0}", ["a * b"], "-(a * b)"),
        ("-{0}", ["-a"], "-(-a)"),
        ("{0}.to(OP)", ["a * b"], "(a * b).to(OP)"),
        ("tl.exp({0})", ["a * b"], "tl.exp(a * b)"),
        ("tl.where(m[:, None], {0}, 0.0).to(OP)", ["a + b"], "tl.where(m[:, None], a + b, 0.0).to(OP)"),
        ("tl.where({0} > 0.0, {0}, 1.0)", ["a + b"], "tl.where(a + b > 0.0, a + b, 1.0)"),
        ("{0}", ["a + b"], "a + b"),
    ],
)
def test_parentheses_where_they_are_needed(template: str, args: list[str], expected: str) -> None:
    assert fill(template, args) == expected


def test_filling_never_changes_what_is_computed() -> None:
    """Against parentheses everywhere, on numbers that rounding tells apart."""
    values = {"a": 0.1, "b": -0.7, "c": 1e16, "d": 3.3}
    parts = ["a", "-b", "a + b", "a - c", "b * c", "a / d", "f(a, b + c)", "-(a + b)"]
    templates = ["{0} + {1}", "{0} - {1}", "{0} * {1}", "{0} / {1}", "-{0} + {1}", "f({0}, {1}) * {1}"]
    space = {**values, "f": lambda x, y: x - y}
    for template, (x, y) in pairs(templates, pairs(parts, parts)):
        careful = template.replace("{0}", f"({x})").replace("{1}", f"({y})")
        assert eval(fill(template, [x, y]), {}, space) == eval(careful, {}, space), (template, x, y)


def test_products_and_sums_without_neutral_elements() -> None:
    assert product("1", "a", "1") == "a" and product("1") == "1" and product("a", "b + c") == "a * (b + c)"
    assert total("0", "a", "0") == "a" and total("0") == "0" and level("a[b + c]") == 9


def test_wrapped_lines_are_short() -> None:
    lines = wrapped("def f(", [f"argument_{i}" for i in range(40)], "):")
    assert max(map(len, lines)) <= 119 and re.findall(r"argument_\d+", "".join(lines)) == [
        f"argument_{i}" for i in range(40)
    ]
    assert wrapped("f(", ["a", "b"], ")") == ["f(a, b)"]


@pytest.mark.parametrize(
    ("exponent", "base"), [(2.0, -1.5), (3.0, -1.5), (8.0, -1.1), (-2.0, -3.0), (0.5, 2.0), (1.0, -2.0)]
)
def test_powers_of_negative_bases(exponent: float, base: float) -> None:
    import math
    from types import SimpleNamespace

    tl = SimpleNamespace(sqrt=math.sqrt)
    found = eval(spell("pow", ["x", repr(exponent)], exponent), {}, {"x": base, "tl": tl})
    assert found == pytest.approx(base**exponent, rel=1e-12)
