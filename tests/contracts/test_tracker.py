"""The contract of the socket Tracker. A new plug is one more line in `TRACKERS`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearppo.train.tracking import TrackedRun, Tracker
from clearppo.train.tracking.to_mlflow import MLflowTracker
from clearppo.train.tracking.to_tensorboard import TensorBoardTracker
from clearppo.train.tracking.to_trackio import TrackioTracker
from clearppo.train.tracking.to_wandb import WandbTracker


class FakeTracker:
    """Keeps what it is told."""

    name = "fake"

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def open(self, run: TrackedRun) -> str:
        self.told.append(("open", run))
        return "in this list"

    def metrics(self, step: int, values: Any) -> None:
        self.told.append(("metrics", step, values))

    def table(self, name: str, step: int, columns: Any, rows: Any) -> None:
        self.told.append(("table", name, step, columns, rows))

    def summary(self, values: Any) -> None:
        self.told.append(("summary", values))

    def rewind(self, after: int) -> None:
        self.told.append(("rewind", after))

    def close(self, ended: str) -> None:
        self.told.append(("close", ended))


TRACKERS: dict[str, Callable[[Path], Tracker]] = {
    "fake": lambda folder: FakeTracker(),
    "tensorboard": lambda folder: TensorBoardTracker(lambda run: folder / "events"),
    "wandb": WandbTracker,
    "trackio": lambda folder: TrackioTracker(None),  # it has one place a process
    "mlflow": MLflowTracker,
}


def a_run(**more: Any) -> TrackedRun:
    fields: dict[str, Any] = {
        "key": "0123456789ab",
        "name": "runs/first",
        "project": "clearppo tests",
        "command": "ppo",
        "after": 0,
        "resumed": False,
        "options": {"kl_coef": 0.05, "seed": 42, "score_clip": None, "reward_funcs": ["a.py:f"], "long": "x" * 20_000},
        "config": "kl:\n  kl_coef: 0.05\n",
        "about": "maximise E[score] - 0.05 KL\n\n- prompts: 5\n",
    }
    return TrackedRun(**{**fields, **more})


def keeps_the_contract(make: Callable[[], Tracker]) -> None:
    """What a run does to a tracker, odd values included; then the same run goes on in a new process, one step back."""
    tracker = make()
    assert isinstance(tracker, Tracker)
    said = tracker.open(a_run())
    assert said is None or said.isprintable()
    tracker.metrics(0, {"eval/score": -1.0})  # the start model's
    for step in (1, 2, 3):
        numbers = {
            "objective/kl": 0.5 * step,
            "loss/policy_avg": math.nan,
            "lr": 0.0,
            "rewards/<lambda>/mean": math.inf,
        }
        tracker.metrics(step, {**numbers, "rewards/评分 |:é/std": -math.inf, "time/learning": 1e-9})
        tracker.metrics(step, {"eval/score": float(step)})
    rows = [["a | b\n\r\tc 👍 שלום \x00", "", math.nan, 1.5], ["`*_<b>x</b>", "y" * 50_000, 0.5, -0.0]]
    tracker.table("samples", 3, ("prompt", "completion", "score", "kl"), rows)
    tracker.table("nothing", 3, ("a",), [])
    tracker.summary({"best/step": 3.0, "verdict": "good enough | really"})
    tracker.rewind(2)
    tracker.metrics(3, {"objective/kl": 9.0})
    tracker.close("stopped")

    again = make()
    again.open(a_run(after=2, resumed=True))
    again.metrics(3, {"objective/kl": 1.5})
    again.metrics(4, {"objective/kl": 2.0})
    again.close("finished")


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_keeps_the_contract(name: str, quiet_trackers: Path) -> None:
    if name != "fake":
        pytest.importorskip(name)
    keeps_the_contract(lambda: TRACKERS[name](quiet_trackers / name))


@pytest.mark.parametrize("name", TRACKERS)
def test_closing_what_was_never_opened_is_harmless(name: str, quiet_trackers: Path) -> None:
    """As happens when `open` raises."""
    if name != "fake":
        pytest.importorskip(name)
    TRACKERS[name](quiet_trackers / name).close("failed")


def test_tensorboard_reads_what_came_later_later(tmp_path: Path) -> None:
    """Files of one second are told apart by a counter, of which 10 stands before 9 in the order of names: TensorBoard
    would read the earlier file last, and take its steps for those that count."""
    pytest.importorskip("tensorboard")
    tracker = TensorBoardTracker(lambda _: tmp_path)
    tracker.open(a_run())
    for after in range(2):
        tracker.metrics(after + 1, {"x": 1.0})
        tracker.rewind(after)
    tracker.close("finished")
    seconds = [file.name.split(".")[3] for file in tmp_path.glob("events.out.tfevents.*")]
    assert len(seconds) == len(set(seconds)) == 3
