"""What a policy is worth on prompts that it was not trained on, in numbers with their uncertainty."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from clearppo.batch import ALONE, Division, FinishReason, Prompts
from clearppo.feedback.reference import Reference
from clearppo.feedback.scorer import Scorer
from clearppo.models.policy import Policy
from clearppo.rollout import Sampler, Truncation, sample

NGRAM = 4


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One answer a prompt. `scores` has one list a measure, `parts` one for each source of a measure that is a sum of
    several (NaN: it does not speak about that answer); `kl` is that of each answer from the reference, in nats."""

    completions: tuple[str, ...]
    finish_reasons: tuple[FinishReason, ...]
    scores: Mapping[str, tuple[float, ...]]
    parts: Mapping[str, tuple[float, ...]]
    kl: tuple[float, ...]
    lengths: tuple[int, ...]
    repetition: float


def evaluate(
    policy: Policy, prompts: Prompts, *, sampler: Sampler, reference: Reference, scorers: Mapping[str, Scorer],
    micro_batch_size: int = 16, micro_batch_tokens: int | None = None, truncation: Truncation | None = None,
    kl_temperature: float | None = None, division: Division = ALONE,
) -> Evaluation:  # fmt: skip
    """Sample one answer a prompt and measure it with every scorer, optimised or not.

    With `truncation` the scorers read what they read in training; KL, lengths and repetition are of the whole answer.
    The KL of an answer is the sum of log p - log p_ref over its tokens. With `kl_temperature` it is the sum of the
    exact KL(policy || reference) of the next token before each of them, both at that temperature: what can be said of
    greedy answers, whose own log-probs are no sample.
    """
    whose = "auto" if kl_temperature is None else "sampler"
    rollout = sample(
        policy, prompts, sampler, old_log_probs=whose, micro_batch_size=micro_batch_size,
        micro_batch_tokens=micro_batch_tokens, truncation=truncation, division=division,
    )  # fmt: skip
    if kl_temperature is None:
        kl = rollout.old_log_probs - reference.log_probs(rollout)
    else:
        kl = reference.full_kl(replace(rollout, temperature=kl_temperature))
    lengths = tuple(int(n) for n in rollout.mask.sum(dim=1))
    tokens = [row[:n] for row, n in zip(rollout.responses.tolist(), lengths, strict=True)]
    measured = {name: scorer(rollout) for name, scorer in scorers.items()}
    several = [scores.parts for scores in measured.values() if len(scores.parts) > 1]
    return Evaluation(
        completions=rollout.completions,
        finish_reasons=rollout.finish_reasons,
        scores={name: tuple(scores.total.tolist()) for name, scores in measured.items()},
        parts={name: tuple(part.tolist()) for parts in several for name, part in parts.items()},
        kl=tuple(kl.masked_fill(~rollout.mask, 0.0).sum(dim=1).tolist()),
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
