"""Setups that nothing is wrong with: doctor stops none, and no alarm rings in a short run of one."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.planted import models
from tests.planted.setups import Doctor, Options, Train, rung

HEALTHY: dict[str, dict[str, Any]] = {
    "shared critic": {},
    "separate critic": {"critic": "separate"},
    "LoRA": {"use_peft": True, "learning_rate": 3e-3},
    "RLOO": {"advantage_estimator": "rloo", "num_generations": 4, "critic_learning_rate": None},
    "GRPO": {"advantage_estimator": "grpo", "num_generations": 4, "critic_learning_rate": None, "kl_coef": 0},
    "adaptive KL": {"kl_controller": "adaptive", "kl_coef": 0.1},
    "evaluation": {"eval_steps": 4, "eval_fraction": 0.25},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_no_stop_and_no_alarm(doctor: Doctor, train: Train, healthy: Options, name: str) -> None:
    options = healthy | HEALTHY[name]
    code, findings, said = doctor(options)
    assert code == 0, said
    assert [finding for finding in findings.values() if finding["verdict"] == "stop"] == []
    code, said = train(options)
    assert code == 0, said
    assert rung(options) == []


def test_a_reward_model_and_a_critic_from_it(doctor: Doctor, train: Train, healthy: Options, reward_model: str) -> None:
    options = healthy | {
        "reward_funcs": None, "reward_model_path": reward_model, "critic": "separate", "value_model_path": reward_model,
        "critic_learning_rate": 1e-3,
    }  # fmt: skip
    code, findings, said = doctor(options)
    assert code == 0, said
    assert findings["reward_tokenizer"]["verdict"] == "ok"
    code, said = train(options)
    assert code == 0, said
    assert rung(options) == []


def test_plain_prompts(doctor: Doctor, healthy: Options, tmp_path: Path) -> None:
    """A chat model may be asked plainly."""
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in models.prompts()))
    code, findings, said = doctor(healthy, dataset_name=plain)
    assert code == 0, said
    assert findings["chat_template"]["verdict"] in ("ok", "look")
