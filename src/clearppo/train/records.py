"""A round's numbers on disk: metrics.jsonl has what options, data and seed determine, timings.jsonl the clock's."""

from collections.abc import Mapping
from typing import Any

from clearppo.rundir import RunDir
from clearppo.train.registry import Registry

METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"


def keep(run_dir: RunDir, step: int, row: Mapping[str, float], registry: Registry[Any]) -> None:
    """Add a line for this round to both files. Raises RunDirError."""
    metrics, timings = registry.kept(row)
    run_dir.append(METRICS, [{"step": step, **metrics}])
    run_dir.append(TIMINGS, [{"step": step, **timings}])


def recorded(run_dir: RunDir) -> list[dict[str, float]]:
    """The numbers of all rounds so far, as they were when they were measured, and of the evaluations after them."""
    rounds: dict[int, dict[str, float]] = {}
    for name in (METRICS, TIMINGS):
        for row in run_dir.rows(name):
            rounds.setdefault(row.pop("step"), {}).update(row)
    return [rounds[step] for step in sorted(rounds) if step > 0]
