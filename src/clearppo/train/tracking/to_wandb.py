"""Weights & Biases."""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from clearppo.train.tracking.tracker import Ended, TrackedRun

UPLOAD = 8  # seconds that the end of a run waits for an upload: less than the run waits for all its trackers


class WandbTracker:
    """A run of Weights & Biases, whose id is the run's key. Files in `directory`; None: WANDB_DIR, or wandb's place.

    Without a login the run is kept offline rather than asking for one: nobody may be there. W&B never takes a step that
    lies behind one it has, so steps that come twice are kept as they were told first.
    """

    name = "wandb"

    def __init__(self, directory: Path | None) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._wandb: Any = import_module("wandb")
        self._directory = directory
        self._run: Any = None

    def open(self, run: TrackedRun) -> str:
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE")
        if mode is None and not self._wandb.login(prompt=False, verify=False):
            mode = "offline"
        self._run = self._wandb.init(
            project=run.project,
            id=run.key,
            name=run.name,
            job_type=run.command,
            notes=run.about,
            dir=str(self._directory or os.environ.get("WANDB_DIR") or Path.cwd()),  # wandb may remember another
            mode=mode,
            resume="allow",
            reinit="create_new",  # a run that the user has open is none of ours
            # The screen belongs to the run, and Ctrl-C too.
            settings=self._wandb.Settings(console="off", silent=True, finish_timeout=UPLOAD, save_code=False),
        )
        self._run.config.update(dict(run.options), allow_val_change=True)
        if self._run.offline:
            why = "" if os.environ.get("WANDB_MODE") else "not logged in (wandb login), so "
            return f"{why}kept offline; send it with: wandb sync {Path(self._run.dir).parent}"
        return str(self._run.url)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._run.step:
            self._run.log(dict(values), step=step)

    def table(self, name: str, step: int, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        if step >= self._run.step:
            table = self._wandb.Table(columns=list(columns), data=[list(row) for row in rows])
            self._run.log({name: table}, step=step)

    def summary(self, values: Mapping[str, float | str]) -> None:
        self._run.summary.update(dict(values))

    def rewind(self, after: int) -> None:
        """Nothing: see above."""

    def close(self, ended: Ended) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if ended == "finished" else 1)
