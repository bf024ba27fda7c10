"""A pipeline's configuration: which steps there are, what joins them, and every way in which one cannot follow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearppo.config import PPOConfig, PrefsConfig, RewardModelConfig, SFTConfig, load_config, load_pipeline
from clearppo.errors import ConfigError

FILES: dict[str, Any] = {
    "model_name_or_path": "base",
    "demonstrations": "d.jsonl",
    "comparisons": "c.jsonl",
    "prompts": "p.jsonl",
    "output_dir": "runs/all",
}


def without(*names: str, **more: Any) -> dict[str, Any]:
    return {**{name: value for name, value in FILES.items() if name not in names}, **more}


def test_each_step_begins_with_the_files_of_the_one_before() -> None:
    pipeline = load_pipeline(flags=FILES)
    assert list(pipeline.steps) == ["sft", "reward", "ppo"]
    sft, reward, ppo = pipeline.steps.values()
    assert isinstance(sft, SFTConfig)
    assert isinstance(reward, RewardModelConfig)
    assert isinstance(ppo, PPOConfig)
    assert (sft.model.model_name_or_path, sft.data.dataset_name) == ("base", "d.jsonl")
    assert sft.run.output_dir == reward.model.model_name_or_path == ppo.model.model_name_or_path == "runs/all/sft"
    assert reward.data.dataset_name == "c.jsonl"
    assert reward.run.output_dir == ppo.reward.reward_model_path == "runs/all/reward"
    assert (ppo.data.dataset_name, ppo.run.output_dir) == ("p.jsonl", "runs/all/ppo")


def test_a_labeller_adds_a_step_that_makes_the_comparisons() -> None:
    pipeline = load_pipeline(flags=without("comparisons", labeller="a.py:f"))
    assert list(pipeline.steps) == ["sft", "prefs", "reward", "ppo"]
    prefs, reward = pipeline.steps["prefs"], pipeline.steps["reward"]
    assert isinstance(prefs, PrefsConfig)
    assert isinstance(reward, RewardModelConfig)
    assert (prefs.model.model_name_or_path, prefs.data.dataset_name) == ("runs/all/sft", "p.jsonl")
    assert prefs.run.output_file == reward.data.dataset_name == "runs/all/comparisons.jsonl"


def test_steps_are_left_out_where_their_output_is_given() -> None:
    assert list(load_pipeline(flags=without("demonstrations")).steps) == ["reward", "ppo"]
    given = without("demonstrations", "comparisons", reward_model_path="rm")
    pipeline = load_pipeline(flags=given)
    assert list(pipeline.steps) == ["ppo"]
    ppo = pipeline.steps["ppo"]
    assert isinstance(ppo, PPOConfig)
    assert (ppo.model.model_name_or_path, ppo.reward.reward_model_path) == ("base", "rm")
    function = load_pipeline(flags=without("comparisons", **{"ppo.reward_funcs": "a.py:f"}))
    assert list(function.steps) == ["sft", "ppo"]


def test_the_seed_and_the_device_are_those_of_every_step() -> None:
    for config in load_pipeline(flags={**FILES, "seed": 7, "device": "cpu"}).steps.values():
        assert dict(dict(config)["run"])["seed"] == 7
        assert dict(dict(config)["model"])["device"] == "cpu"


def test_options_of_a_step() -> None:
    pipeline = load_pipeline(flags={**FILES, "sft.learning_rate": "1e-4", "ppo.kl_coef": 0.02, "ppo.gae_lambda": 1})
    sft, ppo = pipeline.steps["sft"], pipeline.steps["ppo"]
    assert isinstance(sft, SFTConfig)
    assert isinstance(ppo, PPOConfig)
    assert (sft.optim.learning_rate, ppo.kl.kl_coef, ppo.ppo.lam) == (1e-4, 0.02, 1)


def test_a_separate_critic_starts_from_the_reward_model_unless_told_otherwise() -> None:
    for more, start in [
        ({}, "runs/all/reward"),
        ({"ppo.value_model_path": "other"}, "other"),
        ({"ppo.value_model_path": "none"}, None),
    ]:
        ppo = load_pipeline(flags={**FILES, "ppo.critic": "separate", **more}).steps["ppo"]
        assert isinstance(ppo, PPOConfig)
        assert ppo.model.value_model_path == start


def test_recipe_file_and_flags(yaml_file: Callable[[str], Path]) -> None:
    path = yaml_file(
        "recipe: deepspeed-chat\npipeline:\n  model_name_or_path: base\n  prompts: p.jsonl\n  comparisons: c.jsonl\n"
        "  output_dir: o\nppo:\n  kl:\n    kl_coef: 0.3\n  optim:\n    learning_rate: 1.0e-6\n"
    )
    ppo = load_pipeline(config_path=path, flags={"ppo.learning_rate": 1e-7}).steps["ppo"]
    assert isinstance(ppo, PPOConfig)
    assert (ppo.kl.kl_coef, ppo.optim.learning_rate, ppo.reward.score_clip) == (0.3, 1e-7, 5)


def test_a_file_of_all_steps_serves_each_command_alone(yaml_file: Callable[[str], Path]) -> None:
    path = yaml_file("sft:\n  optim:\n    learning_rate: 1.0e-4\nppo:\n  ppo:\n    lam: 1.0\n  kl:\n    kl_coef: 0.3\n")
    least = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o"}
    assert load_config(SFTConfig, config_path=path, flags=least).optim.learning_rate == 1e-4
    ppo = load_config(PPOConfig, config_path=path, flags={**least, "reward_funcs": "a.py:f"})
    assert (ppo.ppo.lam, ppo.kl.kl_coef) == (1, 0.3)
    with pytest.raises(ConfigError, match="has no part for clearppo reward: it has sft and ppo"):
        load_config(RewardModelConfig, config_path=path, flags=least)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (without("comparisons"), "Nothing says what a good answer is, so step ppo cannot follow. Set --comparisons"),
        ({**FILES, "labeller": "a.py:f"}, "comparisons and labeller are given, and each of them says what"),
        ({**FILES, "ppo.model_name_or_path": "x"}, "model_name_or_path of step ppo follows from the pipeline"),
        ({**FILES, "reward.output_dir": "x"}, "output_dir of step reward follows from the pipeline"),
        ({**FILES, "prefs.num_completions": 3}, "--prefs.num_completions has no effect: there is no step prefs"),
        (without("demonstrations", **{"sft.batch_size": 3}), "--sft.batch_size has no effect: there is no step sft"),
        ({**FILES, "rm.batch_size": 3}, "--rm.batch_size: there is no step rm. The steps are sft, prefs, reward and"),
        (
            {**FILES, "ppo.lam": 2},
            "at least 0 and at most 1. Write e.g. --ppo.lam 0.95",
        ),
        (without("prompts"), "Missing: --prompts"),
        (
            {**FILES, "ppo.num_completions": 2},
            "step ppo: Unknown option --ppo.num_completions. Did you mean --ppo.num_generations?",
        ),
        ({**FILES, "promts": "x"}, "Unknown option --promts. Did you mean --prompts?"),
    ],
)
def test_a_step_that_cannot_follow(flags: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_pipeline(flags=flags)
    assert sentence in str(raised.value)


def test_a_recipe_that_needs_other_text_and_got_none() -> None:
    with pytest.raises(ConfigError, match=r"step ppo: ptx_coef = 27\.8 .* Set --ppo\.ptx_dataset_name FILE"):
        load_pipeline(recipe="instructgpt", flags=FILES)
    assert load_pipeline(recipe="instructgpt", flags={**FILES, "ppo.ptx_dataset_name": "t.jsonl"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pipelin:\n  prompts: p\n", "line 1: pipelin is no step of a pipeline. Did you mean pipeline?"),
        ("pipeline:\n  promts: p\n", "line 2: Unknown option promts. Did you mean prompts?"),
        ("pipeline:\n  prompts: p\nppo:\n  kl_coef: 1\n", "line 4: kl_coef belongs in section kl."),
        ("sft:\n  data:\n    dataset_name: x\n", "line 3: dataset_name of step sft follows from the pipeline"),
        ("sft: 3\n", "here belong the sections of sft"),
    ],
)
def test_a_file_with_a_mistake(text: str, sentence: str, yaml_file: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError) as raised:
        load_pipeline(config_path=yaml_file(text), flags=FILES)
    assert sentence in str(raised.value)


def test_a_shared_trunk_needs_an_adapter() -> None:
    wanted = {**FILES, "ppo.use_peft": True, "ppo.share_trunk": True}
    with pytest.raises(ConfigError, match=r"share_trunk = true needs a reward model .* Add --reward.use_peft true"):
        load_pipeline(flags=wanted)
    assert load_pipeline(flags={**wanted, "reward.use_peft": True})
