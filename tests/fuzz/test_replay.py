"""The fuzzer's seeds again, and some new texts: rules or diagnostics, soon, and nothing unsafe in what is generated."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from fuzz.generated import faults
from fuzz.mutate import mutate
from fuzz.oracle import examine

HERE = Path(__file__).resolve().parent
SEEDS = sorted((HERE / "seeds").glob("*.rule"))
DONORS = [path.read_text(encoding="utf-8") for path in sorted((HERE.parent / "corpus").glob("*.rule"))]
MUTATIONS = 200


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
def test_a_seed_is_no_finding(path: Path) -> None:
    stage, finding = examine(path.read_bytes())
    assert finding is None, f"{stage}: {finding.key}\n{finding.told}"


def test_seeds_are_small() -> None:
    assert SEEDS and sum(path.stat().st_size for path in SEEDS) < 100_000


@pytest.mark.parametrize("block", range(8))
def test_mutations_are_no_findings(block: int) -> None:
    stages = set()
    for number in range(block, MUTATIONS, 8):
        rng = Random(number)
        data = mutate(rng.choice(DONORS).encode(), rng, DONORS)
        stage, finding = examine(data)
        assert finding is None, f"mutation {number}, {stage}: {finding.key}\n{finding.told}\n{data!r}"
        stages.add(stage)
    assert "done" in stages and "check, told" in stages  # neither all rules nor all nonsense


UNSAFE = {
    "an import": "import os\n",
    "a builtin": "def forward(x):\n    return eval(x)\n",
    "an attribute": "def forward(x):\n    return x.__class__\n",
    "a method": "def forward(x):\n    return x.system()\n",
    "a string": 'def forward(x):\n    return x["rm -rf /home"]\n',
    "a name that is nowhere defined": "def forward(x):\n    return x + escape\n",
    "a function of a rule": "def launder(x):\n    return x\n",
    "a variable in place of a function": "def tile(x):\n    return x\n\n\ndef forward(tile):\n    return tile(1)\n",
    "an encoding": "# coding: utf-7\nx = 1\n",
    "a line separator": "# a\u2028import os\n",
    "a form feed": "# a\x0cx = 1\n",
    "no Python": "def forward(, x):\n    return x\n",
}


@pytest.mark.parametrize("name", UNSAFE)
def test_the_oracle_sees(name: str) -> None:
    assert list(faults(UNSAFE[name], {"x"}))


def test_the_oracle_lets_pass_what_is_safe() -> None:
    safe = '# S = S + v k^T\n\nimport torch\n\n\ndef forward(tiles):\n    x = tiles["x"]\n    return torch.exp(x)\n'
    assert not list(faults(safe, {"x"}))
    assert list(faults(safe.replace("x", "zq"), {"other"}))
