"""Bringing scores to one scale before they become rewards: by the moments of all scores so far, or by fixed ones.

A scaling is a value, like a KL coefficient (kl.py): `updated` gives the next one and changes nothing in place. Its
moments are plain numbers, computed in double precision on the host, because there is one score a response only.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from clearppo.core.masks import widen

# The source's: nothing has been seen, and no division by 0. Its first variance is 1 and not 0, which at this weight no
# score can tell from 0, but for scores that are all 0: those would have a spread of 1e-12.
FIRST_COUNT = 1e-24

# Scores that are all equal have, by rounding, a standard deviation of 1e-16 times their mean rather than 0. Scores are
# float32, so no spread that they can show is below 6e-8 times their mean.
NO_SPREAD = 1e-9


@dataclass(frozen=True)
class RunningMoments:
    """Count, mean and population variance of everything seen so far.

    Source: PPO-max (MOSS-RLHF utils.py:88-125), the merge of two samples' moments after Welford and Chan et al.
    """

    count: float | int = FIRST_COUNT
    mean: float | int = 0.0
    var: float | int = 0.0

    @property
    def std(self) -> float:
        """sqrt(var * count / (count - 1)), the unbiased one; 1 while there is no spread to tell.

        That is so before the second score, where the source divides by 0, and as long as all scores were equal.
        """
        if self.count <= 1:
            return 1.0
        return _spread(math.sqrt(self.var * self.count / (self.count - 1)), self.mean)

    def updated(self, scores: Float[Tensor, " B"]) -> "RunningMoments":
        """The moments after these scores too. With n scores of mean m and population variance v, and d = m - mean:

            mean <- mean + d * n / (count + n)
            var  <- (var * count + v * n + d^2 * count * n / (count + n)) / (count + n)

        Raises ValueError if there is no score, or one that is not finite, which would spoil every later one.
        """
        n, mean, var = _moments(scores)
        total, delta = self.count + n, mean - self.mean
        squares = self.var * self.count + var * n + delta**2 * self.count * n / total
        return RunningMoments(count=total, mean=self.mean + delta * n / total, var=squares / total)


@dataclass(frozen=True)
class RunningScaling:
    """Scores in standard deviations of all scores so far: score / std, or (score - mean) / std if `centred`.

    Source: PPO-max (MOSS-RLHF ppo/ppo_trainer.py:308-321), "reward scaling" and "reward normalisation". There a batch
    counts among the scores so far before it is scaled: `scaling.updated(scores).scaled(scores)`.
    """

    centred: bool = False
    moments: RunningMoments = field(default_factory=RunningMoments)

    def updated(self, scores: Float[Tensor, " B"]) -> "RunningScaling":
        """The scaling that has seen these scores too. Raises ValueError as `RunningMoments.updated`."""
        return replace(self, moments=self.moments.updated(scores))

    def scaled(self, scores: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The scores, scaled by what was seen so far."""
        return (widen(scores) - (self.moments.mean if self.centred else 0.0)) / self.moments.std

    def state(self) -> dict[str, float | int]:
        """The moments so far: what `restored` needs to go on from there."""
        return asdict(self.moments)

    def restored(self, state: Mapping[str, float | int]) -> "RunningScaling":
        """This scaling with the moments of a state."""
        return replace(self, moments=RunningMoments(**state))


@dataclass(frozen=True)
class FixedMoments:
    """(score - mean) / std by moments measured once, as on the start policy's answers.

    lm-human-preferences (train_reward.py:162-168, 207-219) brings its reward model to mean 0 and deviation 1 so, with
    the population variance: gain = 1 / std, bias = -mean / std.

    Raises ValueError if `mean` is not finite or `std` not positive and finite.
    """

    mean: float | int
    std: float | int

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean):
            raise ValueError(f"mean = {self.mean}; it must be a finite number. Use 0 to leave the mean as it is.")
        if not 0 < self.std < math.inf:
            raise ValueError(f"std = {self.std}; it must be above 0 and finite. Use 1 to leave the scale as it is.")

    @classmethod
    def of(cls, scores: Float[Tensor, " B"]) -> "FixedMoments":
        """The moments of these scores. Without a spread (one score, or all equal) only the mean is taken off: std 1.

        Raises ValueError if there is no score, or one that is not finite.
        """
        _, mean, var = _moments(scores)
        return cls(mean=mean, std=_spread(math.sqrt(var), mean))

    def updated(self, scores: Float[Tensor, " B"]) -> "FixedMoments":
        """Itself, whatever was seen."""
        return self

    def scaled(self, scores: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The scores by these moments."""
        return (widen(scores) - self.mean) / self.std

    def state(self) -> dict[str, float | int]:
        """The two numbers: they may have been measured."""
        return asdict(self)

    def restored(self, state: Mapping[str, float | int]) -> "FixedMoments":
        """The moments of a state."""
        return FixedMoments(**state)


ScoreScaling = RunningScaling | FixedMoments


def _moments(scores: Float[Tensor, " B"]) -> tuple[int, float, float]:
    """(n, mean, population variance)."""
    values = scores.detach().to("cpu", torch.float64)
    wrong = values[~values.isfinite()]
    if not len(values) or len(wrong):
        what = f"a score is {float(wrong[0])}" if len(wrong) else "there is no score"
        raise ValueError(f"{what}; moments need one score at least, and finite ones. Check the source of the scores.")
    return len(values), float(values.mean()), float(values.var(correction=0))


def _spread(std: float, mean: float | int) -> float:
    """`std`, or 1 where it is nothing but rounding."""
    return std if std > NO_SPREAD * abs(mean) else 1.0
