"""Traces of chosen iterations: what is in them, what is told, and that no broken one stays behind."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clearppo.batch import Prompts
from clearppo.rundir import RunDir
from clearppo.train.listener import Silence, Table
from clearppo.train.profile import _own_times, operation_table, phase_table, profiled, read_events
from clearppo.train.stopwatch import PHASE, Stopwatch

CPU = torch.device("cpu")


class Noted(Silence):
    def __init__(self) -> None:
        self.tables: list[Table] = []
        self.notes: list[str] = []

    def table(self, table: Table) -> None:
        self.tables.append(table)

    def note(self, text: str) -> None:
        self.notes.append(text)


def batches(n: int) -> Iterator[Prompts]:
    ids = torch.ones(1, 1, dtype=torch.long)
    for number in range(n):
        yield Prompts(ids=ids, mask=ids.bool(), texts=(str(number),), columns={})


def loop(given: Iterator[Prompts], n: int, *, fail_at: int = 0) -> list[str]:
    """As PPO's loop takes its batches: one each iteration, and never one more."""
    stopwatch = Stopwatch(Silence())
    work = stopwatch.phase("learning", lambda: torch.ones(64, 64) @ torch.ones(64, 64))
    seen = []
    for step, prompts in zip(range(n), given, strict=False):
        work()
        seen.append(prompts.texts[0])
        if step + 1 == fail_at:
            raise RuntimeError("it broke")
    return seen


def traced(tmp_path: Path, iterations: list[int], n: int = 4, **more: Any) -> tuple[Noted, list[Path]]:
    listener, run_dir = Noted(), RunDir.create(tmp_path / "run")
    try:
        with profiled(batches(9), iterations, run_dir=run_dir, listener=listener, device=CPU) as given:
            assert loop(given, n, **more) == [str(number) for number in range(n)]
    finally:
        found = sorted((tmp_path / "run").rglob("*"))
    return listener, [path for path in found if path.is_file()]


@pytest.mark.parametrize("iterations", [[2], [2, 3], [4], [1, 4]])
def test_each_chosen_iteration_has_its_trace(tmp_path: Path, iterations: list[int]) -> None:
    listener, files = traced(tmp_path, iterations)
    assert [path.relative_to(tmp_path / "run").as_posix() for path in files] == [
        f"profile/iteration-{step}.pt.trace.json" for step in iterations
    ]
    for path in files:
        names = [event.get("name") for event in json.loads(path.read_text())["traceEvents"]]
        assert names.count("phase: learning") == 1
        assert "aten::mm" in names
    assert [table.title.split(" by ")[0] for table in listener.tables] == [
        f"Iteration {s}" for s in iterations for _ in "ab"
    ]
    phases, operations = listener.tables[:2]
    assert [row[0] for row in phases.rows] == ["learning", "between them", "iteration"]
    assert any(row[0] == "aten::mm" and row[3] == "1" for row in operations.rows)
    assert str(files[0]) in listener.notes[0]


def test_nothing_is_traced_unasked(tmp_path: Path) -> None:
    listener, files = traced(tmp_path, [])
    assert (listener.tables, listener.notes, files) == ([], [], [])


def test_a_trace_that_cannot_be_written_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch itself is silent about a full disk, and leaves half a file."""
    export = torch.profiler.profile.export_chrome_trace
    done: list[str] = []

    def half(self: Any, path: str) -> None:
        export(self, path)
        if not done:
            Path(path).write_text(Path(path).read_text()[:1000])
        done.append(path)

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", half)
    listener, files = traced(tmp_path, [2, 3])
    assert [path.name for path in files] == ["iteration-3.pt.trace.json"]
    assert "no trace of iteration 2 (JSONDecodeError" in listener.notes[0]


@pytest.mark.parametrize("fail_at", [2, 3])
def test_of_an_iteration_that_broke_there_is_none(tmp_path: Path, fail_at: int) -> None:
    with pytest.raises(RuntimeError, match="it broke"):
        traced(tmp_path, [2, 3], fail_at=fail_at)
    left = [path.name for path in (tmp_path / "run").rglob("*.json")]
    assert left == [f"iteration-{step}.pt.trace.json" for step in range(2, fail_at)]
    traced(tmp_path / "again", [1])  # the profiler is free again


def event(name: str, ts: float, dur: float, cat: str = "cpu_op", tid: Any = 1) -> dict[str, Any]:
    return {"ph": "X", "name": name, "ts": ts * 1e6, "dur": dur * 1e6, "cat": cat, "pid": 7, "tid": tid}


EVENTS = [
    event("linear", 0.5, 1.0),  # not in the order of time, as events of several threads are
    event(f"{PHASE}sampling", 0.0, 1.5, "user_annotation"),
    event("mm", 0.6, 0.75),
    event("mm", 1.5, 0.25),  # begins where the one before ends
    event("mm", 0.5, 3.0, tid="other"),
    event("a kernel", 0.7, 2.0, "kernel", tid=20),
    event("copy", 0.7, 0.5, "gpu_memcpy", tid=20),
    event(f"{PHASE}sampling", 0.0, 9.0, "gpu_user_annotation", tid=20),
    event(f"{PHASE}learning", 1.5, 2.0, "user_annotation"),
    event(f"{PHASE}learning", 3.5, 0.25, "user_annotation"),
]


def test_tables_by_hand() -> None:
    assert phase_table(2, EVENTS, 4.0).rows == (
        ("sampling", "1.500", "37.5%"), ("learning", "2.250", "56.2%"), ("between them", "0.250", "6.2%"),
        ("iteration", "4.000", "100.0%"),
    )  # fmt: skip
    on_cpu = operation_table(2, EVENTS, on_gpu=False)
    assert on_cpu.rows == (("mm", "4.000", "94.1%", "3"), ("linear", "0.250", "5.9%", "1"))
    assert on_cpu.title == "Iteration 2 by operation: 4.250 s on the CPU in all"
    on_gpu = operation_table(2, EVENTS, on_gpu=True)
    assert on_gpu.rows == (("a kernel", "2.000", "80.0%", "1"), ("copy", "0.500", "20.0%", "1"))
    assert operation_table(2, [], on_gpu=False).rows == ()


def test_own_times_are_those_of_torch() -> None:
    """Beside key_averages, on a forward and a backward pass."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        x = torch.ones(16, 16, requires_grad=True)
        (torch.nn.functional.linear(x, x) @ x).exp().sum().backward()
    expected = {row.key: row.self_cpu_time_total for row in profiler.key_averages()}
    with tempfile.TemporaryDirectory() as directory:
        profiler.export_chrome_trace(f"{directory}/x.json")
        found: dict[str, list[float]] = {}
        for name, own in _own_times(read_events(Path(directory) / "x.json")):
            found.setdefault(name, []).append(own)
    assert set(found) == set(expected)
    for name, times in found.items():
        assert sum(times) == pytest.approx(expected[name], abs=0.01 * len(times)), name
