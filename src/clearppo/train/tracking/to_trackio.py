"""Trackio: local first, with the calls of wandb."""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from clearppo.errors import ConfigError
from clearppo.train.tracking.tracker import Ended, TrackedRun


class TrackioTracker:
    """A run in Trackio's database in `directory`; None: TRACKIO_DIR, or Trackio's own place.

    Trackio finds a run again by its name, so a part of the key is in it. It reads its directory once a process: another
    one later is a ConfigError.
    """

    name = "trackio"

    def __init__(self, directory: Path | None) -> None:
        if directory is not None:
            os.environ["TRACKIO_DIR"] = str(directory.resolve())
        self._trackio: Any = import_module("trackio")
        place: Path = import_module("trackio.utils").TRACKIO_DIR
        if directory is not None and place.resolve() != directory.resolve():
            raise ConfigError(
                f"tracking_dir: Trackio keeps its files in {place} since this process began, and cannot move to "
                f"{directory}. Use the same --tracking_dir for all runs of a process."
            )
        self._run: Any = None
        self._next = 0

    def open(self, run: TrackedRun) -> None:
        # Trackio says itself where to look. Its own measurements of the machine would need more packages.
        self._run = self._trackio.init(
            project=run.project,
            name=run.unique_name,
            group=run.command,
            config={**run.options, "about": run.about},
            resume="allow" if run.resumed else "never",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        self._next = getattr(self._run, "_next_step", 0)  # there is no public way to ask what a run has already

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._next:
            self._run.log(dict(values), step=step)

    def table(self, name: str, step: int, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        if step >= self._next:
            table = self._trackio.Table(columns=list(columns), data=[list(row) for row in rows])
            self._run.log({name: table}, step=step)

    def summary(self, values: Mapping[str, float | str]) -> None:
        self._run.log({f"summary/{name}": value for name, value in values.items()})

    def rewind(self, after: int) -> None:
        self._next = min(self._next, after + 1)

    def close(self, ended: Ended) -> None:
        if self._run is not None:
            self._run.finish()
