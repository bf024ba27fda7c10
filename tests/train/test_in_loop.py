"""Evaluation in PPO's loop: its numbers by hand, the best checkpoint, and that training does not notice it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import clearppo
from clearppo.build.ppo import build_ppo
from clearppo.config import PPOConfig, load_config
from clearppo.errors import ConfigError, DataError
from clearppo.train.checkpoint import Checkpoints
from clearppo.train.eval_metrics import EVALUATION, Measured, measure, metric_names
from clearppo.train.evaluation import Evaluation
from clearppo.train.in_loop import Choice
from clearppo.train.listener import Silence, Table
from clearppo.train.run import PPORun
from tests.tiny import tiny_causal_lm

TEXTS = ("The film was", "I think that", "The food and the people are", "What do you say", "It is a", "The dog")
REWARD = """
import torch

def score(prompts, completions, **columns):
    return [float(len(c)) + 0 * float(torch.rand(())) for c in completions]

def letters(prompts, completions, **columns):
    return [None if prompt.startswith("I") else float(c.count("e")) for prompt, c in zip(prompts, completions)]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_causal_lm(tmp_path_factory.mktemp("model"))


@pytest.fixture
def options(tmp_path: Path, model: str) -> dict[str, Any]:
    for name, texts in (("prompts", TEXTS), ("held_out", ("The music", "I like", "They say that", "It was"))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    (tmp_path / "reward.py").write_text(REWARD)
    return {
        "model_name_or_path": model,
        "dataset_name": str(tmp_path / "prompts.jsonl"),
        "eval_dataset_name": str(tmp_path / "held_out.jsonl"),
        "reward_funcs": f"{tmp_path / 'reward.py'}:score",
        "eval_reward_funcs": f"{tmp_path / 'reward.py'}:letters",
        "output_dir": str(tmp_path / "run"),
        "total_episodes": 32,
        "batch_size": 8,
        "response_length": 6,
        "learning_rate": 1e-2,
        "sample_steps": 1,
        "eval_steps": 2,
        "bf16": False,
        "device": "cpu",
    }


class Noted(Silence):
    """What people are told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.tables: list[Table] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def table(self, table: Table) -> None:
        self.tables.append(table)


def build(options: dict[str, Any], **more: Any) -> tuple[PPORun, Noted]:
    listener = Noted()
    return build_ppo(load_config(PPOConfig, flags={**options, **more}), listener=listener), listener


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def measured_rows(directory: Path) -> dict[int, dict[str, float]]:
    return {row.pop("step"): row for row in rows(directory / "metrics.jsonl") if "eval/score" in row}


def without_evaluation(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if not name.startswith("eval_")}


# ---------------------------------------------------------------- the numbers


def evaluation(scores: list[float], held_out: list[float], **changed: Any) -> Evaluation:
    n = len(scores)
    whole: dict[str, Any] = {
        "completions": ("x",) * n,
        "finish_reasons": ("stop", "length") * (n // 2),
        "scores": {"score": tuple(scores), "other": tuple(held_out)},
        "parts": {},
        "kl": (1.0, 3.0) * (n // 2),
        "lengths": (2, 4) * (n // 2),
        "repetition": 0.25,
        **changed,
    }
    return Evaluation(**whole)


def test_numbers_by_hand() -> None:
    now = evaluation([1.0, 2.0, 5.0, 0.0], [math.nan, 1.0, 2.0, 3.0])
    start = {"score": [0.0, 2.0, 1.0, 1.0], "other": [0.0, math.nan, 3.0, 1.0]}
    assert measure(Measured(now=now, start=start)) == {
        "eval/score": 2.0,
        "eval/win_rate": (1 + 0.5 + 1 + 0) / 4,
        "eval/kl": 2.0,
        "eval/length": 3.0,
        "eval/clipped_ratio": 0.5,
        "eval/repetition": 0.25,
        "eval/rewards/other": 2.0,
        "eval/win_rate/other": 0.5,  # of the two prompts for which both answers have a score
    }
    fresh = measure(Measured(now=now, start={}))
    assert not [name for name in fresh if "win_rate" in name]
    silent = measure(Measured(now=evaluation([1.0, 2.0], [math.nan] * 2), start={"score": [1.0, 1.0]}))
    assert "eval/rewards/other" not in silent
    parts = {"a": (1.0, 3.0), "b": (math.nan, 5.0)}
    both = measure(Measured(now=evaluation([1.0, 2.0], [0.0, 0.0], parts=parts), start={}))
    assert (both["eval/rewards/a"], both["eval/rewards/b"]) == (2.0, 5.0)
    assert set(both) <= set(metric_names(["other"], ["a", "b"]))
    assert all(len(metric.formula) > 10 and metric.unit for metric in EVALUATION.values())


@pytest.mark.parametrize(("greater", "values", "best"), [(True, [1, 3, 3, 2], 1), (False, [1, 3, 0, 0], 2)])
def test_the_best_is_the_first_of_its_kind(greater: bool, values: list[float], best: int) -> None:
    from clearppo.train.checkpoint import Best

    choice, found = Choice(metric="eval/score", greater=greater), None
    for step, value in enumerate(values):
        if choice.prefers(value, found):
            found = Best(step=step, metric=choice.metric, value=value)
    assert found is not None
    assert found.step == best


# ---------------------------------------------------------------- whole runs


def test_what_a_run_leaves(options: dict[str, Any], tmp_path: Path) -> None:
    run, listener = build(options, total_episodes=40, metric_for_best_model="eval/kl", greater_is_better=False)
    history = run.train()
    measured, directory = measured_rows(tmp_path / "run"), tmp_path / "run"
    assert list(measured) == [0, 2, 4, 5]  # the start, as asked for, and the end
    assert [f.name for f in sorted((directory / "evaluation").iterdir())] == [f"step-{n}.jsonl" for n in (0, 2, 4, 5)]
    assert measured[0]["eval/kl"] == pytest.approx(0.0, abs=1e-6)
    assert measured[5]["eval/kl"] > 1e-4
    answers = rows(directory / "evaluation" / "step-5.jsonl")
    start = rows(directory / "evaluation" / "step-0.jsonl")
    assert [row["prompt"] for row in answers] == ["The music", "I like", "They say that", "It was"]
    lengths = [float(len(row["completion"])) for row in answers]
    assert [row["score"] for row in answers] == lengths
    assert measured[5]["eval/score"] == pytest.approx(sum(lengths) / 4)
    change = [now["score"] - before["score"] for now, before in zip(answers, start, strict=True)]
    won = [0.5 + 0.5 * (by > 0) - 0.5 * (by < 0) for by in change]
    assert [row["won"] for row in answers] == won
    assert measured[5]["eval/win_rate"] == pytest.approx(sum(won) / 4)
    assert [row["rewards"]["letters"] is None for row in answers] == [False, True, False, True]
    assert history[4]["eval/score"] == measured[5]["eval/score"]
    assert "eval/score" not in history[2]
    assert [table.title for table in listener.tables] == [
        "4 held-out prompts before the first iteration",
        *(f"4 held-out prompts after iteration {n} of 5" for n in (2, 4, 5)),
    ]
    assert json.loads((directory / "best.json").read_text())["best"][0]["step"] == 2  # where the KL was least


@pytest.mark.parametrize(
    "layout", [{}, {"critic": "separate"}, {"use_peft": True}, {"freeze_layers": 1}, {"eval_temperature": 0.9}], ids=str
)
def test_training_does_not_notice(options: dict[str, Any], tmp_path: Path, layout: dict[str, Any]) -> None:
    plain = without_evaluation({**options, **layout})
    build(plain, output_dir=str(tmp_path / "without"))[0].train()
    torch.manual_seed(0)
    build({**options, **layout}, output_dir=str(tmp_path / "with"))[0].train()
    rest = [row for row in rows(tmp_path / "with" / "metrics.jsonl") if "eval/score" not in row]
    assert rest == rows(tmp_path / "without" / "metrics.jsonl")
    for name in ("samples.jsonl", "model.safetensors"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()


def test_the_same_policy_is_measured_the_same_twice(options: dict[str, Any]) -> None:
    run, _ = build(options, eval_temperature=1.0)
    assert run.evaluation is not None
    before = torch.get_rng_state().tolist()
    run.evaluation(0)
    run.evaluation(2)
    assert torch.get_rng_state().tolist() == before  # the reward function draws
    first, second = (rows(run.run_dir.path / "evaluation" / f"step-{n}.jsonl") for n in (0, 2))
    assert [row["completion"] for row in first] == [row["completion"] for row in second]
    assert [row["won"] for row in second] == [0.5] * 4
    state = run.evaluation.state()
    (run.run_dir.path / "metrics.jsonl").unlink()  # as if it had never begun
    again, listener = build(options, eval_temperature=1.0)
    assert again.evaluation is not None
    again.evaluation.load_state(state)
    assert again.evaluation.start == run.evaluation.start
    assert not listener.notes
    greedy, listener = build(options)
    assert greedy.evaluation is not None
    greedy.evaluation.load_state(state)
    assert greedy.evaluation.start == {}
    fewer, listener = build(options, eval_num_prompts=2, eval_temperature=1.0)
    assert fewer.evaluation is not None
    assert len(fewer.evaluation.prompts) == 2
    fewer.evaluation.load_state(state)
    assert fewer.evaluation.start == {}
    assert "without them there is no win rate" in listener.notes[-1]


def test_the_best_model_is_kept_and_taken(options: dict[str, Any], tmp_path: Path) -> None:
    best = {"eval_steps": 1, "metric_for_best_model": "eval/kl", "greater_is_better": False, "save_total_limit": 1}
    run, listener = build(options, **best, load_best_model_at_end=True)
    run.train()
    directory = tmp_path / "run"
    assert (directory / "checkpoint-1" / "manifest.json").exists()  # the KL grows from here on
    assert (directory / "model.safetensors").read_bytes() == (directory / "checkpoint-1/model.safetensors").read_bytes()
    assert any("the final model is that of iteration 1, the best by eval/kl" in note for note in listener.notes)
    assert "model is that of iteration 1" in (directory / "README.md").read_text()
    last, _ = build(options, **best, output_dir=str(tmp_path / "last"))
    last.train()
    assert (tmp_path / "last" / "model.safetensors").read_bytes() != (directory / "model.safetensors").read_bytes()


BEST = {
    "eval_steps": 1, "metric_for_best_model": "eval/kl", "greater_is_better": False, "save_total_limit": 1,
    "load_best_model_at_end": True, "lr_scheduler_type": "constant",
}  # fmt: skip


def test_a_kill_before_the_mark_of_the_best_changes_no_result(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the checkpoint's name and its mark in best.json."""
    build(options, **BEST, output_dir=str(tmp_path / "whole"))[0].train()
    killed, _ = build(options, **BEST)

    def kill(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "mark_best", kill)
        with pytest.raises(SystemExit):
            killed.train()
    killed.run_dir.release()
    assert not (tmp_path / "run" / "best.json").exists()
    build(options, **BEST, resume_from_checkpoint="auto")[0].train()
    for name in ("best.json", "metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_best_checkpoint_comes_along_into_another_directory(options: dict[str, Any], tmp_path: Path) -> None:
    more = {**BEST, "save_steps": 1, "save_total_limit": None}
    build(options, **more, output_dir=str(tmp_path / "whole"))[0].train()
    start = str(tmp_path / "whole" / "checkpoint-3")
    build(options, **more, output_dir=str(tmp_path / "branch"), resume_from_checkpoint=start)[0].train()
    for name in ("best.json", "metrics.jsonl", "model.safetensors", "checkpoint-1/manifest.json"):
        assert (tmp_path / "branch" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_that_ended_in_its_first_iteration_is_begun_anew(options: dict[str, Any], tmp_path: Path) -> None:
    """What was measured before it is not there twice."""
    build(options, output_dir=str(tmp_path / "whole"))[0].train()
    run, _ = build(options)

    class Ends(Noted):
        def phase(self, name: str) -> None:
            if name == "feedback":
                raise KeyboardInterrupt

    object.__setattr__(run.track.stopwatch, "listener", Ends())
    with pytest.raises(KeyboardInterrupt):
        run.train()
    run.run_dir.release()
    assert [row["step"] for row in rows(tmp_path / "run" / "metrics.jsonl")] == [0]
    (tmp_path / "run" / "evaluation" / "step-9.jsonl").write_text("old\n")
    build(options)[0].train()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert not (tmp_path / "run" / "evaluation" / "step-9.jsonl").exists()


def test_a_best_checkpoint_that_is_gone_is_said(options: dict[str, Any], tmp_path: Path) -> None:
    best = {"eval_steps": 1, "metric_for_best_model": "eval/kl", "greater_is_better": False}
    run, listener = build(options, **best, load_best_model_at_end=True)

    class Vandal(Noted):
        def iteration(self, step: int, metrics: Any) -> None:
            if step == 4:
                (tmp_path / "run" / "checkpoint-1" / "model.safetensors").unlink()

    object.__setattr__(run.track, "listener", Vandal())
    run.train()
    assert any("checkpoint-1, the best by eval/kl, cannot be used (model.safetensors is missing)" in n
               for n in listener.notes)  # fmt: skip
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_resumed_run_measures_what_is_left(options: dict[str, Any], tmp_path: Path) -> None:
    build(options, output_dir=str(tmp_path / "whole"), save_steps=1)[0].train()
    run, _ = build(options, save_steps=1)

    class Ends(Noted):
        def iteration(self, step: int, metrics: Any) -> None:
            if step == 3:
                raise KeyboardInterrupt

    object.__setattr__(run.track, "listener", Ends())
    with pytest.raises(KeyboardInterrupt):
        run.train()
    build(options, save_steps=1, resume_from_checkpoint="auto")[0].train()
    for name in ("metrics.jsonl", "model.safetensors", *(f"evaluation/step-{n}.jsonl" for n in (0, 2, 4))):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# ---------------------------------------------------------------- held-out prompts and mistakes


def test_a_share_of_the_prompts_is_held_out(options: dict[str, Any]) -> None:
    del options["eval_dataset_name"]
    run, _ = build(options, eval_fraction=0.4)
    assert run.evaluation is not None
    held = set(run.evaluation.prompts.texts)
    assert len(held) == 2
    assert held | set(run.prompts.texts) == set(TEXTS)
    assert not held & set(run.prompts.texts)


def test_prompts_on_both_sides_are_told(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "held_out.jsonl").write_text('{"prompt": "It is a"}\n{"prompt": "New"}\n')
    _, listener = build(options)
    assert any(note.startswith("1 of the 2 held-out prompts are in") for note in listener.notes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"eval_dataset_name": None}, "--eval_fraction 0.05"),
        ({"eval_fraction": 0.1}, "eval_dataset_name = .* and eval_fraction = 0.1 both say"),
        ({"eval_steps": None}, "eval_dataset_name = .* has no effect because eval_steps = none"),
        ({"eval_steps": 5}, "eval_steps = 5 is more than the 4 iterations"),
        ({"metric_for_best_model": "score"}, "Use --metric_for_best_model eval/score"),
        ({"metric_for_best_model": "eval/scores"}, "is nothing that this run measures. Use one of eval/score, "),
        ({"metric_for_best_model": "eval/kl", "save_steps": 0}, "save_steps = 0"),
        ({"greater_is_better": False, "load_best_model_at_end": True}, "load_best_model_at_end = true has no effect"),
        ({"eval_reward_funcs": "nonsense"}, "does not name a function"),
        ({"eval_fraction": 0.95}, "eval_fraction"),
    ],
    ids=str,
)
def test_mistakes(options: dict[str, Any], change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(options, **change)


def test_one_prompt_cannot_be_split(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "It is a"}\n' * 2)
    with pytest.raises(DataError, match="--eval_steps none to measure nothing"):
        build(options, eval_dataset_name=None, eval_fraction=0.5)


def test_from_python(options: dict[str, Any], tmp_path: Path) -> None:
    def lower(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return [float(c.islower()) for c in completions]

    clearppo.ppo(**{**options, "eval_reward_funcs": [lower], "total_episodes": 16})
    assert "eval/rewards/lower" in measured_rows(tmp_path / "run")[2]
