"""PPO from answers and scores to new weights, written a second time: row by row, without padding, in float64.

It imports torch and nothing of clearppo. torch's autograd makes the gradients of the losses; everything before and
after them (scores, rewards, advantages, clipping of gradients, Adam, averages, schedules) is spelled out here.
A model is whatever gives logits and hidden states for token ids, as transformers' models do.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What makes one system's PPO differ from another's. The defaults are the article's: everything else is off."""

    temperature: float = 1.0
    cut_at: tuple[int, int] | None = None  # (token, from this index on): an answer without it there has not ended
    missing_score: float | None = None  # replaces the score of an answer that has not ended
    missing_penalty: float | None = None  # or is subtracted from it
    scaling: str | None = None  # "std": score / std of all so far; "norm": (score - mean) / std
    score_clip: float | None = None
    beta: float = 1.0
    adaptive: tuple[float, float] | None = None  # (target, horizon)
    whiten_rewards: bool = False
    gamma: float = 1.0
    lam: float = 1.0
    whiten_advantages: bool = False
    unbiased: bool = False
    clip: float | None = None
    value_clip: float | None = None
    vf_coef: float = 0.1
    critic_only: int = 0  # so many first iterations
    ptx_coef: float = 0.0
    ptx_halved: bool = False  # (g_ppo + coef g_lm) / 2 for the policy
    rate: float
    critic_rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-5
    critic_eps: float | None = None
    tensorflow: bool = False
    grad_norm: float | None = None
    schedule: Callable[[int, int], float] = lambda update, n: 1.0
    ema: float | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer as token ids, and whether sampling ended it (by a stop token) before its longest length."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    ended: bool


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text for the pretraining loss: the tokens at `predicted` are to be predicted from those before them."""

    ids: tuple[int, ...]
    predicted: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one iteration made, a list for each answer; the weights have moved on."""

    old_log_probs: list[list[float]]
    old_values: list[list[float]]
    ref_log_probs: list[list[float]]
    scores: list[float]
    rewards: list[list[float]]
    advantages: list[list[float]]
    returns: list[list[float]]
    beta: float


