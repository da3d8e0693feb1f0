"""The functions of the language, one row each.

A row of kind "map" is element-wise. Its derivative is written once, over any values that overload `+ - * /`
and a namespace `f` whose attributes apply rows of this table (`f.exp(x)`) and whose `f.where(op, a, b, x, y)` is
`where(a op b, x, y)`; the calculus of typed trees and the reverse mode of chunk programs both use it. `python` is
the function on floats: constant folding, and the range of a monotone row. `torch` spells the row over tensors.
Rows of the other kinds only reserve the name and fix the number of arguments; their meaning is in `check`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

INF = math.inf


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    low: int  # fewest arguments
    high: int  # most arguments
    kind: str = "map"
    python: Callable[..., float] | None = None
    derivative: Callable[..., tuple[Any, ...]] | None = None  # (f, y, *args) -> one partial per argument; None = zero
    bounds: tuple[float, float] = (-INF, INF)
    monotone: int = 0  # +1 increasing, -1 decreasing in its only argument, 0 neither
    torch: str = ""  # format string over the arguments
    spelled: bool = True  # False: an operator or an internal row, not callable by name


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x))) if math.isfinite(x) else max(x, 0.0)


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else INF


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -INF


def _erf_half(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def _ctz(x: float) -> float:
    n = int(x)
    return float((n & -n).bit_length() - 1) if n else 0.0


_MAPS = (
    # operators
    Function("add", 2, 2, python=lambda a, b: a + b, derivative=lambda f, y, a, b: (1.0, 1.0), torch="{0} + {1}", spelled=False),
    Function("sub", 2, 2, python=lambda a, b: a - b, derivative=lambda f, y, a, b: (1.0, -1.0), torch="{0} - {1}", spelled=False),
    Function("mul", 2, 2, python=lambda a, b: a * b, derivative=lambda f, y, a, b: (b, a), torch="{0} * {1}", spelled=False),
    Function("div", 2, 2, python=lambda a, b: a / b, derivative=lambda f, y, a, b: (1.0 / b, -(y / b)), torch="{0} / {1}", spelled=False),
    Function("neg", 1, 1, python=lambda a: -a, derivative=lambda f, y, a: (-1.0,), monotone=-1, torch="-{0}", spelled=False),
    # the base's partial avoids y/a, wrong at a = 0; the exponent's is only asked for when the exponent varies
    Function("pow", 2, 2, python=lambda a, b: a**b, derivative=lambda f, y, a, b: (b * f.pow(a, b - 1.0), y * f.log(a)), torch="{0} ** {1}", spelled=False),
    Function("erf_half", 1, 1, python=_erf_half, derivative=lambda f, y, x: (f.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi)),), bounds=(0, 1), monotone=1,
             torch="0.5 * (1 + torch.erf({0} * 0.7071067811865476))", spelled=False),
    # one argument
    Function("exp", 1, 1, python=_exp, derivative=lambda f, y, x: (y,), bounds=(0, INF), monotone=1, torch="torch.exp({0})"),
    Function("log", 1, 1, python=_log, derivative=lambda f, y, x: (1.0 / x,), monotone=1, torch="torch.log({0})"),
    Function("sqrt", 1, 1, python=lambda x: math.sqrt(max(x, 0.0)), derivative=lambda f, y, x: (0.5 / y,), bounds=(0, INF), monotone=1, torch="torch.sqrt({0})"),
    Function("abs", 1, 1, python=abs, derivative=lambda f, y, x: (f.sign(x),), bounds=(0, INF), torch="torch.abs({0})"),
    Function("sign", 1, 1, python=lambda x: float((x > 0) - (x < 0)), derivative=lambda f, y, x: (None,), bounds=(-1, 1), monotone=1, torch="torch.sign({0})"),
    Function("floor", 1, 1, python=lambda x: float(math.floor(x)) if math.isfinite(x) else x, derivative=lambda f, y, x: (None,), monotone=1, torch="torch.floor({0})"),
    Function("sin", 1, 1, python=math.sin, derivative=lambda f, y, x: (f.cos(x),), bounds=(-1, 1), torch="torch.sin({0})"),
    Function("cos", 1, 1, python=math.cos, derivative=lambda f, y, x: (-f.sin(x),), bounds=(-1, 1), torch="torch.cos({0})"),
    Function("tanh", 1, 1, python=math.tanh, derivative=lambda f, y, x: (1.0 - y * y,), bounds=(-1, 1), monotone=1, torch="torch.tanh({0})"),
    Function("sigmoid", 1, 1, python=_sigmoid, derivative=lambda f, y, x: (y * (1.0 - y),), bounds=(0, 1), monotone=1, torch="torch.sigmoid({0})"),
    Function("logsigmoid", 1, 1, python=lambda x: -_softplus(-x), derivative=lambda f, y, x: (f.sigmoid(-x),), bounds=(-INF, 0), monotone=1, torch="F.logsigmoid({0})"),
    Function("silu", 1, 1, python=lambda x: x * _sigmoid(x), derivative=lambda f, y, x: (f.sigmoid(x) * (1.0 + x * (1.0 - f.sigmoid(x))),), bounds=(-0.2785, INF), torch="F.silu({0})"),
    Function("gelu", 1, 1, python=lambda x: x * _erf_half(x), derivative=lambda f, y, x: (f.erf_half(x) + x * f.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi)),), bounds=(-0.17, INF), torch="F.gelu({0})"),
    Function("softplus", 1, 1, python=_softplus, derivative=lambda f, y, x: (f.sigmoid(x),), bounds=(0, INF), monotone=1, torch="F.softplus({0})"),
    Function("relu", 1, 1, python=lambda x: max(x, 0.0), derivative=lambda f, y, x: (f.where(">", x, 0.0, 1.0, 0.0),), bounds=(0, INF), monotone=1, torch="torch.relu({0})"),
    Function("elu", 1, 1, python=lambda x: x if x > 0 else math.expm1(x), derivative=lambda f, y, x: (f.where(">", x, 0.0, 1.0, y + 1.0),), bounds=(-1, INF), monotone=1, torch="F.elu({0})"),
    Function("ctz", 1, 1, python=_ctz, derivative=lambda f, y, x: (None,), bounds=(0, INF), torch="ctz({0})"),
    Function("stopgrad", 1, 1, python=lambda x: x, derivative=lambda f, y, x: (None,), monotone=1, torch="{0}.detach()"),
    # several arguments; max and min are folded to two
    Function("max", 2, 9, python=max, derivative=lambda f, y, a, b: (f.where(">", a, b, 1.0, f.where("==", a, b, 0.5, 0.0)), f.where(">", b, a, 1.0, f.where("==", a, b, 0.5, 0.0))), torch="torch.maximum({0}, {1})"),
    Function("min", 2, 9, python=min, derivative=lambda f, y, a, b: (f.where("<", a, b, 1.0, f.where("==", a, b, 0.5, 0.0)), f.where("<", b, a, 1.0, f.where("==", a, b, 0.5, 0.0))), torch="torch.minimum({0}, {1})"),
    Function("clip", 3, 3, python=lambda x, a, b: min(max(x, a), b)),  # check rewrites it to min(max(x, low), high)
    Function("mod", 2, 2, python=lambda a, b: a % b, derivative=lambda f, y, a, b: (1.0, None), torch="torch.remainder({0}, {1})"),
    Function("logaddexp", 2, 2, python=lambda a, b: max(a, b) + math.log1p(math.exp(-abs(a - b))), derivative=lambda f, y, a, b: (f.exp(a - y), f.exp(b - y)), torch="torch.logaddexp({0}, {1})"),
    # where(condition, a, b): the first argument is a comparison and has no derivative
    Function("where", 3, 3, torch="torch.where({0}, {1}, {2})"),
)  # fmt: skip

_OTHERS = (
    *(Function(n, 1, 1, "rowwise") for n in ("softmax", "layernorm", "rmsnorm", "unit")),
    Function("topk", 2, 2, "rowwise"),
    *(Function(n, 1, 1, "reduce") for n in ("sum", "norm", "norm2", "trace")),
    Function("dot", 2, 2, "product"),
    Function("outer", 2, 2, "product"),
    Function("kron", 2, 2, "shape"),
    Function("cat", 2, 9, "shape"),
    Function("diag", 1, 1, "shape"),
    Function("rotate", 2, 2, "shape"),
    Function("solve", 2, 3, "solve"),
    Function("grad", 2, 2, "grad"),
    Function("frozen", 2, 2, "time"),
    Function("prev", 1, 2, "time"),
)

TABLE: dict[str, Function] = {row.name: row for row in (*_MAPS, *_OTHERS)}
SPELLED: tuple[str, ...] = tuple(sorted(name for name, row in TABLE.items() if row.spelled))
RESERVED: frozenset[str] = frozenset({"t", "head", "heads", "I", "ones", "pi", "inf"})  # values with a name of their own
KEYWORDS: frozenset[str] = frozenset({"state", "input", "param", "const", "let", "output", "for", "in", "unit", "perm", "learned"})
ARGUMENTS: frozenset[str] = frozenset({"initial_state", "return_state", "cu_seqlens", "backend", "chunk_size", "state", "out", "slots"})  # the op's own
