"""From the tensors of a call to sizes: every tensor checked against its declaration, every message with both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ruledsl.lang import typed
from ruledsl.lang.functions import ARGUMENTS
from ruledsl.runtime.errors import DeviceError, DtypeError, MissingInput, ShapeError, UnknownInput, did_you_mean
from ruledsl.runtime.spec import Entry, RuleSpec
from ruledsl.runtime.tables import filled


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one call. Inputs [B, T, Hg, ...] with Hg dividing `heads`; params and consts [heads, ...]."""

    inputs: Mapping[str, Tensor]
    params: Mapping[str, Tensor]
    batch: int
    length: int
    heads: int
    sizes: Mapping[str, int]
    dtype: torch.dtype  # of arithmetic and states: float64 for float64 inputs (and rules that need it), else float32
    out_dtype: torch.dtype  # of outputs: the narrowest input
    device: torch.device


Meta = tuple[object, ...]  # all that checks look at


@dataclass(slots=True)
class Binder:
    """`bind` for the calls of one rule: what passed once is not checked again."""

    spec: RuleSpec
    _passed: dict[Meta, Call] = field(default_factory=dict)

    def __call__(self, given: Mapping[str, object], states: Mapping[str, Tensor], states_are: str = "initial_state") -> Call:
        if torch.compiler.is_compiling():
            return bind(self.spec, given, states, states_are)
        try:
            key = (_meta(given), _meta(states))
            known = self._passed.get(key)
        except TypeError:  # sizes that stand for any number
            return bind(self.spec, given, states, states_are)
        if known is None:
            known = bind(self.spec, given, states, states_are)
            if len(self._passed) >= MOST_CALLS:
                self._passed.clear()
            self._passed[key] = replace(known, inputs={}, params={})
            return known
        tensors = {e.name: _tensor(e, given[e.name]) for e in self.spec.arguments}
        inputs, params = _inputs(self.spec, tensors), _params(self.spec, given, tensors, known.heads, known.device)
        return Call(inputs, params, known.batch, known.length, known.heads, known.sizes, known.dtype, known.out_dtype, known.device)


MOST_CALLS = 256  # of different shapes that are remembered for one rule


def _meta(tensors: Mapping[str, object]) -> Meta:
    return tuple((n, x.shape, x.dtype, x.device) if isinstance(x, Tensor) else (n, type(x)) for n, x in tensors.items())


def bind(
    spec: RuleSpec, given: Mapping[str, object], states: Mapping[str, Tensor], states_are: str = "initial_state"
) -> Call:
    """Check names, kinds, devices, dtypes and shapes, and infer the sizes.

    `states` are declared states given with the call: their trailing sizes count too. Nothing here reads a value.
    Inputs whose entry leads with [B, H] are one token, and get T = 1.
    """
    check_names(spec, given)
    tensors = {e.name: _tensor(e, given[e.name]) for e in spec.arguments}
    inputs = {e.name: tensors[e.name] for e in spec.inputs}
    if not inputs:
        raise MissingInput("the rule has no inputs: there is no sequence to run it on")
    _check_device({n: t for n, t in tensors.items() if t.dim()})
    dtype, out_dtype = _dtypes(tensors, inputs)

    entries = {e.name: e for e in (*spec.arguments, *spec.states)}
    for e in spec.inputs:
        _check_rank(e, inputs[e.name], len(e.leading))
    inputs = _inputs(spec, tensors)
    first = spec.inputs[0]
    batch, length = inputs[first.name].shape[:2]
    for e in spec.inputs[1:]:
        if inputs[e.name].shape[0] != batch or inputs[e.name].shape[1] != length:
            raise ShapeError(
                f"input `{e.name}`: {_declared(e, tensors[e.name])}; `{first.name}` has {list(tensors[first.name].shape)}"
            )
    widest = first
    for e in spec.inputs:
        widest = e if inputs[e.name].shape[2] > inputs[widest.name].shape[2] else widest
    heads = inputs[widest.name].shape[2]
    for e in spec.inputs:
        own = inputs[e.name].shape[2]
        if own == 0 or heads % own:
            raise ShapeError(
                f"input `{e.name}`: {_declared(e, tensors[e.name])}; its {own} heads do not divide the {heads} of `{widest.name}`"
            )

    device = inputs[first.name].device
    params = _params(spec, given, tensors, heads, device)
    for e in (*spec.params, *spec.consts):
        _check_rank(e, params[e.name], 1)
        if params[e.name].shape[0] != heads:
            raise ShapeError(f"{e.role} `{e.name}`: {_declared(e, params[e.name])}; `{widest.name}` has {heads} heads")

    sizes = _Sizes()
    for name, t in (*inputs.items(), *params.items()):
        sizes.add(entries[name], tensors[name] if name in inputs else t)
    for name, t in states.items():
        e = entries[name]
        if t.dim() != 2 + len(e.type.dims):
            raise ShapeError(f"{states_are} `{name}`: {_declared(e, t)}")
        sizes.add(e, t)
    found = sizes.solve(spec)
    return Call(inputs, params, batch, length, heads, found, dtype, out_dtype, device)


