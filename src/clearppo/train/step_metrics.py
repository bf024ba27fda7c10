"""Every number in the metrics.jsonl and timings.jsonl of `clearppo sft` and `clearppo reward`: name, unit, formula.

One line a step. A number that begins with eval/ speaks of the held-out rows and stands in the lines of those steps
after which they were looked at.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from clearppo.batch import Stats
from clearppo.learning.faults import SKIPPED
from clearppo.train.registry import COMMUNICATION, MEMORY, SECONDS, Registry


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimiser step, finished. `held_out` is empty unless the held-out rows were looked at after it.

    `epoch` counts passes over the training rows, `tokens` all that went through the model in this step.
    """

    stats: Stats
    held_out: Stats
    epoch: float
    tokens: int
    learning_rate: float
    seconds: Mapping[str, float]
    memory: Mapping[str, float] = field(default_factory=dict)
    communication: Mapping[str, float] = field(default_factory=dict)


SFT: Registry[Step] = Registry()
REWARD: Registry[Step] = Registry()


def measure(registry: Registry[Step], step: Step) -> dict[str, float]:
    """All registered metrics of a step, and the seconds and the peak memory of each phase."""
    seconds = {f"{SECONDS}{phase}": seconds for phase, seconds in step.seconds.items()}
    memory = {f"{MEMORY}{phase}": taken for phase, taken in step.memory.items()}
    talked = {f"{COMMUNICATION}{phase}": seconds for phase, seconds in step.communication.items()}
    return registry.measure(step) | seconds | memory | talked


@SFT.metric("loss", "nats per token")
def sft_loss(s: Step) -> float | None:
    """mean over the learned tokens of the batch of -log p(token | what stands before it), before the step. Absent where
    the step could not be taken (faults/skipped_steps)."""
    return _mean_or_none(s.stats, "loss")


@SFT.metric("eval/loss", "nats per token")
def sft_held_out_loss(s: Step) -> float | None:
    """The same mean over the learned tokens of all held-out rows, after the step."""
    return _mean_or_none(s.held_out, "loss")


@SFT.metric("eval/perplexity", "1")
def perplexity(s: Step) -> float | None:
    """exp(eval/loss): among how many tokens the model hesitates, in the geometric mean."""
    loss = sft_held_out_loss(s)
    return None if loss is None else math.exp(min(loss, 700.0))


@REWARD.metric("loss", "nats per pair, or per prompt")
def reward_loss(s: Step) -> float | None:
    """mean over the batch of the loss that --rm_loss names, centring included, before the step: over pairs for pairwise
    and all-token, over prompts for k-wise and best-of-n. Absent where the step could not be taken
    (faults/skipped_steps), as is all else that is measured in learning."""
    return _mean_or_none(s.stats, "loss")


@REWARD.metric("accuracy", "share of pairs")
def accuracy(s: Step) -> float | None:
    """Share of the batch's pairs whose better answer has the higher score, before the step; a tie is wrong."""
    return _mean_or_none(s.stats, "accuracy")


@REWARD.metric("margin", "score")
def margin(s: Step) -> float | None:
    """mean over the batch's pairs of score(better) - score(worse), before the step."""
    return _mean_or_none(s.stats, "margin")


@REWARD.metric("score/mean", "score")
def score_mean(s: Step) -> float | None:
    """mean over the batch's answers of their score, before the step. A preference loss alone leaves it free."""
    return _mean_or_none(s.stats, "mean_score")


@REWARD.metric("score/std", "score")
def score_std(s: Step) -> float | None:
    """Standard deviation (population) over the batch's answers of their score, before the step."""
    mean, square = score_mean(s), _mean_or_none(s.stats, "squared_score")
    return None if mean is None or square is None else math.sqrt(max(square - mean**2, 0.0))


@REWARD.metric("eval/loss", "nats per pair, or per prompt")
def reward_held_out_loss(s: Step) -> float | None:
    """The same mean over the held-out comparisons, after the step."""
    return _mean_or_none(s.held_out, "loss")


@REWARD.metric("eval/accuracy", "share of pairs")
def held_out_accuracy(s: Step) -> float | None:
    """Share of the held-out pairs whose better answer has the higher score, after the step; a tie is wrong."""
    return _mean_or_none(s.held_out, "accuracy")


@REWARD.metric("eval/margin", "score")
def held_out_margin(s: Step) -> float | None:
    """mean over the held-out pairs of score(better) - score(worse), after the step."""
    return _mean_or_none(s.held_out, "margin")


@SFT.metric("epoch", "passes")
@REWARD.metric("epoch", "passes")
def epoch(s: Step) -> float:
    """Rows learned from since the start of the run / training rows."""
    return s.epoch


@SFT.metric("lr", "1")
@REWARD.metric("lr", "1")
def learning_rate(s: Step) -> float:
    """The learning rate of this step."""
    return s.learning_rate


@SFT.metric("faults/skipped_steps", "steps")
@REWARD.metric("faults/skipped_steps", "steps")
def skipped_steps(s: Step) -> float:
    """1 if this step was not taken, because its loss or gradient was not finite (--max_bad_steps), else 0."""
    return s.stats.sums.get(SKIPPED, 0.0)


@SFT.metric("grad_norm", "1")
@REWARD.metric("grad_norm", "1")
def grad_norm(s: Step) -> float | None:
    """Global gradient norm before clipping."""
    return _mean_or_none(s.stats, "grad_norm")


@SFT.metric("tokens_per_second", "tokens per second", clock=True)
@REWARD.metric("tokens_per_second", "tokens per second", clock=True)
def tokens_per_second(s: Step) -> float:
    """Tokens of the batch, prompts included and padding not / the seconds of learning from them."""
    return s.tokens / max(s.seconds.get("learning", 0.0), 1e-9)


def _mean_or_none(stats: Stats, name: str) -> float | None:
    return stats.mean(name) if stats.counts.get(name) else None
