"""metrics.jsonl and timings.jsonl as columns, read on as they grow; and what of them is an event."""

import json
import math
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILES = ("metrics.jsonl", "timings.jsonl")
_PLACE = re.compile("[0-9]{1,12}")


@dataclass
class Rows:
    """A JSON-lines file that grows. `news` reads what came since the last call; `place` says where the file is, or
    None while it is not there."""

    name: str
    place: Callable[[str], Path | None]
    damaged: list[int] = field(default_factory=list)
    """Numbers of the lines that are no rows."""
    _end: int = 0
    _n_lines: int = 0
    _last: bytes = b""

    def news(self) -> tuple[list[dict[str, Any]], bool]:
        """Whole new rows, and whether the file is another one than before, so that these are all it has.

        A resumed run takes rows back and writes others: then the file is shorter, or what was read last stands there no
        more. A line without its end is still being written.
        """
        path = self.place(self.name)
        try:
            if path is None:
                raise FileNotFoundError
            with path.open("rb") as stream:
                anew = self._end > 0 and self._changed(stream)
                if anew:
                    self.start_again()
                stream.seek(self._end)
                fresh = stream.read()
        except FileNotFoundError:
            anew = self._end > 0
            self.start_again()
            return [], anew
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._end += len(whole)
        lines = whole.splitlines(keepends=True)
        self._last = lines[-1] if lines else self._last
        return list(self._rows(lines)), anew

    def start_again(self) -> None:
        """Read from the beginning next time."""
        self._end, self._n_lines, self._last, self.damaged = 0, 0, b"", []

    def _changed(self, stream: Any) -> bool:
        if stream.seek(0, os.SEEK_END) < self._end:
            return True
        stream.seek(self._end - len(self._last))
        return stream.read(len(self._last)) != self._last

    def _rows(self, lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
        for line in lines:
            self._n_lines += 1
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict) and type(row.get("step")) is int:
                yield row
            else:
                self.damaged.append(self._n_lines)


class Metrics:
    """The numbers of a run by step. Safe to use from several threads. `place` says where a file of the run is."""

    def __init__(self, place: Callable[[str], Path | None]) -> None:
        self._files = [Rows(name, place) for name in FILES]
        self._rows: dict[int, dict[str, float | None]] = {}
        self._order: list[int] = []
        self._generation = f"{os.getpid():x}.{id(self):x}"
        self._resets = 0
        self._lock = threading.Lock()

    def since(self, cursor: str | None) -> dict[str, Any]:
        """What came since `cursor`: {"cursor", "reset", "columns": {"step": [...], name: [number or None, ...]}}.

        Rows that changed are there again whole. `reset`: these are all rows, and what a client has is void.
        """
        with self._lock:
            self._read()
            mark = f"{self._generation}.{self._resets}"
            known, _, place = (cursor or "").rpartition("-")
            reset = known != mark or not _PLACE.fullmatch(place) or int(place) > len(self._order)
            steps = sorted(set(self._rows if reset else self._order[int(place) :]))
            return {"cursor": f"{mark}-{len(self._order)}", "reset": reset, "columns": self._columns(steps)}

    def rows(self) -> dict[int, dict[str, float | None]]:
        """All rows so far by step."""
        with self._lock:
            self._read()
            return {step: dict(self._rows[step]) for step in sorted(self._rows)}

    def damaged(self) -> dict[str, list[int]]:
        """The lines that are no rows, by file."""
        return {file.name: list(file.damaged) for file in self._files if file.damaged}

    def _read(self) -> None:
        news = [file.news() for file in self._files]
        if any(anew for _, anew in news):
            self._rows, self._order, self._resets = {}, [], self._resets + 1
            for file in self._files:
                file.start_again()
            news = [file.news() for file in self._files]
        for rows, _ in news:
            for row in rows:
                step = row.pop("step")
                self._rows.setdefault(step, {}).update({name: number(value) for name, value in row.items()})
                self._order.append(step)

    def _columns(self, steps: list[int]) -> dict[str, list[Any]]:
        names = dict.fromkeys(name for step in steps for name in self._rows[step])
        columns: dict[str, list[Any]] = {"step": list(steps)}
        return columns | {name: [self._rows[step].get(name) for step in steps] for name in names}


def number(value: Any) -> float | None:
    """A finite number as it is, None for all else: JSON has no NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # a whole number that no float can hold
        return None


def events(
    rows: Mapping[int, Mapping[str, float | None]], best: Iterable[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """What happened to a run besides learning: [{"step", "kind", "value", "text"}], the earliest first.

    `best` are the entries of best.json.
    """
    found: list[dict[str, Any]] = []
    for step, row in rows.items():
        for name, (kind, one, many) in _TOLD.items():
            if value := row.get(name):
                text = (one if value == 1 else many).format(n=f"{value:g}")
                found.append({"step": step, "kind": kind, "value": value, "text": text})
    for mark in best:
        step, value = mark.get("step"), number(mark.get("value"))
        if isinstance(step, int) and value is not None:
            text = f"the best checkpoint so far: {mark.get('metric')} = {value:.4g}"
            found.append({"step": step, "kind": "best", "value": value, "metric": mark.get("metric"), "text": text})
    return sorted(found, key=lambda event: event["step"])


_TOLD = {
    "faults/skipped_steps": (
        "skipped",
        "1 optimiser step was not taken: its loss or gradient was not finite",
        "{n} optimiser steps were not taken: their loss or gradient was not finite",
    ),
    "policy/early_stop": (
        "early_stop",
        "the update ended early: the policy had moved further than --early_stop_kl",
        "the update ended early: the policy had moved further than --early_stop_kl",
    ),
    "rewards/dropped": (
        "dropped",
        "1 answer was left out of the update: it has no score",
        "{n} answers were left out of the update: they, or others to their prompt, have no score",
    ),
}
