"""Where an iteration's time goes: a trace of chosen iterations, and tables of their time by phase and by operation."""

import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from clearppo.batch import Prompts
from clearppo.errors import RunDirError
from clearppo.rundir import RunDir
from clearppo.train.listener import Listener, Table
from clearppo.train.stopwatch import PHASE

FOLDER = "profile"
SHOWN_OPERATIONS = 15
ON_CPU, ON_GPU = ("cpu_op", "user_annotation"), ("kernel", "gpu_memcpy", "gpu_memset")
"""The categories of a trace's events, as torch names them."""


@contextmanager
def profiled(
    batches: Iterator[Prompts],
    iterations: Collection[int],
    *,
    run_dir: RunDir,
    listener: Listener,
    device: torch.device,
    start: int = 0,
) -> Iterator[Iterator[Prompts]]:
    """The same batches; each of the `iterations`, from 1, is traced from when its batch is taken until the next is.
    The first batch is that of iteration `start` + 1.

    The trace is in profile/iteration-N.pt.trace.json of the run's directory, in Chrome's format: Perfetto opens the
    file, TensorBoard's profiler plugin the folder, which asks for that ending. The tables go to the listener. What runs
    under a trace is slower than it is otherwise. Of an iteration that did not come to its end there is none.
    """
    trace = _Trace(run_dir, listener, device)
    try:
        yield trace.following(batches, iterations, start) if iterations else batches
    except BaseException:
        trace.abandon()
        raise
    trace.close()


class _Trace:
    """At most one open trace."""

    def __init__(self, run_dir: RunDir, listener: Listener, device: torch.device) -> None:
        self.run_dir = run_dir
        self.listener = listener
        self.on_gpu = device.type == "cuda"
        self._open: tuple[int, float, torch.profiler.profile] | None = None

    def following(self, batches: Iterator[Prompts], iterations: Collection[int], start: int) -> Iterator[Prompts]:
        for step, prompts in enumerate(batches, start=start + 1):
            self.close()
            if step in iterations:
                os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it tells stderr that it starts and stops
                activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self.on_gpu
                profiler = torch.profiler.profile(activities=activities)
                profiler.start()
                self._open = step, time.perf_counter(), profiler
            yield prompts

    def close(self) -> None:
        """End the trace that is open, if one is: write it and show its tables. A trace that cannot be written is said
        and left out, because a run is worth more."""
        if self._open is None:
            return
        (step, start, profiler), self._open = self._open, None
        seconds = time.perf_counter() - start
        profiler.stop()
        name = f"iteration-{step}.pt.trace.json"
        try:
            with self.run_dir.whole(FOLDER) as directory:
                profiler.export_chrome_trace(str(directory / name))
                events = read_events(directory / name)  # before it moves: torch is silent about a full disk
        except (RunDirError, OSError, ValueError, KeyError, RuntimeError) as error:
            self.listener.note(f"no trace of iteration {step} ({type(error).__name__}: {error}); training goes on")
            return
        self.listener.table(phase_table(step, events, seconds))
        self.listener.table(operation_table(step, events, on_gpu=self.on_gpu))
        self.listener.note(f"the trace of iteration {step} is in {self.run_dir.path / FOLDER / name}")

    def abandon(self) -> None:
        """End the trace that is open, if one is, and keep nothing of it."""
        if self._open is not None:
            self._open[2].stop()
            self._open = None


def read_events(trace: Path) -> list[dict[str, Any]]:
    """The events of a trace that have a beginning (`ts`) and a duration (`dur`), both in microseconds.

    torch's own `key_averages` says the same as the tables below; it takes 0.2 ms an event, and an iteration has some
    hundred thousand.
    """
    return [event for event in json.loads(trace.read_bytes())["traceEvents"] if event.get("ph") == "X"]


def phase_table(step: int, events: Iterable[Mapping[str, Any]], seconds: float) -> Table:
    """Seconds of each phase as the host saw them, waiting for the device included, and what lies between them."""
    found: dict[str, float] = {}
    for event in events:
        if event["cat"] == "user_annotation" and event["name"].startswith(PHASE):
            name = event["name"].removeprefix(PHASE)
            found[name] = found.get(name, 0.0) + event["dur"] / 1e6
    found["between them"] = max(seconds - sum(found.values()), 0.0)
    rows = [(name, f"{spent:.3f}", f"{spent / seconds:.1%}") for name, spent in found.items()]
    rows.append(("iteration", f"{seconds:.3f}", "100.0%"))
    return Table(title=f"Iteration {step} by phase", columns=("", "s", "share"), rows=tuple(rows))


def operation_table(step: int, events: Iterable[Mapping[str, Any]], *, on_gpu: bool) -> Table:
    """What took the most time: on the CPU operations themselves, without others that they called; on a GPU kernels."""
    if on_gpu:
        spent = [(event["name"], event["dur"]) for event in events if event["cat"] in ON_GPU]
    else:
        spent = [(name, own) for name, own in _own_times(events) if not name.startswith(PHASE)]
    sums: dict[str, list[float]] = {}
    for name, microseconds in spent:
        sums.setdefault(name, []).append(microseconds)
    total = sum(map(sum, sums.values()))
    longest = sorted(sums, key=lambda name: sum(sums[name]), reverse=True)[:SHOWN_OPERATIONS]
    rows = [
        (name, f"{sum(sums[name]) / 1e6:.3f}", f"{sum(sums[name]) / total:.1%}", f"{len(sums[name]):,}")
        for name in longest
    ]
    title = f"Iteration {step} by operation: {total / 1e6:.3f} s on the {'GPU' if on_gpu else 'CPU'} in all"
    return Table(title=title, columns=("", "s", "share", "calls"), rows=tuple(rows))


def _own_times(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """(name, microseconds) of each event on the CPU, less those of the events inside it on the same thread."""

    def thread(event: Mapping[str, Any]) -> tuple[str, str]:
        return str(event["pid"]), str(event["tid"])

    ours = sorted((event for event in events if event["cat"] in ON_CPU), key=thread)
    for _, members in groupby(ours, key=thread):
        around: list[tuple[float, list[Any]]] = []  # (end, [name, own time]) of the events that are open
        for event in sorted(members, key=lambda event: (event["ts"], -event["dur"])):
            while around and around[-1][0] <= event["ts"]:
                yield tuple(around.pop()[1])
            if around:
                around[-1][1][1] -= event["dur"]
            around.append((event["ts"] + event["dur"], [event["name"], event["dur"]]))
        yield from (tuple(entry) for _, entry in around)
