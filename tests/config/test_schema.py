"""The options: their defaults are the ones people know, each is explained, and a PPOConfig that exists makes sense."""

from typing import Any

import pytest

from clearppo.config import (
    ALIASES,
    SCHEMAS,
    DataConfig,
    ModelConfig,
    PPOConfig,
    PPOSection,
    RewardConfig,
    RunConfig,
    explicit,
    leaves,
    sections,
)
from clearppo.errors import ConfigError

DEFAULTS: dict[str, dict[str, Any]] = {
    "model": {
        "critic": "shared", "value_model_path": None, "use_peft": False, "lora_r": 16, "lora_alpha": 32,
        "freeze_layers": 0, "lora_target_modules": "all-linear", "device": "auto", "dtype": "float32", "bf16": "auto",
        "attn_implementation": None, "gradient_checkpointing": False, "trust_remote_code": False,
    },
    "data": {"dataset_config": None, "dataset_train_split": "train", "max_prompt_length": None},
    "sampling": {
        "response_length": 53, "temperature": 0.7, "top_k": 0, "top_p": 1.0, "stop_token_ids": [], "stop_strings": [],
        "generation_batch_size": None, "num_generations": 1, "fixed_length": False, "truncate_token": None,
        "truncate_after": 0, "old_log_probs": "auto",
    },
    "reward": {
        "reward_funcs": [], "reward_worker": False, "reward_timeout": None, "reward_urls": [],
        "reward_url_format": "clearppo", "reward_batch_size": 16, "reward_concurrency": 4,
        "reward_request_timeout": 60.0, "reward_patience": 300.0, "reward_auth_env": None, "reward_missing": "stop",
        "reward_model_path": None, "reward_weights": None, "missing_eos_penalty": None,
        "missing_eos_score": None, "score_scaling": None, "score_clip": None, "whiten_rewards": False,
        "share_trunk": "auto",
    },
    "kl": {
        "kl_coef": 0.05, "kl_estimator": "k1", "kl_controller": "fixed", "kl_target": 6.0, "kl_horizon": 10000.0,
        "kl_loss_coef": 0.0, "kl_loss_estimator": "k3",
    },
    "ppo": {
        "num_ppo_epochs": 4, "num_mini_batches": 1, "gamma": 1.0, "lam": 0.95, "cliprange": 0.2, "cliprange_high": None,
        "dual_clip": None, "cliprange_value": 0.2, "vf_coef": 0.1, "entropy_coef": 0.0, "whiten_advantages": True,
        "early_stop_kl": None, "advantage_estimator": "gae", "critic_lam": None, "critic_warmup_steps": 0,
        "unbiased_whitening": False, "importance_cap": None, "importance_level": "token",
    },
    "ptx": {
        "ptx_coef": 0.0, "ptx_dataset_name": None, "ptx_batch_ratio": 1.0, "ptx_max_length": 512,
        "ptx_reduction": "sum",
    },
    "optim": {
        "learning_rate": 3e-6, "critic_learning_rate": None, "adam_beta1": 0.9, "adam_beta2": 0.999,
        "adam_epsilon": 1e-5, "weight_decay": 0.0, "lr_scheduler_type": "linear", "warmup_ratio": 0.0,
        "max_grad_norm": 1.0, "critic_adam_epsilon": None, "adam_style": "torch", "min_lr_ratio": 0.0,
        "warmup_steps": None, "warmup_start": 0.0,
    },
    "eval": {
        "eval_steps": None, "eval_dataset_name": None, "dataset_test_split": None, "eval_fraction": None,
        "eval_num_prompts": 128, "eval_temperature": 0.0, "eval_reward_funcs": [], "eval_reward_model_path": None,
        "metric_for_best_model": None, "greater_is_better": True, "load_best_model_at_end": False,
    },
    "run": {
        "overwrite_output_dir": False, "total_episodes": 10000, "batch_size": 64, "micro_batch_size": 16, "seed": 42,
        "sample_steps": 10, "logging_steps": 1, "ema_decay": None, "max_tokens_per_microbatch": "auto",
        "profile": None, "deterministic": False, "sharding": "none", "offload": "none",
        "offload_frozen": False, "save_steps": 50, "save_total_limit": 2,
        "resume_from_checkpoint": None, "allow_changed_options": False, "max_bad_steps": 3, "on_bad_steps": "stop",
        "watchdog_minutes": 30.0,
    },
    "vllm": {
        "sampler": "in_process", "vllm_mode": "colocate", "vllm_server_base_url": [], "vllm_server_timeout": 240.0,
        "vllm_gpu_memory_utilization": 0.3, "vllm_max_model_length": None, "vllm_dtype": "auto",
        "vllm_tensor_parallel_size": 1, "vllm_enable_sleep_mode": False, "vllm_python": None,
        "vllm_engines": 1, "overlap_generation": False,
    },
    "record": {"record_steps": 1, "record_answers": None, "record_limit_mib": 2048},
    "cluster": {
        "launch": "here", "num_processes": 1, "cpus_per_process": 1, "ray_address": None, "max_restarts": 3,
    },
    "alarm": {"alarms": True, "alarm_actions": []},
    "tracking": {"report_to": None, "run_name": None, "tracking_project": "clearppo", "tracking_dir": None},
}  # fmt: skip
REQUIRED = {"model_name_or_path", "dataset_name", "output_dir"}


