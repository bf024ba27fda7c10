"""What becomes of a run that is stopped, fails, is finished, or is to go on as something else."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from clearppo.build import common
from clearppo.build.ppo import build_ppo
from clearppo.config import load_config
from clearppo.engines.local import LocalEngine
from clearppo.errors import CheckpointError, RewardError, RunDirError, StopRequested
from clearppo.models.saving import save_actor
from clearppo.rundir import RunDir
from clearppo.train import policy_files
from tests.resume.runs import KilledAt, Options, difference, files_of, options_of, train
from tests.tiny import tiny_causal_lm

Place = Callable[[str], Path]


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Python's own, for a shell's background job begins with an ignored one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def options(tmp_path: Path, model: str) -> Options:
    return {**options_of("ppo", tmp_path, model), "save_steps": "50"}


class Acting(KilledAt):
    """Does something at the n-th time that a phase begins."""

    def __init__(self, phase: str, n: int, act: Callable[[], None]) -> None:
        super().__init__()
        self.left, self.wanted, self.act = n, phase, act

    def phase(self, name: str) -> None:
        super().phase(name)
        self.left -= name == self.wanted
        if name == self.wanted and self.left == 0:
            self.act()


def ends(options: Options, listener: KilledAt, kind: type[BaseException]) -> BaseException:
    """Run until the listener has it end with this error."""
    run = build_ppo(load_config(flags=options), listener=listener)
    try:
        with pytest.raises(kind) as caught:
            run.train()
    finally:
        run.run_dir.release()
    return caught.value


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def fail(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("phase", "n", "act", "error", "step"),
    [
        ("sampling", 3, send(signal.SIGTERM), StopRequested, 2),
        ("feedback", 3, send(signal.SIGINT), StopRequested, 2),
        ("learning", 5, send(signal.SIGTERM), StopRequested, 2),  # before credit, the first of an iteration's two
        ("feedback", 3, fail(RewardError("the server is down")), RewardError, 2),
    ],
)
def test_a_run_that_ends_early_goes_on_from_there(
    options: Options, place: Place, phase: str, n: int, act: Callable[[], None], error: type[BaseException], step: int
) -> None:
    whole = place("whole")
    train("ppo", options)
    run = place("ended")
    listener = Acting(phase, n, act)
    stopped = ends(options, listener, error)
    assert [path.name for path in run.glob("checkpoint-*")] == [f"checkpoint-{step}"]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == step
    assert not (run / "interrupted").exists()
    said = f"checkpoint-{step} is written: go on with --resume_from_checkpoint auto"
    if isinstance(stopped, StopRequested):
        assert str(stopped) == f"interrupted; {said}"
        assert stopped.exit_code == 128 + (signal.SIGINT if phase == "feedback" else signal.SIGTERM)
    else:
        assert listener.notes[-1] == said
    assert AutoModelForCausalLM.from_pretrained(run / f"checkpoint-{step}")
    notes = train("ppo", options, resume="auto").notes
    assert any(note.startswith(f"goes on after iteration {step}, from ") for note in notes)
    assert difference(whole, run) == ""


def test_an_iteration_that_learns_is_finished_first(
    options: Options, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = place("whole")
    train("ppo", options)
    run, step, calls = place("ended"), LocalEngine.step, list[int]()

    def signalled(self: LocalEngine, *arguments: Any) -> float:
        calls.append(1)
        if len(calls) == 6:  # the second of four steps in iteration 2
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    monkeypatch.setattr(LocalEngine, "step", signalled)
    listener = KilledAt()
    ends(options, listener, StopRequested)
    assert len(calls) == 8
    assert "stopping after this iteration; send SIGTERM once more to stop at once" in listener.notes
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-2"]
    train("ppo", options, resume="auto")
    assert difference(whole, run) == ""


def test_a_second_signal_ends_all_at_once(options: Options, place: Place) -> None:
    run = place("run")

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # while it learns: it is only asked
        os.kill(os.getpid(), signal.SIGTERM)

    options["save_steps"] = "1"
    stopped = ends(options, Acting("saving", 2, twice), StopRequested)
    assert str(stopped) == "interrupted at once; checkpoint-1 is the newest: go on with --resume_from_checkpoint auto"
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-1"]
    assert not list(run.glob(".saving-*"))


def test_an_error_while_it_learns_leaves_the_model_and_names_the_checkpoint(
    options: Options, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, append = place("run"), RunDir.append

    def full(self: RunDir, name: str, rows: Any) -> None:
        if any(row["step"] == 4 for row in rows):
            raise RunDirError("no space left")
        append(self, name, rows)

    monkeypatch.setattr(RunDir, "append", full)
    listener = KilledAt()
    ends({**options, "save_steps": "2"}, listener, RunDirError)
    assert AutoModelForCausalLM.from_pretrained(run / "interrupted")
    assert "checkpoint-2 is the newest: go on with --resume_from_checkpoint auto" in listener.notes
    assert "Ended early after 4 of 6 iterations: RunDirError." in (run / "interrupted" / "README.md").read_text()


def test_without_checkpoints_a_stop_is_as_it_always_was(options: Options, place: Place) -> None:
    run = place("run")
    options |= {"save_steps": "0"}
    ends(options, Acting("sampling", 3, send(signal.SIGINT)), KeyboardInterrupt)
    assert AutoModelForCausalLM.from_pretrained(run / "interrupted")
    assert not list(run.glob("checkpoint-*"))


def test_nothing_is_left_of_a_run_that_ends_in_its_first_iteration(options: Options, place: Place) -> None:
    run = place("run")
    stopped = ends(options, Acting("feedback", 1, send(signal.SIGTERM)), StopRequested)
    assert str(stopped) == "interrupted; there is no checkpoint yet"
    assert not list(run.glob("checkpoint-*"))
    whole = place("whole")
    train("ppo", options)
    place("run")
    assert "there is no checkpoint to go on from: the run starts afresh" in train("ppo", options, resume="auto").notes
    assert difference(whole, run) == ""


def test_two_fresh_runs_are_equal_and_how_often_one_saves_changes_nothing(options: Options, place: Place) -> None:
    first, second, third = place("first"), place("second"), place("third")
    for run, every in ((first, "50"), (second, "50"), (third, "1")):
        place(run.parent.name)
        train("ppo", {**options, "save_steps": every})
    assert difference(first, second) == ""
    assert difference(first, third) == "config.yaml"  # it says save_steps
    rows = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    clock = [json.loads(line) for line in (first / "timings.jsonl").read_text().splitlines()]
    assert [row.pop("step") for row in rows] == [row.pop("step") for row in clock] == [1, 2, 3, 4, 5, 6]
    phases = {f"time/{phase}" for phase in ("sampling", "feedback", "learning")}
    measured = {name for name in clock[0] if not name.startswith("memory/")}  # not on every machine
    assert measured == {"eps", "tokens_per_second", *phases}
    assert not set(rows[0]) & set(clock[0])


def test_what_saving_draws_is_drawn_for_nobody_else(
    options: Options, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawing(*arguments: Any) -> None:
        torch.rand(1)
        np.random.rand()
        save_actor(*arguments)

    whole = place("whole")
    train("ppo", {**options, "save_steps": "2"})
    monkeypatch.setattr(policy_files, "save_actor", drawing)
    drawn = place("drawn")
    train("ppo", {**options, "save_steps": "2"})
    assert difference(whole, drawn) == ""


def test_a_finished_run_is_left_as_it_is(options: Options, place: Place) -> None:
    run = place("run")
    options["save_steps"] = "2"
    train("ppo", options)
    before = files_of(run)
    again = build_ppo(load_config(flags={**options, "resume_from_checkpoint": "auto"}), listener=(seen := KilledAt()))
    history = again.train()
    again.run_dir.release()
    assert files_of(run) == before
    assert seen.notes[-1] == f"nothing to do: the run in {Path('run')} is finished"
    assert len(history) == 6
    assert {"lr", "eps", "time/learning"} <= history[-1].keys()
    final = AutoModelForCausalLM.from_pretrained(run)
    for name, weight in again.policy.actor.causal_lm.state_dict().items():
        torch.testing.assert_close(weight, final.state_dict()[name], rtol=0, atol=0)


@pytest.mark.parametrize("written", ['{"rounds": "x"}', '{"rounds": 1e999}', "[]", ""])
def test_a_finished_mark_that_cannot_be_read_counts_as_none(options: Options, place: Place, written: str) -> None:
    run = place("run")
    options["save_steps"] = "2"
    train("ppo", options)
    before = files_of(run)
    (run / "finished.json").write_text(written)
    train("ppo", options, resume="auto")
    assert files_of(run) == before


def test_a_finished_run_whose_model_is_gone_makes_it_again(options: Options, place: Place) -> None:
    run = place("run")
    options["save_steps"] = "2"
    train("ppo", options)
    before = files_of(run)
    (run / "model.safetensors").unlink()
    notes = train("ppo", options, resume="auto").notes
    assert "the run is finished, but its model is gone: it is made again from the last checkpoint" in notes
    assert files_of(run) == before
    for checkpoint in [*run.glob("checkpoint-*"), run / "model.safetensors"]:
        shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink()
    with pytest.raises(CheckpointError, match="its model is gone, and there is no checkpoint"):
        train("ppo", options, resume="auto")


@pytest.mark.parametrize("damage", [b"garbage\n{}\n", b"\xff\xfe\n{}\n"])
def test_rows_that_are_none_are_said_in_a_sentence(options: Options, place: Place, damage: bytes) -> None:
    run = place("run")
    options["save_steps"] = "2"
    train("ppo", options)
    with (run / "metrics.jsonl").open("ab") as stream:
        stream.write(damage)
    with pytest.raises(RunDirError, match=r"metrics.jsonl, line 7 is no row of a run"):
        train("ppo", options, resume="auto")


def test_a_mistyped_checkpoint_is_named_before_the_run_that_is_there(options: Options, place: Place) -> None:
    place("run")
    train("ppo", options)
    with pytest.raises(CheckpointError, match="resume_from_checkpoint = nowhere is no directory"):
        train("ppo", options, resume="nowhere")


def test_a_finished_run_can_be_made_longer(options: Options, place: Place) -> None:
    whole = place("whole")
    options |= {"save_steps": "2", "lr_scheduler_type": "constant"}
    train("ppo", options)
    run = place("longer")
    train("ppo", {**options, "total_episodes": "32"})
    notes = train("ppo", options, resume="auto").notes
    assert "another length, and else the same: total_episodes was 32, is 48" in notes
    assert difference(whole, run) == ""
    with pytest.raises(CheckpointError, match="total_episodes was 48, is 64"):  # the rate depends on it
        train("ppo", {**options, "total_episodes": "64", "lr_scheduler_type": "linear"}, resume="auto")


def test_a_run_can_go_on_in_another_directory(options: Options, place: Place) -> None:
    whole = place("whole")
    options["save_steps"] = "2"
    train("ppo", options)
    run = place("other")
    train("ppo", options, resume=str(whole / "checkpoint-4"))
    assert difference(whole, run) == ""
    with pytest.raises(RunDirError, match="already holds a run"):
        train("ppo", options, resume=str(whole / "checkpoint-6"))


def test_going_back_to_a_named_checkpoint(options: Options, place: Place) -> None:
    whole = place("whole")
    options |= {"save_steps": "2", "save_total_limit": "none"}
    train("ppo", options)
    before = files_of(whole)
    train("ppo", options, resume="run/checkpoint-2")
    assert files_of(whole) == before


def test_other_data_and_other_models_are_refused_or_said(options: Options, tmp_path: Path, place: Place) -> None:
    place("run")
    options["save_steps"] = "2"
    train("ppo", options, kill_at=14)
    prompts = Path(options["dataset_name"])
    prompts.write_text(prompts.read_text().replace("The film", "The plot"))
    with pytest.raises(CheckpointError, match="had other prompts: what is read there has changed"):
        train("ppo", options, resume="auto")
    seen = train("ppo", {**options, "allow_changed_options": "true"}, resume="auto")
    assert "goes on with other prompts, as allowed" in seen.notes


def test_another_start_model_in_the_same_place_is_refused(options: Options, tmp_path: Path, place: Place) -> None:
    place("run")
    own = str(tmp_path / "own")
    tiny_causal_lm(own)
    train("ppo", {**options, "model_name_or_path": own, "save_steps": "2"}, kill_at=14)
    tiny_causal_lm(own, seed=5)
    with pytest.raises(CheckpointError, match="had other start model"):
        train("ppo", {**options, "model_name_or_path": own, "save_steps": "2"}, resume="auto")


def test_other_options_are_refused(options: Options, place: Place) -> None:
    place("run")
    options["save_steps"] = "2"
    train("ppo", options, kill_at=14)
    with pytest.raises(CheckpointError, match=r"kl_coef was 0\.05, is 0\.1"):
        train("ppo", {**options, "kl_coef": "0.1"}, resume="auto")
    train("ppo", {**options, "kl_coef": "0.1", "allow_changed_options": "true"}, resume="auto")
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["objective/kl_coef"] for row in rows] == [0.05, 0.05, 0.1, 0.1, 0.1, 0.1]


def test_a_damaged_checkpoint_is_passed_over_and_the_result_is_the_same(options: Options, place: Place) -> None:
    whole = place("whole")
    options["save_steps"] = "2"
    events = train("ppo", options).events
    run = place("damaged")
    train("ppo", options, kill_at=events.index("step 5") + 1)
    weights = run / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    notes = train("ppo", options, resume="auto").notes
    assert any(note.startswith("checkpoint-4 is damaged and passed over: model.safetensors has") for note in notes)
    assert any(note.startswith("goes on after iteration 2") for note in notes)
    assert difference(whole, run) == ""


def test_an_automatic_token_budget_stays_what_it_was(
    options: Options, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place("run")
    options["save_steps"] = "2"
    monkeypatch.setattr(common, "token_budget", lambda *_: 64)
    train("ppo", options, kill_at=14)
    monkeypatch.setattr(common, "token_budget", lambda *_: 32)
    again = build_ppo(load_config(flags={**options, "resume_from_checkpoint": "auto"}))
    assert again.passes.micro_batch_tokens == again.reference.micro_batch_tokens == 64
    again.run_dir.release()
    own = build_ppo(load_config(flags={**options, "max_tokens_per_microbatch": "16", "resume_from_checkpoint": "auto"}))
    assert own.passes.micro_batch_tokens == 16
    own.run_dir.release()


def test_with_lora_a_checkpoint_holds_the_adapter_and_no_second_base(
    options: Options, place: Place, model: str
) -> None:
    run = place("run")
    train("ppo", {**options, "use_peft": "true", "save_steps": "2"}, kill_at=14)
    checkpoint = run / "checkpoint-2"
    assert not list(checkpoint.glob("*.safetensors"))
    base = AutoModelForCausalLM.from_pretrained(model)
    found = PeftModel.from_pretrained(base, checkpoint / "adapter").state_dict()
    learned = [weight for name, weight in found.items() if "lora_B" in name]
    assert learned
    assert all(bool(weight.any()) for weight in learned)


def test_full_weights_stand_in_a_checkpoint_once(options: Options, place: Place) -> None:
    run = place("run")
    train("ppo", {**options, "critic": "separate", "save_steps": "2"}, kill_at=14)
    state = json.loads((run / "checkpoint-2" / "training_state" / "state.json").read_text())
    names = set(state["weights"]["tensors"])
    assert names
    assert all(name.startswith("critic.") for name in names)
    assert set(state["weights"]["files"].values()) == {"model.safetensors"}
