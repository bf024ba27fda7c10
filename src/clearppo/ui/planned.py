"""What a run planned to take (plan.json, docs/plan.md), and what it took (timings.jsonl)."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from clearppo.ui.metrics import number
from clearppo.ui.runs import Run

GIB = 2**30
MEMORY, TIME = "memory/", "time/"
"""What the names of metrics begin with that are the peak memory, in GiB, and the seconds of a phase."""


def planned(run: Run, rows: Mapping[int, Mapping[str, float | None]]) -> dict[str, Any] | None:
    """Planned against measured, of a run with these rows: {"memory": {"planned", "measured", "phase", "measured_phase"}
    in GiB, "seconds": {"planned", "measured"} of an iteration or a step}. None: it has no plan."""
    plan = run.json("plan.json")
    if plan is None:
        return None
    peaks = {
        name.removeprefix(MEMORY): max(value for row in rows.values() if (value := row.get(name)) is not None)
        for name in _names(rows, MEMORY)
    }
    taken = [sum(value for name, value in row.items() if name.startswith(TIME) and value) for row in rows.values()]
    measured = [seconds for seconds in taken if seconds]
    peak, seconds = number(plan.get("peak_bytes")), number(plan.get("seconds_per_iteration"))
    phase = plan.get("peak_phase")
    found = {
        "memory": {
            "planned": None if peak is None else peak / GIB,
            "measured": max(peaks.values(), default=None),
            "phase": phase if isinstance(phase, str) else None,
            "measured_phase": max(peaks, key=lambda name: peaks[name], default=None),
        },
        "seconds": {"planned": seconds, "measured": median(measured) if measured else None},
    }
    return {name: part for name, part in found.items() if part["planned"] is not None} or None


def _names(rows: Mapping[int, Mapping[str, float | None]], before: str) -> set[str]:
    """The metrics with this beginning that have a number."""
    every = (item for row in rows.values() for item in row.items())
    return {name for name, value in every if name.startswith(before) and value is not None}
