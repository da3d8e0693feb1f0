"""Calls that were checked once are not checked again, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from ruledsl.runtime import bind
from ruledsl.runtime.errors import DtypeError, ShapeError, UnknownInput
from ruledsl.runtime.rule import load

RULE = "state S[V, K]\ninput q[K], k[K], v[V]\nconst c\nS = S + c*v k^T\noutput o = S q"


def given(length: int = 3, **sizes: int) -> dict[str, torch.Tensor | float]:
    K, V = sizes.get("K", 4), sizes.get("V", 6)
    shapes = {"q": K, "k": K, "v": V}
    return {n: torch.randn(1, length, 2, size) for n, size in shapes.items()} | {"c": 0.5}


def test_a_second_call_has_its_own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = load(RULE)
    first, second = given(), given()
    rule(**first)
    monkeypatch.setattr(bind, "bind", lambda *a: pytest.fail("checked again"))
    found = rule(**second)
    wanted = load(RULE)
    monkeypatch.undo()
    torch.testing.assert_close(found, wanted(**second))
    assert not torch.equal(found, rule(**first))


@pytest.mark.parametrize("constant", [0.25, torch.tensor(0.25), torch.tensor([0.25, 0.25])])
def test_constants_are_those_of_the_call(constant: float | torch.Tensor) -> None:
    rule, x = load(RULE), given()
    once = rule(**x | {"c": constant})
    torch.testing.assert_close(rule(**x | {"c": constant}), once)
    torch.testing.assert_close(2 * once, rule(**x), rtol=1e-5, atol=1e-6)


def test_what_is_wrong_is_found_after_a_right_call_too() -> None:
    rule, x = load(RULE), given()
    rule(**x)
    with pytest.raises(ShapeError, match="`v`"):
        rule(**x | {"v": torch.randn(1, 4, 2, 6)})
    with pytest.raises(DtypeError, match="one narrow dtype"):
        rule(**x | {"v": torch.randn(1, 3, 2, 6).half(), "k": torch.randn(1, 3, 2, 4).bfloat16()})
    with pytest.raises(UnknownInput):
        rule(**x, z=1.0)
    with pytest.raises(ShapeError):
        rule(**x, initial_state=torch.zeros(1, 2, 6, 5))


def test_as_many_shapes_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind, "MOST_CALLS", 3)
    rule = load(RULE)
    for length in range(1, 9):
        rule(**given(length))
        assert len(rule._bind._passed) <= 3
