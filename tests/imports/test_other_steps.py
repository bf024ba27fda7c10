"""TRL's SFT, its reward models, and its first PPO."""

from typing import Any

import pytest

from clearppo.config import PPOConfig, RewardModelConfig, SFTConfig
from tests.imports.conftest import Import
from tests.imports.test_ppo import one

BASE = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "o"}


def test_sft(imported: Import) -> None:
    found = imported({**BASE, "packing": True, "max_length": 2048, "assistant_only_loss": True, "bf16": True})
    assert found.step == "sft"
    assert isinstance(found.config, SFTConfig)
    assert found.config.data.max_length == 2048
    assert found.config.data.eval_fraction == 0
    assert (found.config.run.num_train_epochs, found.config.run.batch_size) == (3.0, 8)
    assert (found.config.optim.learning_rate, found.config.optim.max_grad_norm) == (2e-5, 1.0)
    assert found.config.model.gradient_checkpointing
    assert found.config.model.bf16 is True
    assert one(found, "packing").status == "not carried"


def test_reward(imported: Import) -> None:
    given = {**BASE, "center_rewards_coefficient": 0.01, "eval_strategy": "steps", "eval_steps": 50}
    found = imported({**given, "max_steps": 10, "max_grad_norm": 0})
    assert found.step == "reward"
    assert isinstance(found.config, RewardModelConfig)
    assert (found.config.rm.rm_loss, found.config.rm.score_normalisation) == ("pairwise", None)
    assert (found.config.rm.center_coef, found.config.data.judgement_template) == (0.01, "{conversation}{eos}")
    assert (found.config.data.dataset_test_split, found.config.run.eval_steps) == ("test", 50)
    assert (found.config.optim.learning_rate, found.config.optim.max_grad_norm) == (1e-4, None)
    assert found.config.run.max_steps == 10


def test_a_file_of_data_has_no_splits(imported: Import) -> None:
    given = {**BASE, "dataset_name": "pairs.jsonl", "dataset_train_split": "a", "dataset_test_split": "b"}
    found = imported({**given, "eval_strategy": "epoch", "disable_dropout": True})
    assert isinstance(found.config, RewardModelConfig)
    assert found.config.data.dataset_test_split is None
    assert {one(found, name).status for name in ("dataset_train_split", "dataset_test_split")} == {"not carried"}


def test_a_mixture_of_one_data_set_is_a_data_set(imported: Import) -> None:
    found = imported("packing: false\ndatasets:\n  - path: a/b\n    name: c\n    columns: [x]\n")
    assert isinstance(found.config, SFTConfig)
    assert (found.config.data.dataset_name, found.config.data.dataset_config) == ("a/b", "c")
    assert any("columns" in note for note in found.notes)
    several = imported("packing: false\ndatasets:\n  - path: a/b\n  - path: c/d\n")
    assert "dataset_name" in several.missing


OLD = {"ppo_epochs": 2, "batch_size": 64, "mini_batch_size": 8, "gradient_accumulation_steps": 2, "init_kl_coef": 0.1}


def test_the_first_ppo_is_known_by_its_names(imported: Import) -> None:
    found = imported({**OLD, "target": 4, "horizon": 5000, "model_name": "gpt2", "log_with": "wandb"})
    assert found.program == "TRL 0.11 or earlier"
    assert isinstance(found.config, PPOConfig)
    assert (found.config.kl.kl_controller, found.config.kl.kl_coef) == ("adaptive", 0.1)
    assert (found.config.kl.kl_target, found.config.kl.kl_horizon) == (4.0, 5000.0)
    assert (found.config.ppo.num_ppo_epochs, found.config.ppo.num_mini_batches) == (2, 4)
    assert (found.config.run.batch_size, found.config.run.micro_batch_size) == (64, 8)
    assert (found.config.run.total_episodes, found.config.run.seed) == (20000, 0)
    assert (found.config.model.critic, found.config.sampling.temperature) == ("shared", 1.0)
    assert found.config.optim.learning_rate == 1.41e-5
    assert found.config.optim.lr_scheduler_type == "constant"


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ({"adap_kl_ctrl": False, "target": 3}, {"kl_controller": "fixed"}),
        ({"kl_penalty": "mse"}, {"kl_estimator": "k2"}),
        ({"kl_penalty": "full"}, {"kl_estimator": "full"}),
        ({"early_stopping": True, "target_kl": 0.1}, {"early_stop_kl": pytest.approx(0.15)}),
        ({"use_score_scaling": True}, {"score_scaling": "running-std"}),
        (
            {"use_score_scaling": True, "use_score_norm": True, "score_clip": 3},
            {"score_scaling": "running", "score_clip": 3},
        ),
        ({"max_grad_norm": 0.5}, {"max_grad_norm": 0.5}),
        ({"forward_batch_size": 16}, {"micro_batch_size": 16, "num_mini_batches": 2}),
    ],
    ids=str,
)
def test_settings_of_the_first_ppo(imported: Import, given: dict[str, Any], ours: dict[str, Any]) -> None:
    found = imported({**OLD, **given})
    assert {name: found.options[name] for name in ours} == ours
    assert {it.name for it in found.of("unknown")} == set()


def test_the_absolute_log_ratio_is_not_carried(imported: Import) -> None:
    found = imported({**OLD, "kl_penalty": "abs", "ratio_threshold": 5})
    assert one(found, "kl_penalty").status == "not carried"
    assert one(found, "ratio_threshold").status == "not carried"
