"""TRL's PPO, setting by setting."""

from typing import Any

import pytest

from clearppo.config import PPOConfig, load_config, values
from clearppo.foreign import Finding, Imported
from tests.imports.conftest import Import

TLDR = {
    "dataset_name": "trl-lib/tldr", "dataset_test_split": "validation", "output_dir": "out", "learning_rate": 3e-6,
    "per_device_train_batch_size": 16, "gradient_accumulation_steps": 4, "total_episodes": 1_000_000,
    "model_name_or_path": "pythia", "sft_model_path": "sft", "reward_model_path": "rm", "stop_token": "eos",
    "local_rollout_forward_batch_size": 16, "missing_eos_penalty": 1.0, "eval_strategy": "steps", "eval_steps": 100,
}  # fmt: skip


def one(found: Imported, name: str) -> Finding:
    (finding,) = [it for it in found.findings if it.name == name and it.place]
    return finding


def test_trls_own_example(imported: Import) -> None:
    found = imported(TLDR)
    assert (found.step, found.program, found.missing) == ("ppo", "TRL", [])
    assert isinstance(found.config, PPOConfig)
    assert found.config.model.model_name_or_path == "sft"
    assert (found.config.model.critic, found.config.model.value_model_path) == ("separate", "rm")
    assert (found.config.run.batch_size, found.config.run.micro_batch_size) == (64, 16)
    assert found.config.num_iterations == 15625
    assert found.config.run.sample_steps == 1562
    assert found.config.reward.missing_eos_penalty == 1.0
    assert found.config.sampling.generation_batch_size == 16
    assert not found.config.sampling.fixed_length
    assert one(found, "eval_steps").status == "did nothing"
    assert one(found, "model_name_or_path").status == "not carried"


def test_the_defaults_are_the_recipes(imported: Import) -> None:
    """What TRL's PPO does where its file says nothing is what the recipe `trl` says."""
    found = imported({**TLDR, "sft_model_path": "m"})
    flags = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o", "reward_model_path": "rm"}
    recipe = values(load_config(recipe="trl", flags=flags))
    ours = values(found.config)
    chosen = {
        "model_name_or_path", "value_model_path", "dataset_name", "output_dir", "total_episodes", "batch_size",
        "sample_steps", "generation_batch_size", "missing_eos_penalty",
    }  # fmt: skip
    assert {name: ours[name] for name in ours if name not in chosen} == {
        name: recipe[name] for name in recipe if name not in chosen
    }


def test_defaults_are_written_out(imported: Import) -> None:
    text = imported({"kl_coef": 0.1}).text
    for line in (
        "kl_coef: 0.1", "kl_estimator: k1", "num_ppo_epochs: 4", "whiten_rewards: false", "cliprange: 0.2",
        "vf_coef: 0.1", "cliprange_value: 0.2",
        "gamma: 1.0", "lam: 0.95", "response_length: 53", "temperature: 0.7",
        "generation_batch_size: 64", "batch_size: 8", "adam_epsilon: 1.0e-08", "max_grad_norm: null",
        "unbiased_whitening: true", "critic: separate", "fixed_length: true", "learning_rate: 3.0e-06",
    ):  # fmt: skip
        assert f"\n  {line}" in text
    assert "missing_eos_penalty" not in text


@pytest.mark.parametrize(
    ("each", "steps", "parts", "processes", "batch", "taken"),
    [
        (8, 1, 1, 1, 8, 1),
        (8, 4, 1, 2, 64, 1),
        (8, 4, 4, 1, 32, 1),  # golden case G32: one step an epoch whatever num_mini_batches says
        (8, 4, 2, 1, 32, 1),
        (8, 1, 4, 1, 8, 4),  # nothing is accumulated, so every part is a step
        (8, 2, 8, 1, 16, 4),
        (9, 4, 3, 1, 36, 1),  # 6 micro-batches, a step after every 4
    ],
)
def test_batches(imported: Import, each: int, steps: int, parts: int, processes: int, batch: int, taken: int) -> None:
    found = imported(
        {"per_device_train_batch_size": each, "gradient_accumulation_steps": steps, "num_mini_batches": parts},
        processes=processes,
    )
    assert isinstance(found.config, PPOConfig)
    assert (found.config.run.batch_size, found.config.ppo.num_mini_batches) == (batch, taken)
    assert (one(found, "num_mini_batches").status == "did nothing") == (taken != parts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_grad_norm", 0.5),
        ("logging_steps", 5),
        ("max_steps", 100),
        ("gradient_checkpointing", True),
        ("fp16", True),
        ("batch_size", 512),
        ("mini_batch_size", 64),
        ("world_size", 8),
        ("load_best_model_at_end", True),
        ("neftune_noise_alpha", 5),
        ("resume_from_checkpoint", "out/checkpoint-3"),
    ],
)
def test_what_did_nothing_changes_nothing(imported: Import, name: str, value: Any) -> None:
    before, after = imported(TLDR), imported({**TLDR, name: value})
    assert after.config == before.config
    assert one(after, name).status == "did nothing"
    assert name in after.text


