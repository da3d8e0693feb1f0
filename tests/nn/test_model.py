"""The language model: its recurrent form is its parallel form, and it learns to recall."""

from __future__ import annotations

import pytest
import torch
from small_layers import load
from torch import Tensor
from torch.nn.functional import cross_entropy

from ruledsl.nn.model import LanguageModel


def _model(name: str = "gated_delta", **options: object) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(load(name), **({"dim": 16, "layers": 2, "heads": 2, "conv": 4} | options))


@pytest.mark.parametrize("tied", [True, False])
def test_step_is_forward(tied: bool) -> None:
    model = _model(tied=tied, out_gate=True)
    tokens = torch.randint(256, (2, 15))
    with torch.no_grad():
        whole = model(tokens)
        assert whole.shape == (2, 15, 256)
        state = model.init_state(2)
        for i in range(15):
            logits, state = model.step(tokens[:, i], state)
            torch.testing.assert_close(logits, whole[:, i], rtol=1e-4, atol=1e-4)
        first, state = model(tokens[:, :6], return_state=True)
        second = model(tokens[:, 6:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole, rtol=1e-4, atol=1e-4)


def test_packed() -> None:
    model = _model()
    tokens = torch.randint(256, (1, 12))
    with torch.no_grad():
        packed = model(tokens, cu_seqlens=torch.tensor([0, 5, 12]))
        torch.testing.assert_close(packed[:, 5:], model(tokens[:, 5:]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(packed[:, :5], model(tokens[:, :5]), rtol=1e-4, atol=1e-4)


def test_greedy_text_is_the_argmax_of_forward() -> None:
    model = _model()
    text = b"ab" + model.generate(b"ab", 12, temperature=0)
    with torch.no_grad():
        logits = model(torch.tensor([list(text)]))
    assert list(text[2:]) == logits[0, 1:-1].argmax(-1).tolist()


def test_sampled_text_follows_its_generator_and_the_temperature() -> None:
    model = _model()

    def sample(seed: int, n: int = 20, temperature: float = 1.0) -> bytes:
        return model.generate(b"a", n, temperature, torch.Generator().manual_seed(seed))

    assert sample(1) == sample(1) != sample(2)
    assert len(set(sample(1, 60))) > 20  # close to uniform before training
    assert sample(1, temperature=1e-5) == sample(2, temperature=0)


def test_bad_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        _model().generate(b"", 3)
    with pytest.raises(ValueError, match="temperature"):
        _model().generate(b"a", 3, temperature=-1)


def _pairs(batch: int, pairs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Keys 0..15 with values 16..31, then the keys again in another order; the values are to be recalled."""
    keys = torch.rand(batch, 16, generator=generator).argsort(1)[:, :pairs]
    values = torch.randint(16, 32, (batch, pairs), generator=generator)
    order = torch.rand(batch, pairs, generator=generator).argsort(1)
    asked, answer = keys.gather(1, order), values.gather(1, order)
    return torch.cat((torch.stack((keys, values), 2).flatten(1), asked), 1), answer


@pytest.mark.parametrize(("name", "steps", "accuracy"), [("mission", 150, 0.9), ("gru", 25, None)])
def test_recall_of_pairs_is_learned(name: str, steps: int, accuracy: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    model = _model(name, dim=32, layers=1, conv=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses, right = [], []
    for _ in range(steps):
        tokens, answer = _pairs(32, 4, generator)
        logits = model(tokens)[:, -4:]
        loss = cross_entropy(logits.flatten(0, 1), answer.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        right.append((logits.argmax(-1) == answer).float().mean().item())
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0], losses[::10]
    if accuracy is not None:  # guessing among the four values shown: at most 0.4
        assert sum(right[-10:]) / 10 > accuracy, right[::10]
