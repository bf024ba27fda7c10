"""What the learner starts with: the critic's values beside the returns, and the price of KL beside the scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import pstdev

import torch
from torch import Tensor

from clearppo.batch import Experience
from clearppo.models.actor import SeparateCritic
from clearppo.models.policy import Policy
from clearppo.train.doctor.finding import Finding, Problem, finding

OFF_SCALE = 10.0
"""Values that are so many times larger than the returns are no guess at them."""
NATS = 10.0
"""A usual distance from the reference, of a whole answer."""
CHEAP, DEAR = 0.01, 100.0
N_GRADIENT = 2
"""Answers whose values are differentiated."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The critic before the first step. Root mean squares over tokens in score units; `gradient` is the norm of the
    value loss's gradient at its last layer, None where that layer does not learn."""

    values: float
    spread: float
    returns: float
    error: float
    explained: float
    broken: int
    gradient: float | None


def start(policy: Policy, experience: Experience) -> Start:
    """Measure the critic on the answers that would be learned from first."""
    mask = experience.rollout.mask
    values, returns = experience.rollout.old_values[mask].double(), experience.returns[mask].double()
    broken = int((~values.isfinite()).sum())
    values = values.nan_to_num(0.0, 0.0, 0.0)
    return Start(
        values=_size(values),
        spread=float(values.std(correction=0)),
        returns=_size(returns),
        error=_size(values - returns),
        explained=_explained(values, returns),
        broken=broken,
        gradient=_gradient(policy, experience),
    )


def _size(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _explained(values: Tensor, returns: Tensor) -> float:
    """The share of the returns' variance that the values explain; 0 where there is none."""
    whole = float(returns.var(correction=0))
    return 1 - float((returns - values).var(correction=0)) / whole if whole > 1e-12 * _size(returns) ** 2 else 0.0


def _gradient(policy: Policy, experience: Experience) -> float | None:
    """Of the value loss of a few answers at the last layer alone; no other gradient is kept."""
    critic = policy.critic
    head = critic.classifier.score if isinstance(critic, SeparateCritic) else critic.score
    weights = [weight for weight in head.parameters() if weight.requires_grad]
    if not weights:
        return None
    few = experience.select(range(min(len(experience), N_GRADIENT)))
    rollout = few.rollout
    with torch.enable_grad():
        analysis = policy.analyze(rollout.prompts, rollout.responses, rollout.mask, temperature=rollout.temperature)
        loss = (analysis.values - few.returns)[rollout.mask].square().mean() / 2
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients if g is not None))


def critic_start(seen: Start, *, learns: bool) -> Finding:
    """Whether the critic starts somewhere from which it can learn the returns. `learns` says that its loss counts."""
    measured = f"values {seen.values:.3g} beside returns {seen.returns:.3g} (root mean squares), error {seen.error:.3g}"
    measured += f", explained variance {seen.explained:+.2f}"
    problems = []
    mend = "Start it from another --value_model_path, or leave that out: a new value head starts at 0."
    if seen.broken:
        reason = f"The value head gives no finite number for {seen.broken} tokens."
        problems.append(Problem("stop", reason, mend))
    elif seen.values > OFF_SCALE * seen.returns and seen.values > 0:
        times = f"{seen.values / seen.returns:.0f} times" if seen.returns else "infinitely"
        reason = f"The values are {times} larger than the returns: the first advantages are the critic's error alone."
        problems.append(Problem("stop", reason, mend))
    elif seen.values > 0 and seen.spread <= 1e-6 * seen.values:
        reason = "The value is the same for every token: the value head does not look at the text."
        problems.append(Problem("stop", reason, mend))
    if not learns:
        reason = "vf_coef = 0: the critic does not learn, so its values stay what they are."
        problems.append(Problem("look", reason, "Use --vf_coef 0.1, or an estimator without a critic (rloo)."))
    elif seen.gradient is None or not seen.gradient > 0:
        reason = "The value loss has no gradient at the value head, so the critic cannot learn."
        problems.append(Problem("stop", reason, "Look at the model's last layer: is it frozen, or not finite?"))
    fine = "It starts at 0 and has all to learn." if seen.values == 0 else "The values are on the returns' scale."
    return finding("critic_start", measured, problems, fine)


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a nat of KL costs. `held_by_loss` is the coefficient of a KL in the loss; for an adaptive controller `reach`
    is the largest factor that the whole run can put on the coefficient, and `target` where it steers to."""

    coef: float
    held_by_loss: float
    adaptive: bool
    target: float
    reach: float
    learned_score: bool


def kl_against_reward(scores: Sequence[float], price: Price) -> Finding:
    """The KL penalty of a usual distance beside the spread of the scores as they are learned from, both in score
    units."""
    spread = pstdev(scores)
    coef = price.coef + price.held_by_loss
    if coef == 0:
        measured = f"no KL is charged; the scores' standard deviation is {spread:.3g}"
        problems = []
        if price.learned_score:
            reason = "Nothing holds the policy, and a learned score can be fooled: it will be."
            problems.append(Problem("look", reason, "Use --kl_coef 0.05, or stop early by a held-out measure."))
        return finding("kl_against_reward", measured, problems, "The score is a rule, which may do without.")
    ratio = coef * NATS / spread
    measured = f"{NATS:g} nats cost {ratio:.3g} standard deviations of the score ({coef:g} x {NATS:g} / {spread:.3g})"
    problems = []
    usual = spread / NATS
    if ratio * (price.reach if price.adaptive else 1.0) < CHEAP:
        reason = (
            "KL costs next to nothing beside the score: the policy may go wherever it is scored high, sense or not."
        )
        if price.adaptive:
            reason += f" The controller cannot raise it more than {price.reach:.3g} times in this run."
        problems.append(Problem("look", reason, f"Use a --kl_coef around {0.1 * usual:.1g} to {2 * usual:.1g}."))
    elif ratio > DEAR and not price.adaptive:
        reason = "KL costs far more than any score can earn: the policy will stay where it is."
        problems.append(Problem("look", reason, f"Use a --kl_coef around {0.1 * usual:.1g} to {2 * usual:.1g}."))
    if price.adaptive and not 0.1 <= price.target <= 100:
        reason = f"The controller steers to {price.target:g} nats an answer; 3 to 10 are usual."
        problems.append(Problem("look", reason, "Use --kl_target 6."))
    return finding("kl_against_reward", measured, problems, "A usual distance costs a usual part of the score.")
