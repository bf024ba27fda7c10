"""Asking the sources of scores: about sampled answers, and about answers that were made up."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch

from clearppo.batch import Prompts, Rollout
from clearppo.errors import ClearPPOError, ModelError, RewardError
from clearppo.feedback.scorer import Scorer, Scores, WeightedScorer
from clearppo.train.agreement import pearson

MOST_REPEATED = 256
"""Tokens in an answer of one token again and again, at most."""


class Given:
    """A scorer that gives scores which are known already."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.names = tuple(scores.parts)

    def __call__(self, rollout: Rollout) -> Scores:
        return self.scores


@dataclass(frozen=True, kw_only=True)
class Replies:
    """What the sources said of one rollout: together, each alone, and the first error instead (then both are None)."""

    total: Sequence[float] | None
    scores: Sequence[Scores] | None
    error: ClearPPOError | None = None
    culprit: int = -1
    seconds: Sequence[float] = ()

    @property
    def finite(self) -> list[float]:
        """The scores of the answers that have one."""
        return [score for score in self.total or () if math.isfinite(score)]

    def as_scorer(self, scorer: WeightedScorer) -> WeightedScorer:
        """A scorer that says the same again and asks nobody."""
        assert self.scores is not None
        return WeightedScorer([Given(s) for s in self.scores], scorer.weights, drop_missing=scorer.drop_missing)


def ask(scorer: WeightedScorer, rollout: Rollout) -> Replies:
    """Ask every source once. What is wrong with one of them is a reply, too."""
    scores: list[Scores] = []
    seconds: list[float] = []
    for place, source in enumerate(scorer.sources):
        began = time.perf_counter()
        try:
            scores.append(source(rollout))
        except (RewardError, ModelError) as error:
            return Replies(total=None, scores=None, error=error, culprit=place)
        seconds.append(time.perf_counter() - began)
    replies = Replies(total=[], scores=scores, seconds=seconds)
    try:
        total = replies.as_scorer(scorer)(rollout).total
    except RewardError as error:
        return Replies(total=None, scores=None, error=error)
    return replace(replies, total=total.double().tolist())


def scorable(scorer: WeightedScorer, rollout: Rollout) -> list[int]:
    """The rows that have a score if they are asked about alone."""
    return [row for row in range(len(rollout)) if ask(scorer, chosen(rollout, [row])).finite]


def by_prompt(rollout: Rollout) -> list[list[int]]:
    """Neighbouring rows that answer the same prompt."""
    texts = rollout.prompts.texts
    return [list(rows) for _, rows in groupby(range(len(rollout)), key=lambda row: texts[row])]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What one source of scores is like, asked twice or more about the same answers. `agreement` is the correlation of
    its two replies (None: they are the same), `by_order` says that it was the order of the rows which made the
    difference; `none` the share of answers that it does not score."""

    name: str
    milliseconds: float
    none: float
    agreement: float | None
    by_order: bool


def look_at(source: Scorer, rollout: Rollout, first: Scores) -> Source:
    """Ask again with the rows turned round; and if that makes a difference, once more as they were.

    Raises RewardError.
    """
    n = len(rollout)
    backwards = list(range(n))[::-1]
    began = time.perf_counter()
    turned = source(chosen(rollout, backwards)).total[backwards]
    milliseconds = (time.perf_counter() - began) / n * 1e3
    agreement, by_order = correlation(first.total, turned), False
    if agreement is not None:
        again = correlation(first.total, source(rollout).total)
        by_order, agreement = again is None, agreement if again is None else again
    none = float(first.total.isnan().float().mean())
    return Source(
        name=", ".join(source.names), milliseconds=milliseconds, none=none, agreement=agreement, by_order=by_order
    )


def correlation(one: torch.Tensor, other: torch.Tensor) -> float | None:
    """How two replies go together; None if they are the same but for rounding."""
    both = one.isfinite() & other.isfinite()
    x, y = one[both].double(), other[both].double()
    if bool((one.isfinite() == other.isfinite()).all()) and torch.allclose(x, y, rtol=1e-4, atol=1e-6):
        return None
    found = pearson(x.tolist(), y.tolist()) if len(x) > 1 else None
    return 0.0 if found is None else found


def chosen(rollout: Rollout, rows: Sequence[int]) -> Rollout:
    """These answers, in this order."""
    index = torch.tensor(list(rows), device=rollout.responses.device)
    tensors = ("responses", "mask", "old_log_probs", "old_values", "sampler_log_probs")
    return replace(
        rollout,
        prompts=rollout.prompts.select(rows),
        finish_reasons=tuple(rollout.finish_reasons[i] for i in rows),
        completions=tuple(rollout.completions[i] for i in rows),
        **{name: getattr(rollout, name)[index] for name in tensors},
    )


def made_up(prompts: Prompts, completions: Sequence[str], tokenizer: Any) -> Rollout:
    """A rollout of answers that nobody sampled, each with its EOS. Its log-probs and values are 0."""
    end = [tokenizer.eos_token_id]
    ids = [[*tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], *end] for text in completions]
    width = max(map(len, ids))
    responses = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=prompts.ids.device)
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in ids], device=prompts.ids.device)
    nothing = torch.zeros(responses.shape, device=responses.device)
    return Rollout(
        prompts=prompts, responses=responses, mask=mask, old_log_probs=nothing, old_values=nothing,
        sampler_log_probs=nothing, finish_reasons=("stop",) * len(ids), completions=tuple(completions),
        temperature=1.0, policy_version=0,
    )  # fmt: skip


def edge_cases(rollout: Rollout, rows: Sequence[int], tokenizer: Any, length: int) -> Mapping[str, list[str]]:
    """Answers to the prompts of these rows that no good model gives, by what they are called."""
    repeated = [[int(rollout.responses[row, 0])] * min(length, MOST_REPEATED) for row in rows]
    texts = [rollout.prompts.texts[row] for row in rows]
    return {
        "an empty answer": [""] * len(rows),
        "a blank answer": [" \n"] * len(rows),
        "one token again and again": [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in repeated],
        "the prompt once more": [text if isinstance(text, str) else text[-1]["content"] for text in texts],
    }
