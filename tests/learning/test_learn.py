"""The learning phase: gradients by hand, and what they must not depend on."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clearppo.batch import Experience, Rollout
from clearppo.engines.local import LocalEngine
from clearppo.errors import TrainingError
from clearppo.learning import Objective, Passes, learn
from clearppo.learning.optimiser import adamw
from clearppo.models.actor import SeparateCritic
from clearppo.models.build import load_critic, make_policy
from clearppo.models.loading import load_causal_lm, load_tokenizer
from clearppo.models.policy import Policy
from tests.models.test_actor import ragged
from tests.tiny import tiny_causal_lm

FULL = Objective(clip=0.2, clip_high=0.3, clip_value=0.2, vf_coef=0.1, entropy_coef=0.01)
ARTICLE = Objective(vf_coef=0.1)


def policy_at(tmp_path: Path, *, separate: bool = False) -> Policy:
    torch.manual_seed(1)
    path = tiny_causal_lm(tmp_path)
    critic = load_critic(path, load_tokenizer(path), dtype=torch.float64) if separate else None
    policy = make_policy(load_causal_lm(path, dtype=torch.float64), separate_critic=critic)
    torch.nn.init.normal_(policy.critic.classifier.score.weight if separate else policy.critic.score.weight)
    return policy


def experience(n: int = 6) -> Experience:
    """Random numbers in every field, as if from an older policy."""
    prompts, responses, mask = ragged((3, 7, 5, 2, 6, 4)[:n], (4, 2, 6, 1, 3, 5)[:n])
    generator = torch.Generator().manual_seed(8)

    def cells(scale: float, shift: float = 0.0) -> torch.Tensor:
        return (torch.randn(mask.shape, generator=generator, dtype=torch.float64) * scale + shift).masked_fill(~mask, 0)

    rollout = Rollout(
        prompts=prompts, responses=responses, mask=mask, old_log_probs=cells(0.4, -4.0), old_values=cells(1.0),
        sampler_log_probs=cells(0.4, -4.0), finish_reasons=("stop",) * n, completions=("",) * n, temperature=0.9,
        policy_version=0,
    )  # fmt: skip
    return Experience(rollout=rollout, advantages=cells(1.0), returns=cells(1.0), ref_log_probs=cells(0.4, -4.0))


class Recorder(LocalEngine):
    """An engine that keeps each step's gradients and does not move the weights."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.gradients: list[list[torch.Tensor]] = []

    def step(self, optimiser, parameters, max_norm) -> float:
        self.gradients.append([p.grad.clone() for p in parameters])
        optimiser.zero_grad(set_to_none=True)
        return 1.0


