"""Metrics by hand values; every metric says what it is."""

import math
from dataclasses import replace

import pytest
import torch

from clearppo.batch import Experience, Feedback, Stats
from clearppo.train.evaluation import mean_interval, repetition_rate, wins
from clearppo.train.metrics import REGISTRY, Measured, measure
from tests.tiny import tiny_rollout

NEEDED = {
    "objective/kl", "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward", "objective/scores",
    "policy/approxkl_avg", "policy/clipfrac_avg", "policy/entropy_avg", "loss/policy_avg", "loss/value_avg",
    "val/clipfrac_avg", "val/ratio", "val/ratio_var", "val/num_eos_tokens", "lr", "episode", "eps",
    "completions/mean_length", "completions/clipped_ratio", "critic/vf_explained_var",
}  # fmt: skip


def measured() -> Measured:
    """Two answers of 1 and 2 tokens; 99 stands in the masked cell of everything."""
    rollout = tiny_rollout(["a", "b"], ["x", "y"], lengths=[1, 2], finish_reasons=["stop", "length"])
    mask = rollout.mask

    def cells(*kept: float) -> torch.Tensor:
        out = torch.full(mask.shape, 99.0)
        out[mask] = torch.tensor(kept)
        return out

    object.__setattr__(rollout, "old_log_probs", cells(-1.0, -2.0, -3.0))
    object.__setattr__(rollout, "old_values", cells(0.5, 0.0, 1.0))
    names = {
        "loss/policy_avg": 3.0, "loss/value_avg": 6.0, "policy/entropy_avg": 9.0, "policy/approxkl_avg": 0.3,
        "val/ratio": 3.3, "val/ratio_squared": 3.9, "val/error": 1.5, "policy/clipfrac_avg": 1.0,
        "val/clipfrac_avg": 2.0, "sampling/log_prob_difference": 0.2,
    }  # fmt: skip
    stats = Stats(
        sums={**names, "policy/grad_norm": 8.0}, counts={**dict.fromkeys(names, 3.0), "policy/grad_norm": 4.0}
    )
    return Measured(
        rollout=rollout,
        feedback=Feedback(
            scores=torch.tensor([1.0, 2.0]),
            raw_scores=torch.tensor([10.0, 30.0]),
            parts={"f": torch.tensor([1.0, 2.0]), "g": torch.tensor([math.nan, 4.0])},
            ref_log_probs=cells(0.0, 0.0, 0.0),
            kl=cells(0.1, 0.2, 0.3),
            rewards=cells(0.0, 0.0, 0.0),
        ),
        experience=Experience(
            rollout=rollout,
            advantages=cells(0.0, 0.0, 0.0),
            returns=cells(1.0, 1.0, 4.0),
            ref_log_probs=cells(0.0, 0.0, 0.0),
        ),
        stats=stats,
        kl_coef=0.5,
        learning_rate=1e-5,
        episode=10,
        seconds={"sampling": 1.0, "learning": 3.0},
        communication={"learning": 0.25},
    )


def test_what_depends_on_the_machine_is_kept_apart() -> None:
    metrics, timings = REGISTRY.kept(measure(measured()))
    clock = {"time/sampling": 1.0, "time/learning": 3.0, "communication/learning": 0.25}
    assert timings == {**clock, "eps": 0.5, "tokens_per_second": 0.75}
    assert not timings.keys() & metrics.keys()


