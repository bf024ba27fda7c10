"""What the golden tests of the recipes share: a case, a recipe's numbers, and phases that are told the rest."""

import json
from pathlib import Path

import torch

from clearppo.batch import Feedback, Prompts, Rollout
from clearppo.config import PPOConfig, RewardModelConfig, load_config
from clearppo.feedback import Scores, judge
from clearppo.learning import credit

CASES = {case["id"]: case for case in json.loads(Path(__file__).with_name("golden.json").read_text())["cases"]}


def case(number):
    """(inputs, expected) of one golden case."""
    return CASES[number]["inputs"], CASES[number]["expected"]


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


def check(actual, expected, rtol=1e-9, atol=1e-12):
    torch.testing.assert_close(actual.detach().double(), tensor(expected), rtol=rtol, atol=atol)


def recipe(name: str, **flags) -> PPOConfig:
    least = {"model_name_or_path": "m", "dataset_name": "d", "reward_funcs": ["f.py:f"], "output_dir": "o"}
    if name == "instructgpt":
        least["ptx_dataset_name"] = "t"
    return load_config(recipe=name, flags={**least, **flags})


def reward_recipe(name: str) -> RewardModelConfig:
    return load_config(
        RewardModelConfig, recipe=name, flags={"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o"}
    )


class Told:
    """A reference and a scorer that say what a case says."""

    names = ("told",)

    def __init__(self, ref_log_probs, scores):
        self.ref_log_probs, self.scores = ref_log_probs, scores

    def log_probs(self, rollout: Rollout) -> torch.Tensor:
        return self.ref_log_probs

    def full_kl(self, rollout: Rollout) -> torch.Tensor:
        raise AssertionError("no case uses it")

    def __call__(self, rollout: Rollout) -> Scores:
        return Scores(total=self.scores, parts={"told": self.scores})


def rollout_of(mask, log_probs, values=None, *, responses=None, ended=None) -> Rollout:
    B, T = mask.shape
    one = torch.ones((B, 1))
    return Rollout(
        prompts=Prompts(ids=one.long(), mask=one.bool(), texts=("",) * B, columns={}),
        responses=torch.ones((B, T)).long() if responses is None else responses, mask=mask, old_log_probs=log_probs,
        old_values=torch.zeros_like(log_probs) if values is None else values, sampler_log_probs=log_probs,
        finish_reasons=tuple("stop" if e else "length" for e in ended or [True] * B), completions=("",) * B,
        temperature=1.0, policy_version=0,
    )  # fmt: skip


def judged(config: PPOConfig, rollout: Rollout, scores, ref_log_probs, **changed) -> Feedback:
    """`judge` with a recipe's numbers, but for those that a case of its own has changed."""
    told = Told(ref_log_probs, scores)
    numbers = {
        "kl_coef": config.kl.kl_coef, "estimator": config.kl.kl_estimator,
        "missing_eos_penalty": config.reward.missing_eos_penalty, "missing_eos_score": config.reward.missing_eos_score,
        "score_clip": config.reward.score_clip, "whiten_rewards": config.reward.whiten_rewards,
        "unbiased_whitening": config.ppo.unbiased_whitening, **changed,
    }  # fmt: skip
    return judge(rollout, told, told, **numbers)


def credited(config: PPOConfig, rollout: Rollout, feedback: Feedback, **changed):
    numbers = {
        "gamma": config.ppo.gamma, "lam": config.ppo.lam, "whiten_advantages": config.ppo.whiten_advantages,
        "unbiased": config.ppo.unbiased_whitening, **changed,
    }  # fmt: skip
    return credit(rollout, feedback, **numbers)


def everything(x):
    return torch.ones(x.shape, dtype=torch.bool)
