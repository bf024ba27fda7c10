"""What a policy is worth on prompts that it was not trained on, in numbers with their uncertainty."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clearppo.batch import Prompts
from clearppo.feedback.reference import Reference
from clearppo.feedback.scorer import Scorer
from clearppo.models.policy import Policy
from clearppo.rollout import Sampler, Truncation, sample

NGRAM = 4


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One answer a prompt. `scores` has one list a measure, `kl` is log p - log p_ref of each answer, in nats."""

    completions: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]]
    kl: tuple[float, ...]
    lengths: tuple[int, ...]
    repetition: float


def evaluate(
    policy: Policy, prompts: Prompts, *, sampler: Sampler, reference: Reference, scorers: Mapping[str, Scorer],
    micro_batch_size: int = 16, truncation: Truncation | None = None,
) -> Evaluation:  # fmt: skip
    """Sample one answer a prompt and measure it with every scorer, optimised or not.

    With `truncation` the scorers read what they read in training; KL, lengths and repetition are of the whole answer.
    """
    rollout = sample(policy, prompts, sampler, micro_batch_size=micro_batch_size, truncation=truncation)
    kl = (rollout.old_log_probs - reference.log_probs(rollout)).masked_fill(~rollout.mask, 0.0).sum(dim=1)
    lengths = tuple(int(n) for n in rollout.mask.sum(dim=1))
    tokens = [row[:n] for row, n in zip(rollout.responses.tolist(), lengths, strict=True)]
    return Evaluation(
        completions=rollout.completions,
        scores={name: tuple(scorer(rollout).total.tolist()) for name, scorer in scorers.items()},
        kl=tuple(kl.tolist()),
        lengths=lengths,
        repetition=repetition_rate(tokens),
    )


def repetition_rate(answers: Sequence[Sequence[int]], n: int = NGRAM) -> float:
    """Share of n-grams that occurred before in the same answer, over all answers; 0 if none is long enough."""
    total = repeated = 0
    for tokens in answers:
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        total += len(grams)
        repeated += len(grams) - len(set(grams))
    return repeated / total if total else 0.0


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (normal approximation; infinite for a single value)."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.inf
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, 1.96 * math.sqrt(variance / n)


def wins(after: Sequence[float], before: Sequence[float]) -> list[float]:
    """For each answer 1 if it scores higher after than before, 0 if lower, 1/2 if equal; their mean is the win rate."""
    return [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(after, before, strict=True)]
