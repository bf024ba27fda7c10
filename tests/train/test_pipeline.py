"""Steps of a pipeline: made once, kept while their settings and inputs are the same, never overwritten unasked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearppo import pipeline as module
from clearppo.config import SCHEMAS, leaves, load_pipeline
from clearppo.errors import RewardError, RunDirError
from clearppo.pipeline import StepResult, run_pipeline

Run = Callable[..., list[StepResult]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runners that write a small output and note that they ran."""
    made: list[str] = []

    def runner(step: str) -> Callable[..., str]:
        def run(config: Any, *, console: bool) -> str:
            made.append(step)
            place = Path(config.run.output_file if step == "prefs" else config.run.output_dir)
            if step == "prefs":
                place.write_text("{}\n")
            else:
                place.mkdir(parents=True, exist_ok=True)
                (place / "model.safetensors").write_text(step)
            return step

        return run

    monkeypatch.setattr(module, "check_inputs", lambda config, unmade: None)
    monkeypatch.setattr(module, "RUNNERS", {step: runner(step) for step in ("sft", "prefs", "reward", "ppo")})
    return made


@pytest.fixture
def run(tmp_path: Path) -> Run:
    for name in ("d", "c", "p"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"prompt": "{name}"}}\n')

    def run(**more: Any) -> list[StepResult]:
        flags = {
            "model_name_or_path": "base",
            "demonstrations": str(tmp_path / "d.jsonl"),
            "comparisons": str(tmp_path / "c.jsonl"),
            "prompts": str(tmp_path / "p.jsonl"),
            "output_dir": str(tmp_path / "out"),
            **more,
        }
        return run_pipeline(load_pipeline(flags={k: v for k, v in flags.items() if v is not None}))

    return run


def test_a_second_call_makes_nothing(run: Run, calls: list[str]) -> None:
    first = run()
    assert [(r.step, r.kept, r.result) for r in first] == [
        ("sft", False, "sft"),
        ("reward", False, "reward"),
        ("ppo", False, "ppo"),
    ]
    assert [(r.step, r.kept) for r in run()] == [("sft", True), ("reward", True), ("ppo", True)]
    assert calls == ["sft", "reward", "ppo"]


def test_what_is_only_shown_does_not_count(run: Run, calls: list[str]) -> None:
    run()
    run(**{"ppo.sample_steps": 0, "ppo.logging_steps": 5})
    assert len(calls) == 3


def test_other_settings_are_an_error_that_names_them_and_nothing_is_touched(run: Run, calls: list[str]) -> None:
    run()
    with pytest.raises(
        RunDirError, match=r"step sft: .* was made with learning_rate = 2e-5, and now it is 0\.001\. Use"
    ):
        run(**{"sft.learning_rate": 1e-3})
    with pytest.raises(RunDirError, match=r"step ppo: .* was made with kl_coef = 0.05, and now it is 0.5"):
        run(**{"ppo.kl_coef": 0.5})
    assert len(calls) == 3


def test_overwriting_makes_only_what_changed_and_what_follows(run: Run, calls: list[str]) -> None:
    run()
    run(overwrite_output_dir=True, **{"ppo.kl_coef": 0.5})
    assert calls == ["sft", "reward", "ppo", "ppo"]
    run(overwrite_output_dir=True, **{"ppo.kl_coef": 0.5, "sft.learning_rate": 1e-3})
    assert calls[4:] == ["sft", "reward", "ppo"]


def test_changed_files_count(run: Run, calls: list[str], tmp_path: Path) -> None:
    run()
    (tmp_path / "c.jsonl").write_text('{"prompt": "other"}\n')
    with pytest.raises(RunDirError, match=r"step reward: .* was made with content of dataset_name = "):
        run()
    run(overwrite_output_dir=True)
    assert calls[3:] == ["reward", "ppo"]