def _inputs(spec: RuleSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One token gets T = 1."""
    return {e.name: tensors[e.name] if "T" in e.leading else tensors[e.name].unsqueeze(1) for e in spec.inputs}


def _params(
    spec: RuleSpec, given: Mapping[str, object], tensors: Mapping[str, Tensor], heads: int, device: torch.device
) -> dict[str, Tensor]:
    """A single number is every head's; a const is not learned."""
    found = {e.name: tensors[e.name] for e in spec.params}
    for e in spec.consts:
        t = tensors[e.name]
        whole = t.dim() == 0 and e.type.is_scalar and not e.type.family
        value = given[e.name]
        if whole and isinstance(value, int | float) and not torch.compiler.is_compiling():
            found[e.name] = filled(float(value), heads, device)
        else:
            found[e.name] = (t.to(device).expand(heads) if whole else t).detach()
    return found


def check_names(spec: RuleSpec, given: Mapping[str, object]) -> None:
    known = [e.name for e in spec.arguments]
    for name in given:
        if name not in known:
            raise UnknownInput(
                f"the rule has no input `{name}`{did_you_mean(name, [*known, *ARGUMENTS])}; it takes {_names(known)}"
            )
    missing = [e for e in spec.arguments if e.name not in given]
    if missing:
        raise MissingInput("missing " + ", ".join(f"{e.role} `{e.name}` {e.shape}" for e in missing))


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)


def _tensor(entry: Entry, value: object) -> Tensor:
    if isinstance(value, int | float) and entry.role is typed.Role.CONST:
        return torch.tensor(float(value), dtype=torch.float64)
    if not isinstance(value, Tensor):
        raise DtypeError(f"{entry.role} `{entry.name}`: expected a tensor {entry.shape}, got {type(value).__name__}")
    if not value.is_floating_point():
        raise DtypeError(
            f"{entry.role} `{entry.name}`: expected a floating-point tensor {entry.shape}, got {value.dtype}"
        )
    return value


def _declared(entry: Entry, tensor: Tensor) -> str:
    return f"declared {entry.shape}, got {list(tensor.shape)}"


def _check_rank(entry: Entry, tensor: Tensor, leading: int) -> None:
    if tensor.dim() != leading + len(entry.type.dims):
        raise ShapeError(f"{entry.role} `{entry.name}`: {_declared(entry, tensor)}")


def _check_device(tensors: Mapping[str, Tensor]) -> None:
    first = next(iter(tensors))
    for name, t in tensors.items():
        if t.device != tensors[first].device:
            raise DeviceError(f"`{name}` is on {t.device}, `{first}` on {tensors[first].device}")


