"""The KL inside the loss: by hand from the plain models, its expected gradient, and what it must not depend on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clearppo.batch import Experience
from clearppo.core.kl import full_kl, kl
from clearppo.core.losses import kl_loss
from clearppo.learning import Objective, Passes, learn
from clearppo.models.build import Lora, make_policy, make_reference
from clearppo.models.loading import load_causal_lm
from clearppo.models.policy import FrozenReference, Policy
from tests.learning.test_learn import FULL, Recorder, by_hand, experience
from tests.tiny import tiny_causal_lm

COEF = 0.7


def two(tmp_path: Path, *, lora: Lora | None = None) -> tuple[Policy, FrozenReference]:
    """A policy that has moved away from its reference. GPT-2, because Llama takes its norms in float32."""
    torch.manual_seed(1)
    policy = make_policy(load_causal_lm(tiny_causal_lm(tmp_path, family="gpt2"), dtype=torch.float64), lora=lora)
    reference = make_reference(policy, micro_batch_size=2)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if parameter.requires_grad and (not lora or "lora_B" in name):
                parameter.add_(0.1 * torch.randn(parameter.shape, dtype=parameter.dtype))
    return policy, reference


def judged(reference: FrozenReference) -> Experience:
    data = experience()
    return replace(data, ref_log_probs=reference.log_probs(data.rollout))


def gradients(policy, reference, data, objective, *, micro: int = 6, n: int = 1):
    engine = Recorder()
    stats = learn(
        policy, data, engine, torch.optim.SGD([p for _, p in policy.trainable()], lr=0.0), objective=objective,
        passes=Passes(epochs=1, num_mini_batches=n, micro_batch_size=micro), generator=torch.Generator().manual_seed(0),
        reference=reference,
    )  # fmt: skip
    return engine.gradients, stats


def kl_by_hand(policy: Policy, reference: FrozenReference, data: Experience, estimator: str) -> torch.Tensor:
    """Token by token from the plain models, over the number of tokens; no clearppo.core."""
    rollout, total = data.rollout, torch.zeros((), dtype=torch.float64)
    for i in range(len(data)):
        prompt, response = rollout.prompts.ids[i][rollout.prompts.mask[i]], rollout.responses[i][rollout.mask[i]]
        ids = torch.cat([prompt, response])[None]
        live, frozen = (
            (actor.causal_lm(ids).logits[0, len(prompt) - 1 : -1] / rollout.temperature).log_softmax(-1)
            for actor in (policy.actor, reference.actor)
        )
        for t, token in enumerate(response.tolist()):
            d = live[t, token] - frozen[t, token].detach()
            total = (
                total
                + {
                    "k2": d**2 / 2,
                    "k3": torch.exp(-d) - 1 + d,
                    "full": (live[t].exp() * (live[t] - frozen[t].detach())).sum(),
                }[estimator]
            )
    return total / int(rollout.mask.sum())


@pytest.mark.parametrize("estimator", ["k2", "k3", "full"])
def test_gradients_are_those_of_ppo_and_of_the_kl(tmp_path: Path, estimator: str) -> None:
    policy, reference = two(tmp_path)
    data = judged(reference)
    objective = replace(FULL, kl_loss_coef=COEF, kl_loss_estimator=estimator)
    distance = kl_by_hand(policy, reference, data, estimator)
    parameters = [p for _, p in policy.trainable()]
    expected = torch.autograd.grad(by_hand(policy, data, FULL) + COEF * distance, parameters)
    (found,), stats = gradients(policy, reference, data, objective, micro=4)
    for g, e in zip(found, expected, strict=True):
        torch.testing.assert_close(g, e, atol=1e-11, rtol=1e-8)
    assert stats.mean("loss/kl_avg") == pytest.approx(distance.item(), rel=1e-9)
    assert distance.item() > 0.01


@pytest.mark.parametrize("estimator", ["k2", "full"])
@pytest.mark.parametrize(("n", "micro"), [(1, 1), (1, 4), (2, 2), (3, 1)])
def test_the_micro_batch_changes_nothing(tmp_path: Path, estimator: str, n: int, micro: int) -> None:
    policy, reference = two(tmp_path)
    data, objective = judged(reference), replace(FULL, kl_loss_coef=COEF, kl_loss_estimator=estimator)
    whole, stats = gradients(policy, reference, data, objective, n=n)
    parts, part_stats = gradients(policy, reference, data, objective, n=n, micro=micro)
    assert len(whole) == len(parts) == n
    for step, other in zip(whole, parts, strict=True):
        for g, e in zip(other, step, strict=True):
            torch.testing.assert_close(g, e, atol=1e-12, rtol=1e-9)
    assert part_stats.mean("loss/kl_avg") == pytest.approx(stats.mean("loss/kl_avg"), rel=1e-9)


def test_with_adapters_the_full_kl_is_from_the_bare_weights(tmp_path: Path) -> None:
    policy, reference = two(tmp_path, lora=Lora(r=4, alpha=8, target_modules="all-linear"))
    data, objective = judged(reference), replace(FULL, kl_loss_coef=COEF, kl_loss_estimator="full")
    rollout = data.rollout
    expected = float(reference.full_kl(rollout).sum() / rollout.mask.sum())
    (found,), stats = gradients(policy, reference, data, objective, micro=2)
    assert expected > 0.01
    assert stats.mean("loss/kl_avg") == pytest.approx(expected, rel=1e-9)
    assert len(found) == len(policy.trainable())  # the adapters were switched off and on: they learn still
    (plain,), _ = gradients(policy, reference, data, FULL)
    assert max(float((f - p).abs().max()) for f, p in zip(found, plain, strict=True)) > 1e-4


def test_a_policy_that_is_its_reference_pays_nothing(tmp_path: Path) -> None:
    policy = make_policy(load_causal_lm(tiny_causal_lm(tmp_path, family="gpt2"), dtype=torch.float64))
    reference = make_reference(policy, micro_batch_size=2)
    data = judged(reference)
    (plain,), without = gradients(policy, reference, data, FULL)
    assert "loss/kl_avg" not in without.sums
    for estimator in ("k2", "k3", "full"):
        objective = replace(FULL, kl_loss_coef=10.0, kl_loss_estimator=estimator)
        (found,), stats = gradients(policy, reference, data, objective)
        assert stats.mean("loss/kl_avg") == pytest.approx(0.0, abs=1e-15)
        for g, e in zip(found, plain, strict=True):
            torch.testing.assert_close(g, e, atol=1e-12, rtol=1e-9)


def test_a_full_kl_needs_the_reference(tmp_path: Path) -> None:
    policy, reference = two(tmp_path)
    with pytest.raises(ValueError, match="Give learn the reference"):
        gradients(policy, None, judged(reference), Objective(kl_loss_coef=1.0, kl_loss_estimator="full"))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "full"])
def test_what_each_estimator_in_a_loss_pulls_towards(estimator: str) -> None:
    """The gradient expected over the policy's own draws, exactly, on a vocabulary of five: see kl_loss."""
    logits, other = torch.randn(2, 5, dtype=torch.float64)
    live = logits.clone().requires_grad_()
    log_p, log_q = live.log_softmax(-1), other.log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    reverse, forward = (p * (log_p - log_q)).sum(), (q * (log_q - log_p)).sum()
    target = {"k1": 0 * reverse, "k2": reverse, "k3": forward, "full": reverse}[estimator]
    (expected,) = torch.autograd.grad(target, live, retain_graph=True)
    if estimator == "full":
        value = full_kl(live[None, None], other[None, None]).sum()
    else:
        value = (p.detach() * kl(log_p[None], log_q[None], estimator)[0]).sum()
    (found,) = torch.autograd.grad(value, live)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_the_loss_is_a_sum_over_the_mask_by_count() -> None:
    cells = torch.tensor([[1.0, 2.0, 99.0], [4.0, float("nan"), float("inf")]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    loss = kl_loss(cells, mask, count=14)
    loss.backward()
    assert loss.item() == 0.5
    torch.testing.assert_close(cells.grad, mask / 14)
    assert kl_loss(cells, mask).item() == pytest.approx(7 / 3)
    with pytest.raises(ValueError, match="empty"):
        kl_loss(cells, torch.zeros_like(mask))
