"""The loop of sft and reward: its length, its order, its looks at the held-out rows, its numbers."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from clearppo.batch import Stats
from clearppo.errors import TrainingError
from clearppo.rundir import RunDir
from clearppo.train.listener import Silence
from clearppo.train.step_metrics import REWARD, SFT, Step, measure
from clearppo.train.supervised import Course, StepTrack, supervised_loop


def course(n: int = 10, **more) -> Course:
    how = {"batch_size": 4, "epochs": 2.0, "max_steps": None, "eval_steps": None, "rate": lambda step, n: 1 - step / n}
    lengths = list(range(5, 5 + n))
    return Course(lengths=lengths, tokens=lengths, **{**how, **more})


def optimiser() -> torch.optim.Optimizer:
    group = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.5, "initial_lr": 0.5}
    return torch.optim.SGD([group], lr=0.5)


class Recording(Silence):
    def __init__(self) -> None:
        self.events: list[str] = []

    def phase(self, name: str) -> None:
        self.events.append(name)

    def iteration(self, step: int, metrics) -> None:
        self.events.append(f"step {step}")

    def note(self, text: str) -> None:
        self.events.append(text)


def counted(name: str, value: float, n: float = 1.0) -> Stats:
    return Stats(sums={name: value * n}, counts={name: n})


@pytest.mark.parametrize(
    ("how", "steps"),
    [
        ({"epochs": 1.0}, 3),
        ({"epochs": 2.0}, 6),
        ({"epochs": 0.5}, 2),
        ({"epochs": 0.01}, 1),
        ({"epochs": 0.1, "n": 30, "batch_size": 1}, 3),
        ({"epochs": 9.0, "max_steps": 5}, 5),
        ({"epochs": 0.3, "max_steps": 7}, 7),
        ({"epochs": 1.0, "batch_size": 64}, 1),
    ],
)
def test_the_number_of_steps(how: dict, steps: int) -> None:
    made = course(**how)
    assert made.n_steps == steps
    assert len(list(made.batches(torch.Generator().manual_seed(0)))) == steps


def test_every_row_comes_once_an_epoch_and_the_seed_decides() -> None:
    made = course(epochs=3.0)
    batches = list(made.batches(torch.Generator().manual_seed(0)))
    for start in range(0, 9, 3):
        assert Counter(row for batch in batches[start : start + 3] for row in batch) == Counter(range(10))
    assert batches == list(made.batches(torch.Generator().manual_seed(0)))
    assert batches != list(made.batches(torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(
    ("how", "looks"),
    [({}, [3, 6]), ({"epochs": 1.5}, [3, 5]), ({"eval_steps": 4}, [4, 6]), ({"eval_steps": 100}, [6])],
)
def test_when_the_held_out_rows_are_looked_at(how: dict, looks: list[int]) -> None:
    made = course(**how)
    assert [step for step in range(1, made.n_steps + 1) if made.evaluates_after(step)] == looks


def run(made: Course, track: StepTrack, fail_at: int = 0, held_out: Stats | None = None) -> list[list[int]]:
    learned: list[list[int]] = []

    def learn(rows: list[int]) -> Stats:
        if len(learned) + 1 == fail_at:
            raise TrainingError("it broke")
        learned.append(rows)
        return counted("loss", 2.0, 10) + counted("grad_norm", 0.25)

    supervised_loop(
        made, learn=learn, evaluate=lambda: held_out or Stats.empty(), optimiser=optimiser(),
        generator=torch.Generator().manual_seed(0), track=track,
    )  # fmt: skip
    return learned


def test_a_line_a_step_with_rates_epochs_and_the_held_out_numbers(tmp_path: Path) -> None:
    listener = Recording()
    track = StepTrack(SFT, RunDir.create(tmp_path / "run"), listener)
    run(course(), track, held_out=counted("loss", 3.0, 7))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["lr"] for row in rows] == pytest.approx([0.5 * (1 - step / 6) for step in range(6)])
    assert all(a["epoch"] < b["epoch"] for a, b in pairwise(rows))
    assert (rows[2]["epoch"], rows[-1]["epoch"]) == (1.0, 2.0)
    assert rows[0]["loss"] == 2.0
    assert rows[0]["grad_norm"] == 0.25
    assert [row["step"] for row in rows if "eval/loss" in row] == [3, 6]
    assert rows[2]["eval/perplexity"] == pytest.approx(20.0855369)
    clock = [json.loads(line) for line in (tmp_path / "run" / "timings.jsonl").read_text().splitlines()]
    assert [row["step"] for row in clock] == [1, 2, 3, 4, 5, 6]
    assert clock[2]["time/evaluating"] >= 0
    assert not any(name.startswith("time/") or name == "tokens_per_second" for row in rows for name in row)
    assert track.history[2] == {name: v for name, v in {**rows[2], **clock[2]}.items() if name != "step"}
    assert listener.events[:4] == ["learning", "step 1", "learning", "step 2"]
    assert listener.events[4:7] == ["learning", "evaluating", "step 3"]


def test_quiet_steps_are_still_written(tmp_path: Path) -> None:
    listener = Recording()
    track = StepTrack(SFT, RunDir.create(tmp_path / "run"), listener, logging_steps=4)
    run(course(), track)
    assert [event for event in listener.events if event.startswith("step")] == ["step 4"]
    assert len(track.history) == len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6


def test_metrics_by_hand() -> None:
    stats = Stats(
        sums={"loss": 1.5, "accuracy": 3.0, "margin": 2.0, "mean_score": 6.0, "squared_score": 24.0, "grad_norm": 2.0},
        counts={"loss": 2, "accuracy": 4, "margin": 4, "mean_score": 3, "squared_score": 3, "grad_norm": 1},
    )
    step = Step(
        stats=stats, held_out=counted("accuracy", 0.5, 6), epoch=0.5, tokens=30, learning_rate=1e-4,
        seconds={"learning": 2.0, "evaluating": 9.0},
    )  # fmt: skip
    assert measure(REWARD, step) == pytest.approx(
        {
            "loss": 0.75, "accuracy": 0.75, "margin": 0.5, "score/mean": 2.0, "score/std": 2.0, "eval/accuracy": 0.5,
            "epoch": 0.5, "lr": 1e-4, "grad_norm": 2.0, "tokens_per_second": 15.0, "time/learning": 2.0,
            "time/evaluating": 9.0, "faults/skipped_steps": 0.0,
        }
    )  # fmt: skip


@pytest.mark.parametrize("registry", [SFT, REWARD])
def test_every_metric_says_what_it_is(registry) -> None:
    assert len(registry) >= 7
    for metric in registry.values():
        assert metric.unit
        assert len(metric.formula) > 15, metric.name
