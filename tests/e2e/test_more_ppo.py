"""Whole runs with what PPO has grown: no critic, PPO-ptx, averages, KL in the loss, fixed lengths, scaled scores."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

TEXTS = ["The film was a delight.", "I think that this is good.", "What do you say to the dog?"]
PTX = {"ptx_coef": "0.5", "ptx_dataset_name": "texts.jsonl", "ptx_batch_ratio": "1.5"}
ADAPTERS = {"use_peft": "true", "lora_r": "4", "gradient_checkpointing": "true"}

LAYOUTS: list[dict[str, str]] = [
    {"advantage_estimator": "rloo", "num_generations": "4", "ema_decay": "0.9"},
    {"advantage_estimator": "grpo", "num_generations": "2", "kl_coef": "0", "kl_loss_coef": "0.1", **ADAPTERS},
    {"advantage_estimator": "reinforce++", "bf16": "true", "score_scaling": "running", **PTX},
    {"kl_loss_coef": "0.1", "kl_loss_estimator": "full", "ema_decay": "0.5", **ADAPTERS, **PTX},
    {"kl_loss_coef": "0.1", "kl_loss_estimator": "k2", "critic": "separate", "ptx_reduction": "mean", **PTX},
    {"fixed_length": "true", "truncate_token": "e", "truncate_after": "2", "missing_eos_score": "-1",
     "score_scaling": "reference", "adam_style": "tf", "whiten_rewards": "true"},
    {"critic": "separate", "critic_warmup_steps": "1", "critic_lam": "1", "score_scaling": "running-std",
     "score_clip": "5", "lr_scheduler_type": "inverse_sqrt", "warmup_steps": "2", "warmup_start": "0.1",
     "min_lr_ratio": "0.1", "critic_adam_epsilon": "1e-8", "unbiased_whitening": "true"},
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: ",".join(f"{k}={v}" for k, v in layout.items()))
def test_a_run_leaves_what_it_should(files, clearppo, tmp_path: Path, layout: dict[str, str]) -> None:
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    options: dict[str, Any] = {**files, **layout}
    if "ptx_dataset_name" in layout:
        options["ptx_dataset_name"] = str(tmp_path / layout["ptx_dataset_name"])
    code, out, err = clearppo("ppo", options)
    assert (code, err) == (0, "")
    run, critic = Path(files["output_dir"]), "advantage_estimator" not in layout
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in rows)
    for name, there in {
        "loss/ptx_avg": "ptx_coef" in layout,
        "loss/kl_avg": "kl_loss_coef" in layout,
        "loss/value_avg": critic,
        "val/mean": critic,
    }.items():
        assert all((name in row) == there for row in rows), name
    card = (run / "README.md").read_text()
    assert (run / "value_model").exists() == critic == ("value_model/" in card)
    assert ("GAE" if critic else "no critic") in out
    assert "off in every model" in out
    model = AutoModelForCausalLM.from_pretrained(run)
    start = AutoModelForCausalLM.from_pretrained(files["model_name_or_path"])
    assert distance(model, start) > 1e-4
    assert (run / "ema_model").exists() == ("ema_decay" in layout) == ("ema_model/" in card)
    if "ema_decay" in layout:
        average = AutoModelForCausalLM.from_pretrained(run / "ema_model")
        assert 0 < distance(average, start) < distance(model, start)
    if "fixed_length" in layout:
        assert {row["completions/mean_length"] for row in rows} == {6.0}
        assert "scores are scaled by those of 24 answers of the start model" in out
    if "critic_warmup_steps" in layout:
        assert rows[1]["objective/kl"] == pytest.approx(0.0, abs=1e-4)
        assert abs(rows[2]["objective/kl"]) > 0


def distance(one: torch.nn.Module, other: torch.nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def test_an_overwritten_run_takes_its_average_along(files, clearppo) -> None:
    assert clearppo("ppo", {**files, "ema_decay": "0.9"})[0] == 0
    assert clearppo("ppo", {**files, "overwrite_output_dir": "true"})[0] == 0
    assert not (Path(files["output_dir"]) / "ema_model").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ptx_coef": "1"}, "Set --ptx_dataset_name"),
        ({"ptx_coef": "1", "ptx_dataset_name": "nowhere.jsonl"}, "--ptx_dataset_name"),
        ({"fixed_length": "true", "truncate_token": "a long text"}, "--truncate_token"),
    ],
)
def test_bad_input_is_said_in_a_sentence(files, clearppo, changed: dict[str, str], said: str) -> None:
    code, _, err = clearppo("ppo", {**files, **changed})
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert not Path(files["output_dir"]).exists()
