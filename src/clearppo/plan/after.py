"""A plan beside what was measured: from plan.json and the lines of timings.jsonl."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median
from typing import Any

SECONDS, MEMORY = "time/", "memory/"
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A phase, planned and measured; None where nobody knows. Bytes at the peak, seconds of a typical round."""

    phase: str
    planned_bytes: float | None
    measured_bytes: float | None
    planned_seconds: float | None
    measured_seconds: float | None


def beside(plan: Mapping[str, Any], timings: Sequence[Mapping[str, Any]]) -> list[Beside]:
    """Every phase that was planned or measured; last the whole run, as `in all`."""
    tables, seconds, measured = (_dict(plan.get(name)) for name in ("bytes", "seconds", "measured"))
    later = timings[1:] or timings  # the first round is never typical
    of_phases = [name.removeprefix(SECONDS) for row in timings for name in row if name.startswith(SECONDS)]
    found = [
        Beside(
            phase=phase,
            planned_bytes=_sum(_dict(tables.get(phase))) if phase in tables else None,
            measured_bytes=_most(number(row.get(MEMORY + phase)) for row in timings),
            planned_seconds=number(seconds.get(phase)),
            measured_seconds=_typical(number(row.get(SECONDS + phase)) for row in later),
        )
        for phase in dict.fromkeys([*tables, *seconds, *of_phases])
    ]
    peaks = [cell.measured_bytes for cell in found if cell.measured_bytes is not None]
    of_run = number(measured.get("peak_bytes"))
    return [
        *found,
        Beside(
            phase="in all",
            planned_bytes=number(plan.get("peak_bytes")),
            measured_bytes=max(peaks, default=None) if of_run is None else of_run,
            planned_seconds=number(plan.get("seconds_per_iteration")),
            measured_seconds=_typical(
                sum(number(v) or 0.0 for name, v in row.items() if name.startswith(SECONDS)) or None for row in later
            ),
        ),
    ]


def number(value: Any) -> float | None:
    """A finite number, or None for all else that a damaged file may hold."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if real and isfinite(value) else None


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _sum(roles: Mapping[str, Any]) -> float:
    return sum(number(value) or 0.0 for value in roles.values())


def _most(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return GIB * max(known) if known else None


def _typical(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