def gradients(policy: Policy, data: Experience, objective: Objective, *, n: int = 1, micro: int = 6):
    engine = Recorder()
    optimiser = torch.optim.SGD(policy.parameters(), lr=0.0)
    stats = learn(
        policy, data, engine, optimiser, objective=objective,
        passes=Passes(epochs=1, num_mini_batches=n, micro_batch_size=micro), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return engine.gradients, stats


def by_hand(policy: Policy, data: Experience, objective: Objective) -> torch.Tensor:
    """The loss of one mini-batch, token by token in Python, from the plain model; no clearppo.core."""
    rollout, total, n = data.rollout, torch.zeros((), dtype=torch.float64), int(data.rollout.mask.sum())
    model = policy.actor.causal_lm
    for i in range(len(data)):
        prompt, response = rollout.prompts.ids[i][rollout.prompts.mask[i]], rollout.responses[i][rollout.mask[i]]
        out = model(torch.cat([prompt, response])[None], output_hidden_states=True)
        log_p = (out.logits[0, len(prompt) - 1 : -1] / rollout.temperature).log_softmax(-1)
        values = values_by_hand(policy, torch.cat([prompt, response]), out.hidden_states[-1][0])[len(prompt) - 1 : -1]
        for t, token in enumerate(response.tolist()):
            a, old, ret = data.advantages[i, t], rollout.old_log_probs[i, t], data.returns[i, t]
            ratio, v, v_old = torch.exp(log_p[t, token] - old), values[t], rollout.old_values[i, t]
            actor = -a * ratio
            if objective.clip is not None:
                high = objective.clip if objective.clip_high is None else objective.clip_high
                actor = torch.maximum(actor, -a * ratio.clamp(1 - objective.clip, 1 + high))
            critic = (v - ret) ** 2
            if objective.clip_value is not None:
                near = v.clamp(v_old - objective.clip_value, v_old + objective.clip_value)
                critic = torch.maximum(critic, (near - ret) ** 2)
            entropy = -(log_p[t].exp() * log_p[t]).sum()
            total = total + actor + objective.vf_coef * critic / 2 - objective.entropy_coef * entropy
    return total / n


def values_by_hand(policy: Policy, text: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """The value at each token of one text, by a layer on these hidden states or by a network of its own."""
    if not isinstance(policy.critic, SeparateCritic):
        return policy.critic.score(hidden).squeeze(-1)
    classifier = policy.critic.classifier
    return classifier.score(classifier.model(text[None]).last_hidden_state[0]).squeeze(-1)


@pytest.mark.parametrize("micro", [2, 6])
@pytest.mark.parametrize("objective", [ARTICLE, FULL])
def test_a_separate_critic_learns_before_the_actor_and_the_same(
    tmp_path: Path, objective: Objective, micro: int
) -> None:
    policy, data = policy_at(tmp_path, separate=True), experience()
    expected = torch.autograd.grad(by_hand(policy, data, objective), [p for _, p in policy.trainable()])
    (found,), _ = gradients(policy, data, objective, micro=micro)
    for (name, _), g, e in zip(policy.trainable(), found, expected, strict=True):
        torch.testing.assert_close(g, e, atol=1e-11, rtol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


def test_in_warm_up_only_a_separate_critic_has_gradients(tmp_path: Path) -> None:
    policy, data = policy_at(tmp_path, separate=True), experience()
    critic = list(policy.critic.parameters())
    expected = torch.autograd.grad(by_hand(policy, data, FULL), critic)
    engine = Recorder()
    learn(
        policy, data, engine, torch.optim.SGD(policy.parameters(), lr=0.0), objective=FULL, critic_only=True,
        passes=Passes(epochs=1, micro_batch_size=2), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert all(p.grad is None for p in policy.actor.parameters())
    for g, e in zip(engine.gradients[0], expected, strict=True):
        torch.testing.assert_close(g, e, atol=1e-11, rtol=1e-8)


@pytest.mark.parametrize("objective", [ARTICLE, FULL, replace(FULL, vf_coef=0.0, clip_value=None)])
def test_gradients_are_those_of_the_equations(tmp_path: Path, objective: Objective) -> None:
    policy, data = policy_at(tmp_path), experience()
    parameters = [p for _, p in policy.trainable()]
    expected = torch.autograd.grad(by_hand(policy, data, objective), parameters, allow_unused=True)
    if objective.vf_coef == 0:
        parameters.pop()  # the critic's layer gets no gradient at all
        policy.critic.score.weight.requires_grad_(False)
    (found,), _ = gradients(policy, data, objective)
    for g, e in zip(found, expected, strict=False):
        torch.testing.assert_close(g, e, atol=1e-11, rtol=1e-8)


@pytest.mark.parametrize("micro", [1, 2, 4, 5])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_gradients_do_not_depend_on_the_micro_batch(tmp_path: Path, n: int, micro: int) -> None:
    policy, data = policy_at(tmp_path), experience()
    whole, whole_stats = gradients(policy, data, FULL, n=n)
    parts, stats = gradients(policy, data, FULL, n=n, micro=micro)
    assert len(whole) == len(parts) == n
    for step, other in zip(whole, parts, strict=True):
        for g, e in zip(other, step, strict=True):
            torch.testing.assert_close(g, e, atol=1e-12, rtol=1e-9)
    for name in whole_stats.sums:
        assert stats.mean(name) == pytest.approx(whole_stats.mean(name), rel=1e-9)


def test_every_row_is_learned_from_once_an_epoch(tmp_path: Path) -> None:
    policy, data = policy_at(tmp_path), experience()
    for n in (1, 2, 3):
        _, stats = gradients(policy, data, FULL, n=n, micro=2)
        assert stats.counts["val/ratio"] == int(data.rollout.mask.sum())


def test_the_first_step_of_a_fresh_rollout_has_ratio_one(tmp_path: Path) -> None:
    policy, data = policy_at(tmp_path), experience()
    rollout = data.rollout
    with torch.no_grad():
        analysis = policy.analyze(rollout.prompts, rollout.responses, rollout.mask, temperature=rollout.temperature)
    fresh = replace(data, rollout=replace(rollout, old_log_probs=analysis.log_probs, old_values=analysis.values))
    _, stats = gradients(policy, fresh, FULL, micro=4)
    assert stats.mean("val/ratio") == pytest.approx(1.0, abs=1e-12)
    assert stats.mean("policy/approxkl_avg") == pytest.approx(0.0, abs=1e-15)
    assert stats.mean("policy/clipfrac_avg") == 0.0
    mean_advantage = float(data.advantages[rollout.mask].mean())
    assert stats.mean("loss/policy_avg") == pytest.approx(-mean_advantage, abs=1e-10)


def test_an_update_stops_early_on_kl(tmp_path: Path) -> None:
    policy, data = policy_at(tmp_path), experience()
    run = {"objective": FULL, "generator": torch.Generator().manual_seed(0)}
    optimiser = torch.optim.SGD(policy.parameters(), lr=0.0)
    engine = Recorder()
    stats = learn(policy, data, engine, optimiser, passes=Passes(epochs=3, early_stop_kl=1e-9), **run)
    assert engine.gradients == []
    assert stats.sums["early_stop"] == 1.0
    learn(policy, data, engine, optimiser, passes=Passes(epochs=3, early_stop_kl=1e9), **run)
    assert len(engine.gradients) == 3


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_weights(tmp_path: Path) -> None:
    policy, data = policy_at(tmp_path), experience()
    broken = replace(data, advantages=data.advantages * math.inf)
    before = [p.clone() for p in policy.parameters()]
    optimiser = adamw(list(policy.actor.parameters()), list(policy.critic.parameters()), learning_rate=0.1)
    with pytest.raises(TrainingError, match="not finite in epoch 1"):
        learn(
            policy, broken, LocalEngine(torch.device("cpu")), optimiser, objective=ARTICLE, passes=Passes(),
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    for now, then in zip(policy.parameters(), before, strict=True):
        assert torch.equal(now, then)
