"""Alarms in whole runs: what each action does, and that a run which is killed comes to the same end, bit by bit."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from clearppo.alarms import Sight, state
from clearppo.alarms.history import History
from clearppo.alarms.rules import Rule
from clearppo.build.ppo import build_ppo
from clearppo.config import load_config
from clearppo.errors import AlarmError
from tests.resume.runs import KilledAt, Options, difference, options_of, train

Place = Callable[[str], Path]
Row = dict[str, Any]


def lines(run: Path, name: str = "metrics.jsonl") -> list[Row]:
    file = run / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def options(tmp_path: Path, model: str) -> Options:
    return options_of("ppo", tmp_path, model) | {"save_total_limit": "none"}


@pytest.fixture
def rings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`rings(when)`: one alarm, kl_runaway, holds where `when` says so of the rows."""

    def only(when: Callable[[Sequence[Any]], bool], *, patience: int = 1) -> None:
        def look(history: History) -> Iterable[Sight]:
            value = history.rows[-1].get("objective/scores")
            if value is not None:
                sentence = f"the score is {value!r}"
                yield Sight(
                    holds=when(history.rows), metric="objective/scores", value=value, limit=0.0, start=None,
                    sentence=sentence,
                )  # fmt: skip

        rule = Rule(name="kl_runaway", metrics=(), look=look, patience=patience, rings="", advice="Look at it.")
        monkeypatch.setattr(state, "RULES", {"kl_runaway": rule})

    return only


def ends(options: Options) -> tuple[AlarmError, list[str]]:
    listener = KilledAt()
    run = build_ppo(load_config(flags=options), listener=listener)
    try:
        with pytest.raises(AlarmError) as caught:
            run.train()
    finally:
        run.run_dir.release()
    return caught.value, listener.notes


def test_a_real_rule_rings_in_the_first_iteration(options: Options, place: Place, tmp_path: Path) -> None:
    constant = tmp_path / "constant.py"
    constant.write_text("def half(completions, **_):\n    return [0.5] * len(completions)\n")
    run = place("run")
    notes = train("ppo", options | {"reward_funcs": f"{constant}:half"}).notes
    (row,) = lines(run, "alarms.jsonl")
    assert row == {
        "step": 1, "alarm": "reward_constant", "state": "on", "metric": "rewards/half/std", "value": 0.0,
        "limit": 5e-7, "start": None, "source": "half",
        "sentence": "half gives each of 8 answers the same score, 0.5: nothing can be learned from it",
        "advice": row["advice"], "action": "note",
    }  # fmt: skip
    assert [note for note in notes if note.startswith("alarm reward_constant after iteration 1: half gives each of 8")]
    assert len([note for note in notes if "alarm" in note]) == 1


def test_alarms_that_nobody_wants_leave_no_file(options: Options, place: Place, rings: Any) -> None:
    rings(lambda rows: True)
    run = place("run")
    train("ppo", options | {"alarms": "false"})
    assert not (run / "alarms.jsonl").exists()


@pytest.mark.parametrize("controller", ["fixed", "adaptive"])
def test_the_kl_coefficient_is_raised_from_then_on(options: Options, place: Place, rings: Any, controller: str) -> None:
    more = options | {"alarm_actions": "kl_runaway=raise_kl", "kl_controller": controller, "kl_coef": "0.04"}
    rings(lambda rows: False)
    plain = place("plain")
    train("ppo", more)
    rings(lambda rows: len(rows) == 3)
    run = place("run")
    train("ppo", more)
    before, after = ([row["objective/kl_coef"] for row in lines(place)] for place in (plain, run))
    assert after[:3] == before[:3]
    assert after[3] == pytest.approx(1.5 * before[3])
    assert [(row["step"], row["state"], row["action"]) for row in lines(run, "alarms.jsonl")] == [
        (3, "on", "raise_kl"), (6, "off", "raise_kl"),
    ]  # fmt: skip


def test_the_learning_rates_are_halved_each_time(options: Options, place: Place, rings: Any) -> None:
    rings(lambda rows: len(rows) in (1, 5))
    run = place("run")
    train("ppo", options | {"alarm_actions": "kl_runaway=lower_lr", "lr_scheduler_type": "constant"})
    assert [row["lr"] for row in lines(run)] == [1e-3, *[5e-4] * 4, 2.5e-4]


def test_a_checkpoint_is_written_where_none_was_due(options: Options, place: Place, rings: Any) -> None:
    rings(lambda rows: len(rows) == 3)
    run = place("run")
    train("ppo", options | {"alarm_actions": "kl_runaway=checkpoint"})
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (2, 3, 4, 6)]


