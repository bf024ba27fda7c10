"""Whole runs of all kinds, recorded by the real recorder: every equation of every token agrees with what was recorded,
and with it the clip fraction and the losses that the run measured itself."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import clearppo
from clearppo.record import Iteration, iteration_path, steps
from clearppo.ui import equations
from clearppo.ui.library import Library
from clearppo.ui.runs import open_index
from tests.tiny import tiny_causal_lm

pytestmark = pytest.mark.e2e

KINDS: dict[str, dict[str, Any]] = {
    "gae": {"whiten_advantages": True, "lam": 0.9, "gamma": 0.97, "num_ppo_epochs": 3, "cliprange": 0.001},
    "article": {"recipe": "article"},
    "adaptive": {"kl_controller": "adaptive", "kl_estimator": "k2", "critic_lam": 1.0, "lam": 0.8},
    "k3": {"kl_estimator": "k3", "whiten_rewards": True, "lam": 1.0, "whiten_advantages": False},
    "full": {"kl_estimator": "full", "kl_loss_coef": 0.1, "entropy_coef": 0.01},
    "scaled": {"score_scaling": "running", "score_clip": 0.5, "missing_eos_penalty": 0.25, "dual_clip": 2.0},
    "reference": {"score_scaling": "reference", "missing_eos_score": -1.0, "unbiased_whitening": True},
    "rloo": {"advantage_estimator": "rloo", "num_generations": 4},
    "rloo-whitened": {"advantage_estimator": "rloo", "num_generations": 2, "whiten_advantages": True},
    "grpo": {"advantage_estimator": "grpo", "num_generations": 4, "kl_coef": 0.0, "kl_loss_coef": 0.04},
    "reinforce++": {"advantage_estimator": "reinforce++", "whiten_advantages": True, "gamma": 0.9},
    "double": {"dtype": "float64", "lam": 0.95, "importance_cap": 2.0},
}


def letters(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [completion.count("e") - 0.1 * len(completion) for completion in completions]


def missing_some(prompts: list[str], completions: list[str], **columns: Any) -> list[float | None]:
    return [None if i == 3 else float(completion.count("e")) for i, completion in enumerate(completions)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("files")
    prompts = ["The film was", "I think that", "The food and the people are", "What do you say", "It is a"]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
    return {
        "model_name_or_path": tiny_causal_lm(tmp_path_factory.mktemp("model")),
        "dataset_name": str(folder / "prompts.jsonl"),
        "reward_funcs": [letters],
        "total_episodes": 16,
        "batch_size": 8,
        "response_length": 6,
        "learning_rate": 1e-2,
        "num_ppo_epochs": 2,
        "bf16": False,
        "device": "cpu",
        "save_steps": 0,
    }


def looked_through(run: Path) -> Counter[tuple[str, str, bool | None]]:
    """How often each equation agreed, did not, or had nothing to be compared with."""
    library = Library(open_index([run]))
    found: Counter[tuple[str, str, bool | None]] = Counter()
    for step in steps(run):
        iteration = Iteration(iteration_path(run, step))
        for row in range(iteration.n_rows):
            answer, group = iteration.answer(row), library._group(iteration, row)
            for index in range(answer["length"]):
                told = equations.explain(iteration.meta, answer, index, group)
                assert told["story"]["en"]
                assert told["story"]["zh"]
                found.update((line["number"], line["name"]["en"], line["agrees"]) for line in told["equations"])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_equation_agrees(kind: str, base: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    clearppo.ppo(**{**base, "output_dir": str(run), **KINDS[kind]})
    found = looked_through(run)
    assert [key for key in found if key[2] is False] == []
    compared = {number for number, _, agrees in found if agrees}
    assert compared >= {"2" if not KINDS[kind].get("whiten_rewards") else "", "3"}
    named = {name for _, name, agrees in found if agrees}
    assert named & {"advantage", "advantage, whitened"}


def test_answers_without_a_score(base: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    clearppo.ppo(**{**base, "output_dir": str(run), "reward_funcs": [missing_some], "reward_missing": "drop"})
    assert [key for key in looked_through(run) if key[2] is False] == []
    assert not Iteration(iteration_path(run, 1)).answer(3)["learned"]


def test_clips_and_losses_are_those_that_the_run_measured(base: dict[str, Any], tmp_path: Path) -> None:
    """The mean of the tokens' actor losses over the epochs is loss/policy_avg, the share of clipped ones
    policy/clipfrac_avg; both are measured in learning, in float32."""
    run = tmp_path / "run"
    result = clearppo.ppo(**{**base, "output_dir": str(run), "num_ppo_epochs": 3, "cliprange": 0.02})
    iteration = Iteration(iteration_path(run, 2))
    lines = [
        line
        for row in range(iteration.n_rows)
        for answer in [iteration.answer(row)]
        for index in range(answer["length"])
        for line in equations.explain(iteration.meta, answer, index)["equations"]
        if line["number"] == "7"
    ]
    losses = [line["value"] for line in lines]
    clipped = [line["note"]["en"].startswith("Clipped") for line in lines]
    assert 0.05 < sum(clipped) / len(clipped) < 0.95
    metrics = result.history[1]
    assert sum(losses) / len(losses) == pytest.approx(metrics["loss/policy_avg"], rel=1e-4, abs=1e-6)
    assert sum(clipped) / len(clipped) == pytest.approx(metrics["policy/clipfrac_avg"], abs=1e-9)