def test_hand_values() -> None:
    row = measure(measured())
    expected = {
        "objective/scores": 1.5, "objective/raw_scores": 20.0, "reward_std": 0.5, "objective/kl": 0.3,
        "objective/entropy": 3.0,
        "objective/non_score_reward": -0.15, "objective/rlhf_reward": 1.35, "loss/policy_avg": 1.0,
        "loss/value_avg": 2.0,
        "policy/entropy_avg": 3.0, "policy/approxkl_avg": 0.1, "policy/clipfrac_avg": 1 / 3, "val/clipfrac_avg": 2 / 3,
        "val/ratio": 1.1, "val/ratio_var": 1.3 - 1.21, "val/error": 0.5, "val/mean": 0.5, "returns/mean": 2.0,
        "returns/var": 2.0, "critic/vf_explained_var": 1 - ((0.25 + 1 + 9) / 3) / 2.0, "completions/mean_length": 1.5,
        "completions/repetition": 0.0,
        "completions/clipped_ratio": 0.5, "val/num_eos_tokens": 1.0, "sampling/log_prob_difference": 0.2 / 3,
        "policy/grad_norm": 2.0, "rewards/f/mean": 1.5, "rewards/f/std": 0.5, "rewards/g/mean": 4.0,
        "rewards/g/std": 0.0,
        "lr": 1e-5, "episode": 10, "eps": 0.5, "tokens_per_second": 0.75, "time/sampling": 1.0, "time/learning": 3.0,
        "communication/learning": 0.25, "objective/kl_coef": 0.5, "policy/early_stop": 0.0, "faults/skipped_steps": 0.0,
    }  # fmt: skip
    assert set(row) == set(expected)
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name


def test_metrics_that_do_not_exist_in_a_run_are_absent() -> None:
    whole = measured()
    stats = Stats(
        sums={k: v for k, v in whole.stats.sums.items() if "clipfrac" not in k},
        counts={k: v for k, v in whole.stats.counts.items() if "clipfrac" not in k},
    )
    object.__setattr__(whole, "stats", stats)
    assert {"policy/clipfrac_avg", "val/clipfrac_avg"}.isdisjoint(measure(whole))


def test_a_run_without_a_critic_has_no_numbers_of_one() -> None:
    whole = measured()
    of_critic = {"loss/value_avg", "val/error", "val/clipfrac_avg"}
    stats = Stats(
        sums={k: v for k, v in whole.stats.sums.items() if k not in of_critic},
        counts={k: v for k, v in whole.stats.counts.items() if k not in of_critic},
    )
    with_critic, without = measure(whole), measure(replace(whole, stats=stats))
    assert set(with_critic) - set(without) == of_critic | {"val/mean", "critic/vf_explained_var"}


def test_losses_beside_ppo_are_means_over_their_own_tokens() -> None:
    whole = measured()
    stats = whole.stats + Stats(
        sums={"loss/ptx_avg": 12.0, "loss/kl_avg": 0.6}, counts={"loss/ptx_avg": 8.0, "loss/kl_avg": 3.0}
    )
    row = measure(replace(whole, stats=stats))
    assert (row["loss/ptx_avg"], row["loss/kl_avg"]) == pytest.approx((1.5, 0.2))


def test_the_registry_explains_every_name_that_dashboards_know() -> None:
    assert set(REGISTRY) >= NEEDED
    for metric in REGISTRY.values():
        assert len(metric.formula) > 10
        assert metric.unit


def test_stats_add_up_and_know_no_means_of_nothing() -> None:
    a, b = Stats(sums={"x": 1.0}, counts={"x": 2.0}), Stats(sums={"x": 5.0, "y": 1.0}, counts={"x": 1.0, "y": 0.0})
    assert (a + b).mean("x") == 2.0
    assert (Stats.empty() + a).sums == a.sums
    with pytest.raises(ValueError, match="nothing was counted"):
        b.mean("y")
    with pytest.raises(KeyError):
        a.mean("y")


def test_evaluation_numbers() -> None:
    assert repetition_rate([[1, 2, 3, 4, 1, 2, 3, 4]]) == pytest.approx(1 / 5)
    assert repetition_rate([[1, 2, 3, 4], [1, 2, 3, 4]]) == 0.0  # within an answer only
    assert repetition_rate([[1, 2]]) == 0.0
    mean, half = mean_interval([1.0, 2.0, 3.0])
    assert (mean, half) == pytest.approx((2.0, 1.96 / math.sqrt(3)))
    assert wins([1.0, 2.0, 2.0, 0.0], [0.0, 2.0, 1.0, 1.0]) == [1.0, 0.5, 1.0, 0.0]