def test_a_run_stops_and_goes_on_when_it_is_told_to(options: Options, place: Place, rings: Any) -> None:
    rings(lambda rows: False)
    plain = place("plain")
    train("ppo", options)
    rings(lambda rows: len(rows) == 3)
    run = place("run")
    error, notes = ends(options | {"alarm_actions": "kl_runaway=stop"})
    assert error.exit_code == 3
    assert str(error).startswith("alarm kl_runaway (stop) after iteration 3: the score is ")
    assert str(error).endswith("Look at it. The run has stopped, as --alarm_actions asks.")
    assert notes[-1] == "checkpoint-3 is written: go on with --resume_from_checkpoint auto"
    train("ppo", options, resume="auto")
    assert lines(run) == lines(plain)
    assert (run / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def test_without_checkpoints_a_stop_leaves_the_model(options: Options, place: Place, rings: Any) -> None:
    rings(lambda rows: len(rows) == 3)
    run = place("run")
    ends(options | {"alarm_actions": "kl_runaway=stop", "save_steps": "0"})
    assert (run / "interrupted" / "model.safetensors").exists()


def once(run: Path, step: int) -> Callable[[Sequence[Any]], bool]:
    """What is so of iteration `step` of the run in this directory, and of no other way on."""
    (value,) = [row["objective/scores"] for row in lines(run) if row["step"] == step and "objective/scores" in row]
    return lambda rows: len(rows) == step and rows[-1].get("objective/scores") == value


def test_a_run_goes_back_to_before_it_began_and_on_with_other_answers(
    options: Options, place: Place, rings: Any
) -> None:
    rings(lambda rows: False)
    plain = place("plain")
    train("ppo", options)
    wrong = once(plain, 4)
    rings(lambda rows: len(rows) == 3 or wrong(rows), patience=2)  # began with 3: back to 2
    run = place("run")
    notes = train("ppo", options | {"alarm_actions": "kl_runaway=rollback"}).notes
    assert "the run goes back to checkpoint-2, and on with other answers (2 times more)" in notes
    assert [row["step"] for row in lines(run)] == [1, 2, 3, 4, 5, 6]
    assert lines(run)[:2] == lines(plain)[:2]
    assert lines(run)[2] != lines(plain)[2]
    began, over = lines(run, "alarms.jsonl")
    assert (began["step"], began["state"], over["step"], over["state"]) == (2, "on", 2, "off")
    assert began["sentence"].startswith("after iteration 4 the score is ")
    assert began["sentence"].endswith("; the run has gone back to iteration 2")
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (2, 4, 6)]


def test_a_run_goes_back_three_times_at_most(options: Options, place: Place, rings: Any) -> None:
    rings(lambda rows: len(rows) == 3)
    run = place("run")
    error, notes = ends(options | {"alarm_actions": "kl_runaway=rollback"})
    assert [note for note in notes if "goes back to" in note] == [
        f"the run goes back to checkpoint-2, and on with other answers ({n} times more)" for n in (2, 1, 0)
    ]
    assert str(error).endswith("The run has gone back too often, and has stopped.")
    assert notes[-1] == "checkpoint-3 is written: go on with --resume_from_checkpoint auto"
    assert [row["state"] for row in lines(run, "alarms.jsonl")] == ["on", "off"] * 3 + ["on"]


def test_before_the_first_checkpoint_a_run_cannot_go_back(options: Options, place: Place, rings: Any) -> None:
    rings(lambda rows: len(rows) == 1)
    place("run")
    error, _ = ends(options | {"alarm_actions": "kl_runaway=rollback"})
    assert str(error).endswith("The run has no checkpoint to go back to yet, and has stopped.")


@pytest.mark.parametrize("action", ["checkpoint", "raise_kl", "lower_lr", "rollback"])
def test_killed_runs_come_to_the_same_alarms_and_the_same_end(
    options: Options, place: Place, rings: Any, action: str
) -> None:
    more = options | {"alarm_actions": f"kl_runaway={action}", "eval_steps": "2", "eval_fraction": "0.3"}
    rings(lambda rows: False)
    plain = place("plain")
    train("ppo", more)
    wrong = once(plain, 3)
    rings(lambda rows: len(rows) == 2 or wrong(rows), patience=2)
    whole = place("whole")
    events = train("ppo", more).events
    assert len(lines(whole, "alarms.jsonl")) == 2
    killed = place("killed")
    for kill_at in (*range(3, len(events), 9), 0):
        train("ppo", more, kill_at=kill_at, resume="auto")
    assert difference(whole, killed) == ""
    assert (whole / "alarms.jsonl").read_bytes() == (killed / "alarms.jsonl").read_bytes()


def test_an_iteration_that_is_left_out_may_ring_too(
    options: Options, place: Place, rings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a held-out measure says is seen an iteration later, and that may be one without scores."""
    broken = tmp_path / "broken.py"
    broken.write_text(
        "calls = []\n\ndef score(completions, **_):\n    calls.append(1)\n"
        "    return [float('inf') if len(calls) == 3 else float(len(c)) for c in completions]\n"
    )

    def look(history: History) -> Iterable[Sight]:
        yield Sight(
            holds=len(history.rows) == 3, metric="objective/kl", value=1.0, limit=0.0, start=None, sentence="it is"
        )

    rule = Rule(name="kl_runaway", metrics=(), look=look, patience=1, rings="", advice="Look.")
    monkeypatch.setattr(state, "RULES", {"kl_runaway": rule})
    run = place("run")
    train("ppo", options | {"reward_funcs": f"{broken}:score", "alarm_actions": "kl_runaway=lower_lr"})
    rows = lines(run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert "lr" not in rows[2]
    assert rows[3]["lr"] == pytest.approx(rows[1]["lr"] / 2 * (3 / 5))  # linear: 5/6 and 3/6 of the peak