def test_the_defaults_are_those_that_people_know() -> None:
    found: dict[str, dict[str, Any]] = {section: {} for section in sections(PPOConfig)}
    for leaf in leaves().values():
        if not leaf.required:
            found[leaf.section][leaf.name] = leaf.default
    assert found == DEFAULTS


def test_only_what_has_no_sensible_default_is_required() -> None:
    assert {leaf.name for leaf in leaves().values() if leaf.required} == REQUIRED


def test_the_defaults_make_a_configuration(load: Any) -> None:
    config = load()
    for section, options in DEFAULTS.items():
        for name, value in options.items():
            if name != "reward_funcs":
                assert getattr(getattr(config, section), name) == value


def test_every_option_is_explained(leaf: str) -> None:
    description = leaves()[leaf].description
    assert description.endswith(".")
    assert 20 < len(description) < 300
    assert description == " ".join(description.split())


def test_every_section_is_explained() -> None:
    assert all((model.__doc__ or "").strip().endswith(".") for model in sections(PPOConfig).values())


def test_every_option_has_another_value_in_these_tests(other_values: dict[str, Any]) -> None:
    assert set(other_values) == set(leaves())
    for name, (_, value, _) in other_values.items():
        assert value != leaves()[name].default


def test_aliases_name_options_and_hide_none() -> None:
    known = {name for schema in SCHEMAS.values() for name in leaves(schema)}
    assert set(ALIASES.values()) <= known
    assert not set(ALIASES) & known


def test_flags_of_the_command_itself_are_free() -> None:
    assert not {"config", "recipe", "help", *sections(PPOConfig)} & {*leaves(), *ALIASES}


def test_sizes_follow_from_the_options(load: Any) -> None:
    assert load().num_iterations == 157  # 10000 / 64 = 156.25
    config = load(total_episodes=128, num_mini_batches=4)
    assert (config.num_iterations, config.mini_batch_size) == (2, 16)


def built(**sections_given: Any) -> PPOConfig:
    least: dict[str, Any] = {
        "model": ModelConfig(model_name_or_path="tiny"),
        "data": DataConfig(dataset_name="prompts.jsonl"),
        "reward": RewardConfig(reward_funcs=["reward.py:score"]),
        "run": RunConfig(output_dir="runs/one"),
    }
    return PPOConfig(**{**least, **sections_given})


def test_a_configuration_built_by_hand_equals_one_that_was_loaded(load: Any) -> None:
    assert built() == load()
    assert built(ppo=PPOSection(lam=1.0)) == load(lam=1)


def test_a_configuration_is_frozen(load: Any) -> None:
    config = load()
    with pytest.raises(Exception, match="frozen"):
        config.ppo.lam = 1.0
    with pytest.raises(Exception, match="frozen"):
        config.ppo = PPOSection()


def test_it_remembers_what_was_set(load: Any, least: dict[str, Any]) -> None:
    assert explicit(load(lam=0.95, cliprange=None)) == {*least, "lam", "cliprange"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PPOSection(lam=2), "lam = 2 is not allowed: it must be a number of at least 0 and at most 1"),
        (lambda: PPOSection(lamb=1), "Unknown option lamb in PPOSection. Did you mean lam?"),  # type: ignore[call-arg]
        (lambda: built(model=ModelConfig(model_name_or_path="m", lora_r=4)), "lora_r = 4 has no effect"),
        (lambda: built(run=RunConfig(output_dir="o", batch_size=10), ppo=PPOSection(num_mini_batches=3)), "divide"),
        (lambda: built(reward=RewardConfig()), "Nothing says what a good answer is"),
        (lambda: built(model=3), "ModelConfig must be given options by name; it was given 3."),
        (lambda: PPOConfig(), "Section model is missing"),  # type: ignore[call-arg]
        (lambda: ModelConfig(), "model_name_or_path is missing. Set --model_name_or_path"),  # type: ignore[call-arg]
        (lambda: PPOSection(lam=2, gamma=2, cliprange=2), "(And 2 more.)"),
        (lambda: PPOConfig.model_validate(3), "must be given options by name"),
    ],
)
def test_a_configuration_that_makes_no_sense_cannot_be_built(make: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