def test_bf16_did_nothing_and_does_now(imported: Import) -> None:
    found = imported({**TLDR, "bf16": True})
    assert one(found, "bf16").status == "did nothing"
    assert one(found, "bf16").ours == {"bf16": True}
    assert one(imported({**TLDR, "bf16": False}), "bf16").status == "carried"


def test_without_a_stop_token_answers_have_full_length(imported: Import) -> None:
    found = imported({"temperature": 1.0, "response_length": 20})
    assert isinstance(found.config, PPOConfig)
    assert found.config.sampling.fixed_length
    penalised = imported({"temperature": 1.0, "missing_eos_penalty": 1})
    assert isinstance(penalised.config, PPOConfig)
    assert not penalised.config.sampling.fixed_length
    assert "stop_token" in penalised.notes[-1]
    by_id = imported({"stop_token_id": 13})
    assert isinstance(by_id.config, PPOConfig)
    assert by_id.config.sampling.stop_token_ids == [13]


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ({"lr_scheduler_type": "cosine", "warmup_ratio": 0.1}, ("cosine", 0.1, None)),
        ({"lr_scheduler_type": "constant", "warmup_steps": 10}, ("constant", 0.0, None)),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 10}, ("constant", 0.0, 10)),
        ({"lr_scheduler_type": "polynomial"}, ("linear", 0.0, None)),
        ({"lr_scheduler_type": "inverse_sqrt"}, ("linear", 0.0, None)),
        ({"warmup_steps": 0.05}, ("linear", 0.05, None)),
        ({"warmup_steps": 5, "warmup_ratio": 0.1}, ("linear", 0.0, 5)),
    ],
    ids=str,
)
def test_schedules(imported: Import, given: dict[str, Any], ours: tuple[Any, ...]) -> None:
    found = imported({**TLDR, **given})
    assert isinstance(found.config, PPOConfig)
    optim = found.config.optim
    assert (optim.lr_scheduler_type, optim.warmup_ratio, optim.warmup_steps) == ours


def test_lowest_rate(imported: Import) -> None:
    found = imported({**TLDR, "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}})
    assert isinstance(found.config, PPOConfig)
    assert (found.config.optim.lr_scheduler_type, found.config.optim.min_lr_ratio) == ("cosine", 0.1)


def test_lora_and_trackers(imported: Import) -> None:
    given = {"use_peft": True, "lora_r": 32, "lora_target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}
    found = imported({**TLDR, **given, "report_to": ["wandb", "comet_ml"], "run_name": "mine"})
    assert isinstance(found.config, PPOConfig)
    assert (found.config.model.lora_r, found.config.model.lora_target_modules) == (32, ["q_proj", "v_proj"])
    assert found.config.tracking.report_to == ["wandb"]
    assert "comet_ml" in one(found, "report_to").why
    assert one(found, "lora_dropout").status == "did nothing"
    off = imported({**TLDR, "lora_r": 8, "run_name": "mine"})
    assert one(off, "lora_r").status == "did nothing"
    assert one(off, "run_name").status == "not carried"


def test_what_our_schema_refuses_is_not_carried_and_its_sentence_is_told(imported: Import) -> None:
    found = imported({**TLDR, "temperature": 0.001, "kl_estimator": "k2", "cliprange": 2})
    for name in ("temperature", "kl_estimator", "cliprange"):
        assert one(found, name).status == "not carried"
    assert "it must be a number" in one(found, "temperature").why
    assert "temperature" not in found.options


def test_shares_of_a_run_are_turned_into_steps_where_they_can_be(imported: Import) -> None:
    found = imported({**TLDR, "save_steps": 0.1, "save_total_limit": 3})
    assert isinstance(found.config, PPOConfig)
    assert (found.config.run.save_steps, found.config.run.save_total_limit) == (1563, 3)
    unknown = imported({"kl_coef": 0.1, "save_steps": 0.1})
    assert one(unknown, "save_steps").status == "not carried"
    assert imported({**TLDR, "save_strategy": "no"}).options["save_steps"] == 0


def test_episodes_that_the_file_does_not_say_are_asked_for(imported: Import) -> None:
    found = imported({"kl_coef": 0.1, "num_train_epochs": 2})
    assert "2 x their number" in found.notes[0]
    assert one(found, "num_train_epochs").status == "not carried"


def test_text_stands_for_numbers_as_with_argparse(imported: Import) -> None:
    """YAML reads 3e-6 as text, and so does a command line."""
    found = imported("kl_coef: 5e-2\nper_device_train_batch_size: '4'\nwhiten_rewards: 'True'\ngamma: 1\n")
    assert isinstance(found.config, PPOConfig)
    assert (found.config.kl.kl_coef, found.config.run.batch_size) == (0.05, 4)
    assert found.config.reward.whiten_rewards


def test_unknown_names_are_told(imported: Import) -> None:
    found = imported({**TLDR, "kl_cof": 0.1})
    assert one(found, "kl_cof").status == "unknown"
    assert "# Unknown:" in found.text