def test_a_value_that_happens_to_be_a_files_name_is_no_file(
    run: Run, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(output_dir="k1")  # as the default kl_estimator is called
    (tmp_path / "train").mkdir()  # and the default dataset_train_split
    (tmp_path / "train" / "x").write_text("x")
    assert [result.kept for result in run(output_dir="k1")] == [True, True, True]
    named = {name for schema in SCHEMAS.values() for name in leaves(schema) if name.endswith(("_path", "dataset_name"))}
    assert named | {"reward_funcs", "eval_reward_funcs", "labeller"} == module.READ


def test_a_step_that_fails_before_it_changes_anything_leaves_the_record_as_it_was(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, calls: list[str]
) -> None:
    def fails(config: Any, *, console: bool) -> None:
        raise RewardError("nothing at dataset_name. Check --dataset_name or --learning_rate.")

    good = module.RUNNERS["sft"]
    monkeypatch.setitem(module.RUNNERS, "sft", fails)
    with pytest.raises(RewardError, match=r"step sft: .* Check --demonstrations or --sft\.learning_rate\."):
        run(output_dir=str(tmp_path / "deep" / "out"))
    assert not (tmp_path / "deep").exists()
    monkeypatch.setitem(module.RUNNERS, "sft", good)
    run()
    monkeypatch.setitem(module.RUNNERS, "sft", fails)
    with pytest.raises(RewardError):
        run(overwrite_output_dir=True, **{"sft.learning_rate": 1e-3})
    assert [result.kept for result in run()] == [True, True, True]


def test_a_step_that_never_ended_is_made_again(
    run: Run, calls: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(config: Any, *, console: bool) -> None:
        Path(config.run.output_dir).mkdir(parents=True)
        (Path(config.run.output_dir) / "metrics.jsonl").write_text("{}\n")
        raise RewardError("no.")

    good = module.RUNNERS["reward"]
    monkeypatch.setitem(module.RUNNERS, "reward", fails)
    with pytest.raises(RewardError):
        run()
    assert json.loads((tmp_path / "out" / "pipeline.json").read_text())["steps"]["reward"]["finished"] is False
    monkeypatch.setitem(module.RUNNERS, "reward", good)
    assert [(r.step, r.kept) for r in run()] == [("sft", True), ("reward", False), ("ppo", False)]


def test_output_that_vanished_is_made_again(run: Run, calls: list[str], tmp_path: Path) -> None:
    run()
    (tmp_path / "out" / "ppo" / "model.safetensors").unlink()
    (tmp_path / "out" / "ppo").rmdir()
    run()
    assert calls == ["sft", "reward", "ppo", "ppo"]


def test_what_somebody_else_made_is_not_overwritten(run: Run, calls: list[str], tmp_path: Path) -> None:
    (tmp_path / "out" / "reward").mkdir(parents=True)
    (tmp_path / "out" / "reward" / "precious").write_text("x")
    with pytest.raises(RunDirError, match=r"step reward: .* is there, and this pipeline did not make it"):
        run()
    assert calls == []


def test_a_record_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pipeline.json").write_text("{")
    with pytest.raises(RunDirError, match=r"pipeline\.json cannot be read"):
        run()


def test_a_file_where_the_directory_should_be(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(RunDirError, match=r"is a file. Give a directory"):
        run()


def test_made_comparisons_are_a_step_of_their_own(run: Run, calls: list[str], tmp_path: Path) -> None:
    (tmp_path / "l.py").write_text("def f(prompts, completions, **columns): return [0.0] * len(completions)\n")
    label = f"{tmp_path / 'l.py'}:f"
    run(comparisons=None, labeller=label)
    assert calls == ["sft", "prefs", "reward", "ppo"]
    (tmp_path / "l.py").write_text("def f(prompts, completions, **columns): return [1.0] * len(completions)\n")
    with pytest.raises(RunDirError, match=r"step prefs: .* was made with content of labeller = "):
        run(comparisons=None, labeller=label)