@dataclass
class Learner:
    """Actor and critic with their optimiser's memory. `critic` is a weight [1, H] on the actor's states, or a model."""

    actor: Any
    critic: Any
    reference: Any
    numbers: Numbers
    n_iterations: int
    iteration: int = 0
    seen: list[float] = field(default_factory=list)
    beta: float = 0.0
    memory: dict[int, tuple[Tensor, Tensor, int]] = field(default_factory=dict)
    average: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.beta = self.numbers.beta
        self.average = [weight.detach().clone() for weight in self.actor_weights()]

    def actor_weights(self) -> list[Tensor]:
        return list(self.actor.parameters())

    def critic_weights(self) -> list[Tensor]:
        return [self.critic] if isinstance(self.critic, Tensor) else list(self.critic.parameters())

    def iterate(
        self, answers: Sequence[Answer], scores: Sequence[float], order: Sequence[Sequence[int]],
        texts: Sequence[Sequence[Text]] = (),
    ) -> Outcome:  # fmt: skip
        """One iteration. `order` holds the rows of each mini-batch, epoch after epoch; `texts` those of each one."""
        n = self.numbers
        with torch.no_grad():
            looks = [self.look(answer) for answer in answers]
            old, values = [log_p.tolist() for log_p, _ in looks], [v.tolist() for _, v in looks]
            ref = [log_probs_of(self.reference, answer, n.temperature)[0].tolist() for answer in answers]
        final = [self.final_score(s, a) for s, a in zip(self.scaled(list(scores)), answers, strict=True)]
        k1 = [[p - q for p, q in zip(*row, strict=True)] for row in zip(old, ref, strict=True)]
        rewards = [[-self.beta * k for k in row] for row in k1]
        for row, score in zip(rewards, final, strict=True):
            row[-1] += score
        if n.whiten_rewards:
            rewards = whitened(rewards, unbiased=n.unbiased, shift=False)
        advantages = [gae(r, v, n.gamma, n.lam) for r, v in zip(rewards, values, strict=True)]
        returns = [[a + b for a, b in zip(*row, strict=True)] for row in zip(advantages, values, strict=True)]
        if n.whiten_advantages:
            advantages = whitened(advantages, unbiased=n.unbiased, shift=True)
        outcome = Outcome(
            old_log_probs=old, old_values=values, ref_log_probs=ref, scores=final, rewards=rewards,
            advantages=advantages, returns=returns, beta=self.beta,
        )  # fmt: skip
        for k, rows in enumerate(order):
            self.step(answers, outcome, rows, texts[k] if texts else ())
        self.move_on(k1)
        return outcome

    def look(self, answer: Answer) -> tuple[Tensor, Tensor]:
        """Log-probability of each token, and the value before it."""
        log_probs, states = log_probs_of(self.actor, answer, self.numbers.temperature)
        if isinstance(self.critic, Tensor):
            return log_probs, states @ self.critic[0]
        ids = torch.tensor([answer.prompt + answer.response])
        backbone = getattr(self.critic, self.critic.base_model_prefix)
        hidden = backbone(input_ids=ids).last_hidden_state[0, len(answer.prompt) - 1 : -1]
        return log_probs, hidden @ self.critic.score.weight[0]

    def scaled(self, scores: list[float]) -> list[float]:
        """By the moments of every score so far, these included, with the variance over n - 1."""
        n, self.seen = self.numbers, self.seen + scores
        if n.scaling is not None:
            mean = math.fsum(self.seen) / len(self.seen)
            std = math.sqrt(math.fsum((s - mean) ** 2 for s in self.seen) / (len(self.seen) - 1))
            scores = [(s - (mean if n.scaling == "norm" else 0.0)) / std for s in scores]
        return scores if n.score_clip is None else [min(max(s, -n.score_clip), n.score_clip) for s in scores]

    def final_score(self, score: float, answer: Answer) -> float:
        n, ended = self.numbers, answer.ended
        if n.cut_at is not None:
            ended = n.cut_at[0] in answer.response[n.cut_at[1] :]
        if not ended and n.missing_score is not None:
            return n.missing_score
        return score - (n.missing_penalty or 0.0) * (not ended)

    def step(self, answers: Sequence[Answer], outcome: Outcome, rows: Sequence[int], texts: Sequence[Text]) -> None:
        """Gradients of the losses of these rows, their clipping, and one step of Adam."""
        n = self.numbers
        both = n.critic_only <= self.iteration
        weights = (self.actor_weights() if both else []) + self.critic_weights()
        actor, critic, count = 0.0, 0.0, 0
        for i in rows:
            log_probs, values = self.look(answers[i])
            for t in range(len(log_probs)):
                ratio = torch.exp(log_probs[t] - outcome.old_log_probs[i][t])
                actor = actor + self.actor_cost(ratio, outcome.advantages[i][t])
                critic = critic + self.critic_cost(values[t], outcome.old_values[i][t], outcome.returns[i][t])
                count += 1
        loss = (actor * both + n.vf_coef * critic) / count
        gradients = [g.clone() for g in torch.autograd.grad(loss, weights)]
        if texts and both:
            others = torch.autograd.grad(n.ptx_coef * self.text_loss(texts), self.actor_weights())
            for mine, other in zip(gradients, others, strict=False):  # the actor's weights come first
                mine += other
                if n.ptx_halved:
                    mine /= 2
        self.adam(weights, limited(gradients, n.grad_norm))

    def actor_cost(self, ratio: Tensor, advantage: float) -> Tensor:
        clip = self.numbers.clip
        if clip is None:
            return -advantage * ratio
        return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))

    def critic_cost(self, value: Tensor, old: float, target: float) -> Tensor:
        clip, cost = self.numbers.value_clip, (value - target) ** 2
        if clip is not None:
            cost = torch.maximum(cost, (value.clamp(old - clip, old + clip) - target) ** 2)
        return cost / 2

    def text_loss(self, texts: Sequence[Text]) -> Tensor:
        """Mean of -log p over all tokens to be predicted, at temperature 1."""
        costs = []
        for text in texts:
            log_p = self.actor(input_ids=torch.tensor([text.ids])).logits[0].log_softmax(-1)
            costs += [-log_p[t - 1, text.ids[t]] for t in text.predicted]
        return torch.stack(costs).mean()

    @torch.no_grad()
    def adam(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        n, (beta1, beta2) = self.numbers, self.numbers.betas
        factor = n.schedule(self.iteration, self.n_iterations)
        critics = {id(weight) for weight in self.critic_weights()}
        for weight, gradient in zip(weights, gradients, strict=True):
            zeros = torch.zeros_like(weight)
            mean, square, t = self.memory.get(id(weight), (zeros, zeros, 0))
            mean, square = beta1 * mean + (1 - beta1) * gradient, beta2 * square + (1 - beta2) * gradient**2
            t += 1
            self.memory[id(weight)] = mean, square, t
            of_critic = id(weight) in critics
            rate = factor * (n.critic_rate if of_critic and n.critic_rate is not None else n.rate)
            eps = n.critic_eps if of_critic and n.critic_eps is not None else n.eps
            if n.tensorflow:
                weight -= rate * math.sqrt(1 - beta2**t) / (1 - beta1**t) * mean / (square.sqrt() + eps)
            else:
                weight -= rate * (mean / (1 - beta1**t)) / ((square / (1 - beta2**t)).sqrt() + eps)

    def move_on(self, k1: list[list[float]]) -> None:
        """The average of the weights, and the coefficient of the KL for the next iteration."""
        n = self.numbers
        self.iteration += 1
        if n.ema is not None:
            pairs = zip(self.average, self.actor_weights(), strict=True)
            self.average = [n.ema * old + (1 - n.ema) * new.detach() for old, new in pairs]
        if n.adaptive is not None:
            target, horizon = n.adaptive
            kl = math.fsum(x for row in k1 for x in row) / len(k1)
            self.beta *= 1 + min(max(kl / target - 1, -0.2), 0.2) * len(k1) / horizon


def log_probs_of(model: Any, answer: Answer, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of each response token, and the state that it was predicted from."""
    out = model(input_ids=torch.tensor([answer.prompt + answer.response]), output_hidden_states=True)
    here = slice(len(answer.prompt) - 1, -1)
    log_p = (out.logits[0, here] / temperature).log_softmax(-1)
    picked = log_p[torch.arange(len(answer.response)), torch.tensor(answer.response)]
    return picked, out.hidden_states[-1][0, here]


def gae(rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float) -> list[float]:
    """From the end: delta + gamma lam (what followed), with value 0 behind the last token."""
    found, following, value = [], 0.0, 0.0
    for reward, here in zip(reversed(rewards), reversed(values), strict=True):
        following = reward + gamma * value - here + gamma * lam * following
        value = here
        found.append(following)
    return found[::-1]


def whitened(rows: list[list[float]], *, unbiased: bool, shift: bool) -> list[list[float]]:
    """Over all tokens of all rows, with 1e-8 added to the variance; the mean stays where it was if not `shift`."""
    cells = [x for row in rows for x in row]
    mean = math.fsum(cells) / len(cells)
    var = math.fsum((x - mean) ** 2 for x in cells) / (len(cells) - unbiased)
    return [[(x - mean) / math.sqrt(var + 1e-8) + (0.0 if shift else mean) for x in row] for row in rows]


def limited(gradients: list[Tensor], norm: float | None) -> list[Tensor]:
    """Scaled down together to a norm of `norm` where theirs is larger, with torch's 1e-6 in the denominator."""
    if norm is None:
        return gradients
    total = math.sqrt(math.fsum(float((g**2).sum()) for g in gradients))
    return [g * min(1.0, norm / (total + 1e-6)) for g in gradients]
