"""Trackers behind their queues and threads: none can slow a run or stop it, whatever it does."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from clearppo.config import PPOConfig, load_config
from clearppo.errors import RewardError, StopRequested
from clearppo.train.listener import Summary
from clearppo.train.tracking import TrackedRun, Trackers
from clearppo.train.tracking.trackers import TABLE_ROWS, plain
from tests.contracts.test_tracker import FakeTracker

CONFIG = load_config(
    PPOConfig,
    flags={"model_name_or_path": "m", "dataset_name": "d", "reward_funcs": "a.py:f", "output_dir": "runs/first"},
)
SUMMARY = Summary(objective="maximise E[score]", facts=[("seed", "42")], models=[], notes=["careful"])


class Odd(FakeTracker):
    """Raises, or waits for `let_go`, in the method that it is told."""

    def __init__(self, place: str = "", does: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._place, self._does = place, does
        self.threads: set[int] = set()

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name not in ("open", "metrics", "table", "summary", "rewind", "close"):
            return method

        def watched(*given: Any) -> Any:
            self.threads.add(threading.get_ident())
            if name == self._place:
                self._does()
            return method(*given)

        return watched

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [told[1:] for told in self.told if told[0] == kind]


def raises(error: BaseException) -> Callable[[], object]:
    def do() -> None:
        raise error

    return do


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """What hanging trackers wait for."""
    event = threading.Event()
    yield event
    event.set()


@contextmanager
def running(*trackers: FakeTracker, notes: list[str] | None = None, **more: Any) -> Iterator[Trackers]:
    them = Trackers(trackers, name="runs/first", project="clearppo", **more)
    with them.running(CONFIG, SUMMARY, note=(notes if notes is not None else []).append):
        yield them


def test_all_of_them_are_told_everything_in_order_from_one_other_thread() -> None:
    first, second = Odd(), Odd()
    with running(first, second) as trackers:
        for step in range(1, 51):
            trackers.metrics(step, {"lr": float(step)})
        trackers.table("samples", 50, ("prompt", "score"), [["a", 1.0]])
        trackers.summary({"best": 1.0})
    for tracker in (first, second):
        kinds = [told[0] for told in tracker.told]
        assert kinds == ["open", *["metrics"] * 50, "table", "summary", "close"]
        assert tracker.of("metrics") == [(step, {"lr": float(step)}) for step in range(1, 51)]
        assert tracker.of("table") == [("samples", 50, ("prompt", "score"), [("a", 1.0)])]
        assert tracker.of("close") == [("finished",)]
        assert len(tracker.threads) == 1
        assert threading.get_ident() not in tracker.threads
    assert first.threads != second.threads


def test_they_are_told_what_the_run_is() -> None:
    tracker = Odd()
    with running(tracker) as trackers:
        key = trackers.state()["key"]
    (run,) = tracker.of("open")[0]
    assert isinstance(run, TrackedRun)
    assert (run.key, run.name, run.project, run.command) == (key, "runs/first", "clearppo", "ppo")
    assert (run.after, run.resumed) == (0, False)
    assert run.options["kl_coef"] == 0.05
    assert run.options["reward_funcs"] == ["a.py:f"]
    assert "kl_coef: 0.05" in run.config
    assert run.about == "maximise E[score]\n\n- seed: 42\n- note: careful\n"


def test_what_they_are_told_is_what_it_was_then() -> None:
    """The run goes on with its own dicts and lists."""
    tracker, gate = Odd(), threading.Event()
    tracker._place, tracker._does = "open", gate.wait
    with running(tracker) as trackers:
        numbers, rows = {"lr": 1.0}, [["a", 1.0]]
        trackers.metrics(1, numbers)
        trackers.table("samples", 1, ["prompt", "score"], rows)
        numbers["lr"] = 2.0
        rows[0][0] = "b"
        gate.set()
    assert tracker.of("metrics") == [(1, {"lr": 1.0})]
    assert tracker.of("table")[0][3] == [("a", 1.0)]


def test_without_any_nothing_happens() -> None:
    before = threading.active_count()
    with running() as trackers:
        trackers.metrics(1, {"lr": 1.0})
        assert threading.active_count() == before
        assert trackers.state() == {"step": 1}


def test_of_a_long_table_they_are_told_the_first_rows() -> None:
    tracker = Odd()
    with running(tracker) as trackers:
        trackers.table("samples", 1, ("i",), [[float(i)] for i in range(1000)])
    assert len(tracker.of("table")[0][3]) == TABLE_ROWS


@pytest.mark.parametrize("place", ["open", "metrics", "table", "summary", "rewind", "close"])
@pytest.mark.parametrize(
    "error",
    [OSError("no space left"), ValueError(), SystemExit(1), KeyboardInterrupt(), Exception("a\nb " * 500)],
    ids=lambda error: type(error).__name__,
)
def test_one_that_raises_is_switched_off_with_one_note_and_the_others_go_on(place: str, error: BaseException) -> None:
    bad, good, notes = Odd(place, raises(error)), Odd(), list[str]()
    with running(bad, good, notes=notes) as trackers:
        for step in range(1, 30):
            trackers.metrics(step, {"lr": 1.0})
            trackers.table("samples", step, ("a",), [["b"]])
            trackers.summary({"best": 1.0})
        trackers.load_state({"key": "abcdef", "step": 3})
    assert len(good.of("metrics")) == 29
    assert good.of("close") == [("finished",)]
    said = [note for note in notes if "in this list" not in note]
    assert len(said) == 1, said
    assert said[0].startswith("tracker fake is switched off for the rest of the run (")
    assert type(error).__name__ in said[0]
    assert "\n" not in said[0]
    assert len(said[0]) < 400
    assert [told for told in bad.told if told[0] == "close"] == ([] if place == "close" else [("close", "failed")])


def test_one_that_is_slow_does_not_slow_the_run_and_loses_its_oldest(let_go: threading.Event) -> None:
    slow, notes, hangs = Odd("open", let_go.wait), list[str](), Odd("metrics", let_go.wait)
    with running(slow, hangs, notes=notes, limit=10) as trackers:
        began = time.perf_counter()
        for step in range(1, 1001):
            trackers.metrics(step, {"lr": 1.0})
        spent = time.perf_counter() - began
        let_go.set()
    assert spent / 1000 < 1e-3  # microseconds, in truth
    assert [step for step, _ in slow.of("metrics")] == list(range(991, 1001))
    dropped = [note for note in notes if "slower than the run" in note]
    assert len(dropped) == 2  # each says it once
    assert "tracker fake missed 990 updates in all" in notes


def test_a_machine_without_a_thread_to_give_trains_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda self: raises(RuntimeError("can't start new thread"))())
    tracker, notes = Odd(), list[str]()
    with running(tracker, notes=notes) as trackers:
        trackers.metrics(1, {"lr": 1.0})
    assert [note[:42] for note in notes] == ["tracker fake is switched off for the rest "]
    assert tracker.of("metrics") == []


@pytest.mark.parametrize("place", ["open", "metrics", "close"])
def test_the_end_waits_no_longer_than_it_may(place: str, let_go: threading.Event) -> None:
    hangs, notes = Odd(place, let_go.wait), list[str]()
    began = time.perf_counter()
    with running(hangs, Odd(place, let_go.wait), Odd(), notes=notes, last_wait=0.2) as trackers:
        trackers.metrics(1, {"lr": 1.0})
        trackers.metrics(2, {"lr": 1.0})
    spent = time.perf_counter() - began
    assert 0.2 <= spent < 0.6, "one bound for all of them"
    late = [note for note in notes if "not ready in time" in note]
    assert len(late) == 2
    waits = {"open": "2 of its updates still wait", "metrics": "1 of its updates still wait"}
    assert place == "close" or all(waits[place] in note for note in late)


@pytest.mark.parametrize(
    ("error", "ended", "waits"),
    [
        (RewardError("the server is down"), "failed", True),
        (StopRequested("interrupted.", 2), "stopped", True),
        (StopRequested("interrupted.", 2, at_once=True), "stopped", False),
        (KeyboardInterrupt(), "stopped", False),
        (ZeroDivisionError(), "failed", True),
    ],
)
def test_an_error_passes_through_and_they_are_told_how_it_ended(
    error: BaseException, ended: str, waits: bool, let_go: threading.Event
) -> None:
    def fails(tracker: Odd, **more: Any) -> None:
        with running(tracker, **more) as trackers:
            trackers.metrics(1, {"lr": 1.0})
            raise error

    tracker = Odd()
    with pytest.raises(type(error)) as caught:
        fails(tracker)
    assert caught.value is error
    deadline = time.monotonic() + 5
    while not tracker.of("close") and time.monotonic() < deadline:
        time.sleep(0.001)  # where the end did not wait
    assert tracker.of("close") == [(ended,)]

    hangs, began = Odd("metrics", let_go.wait), time.perf_counter()
    with pytest.raises(type(error)):
        fails(hangs, last_wait=0.2)
    assert (time.perf_counter() - began >= 0.2) == waits


def test_notes_come_from_the_runs_own_thread() -> None:
    threads: list[int] = []
    trackers = Trackers([Odd(), Odd("metrics", raises(ValueError("no")))], name="a", project="b")
    with trackers.running(CONFIG, note=lambda text: threads.append(threading.get_ident())):
        trackers.metrics(1, {})
    assert threads == [threading.get_ident()] * 3


def test_a_run_that_goes_on_is_the_same_run() -> None:
    before = Odd()
    with running(before) as trackers:
        trackers.metrics(7, {"lr": 1.0})
        state = trackers.state()
    after = Odd()
    again = Trackers([after], name="runs/first", project="clearppo")
    assert again.state()["key"] != state["key"]
    again.load_state(state)
    with again.running(CONFIG, SUMMARY, note=lambda text: None):
        again.metrics(8, {"lr": 1.0})
    (run,) = after.of("open")[0]
    assert (run.key, run.after, run.resumed) == (state["key"], 7, True)
    assert again.state() == {"key": state["key"], "step": 8}
    assert after.of("rewind") == []


def test_a_run_that_goes_back_while_it_is_open_rewinds_them() -> None:
    tracker = Odd()
    with running(tracker) as trackers:
        trackers.metrics(1, {"lr": 1.0})
        state = trackers.state()
        trackers.metrics(2, {"lr": 1.0})
        trackers.load_state(state)
        trackers.metrics(2, {"lr": 2.0})
    kinds = [told[0:2] for told in tracker.told if told[0] in ("metrics", "rewind")]
    assert kinds == [("metrics", 1), ("metrics", 2), ("rewind", 1), ("metrics", 2)]


def test_a_key_is_by_a_chance_that_no_seed_decides() -> None:
    keys = set()
    for _ in range(2):
        random.seed(0)
        torch.manual_seed(0)
        np.random.seed(0)
        keys.add(Trackers([Odd()]).state()["key"])
    assert len(keys) == 2


def test_without_trackers_a_state_holds_no_chance() -> None:
    assert Trackers().state() == Trackers().state() == {"step": 0}


def test_to_a_tracker_that_comes_later_the_run_is_new() -> None:
    """The first part was run without trackers."""
    tracker = Odd()
    later = Trackers([tracker], name="runs/first", project="clearppo")
    later.load_state({"step": 7})
    with later.running(CONFIG, SUMMARY, note=lambda text: None):
        later.metrics(8, {"lr": 1.0})
    (run,) = tracker.of("open")[0]
    assert (run.after, run.resumed) == (7, False)


def test_functions_among_the_options_are_named() -> None:
    assert plain([plain, "a.py:f", 1]) == ["clearppo.train.tracking.trackers:plain", "a.py:f", 1]
    assert plain(plain) == "clearppo.train.tracking.trackers:plain"
    assert plain(None) is None