def _dtypes(tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> tuple[torch.dtype, torch.dtype]:
    """Arithmetic dtype and output dtype. One narrow dtype may stand beside float32 (gates, params); float64 stands alone."""
    kinds = {name: t.dtype for name, t in tensors.items() if t.dim()}
    narrow = {d: n for n, d in kinds.items() if d not in (torch.float32, torch.float64)}
    wide = [n for n, d in kinds.items() if d is torch.float64]
    if len(narrow) > 1:
        (a, x), (b, y) = list(narrow.items())[:2]
        raise DtypeError(f"`{x}` is {a}, `{y}` is {b}: one narrow dtype per call")
    if wide:
        for name, d in kinds.items():
            if d is not torch.float64:
                raise DtypeError(f"`{name}` is {d}, `{wide[0]}` is torch.float64: float64 runs with float64 only")
        return torch.float64, torch.float64
    of_inputs = {t.dtype for t in inputs.values()} - {torch.float32}
    return torch.float32, of_inputs.pop() if of_inputs else torch.float32


class _Sizes:
    """Declared sizes against the numbers that came, solved one unknown at a time."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.source: dict[str, str] = {}
        self.pending: list[tuple[typed.Dim, int, Entry, Tensor]] = []

    def add(self, entry: Entry, tensor: Tensor) -> None:
        own = tensor.shape[tensor.dim() - len(entry.type.dims) :]
        self.pending += [(dim, n, entry, tensor) for dim, n in zip(entry.type.dims, own, strict=True)]

    def solve(self, spec: RuleSpec) -> dict[str, int]:
        while self.pending:
            rest = [item for item in self.pending if not self._meet(*item)]
            if len(rest) == len(self.pending):
                break
            self.pending = rest
        open_sizes = [s for s in spec.sizes if s not in self.known]
        if open_sizes:
            raise ShapeError(
                f"size {_names(open_sizes)} follows from no tensor given: give an initial_state that has it"
            )
        return self.known

    def _meet(self, dim: typed.Dim, n: int, entry: Entry, tensor: Tensor) -> bool:
        """Use one equation; False: it has more than one unknown so far."""
        try:
            value = typed.dim_value(dim, self.known)
        except ValueError as e:
            raise ShapeError(f"{entry.role} `{entry.name}`: {_declared(entry, tensor)}; {e}") from None
        except KeyError:
            solved = _invert(dim, n, self.known)
            if solved is None:
                return False
            symbol, number = solved
            if typed.dim_value(dim, {**self.known, symbol: number}) != n:
                raise ShapeError(
                    f"{entry.role} `{entry.name}`: {_declared(entry, tensor)}; no {symbol} makes {dim} = {n}"
                ) from None
            self.known[symbol] = number
            self.source[symbol] = entry.name
            return True
        if value != n:
            why = " and ".join(f"{s} = {self.known[s]} in `{self.source[s]}`" for s in symbols(dim))
            wanted = why if isinstance(dim, str) else f"{dim} is {value}" + (f", as {why}" if why else "")
            raise ShapeError(f"{entry.role} `{entry.name}`: {_declared(entry, tensor)}; {wanted}")
        return True


def symbols(dim: typed.Dim) -> list[str]:
    """The size symbols in a derived size."""
    match dim:
        case str():
            return [dim]
        case typed.DimOp(_, left, right):
            return symbols(left) + [s for s in symbols(right) if s not in symbols(left)]
        case _:
            return []


def _invert(dim: typed.Dim, n: int, known: Mapping[str, int]) -> tuple[str, int] | None:
    """Solve dim = n for its only unknown symbol, written once; the caller checks the result."""
    match dim:
        case str():
            return dim, n
        case typed.DimOp(op, left, right):
            unknown_left, unknown_right = ([s for s in symbols(side) if s not in known] for side in (left, right))
            if unknown_left and unknown_right:
                return None
            if unknown_left:
                r = typed.dim_value(right, known)
                return _invert(left, {"+": n - r, "-": n + r, "*": n // r if r else 0, "/": n * r}[op], known)
            a = typed.dim_value(left, known)
            return _invert(right, {"+": n - a, "-": a - n, "*": n // a if a else 0, "/": a // n if n else 0}[op], known)
        case _:
            return None
