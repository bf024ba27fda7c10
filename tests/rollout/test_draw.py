"""Drawing a token: the right distribution, the right log-probs, nothing that was cut off."""

import math

import pytest
import torch

from clearppo.errors import TrainingError
from clearppo.rollout.draw import PREFILTER, doubling, draw, on_host, row_stream

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
    logits = torch.cat([LOGITS, LOGITS * math.nan, LOGITS + math.inf])
    for temperature in (0, 1.0):
        tokens, _, _ = draw(logits, torch.full((3,), 0.5), temperature=temperature, top_k=3, top_p=0.9)
        assert tokens[0] >= 0
        assert tokens[1:].tolist() == [-1, -1]
        with pytest.raises(TrainingError, match="have diverged"):
            on_host(tokens)
    assert on_host(tokens[:1]) == tokens[:1].tolist()


def test_a_flat_distribution_beyond_the_prefilter_is_cut_where_it_should() -> None:
    logits = torch.linspace(0, 0.5, 2000, dtype=torch.float64)[None]
    n = 2000
    tokens, _, _ = draw(logits.expand(n, -1), (torch.arange(n) + 0.5) / n, temperature=1.0, top_p=0.9)
    order = logits[0].softmax(-1).flip(0).cumsum(0)
    smallest = 2000 - 1 - int((order < 0.9).sum())
    assert abs(int(tokens.min()) - smallest) <= 2


def plain_draw(logits: list[float], u: float, temperature: float, top_k: int, top_p: float) -> tuple[int, float, float]:
    """Token and its two log-probs from sorted lists of Python numbers. No ties."""
    highest = max(logits)
    weights = {i: math.exp((x - highest) / temperature) for i, x in enumerate(logits)}
    order = sorted(weights, key=lambda i: -weights[i])
    if top_k:
        order = order[:top_k]
    left, before, kept = sum(weights[i] for i in order), 0.0, []
    for i in order:
        if before < top_p * left or not kept:
            kept.append(i)
        before += weights[i]
    total = sum(weights[i] for i in kept)
    running = 0.0
    for i in sorted(kept):
        running += weights[i]
        if running > u * total:
            return i, math.log(weights[i] / total), math.log(weights[i] / sum(weights.values()))
    raise AssertionError("u is not below 1")


@pytest.mark.parametrize("V", [7, 128, 600, 1500])
@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.3), (0, 0.95), (40, 0.8), (550, 0.999)], ids=str
)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=["f64", "f32"])
def test_every_row_is_that_of_a_plain_loop(V: int, top_k: int, top_p: float, dtype: torch.dtype, atol: float) -> None:
    torch.manual_seed(V)
    # Peaked rows and flat ones in one batch: the prefilter of top_p reaches some of them only.
    logits = torch.randn(12, V, dtype=dtype) * torch.tensor([8.0, 2.0, 0.1], dtype=dtype).repeat(4)[:, None]
    uniform = torch.rand(12, dtype=torch.float64)
    tokens, drawn, own = draw(logits, uniform, temperature=0.8, top_k=top_k, top_p=top_p)
    assert drawn.dtype == own.dtype == dtype
    missed = 0
    for row, token in enumerate(on_host(tokens)):
        expected, cut, whole = plain_draw(logits[row].tolist(), float(uniform[row]), 0.8, top_k, top_p)
        if dtype == torch.float32 and token != expected:
            missed += 1  # a threshold that lies within float32's rounding of a border
            continue
        assert token == expected
        assert float(drawn[row]) == pytest.approx(cut, abs=atol)
        assert float(own[row]) == pytest.approx(whole, abs=atol)
    assert missed <= 1
    alone = [draw(logits[i : i + 1], uniform[i : i + 1], temperature=0.8, top_k=top_k, top_p=top_p) for i in range(12)]
    assert torch.equal(torch.cat([one[0] for one in alone]), tokens)
    assert torch.equal(torch.cat([one[1] for one in alone]), drawn)


def test_the_prefilter_is_reached_by_some_rows_only() -> None:
    flat, peaked = torch.zeros(1, 3 * PREFILTER), torch.linspace(0, -200, 3 * PREFILTER)[None]
    n = 3000
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for one, most in ((flat, 3 * PREFILTER), (peaked, 18)):  # e^(-200 / 1536 x) falls to a tenth within 18 tokens
        tokens, _, _ = draw(
            torch.cat([one.expand(n, -1), flat]), torch.cat([grid, grid[:1]]), temperature=1.0, top_p=0.9
        )
        assert len(set(tokens[:-1].tolist())) == most


def test_a_number_next_to_one_stays_within_the_vocabulary() -> None:
    for dtype in (torch.float32, torch.float64):
        logits = torch.randn(200, 3000, dtype=dtype)
        logits[:, -500:] = float("-inf")
        tokens, drawn, _ = draw(logits, torch.full((200,), 1 - 2**-53, dtype=torch.float64), temperature=1.0, top_k=900)
        assert drawn.isfinite().all()
        assert int(tokens.max()) < 2500


def test_streams_are_even_and_unlike_each_other() -> None:
    numbers = torch.tensor([row_stream(3, row).random() for row in range(5000)])
    streams = [row_stream(3, row) for row in range(100)]
    more = torch.tensor([[stream.random() for _ in range(100)] for stream in streams])
    for drawn in (numbers, more.flatten()):
        assert float(drawn.mean()) == pytest.approx(0.5, abs=0.015)
        counts = torch.histc(drawn, 20, 0, 1)
        expected = drawn.numel() / 20
        assert float(((counts - expected) ** 2 / expected).sum()) < 43.8  # chi-squared, 19 degrees of freedom, 0.1 %
    assert abs(float(torch.corrcoef(torch.stack([more[:-1].flatten(), more[1:].flatten()]))[0, 1])) < 0.03
    assert row_stream(31, 2).random() != row_stream(3, 12).random()
    again, shorter = row_stream(3, 2), row_stream(3, 2)
    assert [again.random() for _ in range(9)][:4] == [shorter.random() for _ in range(4)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (40, 1.0), (0, 0.9), (40, 0.9)])
def test_a_cuda_device_draws_the_same_and_is_not_waited_for(top_k: int, top_p: float) -> None:
    logits, uniform = torch.randn(64, 50_000, dtype=torch.float64) * 3, torch.rand(64, dtype=torch.float64)
    expected = draw(logits, uniform, temperature=0.9, top_k=top_k, top_p=top_p)
    there = logits.cuda(), uniform.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = draw(*there, temperature=0.9, top_k=top_k, top_p=top_p)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert on_host(found[0]) == expected[0].tolist()
    torch.testing.assert_close(found[1].cpu(), expected[1], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("width", [1, 2, 3, 127, 128, 1000])
def test_the_running_sum_of_deterministic_gpus(width: int) -> None:
    weights = torch.rand(4, width, dtype=torch.float64, generator=torch.Generator().manual_seed(width))
    torch.testing.assert_close(doubling(weights), weights.cumsum(dim=-1), rtol=1e-12, atol=0)
