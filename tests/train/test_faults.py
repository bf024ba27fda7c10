"""Whole runs in which numbers go wrong: what is left out, saved, counted, said, and when the run ends or goes back."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clearppo.batch import Experience, Rollout
from clearppo.build.ppo import build_ppo
from clearppo.build.steps import build_reward, build_sft
from clearppo.config import PPOConfig, RewardModelConfig, SFTConfig, load_config
from clearppo.errors import NumbersError, RunDirError, ScoreError
from clearppo.learning.faults import SKIPPED
from clearppo.models.build import make_actor, make_policy
from clearppo.models.loading import load_causal_lm
from clearppo.rundir import RunDir
from clearppo.train.faults import Faults, read_fault
from clearppo.train.listener import Silence
from clearppo.train.replay import replay
from clearppo.train.run import PPORun
from tests.tiny import tiny_causal_lm, tiny_reward_model


class Notes(Silence):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def about(self, words: str) -> list[str]:
        return [note for note in self.notes if words in note]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("models")
    return {"lm": tiny_causal_lm(home / "lm"), "rm": tiny_reward_model(home / "rm")}


def jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def lengths(prompts: Any, completions: Sequence[str], **_: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def ppo(tmp_path: Path, models: dict[str, str], listener: Any = None, **options: Any) -> PPORun:
    prompts = jsonl(
        tmp_path / "prompts.jsonl", [{"prompt": text, "tag": text} for text in ("The film", "I think", "A")]
    )
    asked = {
        "model_name_or_path": models["lm"], "dataset_name": prompts, "reward_funcs": [lengths],
        "output_dir": str(tmp_path / "run"), "total_episodes": 16, "batch_size": 4, "micro_batch_size": 2,
        "num_ppo_epochs": 2, "response_length": 5, "learning_rate": 1e-3, "bf16": False, "device": "cpu",
        "save_steps": 0,
    }  # fmt: skip
    return build_ppo(load_config(PPOConfig, flags={**asked, **options}), listener=listener)


def overflowing(model: torch.nn.Module, name: str, when: Callable[[int], bool]) -> None:
    """Let the gradient of the parameter be infinite in chosen micro-batches, counted from 0."""
    calls = iter(range(10**6))
    (parameter,) = [p for n, p in model.named_parameters() if n.endswith(name)]
    parameter.register_hook(lambda gradient: gradient * math.inf if when(next(calls)) else gradient)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_one_bad_step_is_left_out_saved_counted_and_said(tmp_path: Path, models: dict[str, str]) -> None:
    notes = Notes()
    run = ppo(tmp_path, models, notes)
    overflowing(run.policy, "layers.1.mlp.up_proj.weight", lambda call: call == 6)  # 4 an iteration: 2 epochs x 2 parts
    run.train()
    rows = lines(tmp_path / "run")
    assert [row[SKIPPED] for row in rows] == [0.0, 1.0, 0.0, 0.0]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    (note,) = notes.about("This step was not taken (1 in a row; 3 end the run)")
    assert note.startswith(
        "the gradient is not finite in epoch 2 of this update: on the way back from the loss first in"
    )
    assert "actor.model.model.layers.1.mlp.up_proj.weight" in note
    place = tmp_path / "run" / "faults" / "step-2"
    assert f"Its batch is in {place}." in note
    assert sorted(file.name for file in place.iterdir()) == ["state.json", "tensors.safetensors"]
    assert not list((tmp_path / "run").glob(".saving-*"))
    fault = read_fault(place)
    assert isinstance(fault.batch, Experience)
    assert len(fault.batch) == 4
    assert set(fault.batch.rollout.prompts.columns["tag"]) <= {"The film", "I think", "A"}
    assert fault.place.layer is not None
    assert run.faults.in_row == 0


def test_a_saved_batch_is_the_batch_and_can_be_learned_from_again(tmp_path: Path, models: dict[str, str]) -> None:
    run = ppo(tmp_path, models, max_bad_steps=1, num_ppo_epochs=1, entropy_coef=0.01)
    seen: list[Any] = []
    bad, run_faults = run.faults.bad, run.faults
    run_faults.bad = lambda fault: (seen.append(fault), bad(fault))[1]  # type: ignore[method-assign]
    overflowing(run.policy, "layers.0.mlp.up_proj.weight", lambda call: True)
    with pytest.raises(NumbersError):
        run.train()
    place = tmp_path / "run" / "faults" / "step-1"
    before, after = seen[0].batch, read_fault(place).batch
    for name in ("advantages", "returns", "ref_log_probs"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    for name in ("responses", "mask", "old_log_probs", "old_values", "sampler_log_probs"):
        assert torch.equal(getattr(before.rollout, name), getattr(after.rollout, name))
    assert torch.equal(before.rollout.prompts.ids, after.rollout.prompts.ids)
    assert (before.rollout.prompts.texts, before.rollout.completions, before.rollout.finish_reasons) == (
        after.rollout.prompts.texts, after.rollout.completions, after.rollout.finish_reasons
    )  # fmt: skip
    policy = make_policy(load_causal_lm(models["lm"], dtype=torch.float32))
    weights = [parameter.clone() for parameter in policy.parameters()]
    assert replay(place, policy) is None  # this model learns from it
    overflowing(policy, "layers.0.mlp.up_proj.weight", lambda call: True)
    again = replay(place, policy)
    assert again is not None
    assert again.place.layer == seen[0].place.layer
    assert all(torch.equal(a, b) for a, b in zip(weights, policy.parameters(), strict=True))
    with pytest.raises(TypeError, match="Experience is not learned from by a Actor"):
        replay(place, make_actor(load_causal_lm(models["lm"], dtype=torch.float32)))


def test_some_in_a_row_end_the_run_with_the_place_and_the_weights_before(
    tmp_path: Path, models: dict[str, str]
) -> None:
    run = ppo(tmp_path, models)
    overflowing(run.policy, "embed_tokens.weight", lambda call: call >= 6)
    with pytest.raises(NumbersError) as caught:
        run.train()
    assert caught.value.exit_code == 3
    assert "(3 in a row). The weights are those before it. Its batch is in" in str(caught.value)
    assert "Use a smaller --learning_rate" in str(caught.value)
    names = sorted(place.name for place in (tmp_path / "run" / "faults").iterdir())
    assert names == ["step-2", "step-3", "step-3-2"]
    assert (tmp_path / "run" / "interrupted" / "model.safetensors").exists()
    kept = load_causal_lm(str(tmp_path / "run" / "interrupted"), dtype=torch.float32)
    assert all(parameter.isfinite().all() for parameter in kept.parameters())


def test_an_update_of_which_no_step_is_taken_moves_nothing(tmp_path: Path, models: dict[str, str]) -> None:
    run = ppo(tmp_path, models, max_bad_steps=9, total_episodes=4)
    before = [parameter.clone() for parameter in run.policy.parameters()]
    overflowing(run.policy, "embed_tokens.weight", lambda call: True)
    run.train()
    assert all(torch.equal(a, b) for a, b in zip(before, run.policy.parameters(), strict=True))
    (row,) = lines(tmp_path / "run")
    assert row[SKIPPED] == 2.0
    assert "loss/policy_avg" not in row
    assert "objective/kl" in row
    assert not run.optimiser.state


class Scores:
    """Scores that are infinite in chosen calls; calls 0 and on are those of the iterations."""

    __name__ = "scores"

    def __init__(self, when: Callable[[int], bool]) -> None:
        self.calls, self.when = iter(range(10**6)), when

    def __call__(self, prompts: Any, completions: Sequence[str], **_: Any) -> list[float]:
        wrong = self.when(next(self.calls))
        return [math.inf if wrong and row == 1 else float(len(text)) for row, text in enumerate(completions)]


def test_answers_with_an_infinite_score_are_left_out_and_the_run_goes_on(
    tmp_path: Path, models: dict[str, str]
) -> None:
    notes = Notes()
    run = ppo(tmp_path, models, notes, reward_funcs=[Scores(lambda call: call == 1)], kl_controller="adaptive",
              kl_target=1, score_scaling="running")  # fmt: skip
    weights: list[torch.Tensor] = []
    load = run.sampler.load
    run.sampler.load = lambda policy, version: (  # type: ignore[method-assign]
        weights.append(torch.cat([p.detach().flatten().clone() for p in policy.actor.parameters()])),
        load(policy, version),
    )[1]
    run.train()
    rows = lines(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[1] == {"step": 2, "episode": 8.0, SKIPPED: 2.0}
    assert rows[2]["episode"] == 12.0
    assert torch.equal(weights[0], weights[1])  # nothing was learned in the second iteration
    assert not torch.equal(weights[1], weights[2])
    (note,) = notes.about("These answers are left out (1 in a row; 3 end the run)")
    assert 'returned inf for row 2 ("' in note
    fault = read_fault(tmp_path / "run" / "faults" / "step-2")
    assert isinstance(fault.batch, Rollout)
    assert fault.place.phase == "feedback"
    assert replay(tmp_path / "run" / "faults" / "step-2", run.policy) is None  # it has no loss


def test_infinite_scores_in_a_row_end_the_run_as_the_users_mistake(tmp_path: Path, models: dict[str, str]) -> None:
    run = ppo(tmp_path, models, reward_funcs=[Scores(lambda call: call >= 1)], max_bad_steps=2)
    with pytest.raises(ScoreError, match=r"returned inf for row 2 .* \(2 in a row\)\. Its batch is in .*step-3"):
        run.train()
    assert len(lines(tmp_path / "run")) == 2


def test_scores_that_are_wrong_from_the_start_end_it_at_once(tmp_path: Path, models: dict[str, str]) -> None:
    run = ppo(tmp_path, models, reward_funcs=[Scores(lambda call: True)])
    with pytest.raises(ScoreError, match=r"returned inf for row 2 .* Return finite numbers"):
        run.train()
    assert not (tmp_path / "run" / "faults").exists()


@pytest.mark.parametrize("name", ["old_log_probs", "old_values"])
def test_numbers_of_sampling_are_looked_at_before_anything_is_made_of_them(
    tmp_path: Path, models: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clearppo.train import ppo as loop

    notes, real, calls = Notes(), loop._sample, iter(range(100))

    def sample(*args: Any, **kwargs: Any) -> Rollout:
        rollout = real(*args, **kwargs)
        if next(calls) != 2:
            return rollout
        cells = getattr(rollout, name).clone()
        cells[3, 0] = math.nan
        return replace(rollout, **{name: cells})

    monkeypatch.setattr(loop, "_sample", sample)
    ppo(tmp_path, models, notes, kl_controller="adaptive", kl_target=1).train()
    rows = lines(tmp_path / "run")
    assert [row[SKIPPED] for row in rows] == [0.0, 0.0, 2.0, 0.0]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    (note,) = notes.about("what came from sampling is not finite")
    assert f"{name} of row 4, token 1, is nan (sampling)" in note


def test_a_run_goes_back_to_its_checkpoint_and_on_with_other_answers(tmp_path: Path, models: dict[str, str]) -> None:
    notes = Notes()
    run = ppo(tmp_path, models, notes, save_steps=1, on_bad_steps="rollback", sample_steps=1)
    overflowing(run.policy, "embed_tokens.weight", lambda call: 7 <= call <= 12)  # the last step of 2, and 3
    run.train()
    rows = lines(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert len(run.track.history) == 4
    assert len(notes.about("The run goes back, and on with other answers (2 times more)")) == 1
    assert [note for note in notes.notes if "goes on after iteration 2" in note]
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in samples] == [step for step in (1, 2, 3, 4) for _ in range(4)]
    failed = read_fault(tmp_path / "run" / "faults" / "step-3").batch
    assert isinstance(failed, Experience)
    second = [row["completion"] for row in samples if row["step"] == 3]
    assert sorted(second) != sorted(failed.rollout.completions)
    assert run.sampler.answered == 6 * 4  # with those of the self-check: no random number was used twice


def test_a_run_goes_back_three_times_at_most(tmp_path: Path, models: dict[str, str]) -> None:
    notes = Notes()
    run = ppo(tmp_path, models, notes, save_steps=1, on_bad_steps="rollback", max_bad_steps=1)
    overflowing(run.policy, "embed_tokens.weight", lambda call: call >= 8)
    with pytest.raises(NumbersError, match="the gradient is not finite"):
        run.train()
    assert len(notes.about("The run goes back")) == 3
    assert [row["step"] for row in lines(tmp_path / "run")] == [1, 2]


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path: Path, models: dict[str, str]) -> None:
    run = ppo(tmp_path, models, save_steps=2, on_bad_steps="rollback", max_bad_steps=1)
    overflowing(run.policy, "embed_tokens.weight", lambda call: True)
    with pytest.raises(NumbersError):
        run.train()


def test_weights_that_have_diverged_are_a_reason_to_go_back_too(tmp_path: Path, models: dict[str, str]) -> None:
    """Where sampling finds no probabilities to draw from, no step can be left out."""
    run, calls = ppo(tmp_path, models, save_steps=1, on_bad_steps="rollback"), iter(range(100))
    generate = run.sampler.generate

    def diverged(prompts: Any) -> Any:
        if next(calls) == 3:  # the self-check is the first
            with torch.no_grad():
                next(run.policy.actor.parameters()).fill_(math.nan)
            run.sampler.load(run.policy, 99)
        return generate(prompts)

    run.sampler.generate = diverged  # type: ignore[method-assign]
    run.train()
    assert [row["step"] for row in lines(tmp_path / "run")] == [1, 2, 3, 4]
    assert all(parameter.isfinite().all() for parameter in run.policy.parameters())


def demonstrations(tmp_path: Path) -> str:
    rows = [{"prompt": f"What is {n}? ", "completion": f"It is {n}."} for n in range(12)]
    return jsonl(tmp_path / "sft.jsonl", rows)


def comparisons(tmp_path: Path) -> str:
    rows = [{"prompt": f"Say {n}. ", "chosen": f"It is {n}.", "rejected": "No."} for n in range(12)]
    return jsonl(tmp_path / "pairs.jsonl", rows)


@pytest.mark.parametrize("command", ["sft", "reward"])
def test_sft_and_reward_models_leave_steps_out_and_end(tmp_path: Path, models: dict[str, str], command: str) -> None:
    schema, build, data = (
        (SFTConfig, build_sft, demonstrations) if command == "sft" else (RewardModelConfig, build_reward, comparisons)
    )
    options = {
        "model_name_or_path": models["lm"], "dataset_name": data(tmp_path), "batch_size": 2, "bf16": False,
        "device": "cpu", "eval_fraction": 0, "save_steps": 0,
    }  # fmt: skip
    for name, last in (("finishes", 3), ("ends", 99)):
        notes = Notes()
        run = build(load_config(schema, flags={**options, "output_dir": str(tmp_path / name)}), listener=notes)
        network = run.actor if command == "sft" else run.model
        overflowing(network, "layers.1.mlp.up_proj.weight", lambda call, last=last: 2 <= call <= last)
        if name == "ends":
            with pytest.raises(NumbersError, match=r"\(3 in a row\)"):
                run.train()
            assert (tmp_path / name / "interrupted").is_dir()
            continue
        run.train()
        rows = lines(tmp_path / name)
        assert [row[SKIPPED] for row in rows] == [0, 0, 1, 1, 0, 0]
        assert ["loss" in row for row in rows] == [True, True, False, False, True, True]
        assert len(notes.about("This step was not taken")) == 2
        place = tmp_path / name / "faults" / "step-3"
        again = replay(place, network)  # the hook is past its time
        assert again is None


def test_what_cannot_be_saved_ends_no_run(
    tmp_path: Path, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes()
    run = ppo(tmp_path, models, notes)
    whole = RunDir.whole

    def full(self: RunDir, name: str = ".") -> Any:
        if name.startswith("faults"):
            raise RunDirError("no space left to write it.")
        return whole(self, name)

    monkeypatch.setattr(RunDir, "whole", full)
    overflowing(run.policy, "embed_tokens.weight", lambda call: call == 0)
    run.train()
    assert len(lines(tmp_path / "run")) == 4
    assert len(notes.about("Its batch was not saved: no space left to write it.")) == 1


def test_a_run_saves_so_many_batches_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.learning.test_learn import experience

    monkeypatch.setattr("clearppo.train.faults.MOST_SAVED", 3)
    from clearppo.learning.faults import Fault, Place

    notes = Notes()
    faults = Faults(RunDir(tmp_path), notes, max_bad_steps=9, step=lambda: 7)
    place = Place(phase="learning", tensor="gradient", words="somewhere")
    for _ in range(5):
        faults.bad(Fault(what="the gradient", place=place, batch=experience()))
    assert sorted(entry.name for entry in (tmp_path / "faults").iterdir()) == ["step-7", "step-7-2", "step-7-3"]
    assert "has 3 already" in notes.notes[-1]
    assert faults.state() == {"in_row": 5}
    faults.good()
    faults.load_state({"in_row": 8})
    with pytest.raises(NumbersError):
        faults.bad(Fault(what="the gradient", place=place, batch=experience()))
