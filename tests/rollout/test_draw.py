"""Drawing a token: the right distribution, the right log-probs, nothing that was cut off."""

import math

import pytest
import torch

from clearppo.errors import TrainingError
from clearppo.rollout.draw import draw

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5]], dtype=torch.float64)


def frequencies(n: int = 40_000, **how: float) -> torch.Tensor:
    """How often each token comes when the uniform numbers are an even grid: the distribution itself, to 1 / n."""
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens, _, _ = draw(LOGITS.expand(n, -1), uniform, **how)
    return torch.bincount(tokens, minlength=LOGITS.shape[1]) / n


def softmax(logits: list[float], temperature: float) -> list[float]:
    weights = [math.exp(x / temperature) for x in logits]
    return [w / sum(weights) for w in weights]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_they_should(temperature: float) -> None:
    expected = torch.tensor(softmax(LOGITS[0].tolist(), temperature))
    torch.testing.assert_close(frequencies(temperature=temperature), expected, atol=1e-4, rtol=0)


def test_top_k_keeps_k_and_renormalises() -> None:
    kept = softmax([2.0, 1.0], 0.7)
    torch.testing.assert_close(
        frequencies(temperature=0.7, top_k=2), torch.tensor([*kept, 0.0, 0.0, 0.0]), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(("top_p", "n_kept"), [(1e-9, 1), (0.5, 1), (0.6, 2), (0.99, 5)])
def test_top_p_keeps_the_token_that_crosses(top_p: float, n_kept: int) -> None:
    # sorted probabilities: .5689 .2093 .1269 .0770 .0283 ...: cumulative .56, .77, .90, .97, 1
    assert int((frequencies(temperature=1.0, top_p=top_p) > 0).sum()) == n_kept


def test_log_probs_are_of_the_drawn_and_of_the_whole_distribution() -> None:
    tokens, drawn, whole = draw(LOGITS, torch.tensor([0.99]), temperature=0.7, top_k=2)
    full = softmax(LOGITS[0].tolist(), 0.7)
    assert tokens.tolist() == [1]
    assert float(whole) == pytest.approx(math.log(full[1]), abs=1e-12)
    assert float(drawn) == pytest.approx(math.log(full[1] / (full[0] + full[1])), abs=1e-12)


def test_greedy_takes_the_most_probable() -> None:
    tokens, drawn, whole = draw(LOGITS, torch.tensor([0.99]), temperature=0)
    assert tokens.tolist() == [0]
    assert float(drawn) == float(whole) == pytest.approx(math.log(softmax(LOGITS[0].tolist(), 1.0)[0]))


def test_a_token_of_probability_zero_never_comes() -> None:
    logits = torch.full((1, 50_000), float("-inf"))
    logits[0, 7] = 0.0
    for u in (0.0, 0.5, 1.0 - 2**-53):
        assert draw(logits, torch.tensor([u], dtype=torch.float64), temperature=1.0)[0].tolist() == [7]


def test_a_model_that_has_diverged_is_said() -> None:
    with pytest.raises(TrainingError, match="have diverged"):
        draw(LOGITS * math.nan, torch.tensor([0.5]), temperature=1.0)


def test_a_flat_distribution_beyond_the_prefilter_is_cut_where_it_should() -> None:
    logits = torch.linspace(0, 0.5, 2000, dtype=torch.float64)[None]
    n = 2000
    tokens, _, _ = draw(logits.expand(n, -1), (torch.arange(n) + 0.5) / n, temperature=1.0, top_p=0.9)
    order = logits[0].softmax(-1).flip(0).cumsum(0)
    smallest = 2000 - 1 - int((order < 0.9).sum())
    assert abs(int(tokens.min()) - smallest) <= 2
