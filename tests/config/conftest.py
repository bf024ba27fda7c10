"""A configuration with the least that must be given, and a value for every option that is not its default."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearppo.config import PPOConfig, load_config

LEAST: dict[str, Any] = {
    "model_name_or_path": "tiny",
    "dataset_name": "prompts.jsonl",
    "output_dir": "runs/one",
    "reward_funcs": ["reward.py:score"],
}

# option -> (as typed on the command line, the value it must become, what else it needs to have an effect)
OTHER_VALUES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "model_name_or_path": ("other/model", "other/model", {}),
    "critic": ("separate", "separate", {}),
    "freeze_layers": ("20", 20, {}),
    "value_model_path": ("rm", "rm", {"critic": "separate"}),
    "use_peft": ("true", True, {}),
    "lora_r": ("8", 8, {"use_peft": True}),
    "lora_alpha": ("64", 64, {"use_peft": True}),
    "lora_target_modules": ("q_proj,v_proj", ["q_proj", "v_proj"], {"use_peft": True}),
    "device": ("cuda:1", "cuda:1", {}),
    "dtype": ("bfloat16", "bfloat16", {}),
    "bf16": ("false", False, {}),
    "attn_implementation": ("sdpa", "sdpa", {}),
    "gradient_checkpointing": ("yes", True, {}),
    "trust_remote_code": ("1", True, {}),
    "dataset_name": ("3", "3", {}),
    "dataset_config": ("1", "1", {}),
    "dataset_train_split": ("train_sft", "train_sft", {}),
    "max_prompt_length": ("512", 512, {}),
    "response_length": ("20", 20, {}),
    "temperature": ("1", 1.0, {}),
    "top_k": ("50", 50, {}),
    "top_p": ("0.9", 0.9, {}),
    "stop_token_ids": ("13, 50256", [13, 50256], {}),
    "stop_strings": ('["\\n", "a,b", "none", " User:"]', ["\n", "a,b", "none", " User:"], {}),
    "generation_batch_size": ("8", 8, {}),
    "old_log_probs": ("learner", "learner", {}),
    "num_generations": ("4", 4, {}),
    "fixed_length": ("true", True, {}),
    "truncate_token": (".", ".", {"fixed_length": True}),
    "truncate_after": ("16", 16, {"fixed_length": True, "truncate_token": "."}),
    "reward_funcs": ("a.py:f,pkg.mod:g", ["a.py:f", "pkg.mod:g"], {}),
    "reward_worker": ("true", True, {}),
    "reward_timeout": ("10", 10.0, {"reward_worker": True}),
    "reward_urls": ("http://a:1/s,https://b/s", ["http://a:1/s", "https://b/s"], {}),
    "reward_url_format": ("openrlhf", "openrlhf", {"reward_urls": ["http://a/s"]}),
    "reward_batch_size": ("8", 8, {"reward_urls": ["http://a/s"]}),
    "reward_concurrency": ("1", 1, {"reward_urls": ["http://a/s"]}),
    "reward_request_timeout": ("5", 5.0, {"reward_urls": ["http://a/s"]}),
    "reward_patience": ("0", 0.0, {"reward_urls": ["http://a/s"]}),
    "reward_auth_env": ("TOKEN", "TOKEN", {"reward_urls": ["http://a/s"]}),
    "reward_missing": ("drop", "drop", {}),
    "reward_model_path": ("rm", "rm", {}),
    "share_trunk": ("true", True, {"reward_model_path": "rm", "use_peft": True}),
    "reward_weights": ("0.5", [0.5], {}),
    "missing_eos_penalty": ("1", 1.0, {}),
    "missing_eos_score": ("-1", -1.0, {}),
    "score_scaling": ("running", "running", {}),
    "score_clip": ("5", 5.0, {}),
    "whiten_rewards": ("on", True, {}),
    "kl_coef": ("1e-2", 0.01, {}),
    "kl_estimator": ("full", "full", {}),
    "kl_loss_coef": ("0.04", 0.04, {}),
    "kl_loss_estimator": ("full", "full", {"kl_loss_coef": 0.04}),
    "kl_controller": ("adaptive", "adaptive", {}),
    "kl_target": ("3", 3.0, {"kl_controller": "adaptive"}),
    "kl_horizon": ("1e5", 100000.0, {"kl_controller": "adaptive"}),
    "num_ppo_epochs": ("1", 1, {}),
    "num_mini_batches": ("4", 4, {}),
    "advantage_estimator": ("rloo", "rloo", {"num_generations": 2}),
    "gamma": ("0.99", 0.99, {}),
    "lam": ("1", 1.0, {}),
    "critic_lam": ("1", 1.0, {}),
    "cliprange": ("none", None, {}),
    "cliprange_high": ("0.28", 0.28, {}),
    "dual_clip": ("3", 3.0, {}),
    "importance_cap": ("2", 2.0, {}),
    "importance_level": ("sequence", "sequence", {"importance_cap": 2}),
    "cliprange_value": ("off", None, {}),
    "vf_coef": ("0.5", 0.5, {}),
    "critic_warmup_steps": ("10", 10, {}),
    "entropy_coef": ("0.01", 0.01, {}),
    "whiten_advantages": ("false", False, {}),
    "unbiased_whitening": ("true", True, {}),
    "early_stop_kl": ("0.05", 0.05, {}),
    "ptx_coef": ("27.8", 27.8, {"ptx_dataset_name": "text.jsonl"}),
    "ptx_dataset_name": ("text.jsonl", "text.jsonl", {"ptx_coef": 1.0}),
    "ptx_batch_ratio": ("8", 8.0, {"ptx_coef": 1.0, "ptx_dataset_name": "text.jsonl"}),
    "ptx_max_length": ("64", 64, {"ptx_coef": 1.0, "ptx_dataset_name": "text.jsonl"}),
    "ptx_reduction": ("mean", "mean", {"ptx_coef": 1.0, "ptx_dataset_name": "text.jsonl"}),
    "learning_rate": ("1e-5", 1e-5, {}),
    "critic_learning_rate": ("1e-4", 1e-4, {}),
    "critic_adam_epsilon": ("1e-8", 1e-8, {}),
    "adam_beta1": ("0.8", 0.8, {}),
    "adam_beta2": ("0.95", 0.95, {}),
    "adam_epsilon": ("1e-8", 1e-8, {}),
    "adam_style": ("tf", "tf", {}),
    "weight_decay": ("0.1", 0.1, {}),
    "lr_scheduler_type": ("cosine", "cosine", {}),
    "min_lr_ratio": ("0.1", 0.1, {}),
    "warmup_ratio": ("0.03", 0.03, {}),
    "warmup_steps": ("10", 10, {}),
    "warmup_start": ("0.1", 0.1, {"warmup_steps": 10}),
    "max_grad_norm": ("NULL", None, {}),
    "output_dir": ("runs/1e5", "runs/1e5", {}),
    "overwrite_output_dir": ("true", True, {}),
    "total_episodes": ("1e6", 1_000_000, {}),
    "batch_size": ("128", 128, {}),
    "micro_batch_size": ("1", 1, {}),
    "max_tokens_per_microbatch": ("4e3", 4000, {}),
    "seed": ("0", 0, {}),
    "sample_steps": ("0", 0, {}),
    "logging_steps": ("5", 5, {}),
    "deterministic": ("true", True, {}),
    "sharding": ("full", "full", {}),
    "offload": ("cpu", "cpu", {"sharding": "full"}),
    "offload_frozen": ("true", True, {}),
    "save_steps": ("0", 0, {}),
    "save_total_limit": ("none", None, {}),
    "resume_from_checkpoint": ("auto", "auto", {}),
    "allow_changed_options": ("true", True, {"resume_from_checkpoint": "auto"}),
    "max_bad_steps": ("1", 1, {}),
    "on_bad_steps": ("rollback", "rollback", {}),
    "watchdog_minutes": ("none", None, {}),
    "ema_decay": ("0.992", 0.992, {}),
    "profile": ("2,3", [2, 3], {}),
    "eval_steps": ("2", 2, {"eval_fraction": 0.1}),
    "eval_fraction": ("0.1", 0.1, {"eval_steps": 2}),
    "eval_dataset_name": ("held_out.jsonl", "held_out.jsonl", {"eval_steps": 2}),
    "dataset_test_split": ("test", "test", {"eval_steps": 2}),
    "eval_num_prompts": ("8", 8, {"eval_steps": 2, "eval_fraction": 0.1}),
    "eval_temperature": ("0.7", 0.7, {"eval_steps": 2, "eval_fraction": 0.1}),
    "eval_reward_funcs": ("a.py:f", ["a.py:f"], {"eval_steps": 2, "eval_fraction": 0.1}),
    "eval_reward_model_path": ("gold", "gold", {"eval_steps": 2, "eval_fraction": 0.1}),
    "metric_for_best_model": ("eval/kl", "eval/kl", {"eval_steps": 2, "eval_fraction": 0.1}),
    "greater_is_better": (
        "false",
        False,
        {"eval_steps": 2, "eval_fraction": 0.1, "metric_for_best_model": "eval/kl"},
    ),
    "load_best_model_at_end": (
        "true",
        True,
        {"eval_steps": 2, "eval_fraction": 0.1, "metric_for_best_model": "eval/kl"},
    ),
    "sampler": ("vllm", "vllm", {}),
    "vllm_mode": ("server", "server", {"sampler": "vllm", "vllm_server_base_url": ["http://a:1"]}),
    "vllm_server_base_url": (
        "http://a:1,http://b:2",
        ["http://a:1", "http://b:2"],
        {"sampler": "vllm", "vllm_mode": "server"},
    ),
    "vllm_server_timeout": ("30", 30.0, {"sampler": "vllm"}),
    "vllm_gpu_memory_utilization": ("0.5", 0.5, {"sampler": "vllm"}),
    "vllm_max_model_length": ("512", 512, {"sampler": "vllm"}),
    "vllm_dtype": ("bfloat16", "bfloat16", {"sampler": "vllm"}),
    "vllm_tensor_parallel_size": ("2", 2, {"sampler": "vllm"}),
    "vllm_enable_sleep_mode": ("true", True, {"sampler": "vllm"}),
    "vllm_python": ("~/vllm/bin/python", "~/vllm/bin/python", {"sampler": "vllm"}),
    "vllm_engines": ("2", 2, {"sampler": "vllm", "vllm_mode": "ray", "launch": "ray"}),
    "overlap_generation": (
        "true",
        True,
        {"sampler": "vllm", "vllm_mode": "server", "vllm_server_base_url": ["http://a:1"], "importance_cap": 2},
    ),
    "launch": ("ray", "ray", {}),
    "num_processes": ("2", 2, {"launch": "ray"}),
    "cpus_per_process": ("2", 2, {"launch": "ray"}),
    "ray_address": ("auto", "auto", {"launch": "ray"}),
    "max_restarts": ("0", 0, {"launch": "ray"}),
    "record_steps": ("10", 10, {}),
    "record_answers": ("8", 8, {}),
    "record_limit_mib": ("100", 100, {}),
    "alarms": ("false", False, {}),
    "alarm_actions": ("kl_runaway=stop, all=note", ["kl_runaway=stop", "all=note"], {}),
    "report_to": ("mlflow, wandb", ["mlflow", "wandb"], {}),
    "run_name": ("kl: 0.05", "kl: 0.05", {"report_to": ["wandb"]}),
    "tracking_project": ("1", "1", {"report_to": ["wandb"]}),
    "tracking_dir": ("runs/all", "runs/all", {"report_to": ["tensorboard"]}),
}

Load = Callable[..., PPOConfig]


@pytest.fixture(scope="session")
def least() -> dict[str, Any]:
    return dict(LEAST)


@pytest.fixture(scope="session")
def load() -> Load:
    """`load(lam=1, recipe=...)`: a configuration from the least that must be given and these flags."""

    def load(recipe: str | None = None, config_path: Path | None = None, **flags: Any) -> PPOConfig:
        return load_config(recipe=recipe, config_path=config_path, flags={**LEAST, **flags})

    return load


@pytest.fixture(scope="session")
def other_values() -> dict[str, tuple[str, Any, dict[str, Any]]]:
    return OTHER_VALUES


@pytest.fixture
def yaml_file(tmp_path: Path) -> Callable[[str], Path]:
    """`yaml_file(text)`: a file ppo.yaml with this text."""

    def write(text: str) -> Path:
        path = tmp_path / "ppo.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `leaf` runs once for each option."""
    if "leaf" in metafunc.fixturenames:
        metafunc.parametrize("leaf", OTHER_VALUES)
