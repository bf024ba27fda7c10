"""What an iteration did, by hand values: vectors, distances, tokens; and a batch as the record gives it back."""

import math
from pathlib import Path

import pytest
import torch

from clearppo.batch import Experience, Stats
from clearppo.build.replay import replay
from clearppo.models.policy import Analysis
from clearppo.record import Iteration, iteration_path
from clearppo.train.ppo import Recipe
from clearppo.train.replay.batch import RecordedBatch, read_batch
from clearppo.train.replay.effect import alike, effect, moved_most
from clearppo.train.replay.step import Learned
from tests.replay.conftest import Ran


def batch_of(run: Path, step: int) -> RecordedBatch:
    return read_batch(iteration_path(run, step), pad_id=1, device=torch.device("cpu"))


def analysis(log_probs: torch.Tensor, values: torch.Tensor) -> Analysis:
    return Analysis(log_probs=log_probs, entropy=torch.full_like(log_probs, 0.25), values=values)


def test_vectors_that_are_cut_into_named_tensors() -> None:
    left = {"actor.a": torch.tensor([3.0, 0.0]), "critic.b": torch.tensor([[4.0]])}
    right = {"actor.a": torch.tensor([0.0, 3.0]), "critic.b": torch.tensor([[-8.0]])}
    found = alike(left, right)
    assert set(found) == {"all", "policy", "critic"}
    assert (found["all"].norm, found["policy"].norm, found["critic"].norm_changed) == (5.0, 3.0, 8.0)
    assert found["policy"].cosine == 0
    assert found["critic"].cosine == -1
    assert found["all"].cosine == pytest.approx(-32 / (5 * math.sqrt(73)))


def test_vectors_seen_from_an_origin() -> None:
    origin = {"actor.a": torch.tensor([1.0, 1.0])}
    found = alike({"actor.a": torch.tensor([2.0, 1.0])}, {"actor.a": torch.tensor([1.0, 1.0])}, origin)["all"]
    assert (found.norm, found.norm_changed, found.cosine) == (1.0, 0.0, None)


def test_a_gradient_that_only_one_of_them_has() -> None:
    found = alike({"critic.b": torch.tensor([2.0])}, {"actor.a": torch.tensor([2.0])})
    assert found["critic"].norm_changed == found["policy"].norm == 0
    assert found["all"].cosine == 0


def test_vectors_longer_than_what_is_summed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearppo.train.replay.effect._CHUNK", 3)
    values = torch.arange(8.0).view(2, 4)
    assert alike({"actor.a": values}, {"actor.a": values})["all"].norm == pytest.approx(math.sqrt(140))


def test_distances_by_hand(ran: Ran) -> None:
    """Every token becomes e^0.1 times as likely, but one, which becomes half as likely."""
    batch = batch_of(ran("shared"), 3)
    mask = batch.rollout.mask
    n = int(mask.sum())
    old = batch.rollout.old_log_probs
    new = torch.where(mask, old + 0.1, 0.0)
    row = int(mask.sum(dim=1).argmax())  # of several tokens
    new[row, 1] = old[row, 1] + math.log(0.5)
    returns = torch.where(mask, torch.arange(mask.numel(), dtype=torch.float32).view(mask.shape), 0.0)
    learned = Learned(
        experience=Experience(
            rollout=batch.rollout, advantages=returns, returns=returns, ref_log_probs=batch.feedback.ref_log_probs
        ),
        stats=Stats.empty(),
        learning_rate=0.0,
        steps=4,
    )
    before, after = analysis(old, returns), analysis(new, returns + mask)
    numbers = effect(batch, learned, Recipe(n_iterations=6), before, after, has_critic=True)
    usual, other = math.exp(0.1) - 1 - 0.1, 0.5 - 1 + math.log(2)
    assert numbers["optimiser_steps"] == 4
    assert numbers["kl_after"] == pytest.approx(((n - 1) * usual + other) / n, rel=1e-5)
    assert numbers["kl_after_largest"] == pytest.approx(other, rel=1e-5)
    assert numbers["entropy_after"] == pytest.approx(0.25)
    variance = float(returns[mask].double().var(correction=0))
    assert numbers["explained_var_after"] == pytest.approx(1 - 1 / variance, rel=1e-5)
    moved = moved_most(batch, returns, torch.ones(8, dtype=torch.bool), before, after, None, count=3)
    change = (new.exp() - old.exp()).abs()
    assert [t.after - t.before for t in moved] == pytest.approx(
        [float(x) for x in (new.exp() - old.exp())[mask][change[mask].topk(3).indices]], abs=1e-7
    )
    first = moved[0]
    assert first.text == batch.pieces[first.row][first.token]
    assert first.advantage == float(returns[first.row, first.token])
    whole = "".join(batch.pieces[first.row])
    assert f"{first.left}{first.text}{first.right}" in whole


def test_a_batch_as_the_record_gives_it_back(ran: Ran) -> None:
    run = ran("shared")
    batch = batch_of(run, 2)
    iteration = Iteration(iteration_path(run, 2))
    for row in range(8):
        answer, length = iteration.answer(row), int(batch.rollout.mask[row].sum())
        ids = batch.rollout.prompts.ids[row][batch.rollout.prompts.mask[row]]
        assert ids.tolist() == answer["prompt_ids"]
        assert batch.rollout.prompts.mask[row, -1]
        assert batch.rollout.responses[row, :length].tolist() == answer["token_ids"]
        assert batch.rollout.old_log_probs[row, :length].tolist() == answer["log_probs"]
        assert batch.feedback.rewards[row, :length].tolist() == answer["rewards"]
        assert float(batch.feedback.scores[row]) == answer["score"]
        assert batch.pieces[row] == tuple(answer["tokens"])
        assert not batch.rollout.old_log_probs[row, length:].any()


def test_tokens_are_told_as_many_as_asked_for(ran: Ran) -> None:
    assert len(replay(ran("shared"), 5, tokens=3).outcome.tokens) == 3
    assert replay(ran("shared"), 5, tokens=0).outcome.tokens == []
    assert len(replay(ran("shared"), 5, tokens=10**6).outcome.tokens) == int(
        batch_of(ran("shared"), 5).rollout.mask.sum()
    )
