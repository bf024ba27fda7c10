"""A run that is killed at any moment and goes on is, file by file and bit by bit, the run that was never killed."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch

from clearppo.record import Store, steps
from tests.resume.runs import Options, difference, files_of, options_of, train
from tests.tiny import tiny_causal_lm

Place = Callable[[str], Path]
CASES: dict[str, tuple[str, Options]] = {
    "ppo-shared": ("ppo", {}),
    "ppo-separate": ("ppo", {"critic": "separate"}),
    "ppo-lora": ("ppo", {"use_peft": "true", "lora_r": "4"}),
    "ppo-separate-lora": ("ppo", {"critic": "separate", "use_peft": "true", "critic_warmup_steps": "3"}),
    "ppo-average": ("ppo", {"ema_decay": "0.5", "score_scaling": "running", "kl_controller": "adaptive"}),
    "ppo-texts": ("ppo", {"ptx_coef": "1.0", "ptx_dataset_name": "TEXTS"}),
    "ppo-evaluated": ("ppo", {"eval_steps": "2", "eval_fraction": "0.3", "metric_for_best_model": "eval/score"}),
    "ppo-frozen": ("ppo", {"freeze_layers": "1", "critic": "separate", "response_length": "1"}),
    "ppo-measured": ("ppo", {"score_scaling": "reference", "early_stop_kl": "0.0001", "lr_scheduler_type": "cosine"}),
    "ppo-group": ("ppo", {"advantage_estimator": "grpo", "num_generations": "4", "generation_batch_size": "3"}),
    "ppo-bf16": ("ppo", {"bf16": "true", "adam_style": "tf", "critic": "separate"}),
    "ppo-bfloat16": ("ppo", {"dtype": "bfloat16", "bf16": None, "gradient_checkpointing": "true"}),
    "ppo-gpt2": ("ppo", {"model_name_or_path": "gpt2"}),
    "ppo-gpt_neox": ("ppo", {"model_name_or_path": "gpt_neox", "use_peft": "true"}),
    "ppo-bloom": ("ppo", {"model_name_or_path": "bloom"}),  # decoded by transformers
    "sft-full": ("sft", {"warmup_ratio": "0.2", "lr_scheduler_type": "linear"}),
    "sft-lora": ("sft", {"use_peft": "true"}),
    "reward-full": ("reward", {"score_normalisation": "mean-std"}),
    "reward-lora": ("reward", {"use_peft": "true"}),
}


# What they have of their own another case has too, or a test of its own room.
RARE = ("ppo-bfloat16", "ppo-group", "ppo-separate", "ppo-gpt_neox", "ppo-bloom", "sft-lora")


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in RARE)) for case in CASES])
def test_killed_runs_go_on_as_if_nothing_had_happened(case: str, model: str, tmp_path: Path, place: Place) -> None:
    kind, more = CASES[case]
    options = {name: v for name, v in {**options_of(kind, tmp_path, model), **more}.items() if v is not None}
    if options["model_name_or_path"] != model:
        options["model_name_or_path"] = tiny_causal_lm(tmp_path / "other", family=options["model_name_or_path"])
    if "ptx_dataset_name" in options:
        options["ptx_dataset_name"] = options_of("sft", tmp_path, model)["dataset_name"]
    whole = place("whole")
    events = train(kind, options).events
    chance, saved = Random(case), events.index("saving") + 2
    killed = place("killed")
    seen = 0
    for kill_at in [chance.randrange(saved, len(events) - 2), chance.randrange(2, len(events) // 2), 0]:
        seen += len(train(kind, options, kill_at=kill_at, resume="auto").events)
    assert seen > len(events)  # it was killed, and something was done twice
    assert difference(whole, killed) == ""
    assert "metrics.jsonl" in files_of(killed)


def test_a_reward_model_on_the_policys_trunk(model: str, tmp_path: Path, place: Place) -> None:
    place("judge")
    train("reward", {**options_of("reward", tmp_path, model), "use_peft": "true", "num_train_epochs": "1"})
    judge = str(tmp_path / "judge" / "run")
    options = {**options_of("ppo", tmp_path, model), "use_peft": "true", "share_trunk": "true"}
    options |= {"reward_model_path": judge, "critic": "separate", "value_model_path": judge}
    whole = place("whole")
    events = train("ppo", options).events
    killed = place("killed")
    train("ppo", options, kill_at=events.index("step 5") + 1)
    train("ppo", options, resume="auto")
    assert difference(whole, killed) == ""


def test_a_record_that_is_thinned(model: str, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a killed run has written and removed after its checkpoint have no part in which ones stay."""
    options = {**options_of("ppo", tmp_path, model), "record_answers": "2"}
    store = Store.__init__
    monkeypatch.setattr(Store, "__init__", lambda *args, limit, **more: store(*args, limit=40_000, **more))
    whole = place("whole")
    events = train("ppo", options).events
    assert steps(whole) == [1, 4, 6]
    killed = place("killed")
    for step in (3, 5, 6):
        train("ppo", options, kill_at=events.index(f"step {step}") + 1, resume="auto")
    train("ppo", options, resume="auto")
    assert difference(whole, killed) == ""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("more", [{}, {"use_peft": "true", "critic": "separate"}, {"bf16": "true"}])
def test_on_a_gpu_with_deterministic(model: str, tmp_path: Path, place: Place, more: Options) -> None:
    options = {**options_of("ppo", tmp_path, model), "device": "cuda", "deterministic": "true", **more}
    whole = place("whole")
    events = train("ppo", options).events
    again = place("again")
    train("ppo", options)
    assert difference(whole, again) == ""
    killed = place("killed")
    train("ppo", options, kill_at=events.index("step 3") + 1)
    train("ppo", options, resume="auto")
    assert difference(whole, killed) == ""
