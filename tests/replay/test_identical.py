"""An iteration that is learned again from the record is, number for number, the one that the run learned."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clearppo.build.replay import replay
from clearppo.record import iteration_path
from clearppo.record.schema import COLUMNS
from clearppo.train.replay.check import MADE_AGAIN
from tests.replay.conftest import Ran, options_in
from tests.resume.runs import train
from tests.tiny import tiny_causal_lm

SOME = """
def some(prompts, completions, **columns):
    return [None if len(c) % 3 == 0 else float(c.count("e")) for c in completions]
"""
CASES: dict[str, dict[str, Any]] = {
    "shared": {},
    "separate": {"critic": "separate"},
    "lora": {"use_peft": "true", "lora_r": "4", "freeze_layers": "1"},
    "separate-lora": {"critic": "separate", "use_peft": "true", "critic_warmup_steps": "3"},
    "average": {"ema_decay": "0.5", "score_scaling": "running", "kl_controller": "adaptive", "score_clip": "1"},
    "texts": {"ptx_coef": "1.0", "ptx_dataset_name": "TEXTS"},
    "evaluated": {"eval_steps": "2", "eval_fraction": "0.3", "metric_for_best_model": "eval/score"},
    "frozen": {"freeze_layers": "1", "critic": "separate"},
    "early-stop": {"score_scaling": "reference", "early_stop_kl": "0.0001", "lr_scheduler_type": "cosine"},
    "rloo": {"advantage_estimator": "rloo", "num_generations": "4"},
    "grpo": {"advantage_estimator": "grpo", "num_generations": "4", "kl_loss_coef": "0.1"},
    "reinforce++": {"advantage_estimator": "reinforce++", "gamma": "0.9"},
    "bf16": {"bf16": "true", "adam_style": "tf", "critic": "separate"},
    "bf16-one-step": {"bf16": "true", "num_ppo_epochs": "1", "num_mini_batches": "1"},
    "bfloat16": {"dtype": "bfloat16", "bf16": None, "gradient_checkpointing": "true"},
    "float64": {"dtype": "float64", "whiten_rewards": "true", "missing_eos_penalty": "1"},
    "full-kl": {"kl_estimator": "full", "kl_loss_coef": "0.1", "kl_loss_estimator": "full"},
    "gpt2": {"family": "gpt2", "cliprange": "none", "cliprange_value": "none"},
}
RARE = ("separate", "gpt2", "separate-lora", "bfloat16", "grpo", "evaluated", "frozen", "bf16")
"""What they have of their own another case has too."""


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in RARE)) for case in CASES])
def test_every_number_is_what_it_was(case: str, ran: Ran) -> None:
    """From the start of the run, over iterations in between, and right from a checkpoint."""
    run = ran(case, **CASES[case])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for step, checkpoint, before in ((4, "start", 3), (5, None, None), (6, None, None)):
        found = replay(run, step, checkpoint=checkpoint)
        assert found.check.differences == []
        assert before in (None, found.iterations)
        assert found.check.metrics >= 25 * (1 + found.iterations)
        assert found.check.recorded >= 8 * (1 + found.iterations)
        kept = (run / f"checkpoint-{step}").is_dir()
        assert (found.check.weights > 1000) == (found.check.memory > 1000) == kept
        (row,) = [row for row in rows if row["step"] == step and "objective/scores" in row]
        assert found.outcome.numbers["objective/kl"] == row["objective/kl"]
        assert found.outcome.update["all"].norm > 0
        assert found.outcome.update["all"].cosine == pytest.approx(1)


def test_answers_without_a_score(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text(SOME)
    options = options_in(tmp_path, "some", tiny_causal_lm(tmp_path / "model"), {})
    options |= {"reward_funcs": f"{tmp_path / 'some.py'}:some", "reward_missing": "drop", "record_steps": "1"}
    train("ppo", options)
    found = replay(tmp_path / "some" / "run", 5, settings=["kl_coef=0.5", "whiten_rewards=true"])
    assert found.check.identical
    assert found.outcome.changed is not None


@pytest.mark.parametrize("action", ["lower_lr", pytest.param("raise_kl", marks=pytest.mark.slow)])
def test_what_an_alarm_changed(action: str, tmp_path: Path) -> None:
    """The learning rates and the KL coefficient of each iteration are those of the record, whatever they came from."""
    (tmp_path / "flat.py").write_text("def flat(prompts, completions, **columns):\n    return [0.7] * len(prompts)\n")
    options = options_in(tmp_path, "flat", tiny_causal_lm(tmp_path / "model"), {"critic": "separate"})
    options |= {"reward_funcs": f"{tmp_path / 'flat.py'}:flat", "lr_scheduler_type": "constant"}
    options |= {"alarm_actions": f"reward_constant={action}", "critic_learning_rate": "3e-3"}
    train("ppo", options)
    run = tmp_path / "flat" / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    name, factor = ("lr", 0.5) if action == "lower_lr" else ("objective/kl_coef", 1.5)
    assert rows[5][name] == rows[0][name] * factor != rows[0][name]
    for step, checkpoint in ((6, None), (6, "start")):
        assert replay(run, step, checkpoint=checkpoint).check.differences == []


def test_a_run_that_was_killed_and_went_on(tmp_path: Path) -> None:
    options = options_in(tmp_path, "killed", tiny_causal_lm(tmp_path / "model"), {})
    events = train("ppo", options).events
    other = {**options, "output_dir": str(tmp_path / "other")}
    train("ppo", other, kill_at=events.index("step 5") + 1)
    train("ppo", other, resume="auto")
    for step in (4, 5, 6):
        assert replay(tmp_path / "other", step, checkpoint="start").check.identical
    assert replay(tmp_path / "other", 6).check.weights_of == "checkpoint-6"


def test_the_final_model_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    options = options_in(tmp_path, "short", tiny_causal_lm(tmp_path / "model"), {"save_steps": "0"})
    train("ppo", options)
    found = replay(tmp_path / "short" / "run", 6)
    assert found.check.identical
    assert (found.iterations, found.check.weights_of, found.check.memory) == (5, "the final model", 0)
    assert replay(tmp_path / "short" / "run", 5).check.weights_of is None


def test_what_is_compared_with_the_record() -> None:
    assert set(MADE_AGAIN) < {column.name for column in COLUMNS}


def test_numbers_that_were_changed_are_found(tmp_path: Path) -> None:
    options = options_in(tmp_path, "changed", tiny_causal_lm(tmp_path / "model"), {})
    train("ppo", options)
    run = tmp_path / "changed" / "run"
    metrics = run / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows[4]["loss/policy_avg"] += 1e-9
    rows[5].pop("policy/entropy_avg")
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = replay(run, 5).check.differences
    assert (found.step, found.what, found.was) == (5, "loss/policy_avg", rows[4]["loss/policy_avg"])
    assert "of iteration 5 was" in str(found)
    assert "(apart by 1.0e-09)" in str(found)
    assert [d.what for d in replay(run, 6).check.differences] == ["loss/policy_avg", "policy/entropy_avg"]
    file = iteration_path(run, 6)
    table = pq.read_table(file)
    rewards = [[value + 1 for value in row] for row in table["rewards"].to_pylist()]
    field = table.field("rewards")
    changed = table.set_column(table.column_names.index("rewards"), field, pa.array(rewards, field.type))
    pq.write_table(changed, file, write_page_checksum=True)
    wrong = [d.what for d in replay(run, 6).check.differences]
    assert {"returns/mean", "advantages[0][0]", "returns[0][0]"} <= set(wrong)
    assert any(what.startswith("actor.model.") and "differ)" in what for what in wrong)
    assert any(what.startswith("optimiser/0/exp_avg") for what in wrong)
