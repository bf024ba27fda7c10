"""Where old_log_probs come from changes nothing where it is exact; the bounds of a micro-batch never do."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clearppo.batch import Experience
from clearppo.engines.local import LocalEngine
from clearppo.learning import Objective, Passes, Ptx, TextStream, learn
from clearppo.learning.ppo import _analyse, _as_seen_by, _measure, _micro_batches, ppo_loss
from clearppo.learning.sft import learn_demonstrations, measure_demonstrations
from clearppo.models.build import make_policy
from clearppo.models.loading import load_causal_lm
from clearppo.models.policy import Policy
from tests.learning import test_reward, test_sft
from tests.learning.test_learn import FULL, Recorder, experience, policy_at
from tests.tiny import tiny_causal_lm


def gradients(policy: Policy, data: Experience, objective: Objective, **passes):
    engine = Recorder()
    stats = learn(
        policy, data, engine, torch.optim.SGD(policy.parameters(), lr=0.0), objective=objective,
        passes=Passes(**{"epochs": 1, "micro_batch_size": 6, **passes}), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    (found,) = engine.gradients
    return found, stats


def read_before(policy: Policy, data: Experience) -> Experience:
    """The experience with old numbers that the policy was asked for before it learns: the plain way."""
    rollout = data.rollout
    with torch.no_grad():
        seen = policy.analyze(rollout.prompts, rollout.responses, rollout.mask, temperature=rollout.temperature)
    return replace(data, rollout=replace(rollout, old_log_probs=seen.log_probs, old_values=seen.values))


# ------------------------------------------------------------------------------------------------ the first pass is old


@pytest.mark.parametrize("micro", [6, 2])
@pytest.mark.parametrize("objective", [FULL, replace(FULL, importance_cap=1.5, dual_clip=3.0)], ids=["plain", "capped"])
def test_the_learning_pass_itself_is_as_good_as_one_before_it(tmp_path: Path, objective: Objective, micro: int) -> None:
    policy, data = policy_at(tmp_path), experience()
    plain, plain_stats = gradients(policy, read_before(policy, data), objective)
    free, stats = gradients(policy, data, objective, first_is_old=True, micro_batch_size=micro)
    for found, expected in zip(free, plain, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)
    assert set(stats.sums) == set(plain_stats.sums)
    for name in stats.sums:
        assert stats.mean(name) == pytest.approx(plain_stats.mean(name), rel=1e-9, abs=1e-12), name
    assert stats.mean("val/ratio") == 1.0
    assert stats.mean("policy/approxkl_avg") == 0.0
    assert stats.mean("sampling/log_prob_difference") > 0.1  # the sampler's numbers of this experience are random


def in_bf16(tmp_path: Path) -> tuple[Policy, Experience]:
    """A policy in bf16 autocast over float32 weights, and the random experience in float32."""
    torch.manual_seed(1)
    policy = make_policy(load_causal_lm(tiny_causal_lm(tmp_path)), autocast=True)
    torch.nn.init.normal_(policy.critic.score.weight)

    def single(thing):
        cells = {n: v.float() for n, v in vars(thing).items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
        return replace(thing, **cells)

    data = experience()
    return policy, replace(single(data), rollout=single(data.rollout))


def test_in_bf16_it_is_the_same_pass_bit_for_bit(tmp_path: Path) -> None:
    policy, data = in_bf16(tmp_path)
    plain, _ = gradients(policy, read_before(policy, data), FULL)
    free, stats = gradients(policy, data, FULL, first_is_old=True)
    assert all(torch.equal(found, expected) for found, expected in zip(free, plain, strict=True))
    assert stats.mean("val/ratio") == 1.0


def test_in_bf16_other_micro_batches_differ_by_rounding(tmp_path: Path) -> None:
    """bf16 has 8 bits; over a whole gradient the rounding of other shapes of products is below 2 %."""
    policy, data = in_bf16(tmp_path)
    whole, _ = gradients(policy, data, FULL)
    parts, _ = gradients(policy, data, FULL, micro_batch_tokens=16)
    flat, other = (torch.cat([gradient.flatten() for gradient in found]) for found in (whole, parts))
    assert float((flat - other).norm() / flat.norm()) < 0.02


@pytest.mark.parametrize("more", [{"epochs": 2}, {"num_mini_batches": 2}])
def test_a_second_step_needs_numbers_from_before_the_first(more) -> None:
    with pytest.raises(ValueError, match="only the first step sees the old policy"):
        Passes(**{"epochs": 1, "first_is_old": True, **more})


# ------------------------------------------------------------------------------------------------ importance weights


def test_weights_multiply_the_actors_loss_and_nothing_else(tmp_path: Path) -> None:
    """Token by token: the gradient is that of advantages times weights, whose critic and entropy are the same."""
    policy, data = policy_at(tmp_path), experience()
    rollout, cap = data.rollout, 1.2
    weights = (rollout.old_log_probs - rollout.sampler_log_probs).exp().clamp(max=cap)
    assert 0.1 < float((weights == cap)[rollout.mask].double().mean()) < 0.9
    expected, _ = gradients(policy, replace(data, advantages=data.advantages * weights), FULL)
    found, stats = gradients(policy, data, replace(FULL, importance_cap=cap), micro_batch_size=2)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, atol=1e-12, rtol=1e-9)
    assert stats.mean("sampling/importance_weight") == pytest.approx(float(weights[rollout.mask].mean()))
    assert stats.mean("sampling/importance_capped") == pytest.approx(
        float((weights == cap)[rollout.mask].double().mean())
    )


def test_weights_of_whole_answers_do_not_depend_on_micro_batches(tmp_path: Path) -> None:
    policy, data = policy_at(tmp_path), experience()
    rollout, cap = data.rollout, 1.2
    differences = (rollout.old_log_probs - rollout.sampler_log_probs).masked_fill(~rollout.mask, 0.0)
    weights = differences.sum(dim=1, keepdim=True).exp().clamp(max=cap).expand_as(differences)
    expected, _ = gradients(policy, replace(data, advantages=data.advantages * weights), FULL)
    for size in (1, 2, 8):
        whole = replace(FULL, importance_cap=cap, importance_level="sequence")
        found, stats = gradients(policy, data, whole, micro_batch_size=size)
        for f, e in zip(found, expected, strict=True):
            torch.testing.assert_close(f, e, atol=1e-12, rtol=1e-9)
        assert stats.mean("sampling/importance_weight") == pytest.approx(float(weights[rollout.mask].mean()))


# ------------------------------------------------------------------------------------------------ micro-batches


@pytest.mark.parametrize("tokens", [1, 9, 16, 30, 1000])
def test_ppo_does_not_depend_on_the_token_budget(tmp_path: Path, tokens: int) -> None:
    policy, data = policy_at(tmp_path), experience()
    whole, whole_stats = gradients(policy, data, FULL)
    parts, stats = gradients(policy, data, FULL, micro_batch_tokens=tokens)
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)
    for name in whole_stats.sums:
        assert stats.mean(name) == pytest.approx(whole_stats.mean(name), rel=1e-9), name


@pytest.mark.parametrize("tokens", [1, 11, 20, 1000])
def test_neither_does_sft(tmp_path: Path, tokens: int) -> None:
    actor, batch = test_sft.actor_at(tmp_path), test_sft.sequences()
    whole, loss = test_sft.gradients(actor, batch)
    engine, bounds = test_sft.Recorder(), {"micro_batch_size": None, "micro_batch_tokens": tokens}
    seen: list[int] = []
    actor.backbone.register_forward_hook(lambda _m, _i, out: seen.append(out.last_hidden_state.shape[:2].numel()))
    optimiser = torch.optim.SGD(actor.parameters(), lr=0.0)
    stats = learn_demonstrations(actor, batch, engine, optimiser, **bounds, max_grad_norm=None)
    for found, expected in zip(engine.gradients, whole, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)
    assert stats.mean("loss") == pytest.approx(loss, rel=1e-12)
    assert measure_demonstrations(actor, batch, **bounds).mean("loss") == pytest.approx(loss, rel=1e-12)
    longest = int(batch.mask.sum(dim=1).max())
    assert max(seen) <= max(tokens, longest)


@pytest.mark.parametrize("tokens", [1, 9, 14, 1000])
@pytest.mark.parametrize("objective", test_reward.OBJECTIVES, ids=test_reward.BY_NAME)
def test_neither_do_comparisons(tmp_path: Path, objective, tokens: int) -> None:
    model = test_reward.model_at(tmp_path)
    whole, whole_stats = test_reward.gradients(model, test_reward.batch(), objective)
    parts, stats = test_reward.gradients(model, test_reward.batch(), objective, tokens=tokens)
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)
    for name in whole_stats.sums:
        assert stats.mean(name) == pytest.approx(whole_stats.mean(name), rel=1e-9), name


def test_neither_do_the_texts_of_ptx(tmp_path: Path) -> None:
    policy, data, texts = policy_at(tmp_path), experience(), test_sft.sequences()

    class Texts:
        def __len__(self) -> int:
            return len(texts)

        def batch(self, indices, pad_id):
            return texts.select(list(indices))

    def found(tokens: int | None):
        stream = TextStream(Texts(), pad_id=0, seed=0, device=torch.device("cpu"))
        engine = Recorder()
        learn(
            policy, data, engine, torch.optim.SGD(policy.parameters(), lr=0.0), objective=FULL,
            passes=Passes(epochs=1, micro_batch_tokens=tokens), generator=torch.Generator().manual_seed(0),
            ptx=Ptx(stream=stream, coef=0.5),
        )  # fmt: skip
        return engine.gradients[0]

    for f, e in zip(found(12), found(None), strict=True):
        torch.testing.assert_close(f, e, atol=1e-12, rtol=1e-9)


# ------------------------------------------------------------------------------------------------ a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("first_is_old", [False, True])
def test_the_host_never_waits_for_a_gpu_between_the_cut_and_the_step(tmp_path: Path, first_is_old: bool) -> None:
    """Not in the forward passes, the losses, the backward passes, nor in what is measured of them."""
    device = torch.device("cuda")
    policy, data = policy_at(tmp_path).to(device), on(device, experience())
    passes = Passes(epochs=1, micro_batch_size=2, first_is_old=first_is_old)
    objective = replace(FULL, importance_cap=2.0)
    count = data.rollout.mask.sum()
    parts = _micro_batches(data, passes)
    for again in range(2):  # the first time kernels are loaded, which may wait
        torch.cuda.set_sync_debug_mode("error" if again else "default")
        try:
            for _, micro, texts in parts:
                analysis, kl_tokens = _analyse(policy, micro, texts, objective, None)
                seen = _as_seen_by(analysis, micro) if first_is_old else micro
                LocalEngine(device).backward(ppo_loss(analysis, seen, objective, count, kl_tokens))
                _measure(analysis, seen, objective, kl_tokens)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def on(device: torch.device, data: Experience) -> Experience:
    def moved(thing):
        cells = {name: value.to(device) for name, value in vars(thing).items() if isinstance(value, torch.Tensor)}
        return replace(thing, **cells)

    rollout = replace(moved(data.rollout), prompts=data.rollout.prompts.to(device))
    return replace(moved(data), rollout=rollout)
