"""The recipe `article`, through the phases that a run goes through, equals equations (1) to (9) of golden case G05."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clearppo.batch import Prompts, Rollout
from clearppo.build.learning import ppo_objective, ppo_recipe
from clearppo.config import PPOConfig, load_config, objective
from clearppo.feedback import Scores, judge
from clearppo.learning import credit
from clearppo.learning.ppo import ppo_loss
from clearppo.models.policy import Analysis

GOLDEN = Path(__file__).parents[1] / "golden" / "golden.json"
CASE = next(case for case in json.loads(GOLDEN.read_text())["cases"] if case["id"] == "G05")
GIVEN, EXPECTED = CASE["inputs"], CASE["expected"]


def tensor(name: str, source: dict = GIVEN) -> torch.Tensor:
    return torch.tensor(source[name], dtype=torch.float64)


class Told:
    """A reference and a scorer that say what the case says."""

    names = ("told",)

    def log_probs(self, rollout: Rollout) -> torch.Tensor:
        return tensor("ref_log_prob")

    def full_kl(self, rollout: Rollout) -> torch.Tensor:
        raise AssertionError("the article uses one sample")

    def __call__(self, rollout: Rollout) -> Scores:
        total = tensor("score").float()
        return Scores(total=total, parts={"told": total})


@pytest.fixture
def config(tmp_path: Path) -> PPOConfig:
    flags = {
        "model_name_or_path": "m", "dataset_name": "d", "reward_funcs": ["f.py:f"], "output_dir": str(tmp_path),
        "dtype": "float64",
    }  # fmt: skip
    return load_config(recipe="article", config_path=None, flags=flags)


def test_equations_1_to_9(config: PPOConfig) -> None:
    shape = (2, 3)
    rollout = Rollout(
        prompts=Prompts(
            ids=torch.ones(2, 1, dtype=torch.long), mask=torch.ones(2, 1, dtype=torch.bool), texts=("", ""), columns={}
        ),
        responses=torch.ones(shape, dtype=torch.long), mask=torch.ones(shape, dtype=torch.bool),
        old_log_probs=tensor("old_log_prob"), old_values=tensor("old_values"), sampler_log_probs=tensor("old_log_prob"),
        finish_reasons=("stop", "stop"), completions=("", ""), temperature=1.0, policy_version=0,
    )  # fmt: skip
    recipe = ppo_recipe(config)
    feedback = judge(
        rollout, Told(), Told(), kl_coef=config.kl.kl_coef, estimator=recipe.kl_estimator,
        missing_eos_penalty=recipe.missing_eos_penalty, whiten_rewards=recipe.whiten_rewards,
    )  # fmt: skip
    exact = {"atol": 1e-12, "rtol": 1e-12}
    torch.testing.assert_close(feedback.rewards, tensor("eq2_reward", EXPECTED), **exact)
    experience = credit(
        rollout, feedback, gamma=recipe.gamma, lam=recipe.lam, whiten_advantages=recipe.whiten_advantages
    )
    torch.testing.assert_close(experience.returns, tensor("eq3_return", EXPECTED), **exact)
    torch.testing.assert_close(experience.advantages, tensor("eq4_advantage", EXPECTED), **exact)
    analysis = Analysis(
        log_probs=tensor("log_prob"), values=tensor("values"), entropy=torch.zeros(shape, dtype=torch.float64)
    )
    loss = ppo_loss(analysis, experience, ppo_objective(config), torch.tensor(6))
    assert float(loss) == pytest.approx(EXPECTED["eq9_total"], abs=1e-12)
    only_actor = ppo_loss(analysis, experience, replace(ppo_objective(config), vf_coef=0.0), torch.tensor(6))
    assert float(only_actor) == pytest.approx(EXPECTED["eq6_eq7_actor_loss_ratio"], abs=1e-12)
    assert (float(loss) - float(only_actor)) / 0.1 == pytest.approx(EXPECTED["eq8_critic_loss"], abs=1e-11)


def test_it_leaves_out_what_the_article_leaves_out(config: PPOConfig) -> None:
    assert config.model.critic == "shared"
    assert config.ppo.num_ppo_epochs == 4
    assert config.kl.kl_coef == 1.0
    assert (config.ppo.gamma, config.ppo.lam, config.ppo.vf_coef) == (1.0, 1.0, 0.1)
    assert config.ppo.cliprange is config.ppo.cliprange_value is config.optim.max_grad_norm is None
    assert not config.ppo.whiten_advantages
    line = objective(config)
    assert "E[ratio*A] - 0.1 * 1/2 E[(V-R)^2]" in line
    for absent in ("clip", "whiten", "GAE"):
        assert absent not in line
