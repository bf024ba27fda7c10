"""A reward function in a process of its own: it is told the same, hangs and crashes by itself, and leaves nothing."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clearppo.batch import Rollout
from clearppo.errors import RewardError, ScoreError
from clearppo.feedback import WeightedScorer
from clearppo.feedback.function import FunctionScorer, load_reward_function
from clearppo.feedback.worker import TRIES, WorkerScorer
from tests.tiny import tiny_rollout

REWARDS = """
import os, random, subprocess, sys, threading, time
import numpy, torch

def lengths(prompts, completions, completion_ids, bonus, **columns):
    print("this is no answer")
    assert sys.stdin.read() == ""
    return [len(p) + len(c) + len(i) + b for p, c, i, b in zip(prompts, completions, completion_ids, bonus)]

async def some(completions):
    return torch.tensor([1.5, -2.0, 0.25])

def not_applicable(completions):
    return [1.0, None, 3.0]

def drawn(completions):
    return [random.random() + numpy.random.rand() + float(torch.rand(())) for _ in completions]

def broken(completions):
    return [1 / (len(text) - 1) for text in completions]

def endless(completions):
    return [1.0, float("inf"), 2.0]

def text(completions):
    return ["good"] * len(completions)

def leaves(completions):
    sys.exit(7)

def slow(completions):
    with open(os.environ["CALLS"], "a") as file:
        file.write(f"{os.getpid()}\\n")
    if len(open(os.environ["CALLS"]).readlines()) <= int(os.environ["HANGS"]):
        subprocess.Popen(["sleep", "1000"])
        threading.Event().wait()
    return [1.0] * len(completions)

def crashes(completions):
    os.abort()
"""


@pytest.fixture
def place(tmp_path: Path) -> str:
    (tmp_path / "rewards.py").write_text(REWARDS)
    return str(tmp_path / "rewards.py")


@contextlib.contextmanager
def worker(spec: str, **options: Any) -> Iterator[WorkerScorer]:
    scorer = WorkerScorer(spec, **options)
    try:
        yield scorer
    finally:
        scorer.close()


def rollout(**columns: Any) -> Rollout:
    return tiny_rollout(["The film", "A dog", "It is"], [" was good", "x", " ü\ud800 raining"], columns=columns)


def test_it_gives_what_the_function_gives_here(place: str, capfd: pytest.CaptureFixture[str]) -> None:
    asked = rollout(bonus=[1, 2.5, 1e-9], other=[None, {"a": [1]}, "ü"])
    with worker(f"{place}:lengths") as scorer:
        scores = scorer(asked)
        assert scores.total.tolist() == [8 + 9 + 1 + 1, 5 + 1 + 2 + 2.5, pytest.approx(5 + 11 + 3)]
        assert scorer.names == tuple(scores.parts) == ("lengths",)
    assert "this is no answer" in capfd.readouterr().err
    with worker(f"{place}:some") as scorer:
        assert scorer(rollout()).total.tolist() == [1.5, -2.0, 0.25]
    with worker(f"{place}:not_applicable") as scorer:
        assert scorer(rollout()).total.isnan().tolist() == [False, True, False]
        assert WeightedScorer([scorer], drop_missing=True)(rollout()).missing == {1}


@pytest.mark.parametrize("name", ["broken", "endless", "text", "leaves"])
def test_its_errors_are_those_of_a_function_here(name: str, place: str) -> None:
    with pytest.raises(RewardError) as here:
        FunctionScorer(load_reward_function(f"{place}:{name}"))(rollout())
    with worker(f"{place}:{name}") as scorer:
        with pytest.raises(RewardError) as there:
            scorer(rollout())
        assert str(there.value) == str(here.value)
        assert type(there.value) is type(here.value)
        assert type(there.value) is (ScoreError if name == "endless" else RewardError)
        with pytest.raises(RewardError, match=f"reward function `{name}`"):
            scorer(rollout())  # the process has not suffered


@pytest.mark.parametrize("spec", ["nowhere.py:f", "no_such_module:f", "rewards.py"])
def test_what_is_not_there_is_said_at_once(spec: str, place: str) -> None:
    with pytest.raises(RewardError) as here:
        load_reward_function(spec)
    with pytest.raises(RewardError) as there:
        WorkerScorer(spec)
    assert str(there.value) == str(here.value)


def test_random_numbers_depend_on_the_answers_alone(place: str) -> None:
    """Not on how many calls there were before, nor on the process: a run that is resumed sees the same scores."""
    with worker(f"{place}:drawn") as scorer:
        first = scorer(rollout()).total.tolist()
        other = scorer(tiny_rollout(["a"] * 3, ["b"] * 3)).total.tolist()
        assert scorer(rollout()).total.tolist() == first != other
        scorer.close()
        assert scorer(rollout()).total.tolist() == first


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def test_a_call_that_hangs_is_made_once_more(place: str, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANGS", "1")
    with worker(f"{place}:slow", timeout=0.3) as scorer:
        assert scorer(rollout()).total.tolist() == [1, 1, 1]
    hung, well = map(int, calls.read_text().split())
    assert hung != well
    assert not alive(hung)
    assert not alive(well)  # closed


def test_and_then_the_rows_are_named(place: str, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANGS", "2")
    with worker(f"{place}:slow", timeout=0.2) as scorer:
        with pytest.raises(RewardError) as caught:
            scorer(rollout())
        assert str(caught.value).startswith("reward function `slow` was not done after 0.2")
        assert '2 times in a row, for rows 1 ("The film"), 2 ("A dog"), 3 ("It is") of 3.' in str(caught.value)
        assert "--reward_timeout" in str(caught.value)
        assert scorer(rollout()).total.tolist() == [1, 1, 1]  # and a new process is there for the next batch
    assert len(calls.read_text().split()) == TRIES + 1


def test_a_process_that_crashes_ends_no_run_with_it(place: str) -> None:
    with worker(f"{place}:crashes") as scorer, pytest.raises(RewardError, match=r"by signal 6 \(SIGABRT\), 2 times"):
        scorer(rollout())


def test_columns_that_json_does_not_have(place: str) -> None:
    with worker(f"{place}:lengths") as scorer, pytest.raises(RewardError, match=r"column `bonus` holds a bytes"):
        scorer(rollout(bonus=[b"1", b"2", b"3"]))


def test_ctrl_c_ends_what_is_under_way(place: str, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANGS", "1")
    with worker(f"{place}:slow") as scorer:
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(KeyboardInterrupt):
            scorer(rollout())
        signal.signal(signal.SIGALRM, before)
        assert not alive(int(calls.read_text()))
        assert scorer(rollout()).total.tolist() == [1, 1, 1]


def test_it_ends_with_its_scorer(place: str) -> None:
    scorer = WorkerScorer(f"{place}:some")
    number = scorer._process._popen.pid
    assert alive(number)
    del scorer
    assert not alive(number)


def alive(number: int) -> bool:
    """Whether there is such a process; `kill` has waited for ours, so nothing needs time to go."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True
