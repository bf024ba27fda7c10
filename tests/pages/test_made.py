"""Made runs are what a run would leave: numbers that follow from each other, in files with the library's own fields."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from clearppo.core.advantages import gae, rloo
from clearppo.core.kl import kl
from clearppo.core.losses import actor_clipped
from clearppo.core.masks import whiten
from clearppo.core.rewards import rewards_from_kl
from clearppo.learning.ppo import Objective
from clearppo.record.read import Iteration, iteration_path, steps
from clearppo.record.schema import METADATA
from clearppo.train.eval_metrics import EVALUATION
from clearppo.train.metrics import REGISTRY
from clearppo.train.reward_report import RewardReport
from tests.pages import made, numbers
from tests.pages.numbers import Spec

SPECS = {"ppo-a": made.A, "ppo-b": made.B, "rloo": made.RLOO}


@pytest.mark.parametrize("name", SPECS)
def test_numbers_follow_from_each_other(name) -> None:
    spec: Spec = SPECS[name]
    made_by = numbers.iteration(spec, 6)
    tensors = {key: torch.from_numpy(value) for key, value in vars(made_by).items() if isinstance(value, np.ndarray)}
    mask, learned = tensors["mask"], tensors["learned"]
    earning = mask & learned[:, None]

    expected = kl(tensors["old_log_probs"], tensors["ref_log_probs"], spec.kl_estimator) * mask
    torch.testing.assert_close(tensors["kl"], expected)
    rewards = rewards_from_kl(tensors["scores"], expected, earning, spec.kl_coef)
    if spec.whiten_rewards:
        rewards = whiten(rewards, earning, shift_mean=False)
    torch.testing.assert_close(tensors["rewards"], rewards)
    if spec.advantage_estimator == "gae":
        advantages, returns = gae(rewards, tensors["values"], earning, spec.gamma, spec.lam)
        torch.testing.assert_close(tensors["returns"], returns)
    else:
        advantages = rloo(rewards.sum(dim=1), spec.num_generations)[:, None] * mask
    if spec.whiten_advantages:
        advantages = whiten(advantages, earning)
    torch.testing.assert_close(tensors["advantages"], advantages, atol=1e-5, rtol=1e-5)
    for ratios, clipped in zip(tensors["ratios"], made_by.clipped, strict=True):
        known = ratios.nan_to_num(nan=1.0).where(mask, torch.ones(()))
        expected = actor_clipped(tensors["advantages"], torch.zeros_like(known), known.log(), mask, spec.cliprange)
        assert (torch.from_numpy(clipped) == expected).all()
    assert made_by.clipped.any()


def test_files_have_the_fields_of_a_run(runs: Path) -> None:
    rows = [json.loads(line) for line in (runs / "ppo-b" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 12))
    own = {name for name in rows[0] if not name.startswith("rewards/")} - {"step"}
    assert own <= set(REGISTRY)
    evaluated = [json.loads(line) for line in (runs / "ppo-a" / "metrics.jsonl").read_text().splitlines()]
    found = {name for row in evaluated for name in row if name.startswith("eval/") and "/rewards/" not in name}
    assert found == set(EVALUATION)
    report = json.loads((runs / "reward" / "reward_report.json").read_text())
    assert set(report) == {"schema", "version", *(field.name for field in fields(RewardReport))}

    assert steps(runs / "ppo-b") == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    record = Iteration(iteration_path(runs / "ppo-b", 9))
    assert set(record.meta) == set(METADATA)
    assert set(record.meta["objective"]) == {field.name for field in fields(Objective)}
    assert any(record.answer(row)["ratios"][-1] is None for row in range(record.n_rows))


def test_a_made_run_is_one_that_could_be_overwritten(runs: Path) -> None:
    from clearppo.errors import RunDirError
    from clearppo.rundir import RunDir

    with pytest.raises(RunDirError, match="already holds a run"):
        RunDir.create(runs / "ppo-a")
