"""Is a reward model good enough for PPO? A verdict in words, with its reasons; the numbers behind it stand here."""

from dataclasses import dataclass
from typing import Literal

from clearppo.data.checks import counted
from clearppo.train.agreement import Agreement, Z

Level = Literal["good", "usable", "not good enough", "cannot tell"]

# What reward models that PPO was trained against reached on comparisons by people that they had not seen: 0.63 to 0.69
# (Huang et al. 2024, arXiv 2403.17031), 0.70 (InstructGPT, labellers who were not in the training data), 0.62 to 0.67
# (Stiennon et al. 2020, on another data set). People themselves agree in about 0.67 to 0.77.
GOOD = 0.65  # the interval's lower end, for "good"
USABLE = 0.60  # the share itself, for "usable"
WIDEST = 0.25  # an interval wider than this says nothing that one could build on
HALF_WIDTH = 0.05  # of an interval that is narrow enough, for saying how many pairs that takes
OVERFITTED = 0.15  # training accuracy minus held-out accuracy
MISCALIBRATED = 0.10  # expected calibration error
FOLLOWS_LENGTH = 0.90  # share of pairs in which the model prefers the longer (or the shorter) answer


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the verdict looks at. `longer_wins` is the share of pairs whose better answer is the longer one,
    `prefers_longer` that in which the model prefers the longer one; None where no pair differs in length. `train_gap`
    is training accuracy minus held-out accuracy, `train_gap_low` the lower end of its interval."""

    accuracy: Agreement
    score_std: float
    train_gap: float | None
    train_gap_low: float
    calibration_error: float
    overconfidence: float
    longer_wins: float | None
    prefers_longer: float | None
    clear: Agreement | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The level, what it means in one sentence, and the reasons, one sentence each."""

    level: Level
    meaning: str
    reasons: tuple[str, ...]


MEANINGS: dict[Level, str] = {
    "good": "Good: PPO can optimise this reward model. Watch the KL all the same: far from its data no reward model "
    "stays right.",
    "usable": "Usable: it knows more than chance, but it is wrong often enough for PPO to find its mistakes. Keep the "
    "KL small, read samples, and judge the policy by another measure too.",
    "not good enough": "Not good enough: PPO would optimise its mistakes. More or clearer comparisons, another "
    "judgement template, a larger model or another learning rate may help.",
    "cannot tell": "Cannot tell: there are too few held-out pairs for a verdict.",
}


def verdict(evidence: Evidence) -> Verdict:
    """The level by held-out accuracy and its interval, then lowered by what would mislead PPO."""
    level, reasons = _by_accuracy(evidence)
    for lowered, reason in (_by_length(evidence, level), _by_overfitting(evidence, level)):
        level = lowered if _ORDER[lowered] < _ORDER[level] else level
        reasons += reason
    if evidence.clear is not None:
        clear = evidence.clear
        pairs = counted(clear.n_pairs, "pair")
        reasons.append(f"On the {pairs} whose labels are clearly apart it is right in {clear.value:.0%}.")
    if evidence.calibration_error > MISCALIBRATED and level != "cannot tell":
        way = "surer than it should be" if evidence.overconfidence > 0 else "less sure than it could be"
        reasons.append(
            f"It is {way}: the probabilities that it predicts are off by {evidence.calibration_error:.0%} on average. "
            "The order of answers does not suffer, the size of rewards does."
        )
    return Verdict(level=level, meaning=MEANINGS[level], reasons=tuple(reasons))


_ORDER: dict[Level, int] = {"cannot tell": 0, "not good enough": 1, "usable": 2, "good": 3}


def _by_accuracy(evidence: Evidence) -> tuple[Level, list[str]]:
    a = evidence.accuracy
    if evidence.score_std == 0:
        return "not good enough", ["It gives every answer the same score."]
    reasons = [
        f"It is right in {a.value:.1%} of {counted(a.n_pairs, 'pair')} (of {counted(a.n_prompts, 'prompt')}) that it "
        "has not learned from; "
        f"the true share lies between {a.low:.1%} and {a.high:.1%} (95 %). Guessing gives 50 %."
    ]
    if a.high < USABLE:
        return "not good enough", [*reasons, f"Even the upper end is below {USABLE:.0%}."]
    too_wide = _too_wide(a)
    # The interval leaves open whether the model is useless or good.
    undecided = a.high >= GOOD and (a.low <= 0.5 or a.value < USABLE)
    if too_wide or undecided:
        more = round(Z**2 / 4 / HALF_WIDTH**2 * max(a.design_effect, 1.0), -2)  # n at a share of one half
        return "cannot tell", [
            *reasons,
            f"For ± 5 points it takes about {more:.0f} held-out pairs: raise --eval_fraction.",
        ]
    if a.low <= 0.5:
        return "not good enough", [*reasons, "That may be chance."]
    if a.value < USABLE:
        return "not good enough", [*reasons, f"It is better than guessing, but below {USABLE:.0%}."]
    if a.low >= GOOD:
        return "good", [*reasons, f"Even the lower end is above {GOOD:.0%}, as of reward models that PPO worked with."]
    return "usable", reasons


def _too_wide(accuracy: Agreement) -> bool:
    return accuracy.high - accuracy.low > WIDEST


def _by_length(evidence: Evidence, level: Level) -> tuple[Level, list[str]]:
    wins, prefers = evidence.longer_wins, evidence.prefers_longer
    if wins is None or prefers is None or _too_wide(evidence.accuracy):
        return level, []  # a few pairs go one way by chance
    kind = "longer" if prefers >= 0.5 else "shorter"
    share, baseline = (prefers, wins) if prefers >= 0.5 else (1 - prefers, 1 - wins)
    if share >= FOLLOWS_LENGTH:
        return "not good enough", [
            f"It prefers the {kind} answer in {share:.0%} of pairs: PPO would learn length and little else."
        ]
    if baseline > 0.5 and baseline >= evidence.accuracy.value:
        return "usable", [
            f"Always choosing the {kind} answer would be right as often ({baseline:.0%}): "
            "look at the lengths during PPO."
        ]
    return level, []


def _by_overfitting(evidence: Evidence, level: Level) -> tuple[Level, list[str]]:
    gap = evidence.train_gap
    if gap is None or gap < OVERFITTED or evidence.train_gap_low <= 0 or level == "cannot tell":
        return level, []
    return "usable", [
        f"It is right {gap * 100:.0f} points more often on the comparisons it learned from: it knows many by heart. "
        "Use fewer --num_train_epochs or a smaller --learning_rate."
    ]
