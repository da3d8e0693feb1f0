"""Random rules that have a chunk form: texts from a template, those without one left out.

A rule has one or two states, each with its decay (none, a scalar, channels on the right, on the left or on both sides; as it
stands, through a function, with a param or a const), one or two sub-steps that write, erase or correct, keys and values that
pass through functions or look back, and a read-out. Names are drawn too. The text is a function of the seed alone.
"""

from __future__ import annotations

import random

from ruledsl import pipeline
from ruledsl.chunk.unsupported import UnsupportedForm

STATES = "M Mem W F A1 B_ Store".split()
WORDS = (
    "x y r h g u w z c e p key val ask fade rate mix amt lose way shift row block q1 k_2 inputs count tl mask dtype "
    "chunk scale decay lag prev_x d_o S_t out0 run torch"
).split()


class Writer:
    """The lines of one rule; every name is used once."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.names = self.dice.sample(WORDS, len(WORDS))
        self.states = self.dice.sample(STATES, 2)
        self.declared: list[str] = []
        self.body: list[str] = []

    def new(self, what: str, kind: str = "input") -> str:
        """A declared name. `what` is written after it: sizes and promises."""
        name = self.names.pop()
        self.declared.append(f"{kind} {name}{what}")
        return name

    def choose(self, *options: str) -> str:
        return self.dice.choice(options)

    def gate(self, size: str = "") -> str:
        """An expression within (0, 1), for each channel if a size is given."""
        match self.choose("plain", "plain", "sigmoid", "softplus", "param", "floor"):
            case "plain":
                return self.new(f"{size} in (0, 1]")
            case "sigmoid":
                return f"sigmoid({self.new(size)})"
            case "softplus":
                return f"exp(-softplus({self.new(size)}))"
            case "param":
                return f"exp(-exp({self.new('', 'param')})*softplus({self.new(size)}))"
            case _:
                return f"(0.5 + 0.5*sigmoid({self.new(size)}))"

    def decayed(self, state: str) -> str:
        match self.choose("none", "scalar", "scalar", "const", "right", "right", "left", "both"):
            case "none":
                return state
            case "scalar":
                return f"{self.gate()}*{state}"
            case "const":
                return f"{self.new(f' = 1 - 2^(-{self.dice.randint(2, 5)} - head)', 'const')}*{state}"
            case "right":
                return f"{state} diag({self.gate('[K]')})"
            case "left":
                return f"diag({self.gate('[V]')}) {state}"
            case _:
                return f"diag({self.gate('[V]')}) {state} diag({self.gate('[K]')})"

    def key(self) -> str:
        k = self.new("[K] unit") if self.dice.random() < 0.6 else self.new("[K]")
        match self.choose("plain", "plain", "unit", "silu", "param", "past"):
            case "unit":
                expression = f"unit({k})"
            case "silu":
                expression = f"silu({k})"
            case "param":
                expression = f"{k} .* {self.new('[K]', 'param')}"
            case "past":
                expression = f"0.5*{k} + 0.5*prev({k}, {self.dice.randint(1, 3)})"
            case _:
                return k
        return self.let(expression)

    def value(self) -> str:
        v = self.new("[V]")
        match self.choose("plain", "plain", "gated", "tanh", "past"):
            case "gated":
                return self.let(f"{v} .* {self.gate('[V]')}")
            case "tanh":
                return self.let(f"tanh({v})")
            case "past":
                return self.let(f"{v} - 0.5*prev({v})")
            case _:
                return v

    def let(self, expression: str) -> str:
        name = self.names.pop()
        self.body.append(f"let {name} = {expression}")
        return name

    def rate(self) -> str:
        match self.choose("plain", "sigmoid", "number"):
            case "plain":
                return self.new(" in [0, 1]")
            case "sigmoid":
                return f"sigmoid({self.new('')})"
            case _:
                return "0.5"

    def substep(self, state: str, other: str) -> None:
        """`other`: a state that is read in place of a value, or nothing."""
        k = self.key()
        v = self.let(f"{other} {self.key()}") if other else self.value()
        rate = self.rate()
        match self.choose("write", "write", "delta", "delta", "error of another key", "erase and write"):
            case "write":
                change = f"{state} + {rate}*{v} {k}^T"
            case "delta":
                change = f"{state} + {rate}*({v} - {state} {k}) {k}^T"
            case "error of another key":
                change = f"{state} + {rate}*({v} - {state} {self.key()}) {k}^T"
            case _:
                p = self.key()
                change = f"{state} - {rate}*({state} {p}) {p}^T + {v} {k}^T"
        self.body.append(f"{state} = {change}")

    def read(self, state: str) -> str:
        q = self.key()
        match self.choose("plain", "scaled", "gated", "skip", "two"):
            case "plain":
                return f"{state} {q}"
            case "scaled":
                return f"{state} {q} / sqrt(K)"
            case "gated":
                return f"{self.gate('[V]')} .* ({state} {q})"
            case "skip":
                return f"{state} {q} + {self.new('', 'param')}*{self.new('[V]')}"
            case _:
                return f"{state} {q} - 0.5*{state} {self.key()}"


def text(seed: int) -> str:
    """The rule of a seed, whether or not it has a chunk form."""
    to = Writer(seed)
    states = to.states[: to.dice.choice((1, 1, 2))]
    early = to.dice.random() < 0.15  # is the output above the update?
    outputs = []
    for at, state in enumerate(states):
        if early:
            outputs.append(to.let(to.read(state)))
        decayed = to.decayed(state)
        if decayed != state:
            to.body.append(f"{state} = {decayed}")
        for _ in range(to.dice.choice((1, 1, 2))):
            to.substep(state, states[0] if at and to.dice.random() < 0.4 else "")
        if not early:
            outputs.append(to.read(state))
    if len(outputs) == 2 and to.dice.random() < 0.5:
        outputs = [" + ".join(f"({o})" for o in outputs)]
    reads = [f"output {to.names.pop()} = {o}" for o in outputs]
    declared = [f"state {', '.join(f'{s}[V, K]' for s in states)}", *to.declared]
    return "\n".join([*declared, *to.body, *reads]) + "\n"


def has_chunk_form(rule_text: str) -> bool:
    """Whether the walk reaches a chunk program; kernels that are missing for one are a finding, not a reason to leave it out."""
    rule = pipeline.check(pipeline.parse(pipeline.read(rule_text)))
    unrolled = pipeline.unroll(rule, {})
    token, _ = pipeline.token_form(unrolled)
    if token is None:
        return False
    try:
        pipeline.chunk(token, unrolled, {})
    except UnsupportedForm:
        return False
    return True


def seeds(count: int) -> list[int]:
    """The first seeds whose rules have a chunk form."""
    found: list[int] = []
    seed = 0
    while len(found) < count:
        if has_chunk_form(text(seed)):
            found.append(seed)
        seed += 1
    return found


if __name__ == "__main__":
    for number in seeds(10):
        print(f"# seed {number}\n{text(number)}")
