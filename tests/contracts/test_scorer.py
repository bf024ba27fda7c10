"""The contract of the socket Scorer. A new plug is one more line in `SCORERS`; users may call `check_scorer` too."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.modeling_utils  # noqa: F401  (before clearppo: what its import hook imports is compiled anew)

from clearppo.batch import Rollout
from clearppo.feedback import FakeScorer, Scorer, WeightedScorer
from clearppo.feedback.function import FunctionScorer
from clearppo.feedback.http import HTTPScorer
from clearppo.feedback.http_client import HTTPClient
from clearppo.feedback.model import RewardModelScorer
from clearppo.feedback.worker import WorkerScorer
from tests.judge_server import judge_server
from tests.tiny import tiny_reward_model, tiny_rollout

TEXTS = ["The film", "I think that", "A dog", "What do you say?", "It is"]
ANSWERS = [" was a delight.", " the music and the people are wonderful", "", " That is bad!", " here"]
LENGTHS = [4, 9, 1, 6, 2]
MESSAGES = [[{"role": "user", "content": text}] for text in TEXTS]


def by_words(prompts: Any, completions: Any, bonus: Any, **columns: Any) -> list[float]:
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [len(text.split()) + extra for text, extra in zip(texts, bonus, strict=True)]


async def by_letters(completions: Any, prompts: Any) -> torch.Tensor:
    for mine in (prompts, completions):  # a rude function: what it is given is a copy
        mine.reverse()
    return torch.tensor([len(str(text)) / 7 for text in reversed(completions)])


def reward_model(folder: Path) -> RewardModelScorer:
    path = tiny_reward_model(folder / "reward-model")
    return RewardModelScorer.load(path, torch.device("cpu"), torch.float32, 2)


SERVERS = contextlib.ExitStack()


@pytest.fixture(scope="module", autouse=True)
def servers() -> Iterator[None]:
    """Those that a test has started live until this module's last one."""
    with SERVERS:
        yield
    server.cache_clear()
    worker.cache_clear()


@functools.cache
def server() -> HTTPScorer:
    return HTTPScorer(HTTPClient(SERVERS.enter_context(judge_server()).url), batch_size=2, concurrency=2)


@functools.cache
def worker() -> WorkerScorer:
    """With random numbers, which are the same for the same answers."""
    scorer = WorkerScorer(f"{Path(__file__).parent / 'rewards_of_a_worker.py'}:by_words")
    SERVERS.callback(scorer.close)
    return scorer


SCORERS: dict[str, Callable[[Path], Scorer]] = {
    "fake": lambda folder: FakeScorer(),
    "function": lambda folder: FunctionScorer(by_words),
    "async function": lambda folder: FunctionScorer(by_letters),
    "reward model": reward_model,
    "server": lambda folder: server(),
    "function in a worker": lambda folder: worker(),
    "weighted": lambda folder: WeightedScorer(
        [FakeScorer(), FunctionScorer(by_words), FunctionScorer(by_words), reward_model(folder)], [1.0, 0.5, 2.0, -1.0]
    ),
}


def make_rollout(texts: list[Any], order: list[int]) -> Rollout:
    """The same five rows in any order. Every cell is made from its row's number, so that rows can be told apart."""
    T = max(LENGTHS)
    lengths = [LENGTHS[i] for i in order]
    made = tiny_rollout(
        [texts[i] for i in order],
        [ANSWERS[i] for i in order],
        lengths=lengths,
        columns={"bonus": [float(i) for i in order]},
        finish_reasons=["length" if i % 2 else "stop" for i in order],
    )
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    responses = torch.tensor([[10 * i + j for j in range(T)] for i in order]) * mask
    return Rollout(
        **{field.name: getattr(made, field.name) for field in fields(made) if field.name not in ("mask", "responses")},
        mask=mask,
        responses=responses,
    )


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if hasattr(left, "__dataclass_fields__"):
        return all(same(getattr(left, field.name), getattr(right, field.name)) for field in fields(left))
    return bool(left == right)


def check_scorer(scorer: Scorer, make: Callable[[list[int]], Rollout]) -> None:
    """Everything that a Scorer promises. `make(order)` builds a rollout of at least three rows in that order."""
    rows = [0, 1, 2, 3, 4]
    rollout = make(rows)
    before = copy.deepcopy(rollout)
    scores = scorer(rollout)

    assert isinstance(scorer, Scorer)
    assert scores.total.shape == (len(rollout),)
    assert scores.total.dtype == torch.float32
    assert scores.total.device == rollout.responses.device
    assert scores.total.isfinite().all()
    assert not scores.total.requires_grad

    assert len(set(scorer.names)) == len(scorer.names) > 0
    assert tuple(scores.parts) == tuple(scorer.names)
    assert all(part.shape == (len(rollout),) for part in scores.parts.values())

    assert same(rollout, before), "the scorer changed the rollout"
    again = scorer(rollout)
    assert torch.equal(again.total, scores.total), "the same rollout got other scores"

    order = [3, 0, 4, 2, 1]
    permuted = scorer(make(order))
    assert torch.allclose(permuted.total, scores.total[order], atol=1e-4), "a row's score depends on its place"
    for name, part in scores.parts.items():
        assert torch.allclose(permuted.parts[name], part[order], atol=1e-4)

    few = scorer(make([2, 1]))
    assert torch.allclose(few.total, scores.total[[2, 1]], atol=1e-4), "a row's score depends on its neighbours"


@pytest.mark.parametrize("kind", SCORERS)
@pytest.mark.parametrize("texts", [TEXTS, MESSAGES], ids=["strings", "messages"])
def test_contract(kind: str, texts: list[Any], tmp_path: Path) -> None:
    check_scorer(SCORERS[kind](tmp_path), lambda order: make_rollout(copy.deepcopy(texts), order))


def test_the_contract_catches_offenders() -> None:
    """The suite is no formality: each of these breaks one promise."""

    class Offender(FakeScorer):
        def __init__(self, spoil: Callable[[Rollout, torch.Tensor], torch.Tensor]) -> None:
            super().__init__()
            self.spoil = spoil

        def __call__(self, rollout: Rollout) -> Any:
            total = self.spoil(rollout, super().__call__(rollout).total)
            return type(super().__call__(rollout))(total=total, parts={"length": total})

    def edits(rollout: Rollout, total: torch.Tensor) -> torch.Tensor:
        rollout.responses[0, 0] += 1
        return total

    spoilers: dict[str, Callable[[Rollout, torch.Tensor], torch.Tensor]] = {
        "changed the rollout": edits,
        "other scores": lambda rollout, total: total + torch.rand(()),
        "place": lambda rollout, total: total + torch.arange(len(total)),
        "neighbours": lambda rollout, total: total - total.mean(),
        "isfinite": lambda rollout, total: total / 0,
        "float32": lambda rollout, total: total.double(),
    }
    for promise, spoil in spoilers.items():
        with pytest.raises(AssertionError, match=promise):
            check_scorer(Offender(spoil), lambda order: make_rollout(TEXTS, order))
