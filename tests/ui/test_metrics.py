"""The numbers of a run as they come: what a cursor brings, and what happens when rows are taken back."""

import json
from pathlib import Path
from typing import Any

import pytest

from clearppo.ui.metrics import Metrics, events


def write(path: Path, *rows: dict[str, Any], end: str = "\n", add: bool = True) -> None:
    with path.open("a" if add else "w") as stream:
        stream.write("\n".join(json.dumps(row) for row in rows) + end)


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Path, Metrics]:
    def place(name: str) -> Path | None:
        return tmp_path / name if (tmp_path / name).exists() else None

    return tmp_path / "metrics.jsonl", tmp_path / "timings.jsonl", Metrics(place)


def test_rows_of_both_files_by_step(run: tuple[Path, Path, Metrics]) -> None:
    metrics, timings, numbers = run
    write(metrics, {"step": 0, "eval/score": 0.5}, {"step": 1, "a": 1.0}, {"step": 1, "eval/score": 0.7})
    write(timings, {"step": 1, "time/learning": 2})
    found = numbers.since(None)
    assert found["reset"]
    assert found["columns"] == {
        "step": [0, 1], "eval/score": [0.5, 0.7], "a": [None, 1.0], "time/learning": [None, 2]
    }  # fmt: skip


def test_a_cursor_brings_what_is_new_whole(run: tuple[Path, Path, Metrics]) -> None:
    metrics, timings, numbers = run
    write(metrics, {"step": 1, "a": 1}, {"step": 2, "a": 2})
    first = numbers.since("")
    assert numbers.since(first["cursor"])["columns"] == {"step": []}
    write(metrics, {"step": 3, "a": 3})
    write(timings, {"step": 2, "b": 5})
    more = numbers.since(first["cursor"])
    assert not more["reset"]
    assert more["columns"] == {"step": [2, 3], "a": [2, 3], "b": [5, None]}
    assert numbers.since(more["cursor"])["columns"] == {"step": []}


def test_half_a_row_waits_for_its_end(run: tuple[Path, Path, Metrics]) -> None:
    metrics, _, numbers = run
    write(metrics, {"step": 1, "a": 1}, {"step": 2, "a": 2}, end="")
    first = numbers.since(None)
    assert first["columns"]["step"] == [1]
    with metrics.open("a") as stream:
        stream.write("\n")
    assert numbers.since(first["cursor"])["columns"] == {"step": [2], "a": [2]}


@pytest.mark.parametrize("n_rows", [2, 3, 5])
def test_a_resumed_run_begins_anew(n_rows: int, run: tuple[Path, Path, Metrics]) -> None:
    """Rows were taken back and others written: the file is shorter, of the same length or longer than before."""
    metrics, _, numbers = run
    write(metrics, {"step": 1, "a": 1}, {"step": 2, "a": 2}, {"step": 3, "a": 3})
    first = numbers.since(None)
    write(metrics, *({"step": 1 + i, "a": 1 if i == 0 else 7} for i in range(n_rows)), add=False)
    again = numbers.since(first["cursor"])
    assert again["reset"]
    assert again["columns"]["a"] == [1] + [7] * (n_rows - 1)
    assert not numbers.since(again["cursor"])["reset"]


def test_a_run_that_is_deleted_and_begins_again(run: tuple[Path, Path, Metrics]) -> None:
    metrics, _, numbers = run
    write(metrics, {"step": 1, "a": 1})
    first = numbers.since(None)
    metrics.unlink()
    gone = numbers.since(first["cursor"])
    assert gone["reset"]
    assert gone["columns"] == {"step": []}
    write(metrics, {"step": 1, "a": 2})
    assert numbers.since(gone["cursor"])["columns"] == {"step": [1], "a": [2]}


@pytest.mark.parametrize("cursor", ["x", "-1", "1.2.0-0", "-", "9" * 500, "1-" + "9" * 5000, "é-1", "1.2.0-²"])
def test_a_strange_cursor_brings_all(cursor: str, run: tuple[Path, Path, Metrics]) -> None:
    write(run[0], {"step": 1, "a": 1})
    assert run[2].since(cursor)["reset"]


def test_what_is_no_row_is_counted_and_what_is_no_number_is_none(run: tuple[Path, Path, Metrics]) -> None:
    metrics, _, numbers = run
    odd = '{"step": 1, "a": NaN, "b": "x", "c": true, "d": Infinity, "e": 1' + "0" * 400 + "}"
    metrics.write_text(odd + '\nrubbish\n[1]\n{"step": "2"}\n')
    assert numbers.rows() == {1: dict.fromkeys("abcde")}
    assert numbers.damaged() == {"metrics.jsonl": [2, 3, 4]}


def test_events() -> None:
    rows = {
        1: {"faults/skipped_steps": 0.0, "policy/early_stop": 0.0},
        2: {"faults/skipped_steps": 2.0, "policy/early_stop": 1.0},
        3: {"rewards/dropped": 1.0, "faults/skipped_steps": None},
    }
    best = [{"step": 2, "metric": "eval/score", "value": 0.25}, {"step": "x"}, {"step": 3, "value": None}]
    found = [(event["step"], event["kind"], event["value"]) for event in events(rows, best)]
    assert found == [(2, "skipped", 2.0), (2, "early_stop", 1.0), (2, "best", 0.25), (3, "dropped", 1.0)]
    assert events(rows)[0]["text"] == "2 optimiser steps were not taken: their loss or gradient was not finite"
