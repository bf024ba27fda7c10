"""A pipeline whose step was killed goes on with that step where it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import clearppo as library
from clearppo import pipeline
from clearppo.build.ppo import build_ppo
from clearppo.config import PPOConfig, SFTConfig
from tests.resume.runs import Killed, KilledAt, difference, options_of

SMALL = {"batch_size": 4, "learning_rate": 1e-3, "bf16": False, "save_steps": 2}


def test_the_step_that_was_killed_goes_on(
    tmp_path: Path, model: str, place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {kind: options_of(kind, tmp_path, model) for kind in ("sft", "reward", "ppo")}
    ppo = {**SMALL, "batch_size": 8, "total_episodes": 48, "response_length": 6, "micro_batch_size": 4}

    def run() -> list[pipeline.StepResult]:
        return library.rlhf(
            model_name_or_path=model,
            demonstrations=inputs["sft"]["dataset_name"],
            comparisons=inputs["reward"]["dataset_name"],
            prompts=inputs["ppo"]["dataset_name"],
            output_dir="run",
            device="cpu",
            steps={"sft": dict(SMALL), "reward": dict(SMALL), "ppo": ppo},
        )

    whole = place("whole")
    run()
    killed, said, made = place("killed"), list[str](), pipeline.RUNNERS["ppo"]

    def kill(config: PPOConfig, **_: Any) -> None:
        seen = KilledAt(17)
        run = build_ppo(config, listener=seen)
        try:
            run.train()
        finally:
            said.extend(seen.events)
            run.run_dir.release()

    with monkeypatch.context() as patch:
        patch.setitem(pipeline.RUNNERS, "ppo", kill)
        with pytest.raises(Killed):
            run()
    assert "step 2" in said
    assert (killed / "ppo" / "checkpoint-2").is_dir()

    configs: list[PPOConfig] = []
    monkeypatch.setitem(
        pipeline.RUNNERS, "ppo", lambda config, **more: (configs.append(config), made(config, **more))[1]
    )
    results = run()
    assert [result.kept for result in results] == [True, True, False]
    assert configs[0].run.resume_from_checkpoint == "auto"
    for step in ("sft", "reward", "ppo"):
        # config.yaml says whether the step was to overwrite what is there.
        assert difference(whole / step, killed / step) == ("config.yaml" if step == "ppo" else "")
    assert [result.kept for result in run()] == [True, True, True]


def test_a_step_that_was_begun_with_other_settings_is_made_again(
    tmp_path: Path, model: str, place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {kind: options_of(kind, tmp_path, model)["dataset_name"] for kind in ("sft", "reward", "ppo")}
    begun: list[tuple[str | None, bool]] = []

    def killed(config: SFTConfig, **_: Any) -> None:
        begun.append((config.run.resume_from_checkpoint, config.run.overwrite_output_dir))
        directory = Path(config.run.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"written-{len(begun)}").write_text("")
        raise Killed

    monkeypatch.setitem(pipeline.RUNNERS, "sft", killed)
    place("run")
    for rate in (1e-3, 2e-3, 2e-3):
        with pytest.raises(Killed):
            library.rlhf(
                model_name_or_path=model,
                demonstrations=inputs["sft"],
                comparisons=inputs["reward"],
                prompts=inputs["ppo"],
                output_dir="run",
                steps={"sft": {**SMALL, "learning_rate": rate}},
            )
    assert begun == [(None, True), (None, True), ("auto", False)]
